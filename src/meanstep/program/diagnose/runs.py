"""A folder of `meanstep train` as a diagnosis reads it: network, weights, copy, data and recipe, as the run has them. Trains nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meanstep.loss import Loss
from meanstep.program.console import UserError
from meanstep.program.diagnose import arrays
from meanstep.program.diagnose.history import history
from meanstep.program.diagnose.networks import Found, Probed
from meanstep.program.diagnose.reading import Reading, line, share
from meanstep.program.diagnose.target import BUILDER, is_run
from meanstep.program.methods import coefficient, path
from meanstep.program.registry import EMA, INDEPENDENT, POSTERIOR, find
from meanstep.program.runs import cached, networks
from meanstep.program.runs.config import Config, chunk
from meanstep.program.runs.method import MethodConfig
from meanstep.program.runs.records import load
from meanstep.program.runs.restored import put_part
from meanstep.program.runs.saved import CONFIG, Saved, held, located
from meanstep.program.training import methods
from meanstep.program.training.averages import names
from meanstep.program.training.coupled import coupled
from meanstep.program.training.state import posterior, references
from meanstep.types import Bridge
from meanstep.velocities import Posterior


@dataclass(frozen=True)
class Trained:
    """A checkpoint of the run in the folder `run`, which was trained as `config` says.

    `named`: the recipe that a user named, if one did.
    """

    run: Path
    saved: Saved
    config: Config
    named: str | None = None

    @property
    def progress(self) -> float:
        """The share of the training that was done."""
        return min(1.0, int(self.saved.about["seen"]) / self.config.run.samples)

    def history(self) -> dict[str, float]:
        """What the run's records tell of the training up to this checkpoint."""
        return history(load(self.run / "records.jsonl"), int(self.saved.about["seen"]))

    @property
    def classes(self) -> int:
        """Number of labels that the network is given."""
        return int(self.saved.description.get("options", {}).get("classes", 0)) if self.config.data.conditional else 0

    @property
    def copy(self) -> str:
        """The average that is read beside the weights: the recipe's proxy, else the one that samples are made with; may be empty.

        A recipe that is not ours is asked what it needs only if a user named it: that would import it.
        """
        own = self.config.method
        proxy, known = names((own.proxy_decay,), ())[0], ":" not in own.recipe or own.recipe == self.named
        wanted = proxy if known and EMA in methods.needs(own) else str(self.saved.about.get("chosen", ""))
        return wanted if wanted in self.saved.averages else next(iter(self.saved.averages), "")

    def scale(self, asked: float | None) -> float | None:
        """The guidance scale at which it is read, by default the least trained; None for a network that takes none.

        `UserError` for a scale that was not trained.
        """
        trained = self.config.method.scales
        if asked is None:
            return trained[0] if trained else None
        if not trained:
            raise UserError(f"--guidance {asked:g}: the run's network takes no guidance scale as an input: leave it out")
        if not trained[0] <= asked <= trained[1]:
            raise UserError(
                f"--guidance {asked:g}: the run was trained at scales from {trained[0]:g} to {trained[1]:g}: choose one of them"
            )
        return asked

    def found(
        self, weights: Path | None, ema: Path | None, allowed: str = "", net: nn.Module | None = None, guidance: float | None = None
    ) -> Found:
        """The network, if it is ours or `allowed`, or `net`, its weights and its copy, unless other files are given; see `scale`."""
        beside = ema or (self.saved.file(f"ema_{self.copy}.safetensors") if self.copy else None)
        network = str(self.saved.description.get("network"))
        made = weights or self.saved.file("model.safetensors")
        return Found(network, lambda seed: networks.made(self.saved.description, seed, allowed, net), made, beside, self.scale(guidance))

    def data(self, labels: Path | None) -> arrays.Dataset:
        """What it was trained on; `UserError` if that is not there any more."""
        cache = cached.cache(self.run, "give --data")
        labelled = self.config.data.conditional and networks.conditional(self.saved.description)
        found = arrays.of_cache(cache, Path(self.config.data.source).name, labels, labelled=labelled)
        run, own = self.config.run, self.config.method
        pairs = coupled(own.coupling, run.seed, len(cache), cache.shape, self.classes > 0, False)
        return replace(found, coupled=pairs, together=chunk(run, 1))

    def method(self, probed: Probed, data: arrays.Dataset, changed: Mapping[str, Any]) -> Reading:
        """The recipe as the run has it but for what the user `changed`, with what its loss had learned; guidance is left out."""
        own = self.config.method
        if own.coupling != INDEPENDENT and data.independent:
            what = f"the run was trained under --method.coupling {own.coupling}, and the noise of other rows is independent of them"
            raise UserError(f"{what}, which is another training: leave --data out, or read the network with --recipe meanflow")
        asked = replace(own, options=own.options | dict(changed), dropout=0.0, omega=1.0, kappa=0.0, scales=())
        try:
            built = methods.build(asked, probed.field, probed.ema, self._posterior(asked, probed, data), self.classes)
        except UserError as error:
            raise UserError(f"the run's recipe: {error}") from error
        rest = {} if changed or not (self.saved.path / "state.safetensors").is_file() else self.saved.tensors("state")
        loss = Loss(built.recipe, measure=False).to(networks.dtype(probed.field))
        if rest:
            put_part(loss, rest, "loss.", self.saved.path)
        if built.learner is not None:
            if rest:
                put_part(built.learner, rest, "learner.", self.saved.path)
            built.learner.to(next(probed.field.parameters()).device)
        scale = getattr(probed.field, "scale", None) if own.scales else None
        at = f", at guidance scale {scale:g} against the velocity without guidance" if scale not in (None, 1) else ", at guidance scale 1"
        guided = ", its guidance left out" if (own.omega, own.kappa) != (1, 0) else at if own.scales else ""
        entry = find(asked.recipe)
        beta = share(entry, built.recipe, self._beta(entry.coefficient, asked.options))
        capped = "" if own.largest_gap is None else f", with gaps of at most {own.largest_gap:g}"
        words = f"{line(asked.recipe, asked.options)}{capped}, the run's{guided}"
        return Reading(asked.recipe, built.recipe, words, beta, bool(rest), path(own.path))

    def _beta(self, option: float | str | None, options: Mapping[str, Any]) -> float | None:
        """The coefficient at this moment of the run, if it is one number."""
        if not isinstance(option, str):
            return None
        c, one = coefficient(option, options.get(option, 1.0)), torch.ones(1)
        value = c(Bridge(one, one, one, one, progress=self.progress)) if callable(c) else c
        return None if isinstance(value, torch.Tensor) else float(value)

    def _posterior(self, asked: MethodConfig, probed: Probed, data: arrays.Dataset) -> Posterior | None:
        if POSTERIOR not in methods.needs(asked):
            return None
        like = next(p for p in probed.field.parameters() if p.is_floating_point())
        b = data.rows(references(self.config, len(data)), like.dtype, like.device)
        return posterior(self.config, b.x, b.y, len(b.x) == len(data))


def trained(target: str, recipe: str | None = None, path: str | None = None) -> Trained | None:
    """The run of a folder, or of one of its checkpoints; None where neither is there. `UserError` for a damaged one.

    `recipe`, `path`: what a user named in place of the run's. One of the run's that is code of others is refused unless it is named.
    """
    if not is_run(target):
        return None
    run, saved = located(Path(target).expanduser())
    config = held(run)
    if config is None:
        raise UserError(f"{run} holds no {CONFIG}: {BUILDER}")
    _check_trusted(config.method, recipe, path)
    return Trained(run, saved, config, recipe)


def _check_trusted(own: MethodConfig, recipe: str | None, path: str | None) -> None:
    """`UserError` for a name of the run's files whose code would run, and that nobody named: before anything looks it up."""
    for what, name, named, ours in (("recipe", own.recipe, recipe, "meanflow"), ("path", own.path, path, "linear")):
        if ":" in name and named is None:
            remedy = f"if you trust it, allow it by that name with --{what} {name}, or read the network with --{what} {ours}"
            raise UserError(f"the run's {what} is {name}, code that would run: {remedy}")
