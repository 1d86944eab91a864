"""What a run has learned: network, averages, optimiser, and how much it has seen. Made anew here, restored by `checkpoints`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meanstep.keys import key
from meanstep.loss import Loss, Output
from meanstep.paths import Path
from meanstep.precise import low
from meanstep.program import methods as words
from meanstep.program.console import UserError, err, say
from meanstep.program.data.cache import Cache
from meanstep.program.registry import EMA, INDEPENDENT, PARTNERS, POSTERIOR, TRANSPORT, default_sampler
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, OptimiserConfig
from meanstep.program.runs.networks import Description, null
from meanstep.program.training import methods
from meanstep.program.training.averages import Average, names
from meanstep.program.training.coupled import Coupled, coupled
from meanstep.program.training.optimiser import made, precise
from meanstep.program.training.pretrained import start_from
from meanstep.program.training.ranks import Ranks
from meanstep.program.wrapped import sharded
from meanstep.terms import Recipe, learns
from meanstep.velocities import Posterior


class Owner(nn.Module):
    """The network and what the loss itself learns: what is wrapped for ranks, compiled, optimised and checkpointed."""

    def __init__(self, net: nn.Module, loss: Loss, learner: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.loss, self.learner = net, loss, learner

    def forward(
        self,
        x: Tensor,
        y: Any,
        progress: float | Tensor,
        generator: Generator | None = None,
        noise: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Output:
        """The loss of a chunk of rows, see `Batch`; random numbers from the generator, or from torch's own in a compiled step."""
        out: Output = self.loss(self.net, x, y, noise=noise, mask=mask, progress=progress, generator=generator)
        return out


@dataclass
class State:
    """`averages`: the configuration's, then the proxy's if it is another; `learns`: the average or the instantaneous velocity.

    `coupled`: where the noise of a chunk comes from; `seen`: samples; `step`: updates; `best`: of an evaluation; `data`: the digest of
    the cache.
    """

    description: Description
    owner: Owner
    averages: list[Average]
    proxy: Average | None
    optimiser: torch.optim.Optimizer
    learns: str
    coupled: Coupled
    seen: int = 0
    step: int = 0
    best: float = float("inf")
    best_seen: int = -1
    data: str = ""

    @property
    def sampler(self) -> str:
        """The sampler that reads what the recipe teaches."""
        return default_sampler(self.learns)

    @property
    def chosen(self) -> str:
        """The average that samples are made with: the first of the configuration, else the weights themselves."""
        return self.averages[0].name if self.averages else "raw"

    @property
    def sampled(self) -> nn.Module:
        """The network with those weights."""
        return self.averages[0].module if self.averages else self.owner.net


def classes(config: Config, cache: Cache) -> int:
    """Number of labels that the network is given."""
    return len(cache.classes) if config.data.conditional else 0


def given(config: Config, cache: Cache) -> dict[str, int | list[int]]:
    """The conditions that the network is given and that are no labels, numbers of categories or shapes by name."""
    return cache.manifest.given if config.data.conditional else {}


def fresh(config: Config, cache: Cache, ranks: Ranks, *, start: bool = True, net: nn.Module | None = None) -> State:
    """A run's state before its first step, the same on every rank; `start`: with the weights that the configuration starts from.

    `net`: the network, if the configuration says that it was given as an object; it is copied.
    """
    count = classes(config, cache)
    description = networks.described(
        config.network, cache.shape, count, config.run.precision, given(config, cache), bool(config.method.scales)
    )
    net = networks.made(description, config.run.seed, config.network.name, net)
    if start and config.network.start:
        for note in start_from(net, config.network.start, cache.manifest, config.method.path):
            if ranks.first:
                say(note, on=err)
    return assembled(config, cache, ranks, description, net)


