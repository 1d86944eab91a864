"""What is measured on trained weights: sample quality, gradient variance over beta, noise over (r, t), the proxies' bias.

Rows are drawn by keys of their own, so that all models of a set and seed are measured on the same.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meanstep import samplers
from meanstep.fields.flat import Passes, Runner, Shape, Trace
from meanstep.keys import key
from meanstep.metrics.distances import Coverage, Sliced, energy_distance
from meanstep.paths import linear
from meanstep.probes.maps import measured_map, noise_map, optima, ratio
from meanstep.program.reproduce.points.draws import Stream
from meanstep.program.reproduce.points.protocols import protocol, times
from meanstep.program.reproduce.points.settings import Settings
from meanstep.types import Bridge
from meanstep.velocities import Posterior

BINS = 8
PROBE_BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)


# Sample quality ---------------------------------------------------------------------------------------------------------------------


class Judge:
    """Compares samples with fresh data of one set and seed: everything about the data is computed once.

    Scores: sliced W1 on `settings.directions` directions with `settings.samples` points each, energy distance with 1,000 each, and mode
    coverage, where a point counts if its log density is above the 0.5 percent quantile of the data's.
    """

    def __init__(self, stream: Stream, settings: Settings) -> None:
        law, n = stream.law, settings.samples
        self.n, self.path = n, (stream.seed, "evaluate", stream.name)
        self.draw = getattr(law, "shuffled", law.sample)  # parts of the rows are compared and shown
        fresh = getattr(law, "held_out_sample", self.draw)  # a user's points: the half that is not trained on
        self.data = fresh(n, key(*self.path, "data"))
        self.directions = protocol(settings).directions(law.dim, settings, self.path)
        self.sliced, self.quick = Sliced(self.data, self.directions), Sliced(self.data[:2048], self.directions[::4])
        self.noise = torch.randn(1, n, law.dim, generator=key(*self.path, "noise"))
        self.modes = Coverage(law, self.data) if getattr(law, "regions", 0) else None

    def scores(self, runner: Runner, steps: tuple[int, ...] = (1,)) -> dict[str, Any]:
        """SCORES of one model's weights (see records.py) by numbers of jumps; 64 means Euler steps along the instantaneous velocity.

        Samples that are not finite, of a model that diverged, score nan.
        """
        made = {str(k): samplers.walk(runner, self.noise, samplers.grid(k), batch_dims=2)[0] for k in steps if k < 64}
        if 64 in steps:
            made["64"] = samplers.euler(runner, self.noise, samplers.grid(64), batch_dims=2)[0]
        apart = {k: self.sliced.both(x) if x.isfinite().all() else (math.nan, math.nan) for k, x in made.items()}
        orders = {f"sw{p}": {k: found[p - 1] for k, found in apart.items()} for p in (1, 2)}
        return {**orders, **self._one_step(made["1"])}

    def _one_step(self, x: Tensor) -> dict[str, Any]:
        if not x.isfinite().all():
            return {"energy": float("nan"), "coverage": None}
        energy = energy_distance(x[:1000], self.data[:1000])
        return {"energy": energy, "coverage": self.modes(x) if self.modes else None}

    def samples(self, runner: Runner, n: int = 2000) -> Tensor:
        """One-step samples `[n, D]`."""
        return samplers.jump(runner, self.noise[:, :n], batch_dims=2)[0]

    def glance(self, runner: Runner) -> float:
        """A cheaper sliced W1 for training curves: 2,048 points, a quarter of the directions."""
        return _or_nan(self.quick, self.samples(runner, 2048))

    def floor(self) -> dict[str, Any]:
        """The scores of fresh data, what a perfect model would get; of a user's points, those of the training half."""
        x = self.draw(self.n, key(*self.path, "floor"))
        first, second = self.sliced.both(x)
        return {"sw1": first, "sw2": second, **self._one_step(x)}

    def start(self) -> float:
        """The sliced W1 of the noise itself: what a network gets that has learnt nothing."""
        return self.sliced(self.noise[0])


def _or_nan(distance: Callable[[Tensor], float], x: Tensor) -> float:
    return distance(x) if x.isfinite().all() else float("nan")


# Noise over (r, t) ------------------------------------------------------------------------------------------------------------------


def _record(parts: Sequence[Tensor], rows: int) -> dict[str, Any]:
    """A MAP of records.py from the `[BINS, BINS]` means `a, b, c, s`; a bin without rows is nan and becomes null."""
    edges = [k / BINS for k in range(BINS + 1)]
    grids = {name: [[None if x != x else x for x in line] for line in grid.tolist()] for name, grid in zip("abcs", parts, strict=True)}
    return {"edges": edges, **grids, "rows": rows}


