"""What a study measures of a run at one moment: distances, the loss over t, the parabola of the residual's noise. Changes nothing of it.

The rows are those of the run's seed: the same for all its arms and at all moments. Labels are shown, nothing is guided, and networks are
evaluated in their weights' precision, without autocast: what is read is the conditional problem, whatever the recipe trains.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meanstep import probes
from meanstep.coefficients import at
from meanstep.keys import key
from meanstep.objectives import Eulerian
from meanstep.probes.rows import inner, tabulated
from meanstep.program import methods, registry
from meanstep.program.data import Cache
from meanstep.program.evaluation.references import Reference
from meanstep.program.registry import INSTANTANEOUS
from meanstep.program.reproduce.images.estimators import estimators
from meanstep.program.reproduce.images.settings import Sizes
from meanstep.program.runs.config import Config
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.samples import Samples, against_data, distance
from meanstep.program.training.state import State, classes
from meanstep.program.training.train import mirrored
from meanstep.shapes import per_sample, tree_map
from meanstep.times import uniform
from meanstep.types import Bridge, Times
from meanstep.velocities import Posterior, conditional, of

CHUNK, BINS, LARGEST = 128, 10, 20_000_000
"""Rows of a pass; bins of t; most numbers in the data behind a posterior."""
BETAS = torch.arange(21, dtype=torch.float64) / 20


@dataclass(frozen=True, eq=False)
class Measurer:
    """`measurer(state)`: the entries beta, distance, loss, error, bias and published of a record. All ranks must ask together.

    `pairs`: rows with two sorted uniforms as r < t; `levels`: rows at fixed t, one level after the other, r uniform below. `truth`: the
    posterior over all of the data, mirror images included where the run sees them: exact for their law. A row's own point is one of its
    references and must not count twice. None where the data are too many.
    """

    config: Config
    samples: Samples
    against: Reference
    sizes: Sizes
    pairs: Bridge
    levels: Bridge
    truth: Posterior | None

    @staticmethod
    def of(config: Config, cache: Cache, here: Path, ranks: Ranks, sizes: Sizes) -> "Measurer":
        """That of the run in the folder `here`."""
        samples = Samples.of(config, cache, here, ranks)
        pairs = _drawn(samples, sizes.rows, uniform, "pairs")
        levels = _drawn(samples, sizes.times * sizes.rows_at, _at(sizes.times), "levels")
        return Measurer(config, samples, against_data(samples), sizes, pairs, levels, _truth(samples, sizes.references))

    def __call__(self, state: State) -> dict[str, Any]:
        """The entries, plain numbers and None. A field of the instantaneous velocity has no u for r < t: its last four are None."""
        net, copy = state.owner.net, state.proxy or next(iter(state.averages), None)
        ema = copy.module if copy else None
        with _still(net), torch.no_grad():
            found: dict[str, Any] = {"beta": self.beta(state), "distance": self.distance(state)}
            if state.learns == INSTANTANEOUS:
                return found | dict.fromkeys(("loss", "error", "bias", "published"))
            tables = self.tables(net, ema)
            return found | {
                "loss": self.loss(net, ema),
                "error": {"ema": None} | {center: _parabola(table) for center, table in tables.items()},
                "bias": None if ema is None else _bias(tables),
                "published": estimators(net, ema, self.samples) if _at_zero(self.config) else None,
            }

    def beta(self, state: State) -> float | None:
        """The mean coefficient of the rows of `pairs` now; None for a recipe that has none."""
        option = registry.find(self.config.method.recipe).coefficient
        if not isinstance(option, str):
            return None
        value: Any = methods.coefficient(option, self.config.method.options.get(option, 1.0))
        value = state.owner.learner if isinstance(value, nn.Module) else value
        found = at(value, self.pairs._replace(progress=min(1.0, state.seen / self.config.run.samples)))
        mean: float | None = _plain(torch.as_tensor(found, dtype=torch.float64).mean())
        return mean

    def distance(self, state: State) -> dict[str, Any]:
        """Frechet distances of samples of the same seeds and labels for all arms, by weights and steps."""
        seeds, nets = self.samples.shared(self.sizes.count), {"raw": state.owner.net, "ema": state.sampled if state.averages else None}
        return {
            name: net
            if net is None
            else {str(n): _finite(distance(self.samples, net, self.against, seeds, n, state.sampler)) for n in self.sizes.steps}
            for name, net in nets.items()
        }

    def loss(self, net: nn.Module, ema: nn.Module | None) -> dict[str, Any]:
        """Mean and unbiased variance, over the rows at each t, of the squared residual an entry, eq. (11): target `v`, either tangent."""
        tangents = {"conditional": conditional} | ({} if ema is None else {"ema": of(ema)})

        def probe(b: Bridge) -> dict[str, Tensor]:
            made = {name: Eulerian(tangent)(net, b) for name, tangent in tangents.items()}
            return {name: per_sample((m.prediction - m.target).double().square(), b.t) for name, m in made.items()}

        rows, n = tabulated(self.levels, CHUNK, probe).columns, self.sizes.times
        means = {name: {"mean": _plain(x.view(n, -1).mean(1)), "variance": _plain(x.view(n, -1).var(1))} for name, x in rows.items()}
        return {"t": [(k + 0.5) / n for k in range(n)], "ema": None} | means

    def tables(self, net: nn.Module, ema: nn.Module | None) -> dict[str, probes.Table]:
        """The moments of `pairs` about each center, eq. (47), with `v` `|v_c|^2` as one more column."""
        proxy, found = None if ema is None else of(ema), {}
        if self.truth is not None:
            found["data"] = probes.moments(net, self.pairs, self.truth, proxy, chunk=CHUNK)
        if proxy is not None:
            found["ema"] = probes.moments(net, self.pairs, proxy, chunk=CHUNK)
        v = inner(self.pairs.v, self.pairs.v, self.pairs)
        return {name: probes.Table(*tree_map(lambda x: x.cpu(), (r, t, c | {"v": v}))) for name, (r, t, c) in found.items()}

    def picture(self, state: State) -> bytes:
        """A PNG of the samples that are shown, always of the same seeds and labels, as a run's own pictures."""
        return self.samples.preview(state).image