def assembled(config: Config, cache: Cache, ranks: Ranks, description: Description, net: nn.Module) -> State:
    """The state around a network: averages, recipe, optimiser, on the ranks' device and sharded if asked."""
    net = net.to(ranks.device)
    asked = names(config.averages.decays, config.averages.widths, config.averages.half_lives)
    needed = methods.needs(config.method)
    own = names((config.method.proxy_decay,), ()) if EMA in needed else ()
    averages = [Average(name, net, config.run.batch, config.averages.ramp) for name in dict.fromkeys((*asked, *own))]
    proxy = next((a for a in averages if a.name in own), None)
    if config.run.parallel == "fsdp" and ranks.size > 1:
        for module in dict.fromkeys((net, *(part for a in averages for part in (a.module, a.exact)))):
            ranks.shard(module)
    posterior = _posterior(config, cache, ranks, networks.dtype(net)) if POSTERIOR in needed else None
    nothing = null(classes(config, cache), given(config, cache), config.method.hide_numbers)
    built = methods.build(config.method, net, proxy.module if proxy else None, posterior, nothing)
    owner = Owner(net, _loss(config, net, built.recipe), built.learner).to(ranks.device)
    if networks.dtype(net) == torch.float64:
        owner.double()
    if config.run.parallel == "fsdp" and ranks.size > 1:
        for module in dict.fromkeys(owner.loss.learned):
            ranks.shard(module)
    optimiser, data = _optimiser(config.optimiser, owner, ranks), cache.manifest.digest
    mirrored = config.data.flips or cache.manifest.flips != "none"
    beside = given(config, cache)
    numbers = [name for name, size in beside.items() if not isinstance(size, int)]
    if config.method.coupling == TRANSPORT and numbers:  # across them noise would depend on the condition
        what = f"pairs rows of one label, and these data have other conditions ({', '.join(numbers)})"
        raise UserError(f"--method.coupling {TRANSPORT} {what}: leave it out, or train with --data.no-conditional")
    paired = cache.manifest.start is not None
    if (config.method.coupling == PARTNERS) != paired:
        what = f"--method.coupling {config.method.coupling}: the flow of these data starts at {'partners' if paired else 'noise'}"
        raise UserError(f"{what}: give --method.coupling {PARTNERS if paired else INDEPENDENT}")
    if config.method.coupling == TRANSPORT and cache.manifest.length is not None:
        raise UserError(f"--method.coupling {TRANSPORT} takes rows of one length, and these are padded: leave it out")
    within = classes(config, cache) > 0 or bool(beside)
    pairs = coupled(config.method.coupling, config.run.seed, len(cache), cache.shape, within, mirrored)
    return State(description, owner, averages, proxy, optimiser, learns(built.recipe), pairs, data=data)


def _loss(config: Config, net: nn.Module, recipe: Recipe) -> Loss:
    path, own = words.path(config.method.path), getattr(net, "path", None)
    if isinstance(own, Path) and own != path:
        raise UserError(f"--method.path {config.method.path}: this network predicts data on the path {own} only")
    return Loss(recipe, path, check=False, measure=not config.run.compile)


def references(config: Config, n: int) -> Tensor:
    """Which of `n` rows of the data a posterior velocity compares with."""
    return torch.randperm(n, generator=key(config.run.seed, "references"))[: config.method.references].sort().values


def _posterior(config: Config, cache: Cache, ranks: Ranks, dtype: torch.dtype) -> Posterior:
    if cache.manifest.length is not None:
        raise UserError(f"--method.recipe {config.method.recipe} compares whole rows, and these are padded: choose another recipe")
    if given(config, cache):
        what = f"compares rows of one label, and these data have other conditions ({', '.join(given(config, cache))})"
        raise UserError(f"--method.recipe {config.method.recipe} {what}: choose another recipe, or train with --data.no-conditional")
    x, y = cache.rows(references(config, len(cache)))
    labels = y.to(ranks.device) if classes(config, cache) else None
    return posterior(config, x.to(ranks.device, dtype), labels, len(x) == len(cache) and cache.manifest.flips == "none")


def posterior(config: Config, x: Tensor, labels: Tensor | None, whole: bool) -> Posterior:
    """The velocity over these rows; where they are the `whole` data, and unmirrored, a row's own is among them and counts once."""
    count = config.method.components
    return Posterior(x, labels, include_own=not whole or config.data.flips, basis=components(x, count) if count else None)


def components(x: Tensor, count: int) -> Tensor:
    """The first principal components of rows `[N, *E]`, orthonormal `[entries, count]`; `UserError` if there are not so many."""
    flat = x.flatten(1).double()
    if count >= flat.shape[1]:
        raise UserError(f"--method.components: less than the {flat.shape[1]} entries of a row, or 0 for all, got {count}")
    _, vectors = torch.linalg.eigh(torch.cov(flat.T))
    return vectors[:, -count:]


def _optimiser(config: OptimiserConfig, owner: Owner, ranks: Ranks) -> torch.optim.Optimizer:
    trained = [p for p in owner.parameters() if p.requires_grad]
    if any(map(low, trained)) and sharded(trained):
        raise UserError("--parallel fsdp: the network's weights are in less than float32: make them float32, with --precision bf16")
    if config.optimiser == "muon" and sharded(trained):
        raise UserError(
            "--optimiser muon: it needs whole matrices, which --parallel fsdp shards: take --parallel ddp, or another optimiser"
        )
    return precise(made(config, trained, fused=ranks.device.type in ("cpu", "cuda")))