def exact_map(law: Any, seed: int, n: int = 2048) -> dict[str, Any]:
    """The MAP of the exact flow at the bins' centres, from `n` rows in the plane, fewer above."""
    rows = max(n // 8, 2 * n // law.dim)
    return _record(noise_map(law, torch.randn(rows, law.dim, generator=key(seed, "law"), dtype=torch.float64), BINS).unbind(), rows)


def exact_beta(found: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Edges and table of the noise-optimal coefficient per bin, eq. (20) without bias; 0 where no row falls."""
    b, c = (torch.tensor([[0.0 if x is None else x for x in line] for line in found[name]]) for name in "bc")
    return torch.tensor(found["edges"]), torch.where(c > 1e-12, b / c.clamp(min=1e-12), 0.0).clamp(0, 1)


# Gradients --------------------------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows with `r < t` on which all models of a set and seed are probed; `noise` is `v_c - v`, by the exact velocity."""

    bridge: Bridge
    exact: Tensor
    noise: Tensor
    posterior: Tensor
    inputs: Tensor
    boundary: Tensor
    tangents: Tensor


def probe_rows(stream: Stream, shape: Shape, settings: Settings) -> Rows:
    """`settings.probe` fresh rows of a stream; the same for every model."""
    n = settings.probe
    g = key(stream.seed, "probe", stream.name)
    x, e = stream.law.sample(n, g), torch.randn(n, shape.dim, generator=g)
    r, t = times(settings)((n,), g)
    z, v = linear(x, e, t)
    b, exact = Bridge(z, v, r, t), stream.law.velocity(z, t)
    posterior = Posterior(stream.reference(settings.reference), dtype=torch.float32)(None, b)  # type: ignore[arg-type]
    return Rows(b, exact, v - exact, posterior, shape.inputs(z, r, t), shape.inputs(z, t, t), shape.input_tangents(t, t - r))


@dataclass(frozen=True)
class Probe:
    """Measures one model on the probe's rows, with the weights frozen."""

    rows: Rows
    shape: Shape
    settings: Settings

    @torch.no_grad()
    def __call__(self, flat: Tensor, ema: Tensor) -> dict[str, Any]:
        """The probe of records.py for raw weights `[1, size]` and the proxy's EMA copy."""
        rows, b = self.rows, self.rows.bridge
        passes, layers = Passes(self.shape, 1, len(b.t), flat), self.shape.layers(flat)
        own = passes.forward(layers, rows.boundary[None])[0].clone()
        slow = passes.forward(self.shape.layers(ema), rows.boundary[None])[0].clone()
        u = passes.forward(layers, rows.inputs[None])[0]
        gap, zero = b.gap[:, None], torch.zeros_like(rows.tangents)

        def along(w: Tensor, times: Tensor = zero) -> Tensor:
            return gap * passes.tangent(layers, torch.cat([w, times], -1)[None])[0]

        trace = Trace(passes, layers, self.shape.layers(torch.zeros_like(flat)))
        change, jn = along(b.v, rows.tangents), along(rows.noise) - rows.noise
        proxies = {"ema": slow, "own": own, "posterior": rows.posterior, "oracle": rows.exact}
        moved = {name: change + along(w - b.v) for name, w in proxies.items()}
        residuals = [torch.lerp(u + change, u + moved["ema"], beta) - b.v for beta in PROBE_BETAS]
        plain = [trace(2 * r) for r in residuals]
        noises = [passes.norms(layers, 2 * torch.lerp(jn, -rows.noise, beta)[None]).mean().item() for beta in PROBE_BETAS]
        both = {f"{name}-both": trace(2 * (u + moved[name] - w))[0] for name, w in proxies.items()}
        jb = along(slow - rows.exact)
        return {
            "rows": len(b.t),
            "betas": list(PROBE_BETAS),
            "trace": [p[0] for p in plain],
            "trace_se": [p[1] for p in plain],
            "weighted": [trace(2 * r * self._weight(r))[0] if self.settings.power else p[0] for r, p in zip(residuals, plain, strict=True)],
            "noise": noises,
            "error": [ratio(torch.lerp(jn, -rows.noise, beta), rows.noise) + beta**2 * ratio(jb, rows.noise) for beta in PROBE_BETAS],
            "proxies": {name: trace(2 * (u + moved[name] - b.v))[0] for name in proxies} | both,
            "bias": {name: ratio(w - rows.exact, rows.noise) for name, w in proxies.items() if name != "oracle"},
            "map": _record(measured_map(b.r, b.t, jn, rows.noise, BINS).unbind(), len(b.t)),
            "optimum": optima(jn, rows.noise, jb, slow - rows.exact),
        }

    def _weight(self, residual: Tensor) -> Tensor:
        return (residual.square().sum(-1, keepdim=True) + self.settings.c) ** -self.settings.power