# Rows --------------------------------------------------------------------------------------------------------------------------------


def _drawn(samples: Samples, n: int, times: Times, name: str) -> Bridge:
    """Rows of the data as training sees them, with noise and times of a stream that training does not draw from."""
    config, cache, g = samples.config, samples.cache, key(samples.config.run.seed, "probe", name)
    r, t = times((n,), g)
    index, flip = torch.randint(len(cache), (n,), generator=g), torch.rand(n, generator=g) < 0.5
    x, y = cache.rows(index, flip if mirrored(config, cache) else None)
    path = methods.path(config.method.path)
    z, v = path(x, torch.randn(x.shape, generator=g), t)
    held = (z, v, r, t, y if classes(config, cache) else None)
    wide = config.run.precision == "float64"
    z, v, r, t, y = tree_map(lambda p: (p.double() if wide and p.is_floating_point() else p).to(samples.ranks.device), held)
    return Bridge(z, v, r, t, y, path=path)


def _at(levels: int) -> Times:
    """As many rows at each of the midpoints `t` of equal bins, one after the other; `r` uniform below."""

    def draw(shape: tuple[int, ...], g: Generator | None) -> tuple[Tensor, Tensor]:
        t = ((torch.arange(levels) + 0.5) / levels).repeat_interleave(shape[0] // levels)
        return t * torch.rand(shape, generator=g), t

    return draw


def _at_zero(config: Config) -> bool:
    """Whether the coefficient is the number 0, for which the estimates are published."""
    return bool(config.method.options.get("beta", registry.find(config.method.recipe).coefficient) == 0)


def _truth(samples: Samples, most: int) -> Posterior | None:
    cache, both = samples.cache, mirrored(samples.config, samples.cache)
    n = len(cache) * (1 + both)
    if n > most or n * math.prod(cache.shape) > LARGEST:
        return None
    index = torch.arange(len(cache)).repeat(1 + both)
    x, y = cache.rows(index, torch.arange(n) >= len(cache) if both else None)
    labels = y.to(samples.ranks.device) if classes(samples.config, cache) else None
    return Posterior(x.to(samples.ranks.device), labels, include_own=False)


@contextmanager
def _still(net: nn.Module) -> Iterator[None]:
    """The network in eval mode, and each of its parts in its own mode afterwards."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


# Numbers -----------------------------------------------------------------------------------------------------------------------------


def _parabola(table: probes.Table) -> dict[str, Any]:
    """`M(beta)` over `E|v'|^2` with its error, the means that make it, over all rows and in bins of t, and where it is least."""
    noise = probes.curve(table, BETAS).noise
    free = table._replace(columns=table.columns | {"d": torch.zeros_like(table.t, dtype=torch.float64)})
    optimum = {"matrix": probes.matrix(table), "matrix_unbiased": probes.matrix(free)}
    optimum |= {"norm": probes.by_norm(table), "sign": probes.by_sign(table)}
    cell = (table.t * BINS).long().clamp(max=BINS - 1)
    rows = torch.bincount(cell, minlength=BINS)
    by_t = {name: _plain(torch.bincount(cell, table.columns[name], minlength=BINS) / rows) for name in "abcds"}
    return {
        "betas": BETAS.tolist(),
        "value": _plain(noise.value),
        "se": _plain(noise.error),
        **{name: _plain(table.columns[name].mean()) for name in "abcds"},
        "by_t": {"t": [(k + 0.5) / BINS for k in range(BINS)]} | by_t,
        "optimum": {name: _plain(torch.stack([found.value, found.error])) for name, found in optimum.items()},
    }


def _bias(tables: dict[str, probes.Table]) -> dict[str, Any]:
    """The EMA copy's squared error over `E|v'|^2`; without the data's own velocity `E|v_ema - v_c|^2 / E|v_c|^2` as a bound, eq. (50)."""
    found = tables["data"].ratio("e", "s") if "data" in tables else tables["ema"].ratio("s", "v")
    kind = "exact for the data" if "data" in tables else "upper bound"
    return {"value": _plain(found.value), "se": _plain(found.error), "kind": kind}


def _plain(x: Tensor) -> Any:
    """Numbers, or None where they are none, in lists."""
    held = x.tolist()
    return [_finite(value) for value in held] if isinstance(held, list) else _finite(held)


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
