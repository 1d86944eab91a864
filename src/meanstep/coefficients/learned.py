"""Coefficients that change during training by what they observe: `Running` by the noise, `Climber` by a metric."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from meanstep import boundary
from meanstep.coefficients.schedules import inside
from meanstep.precise import Precise
from meanstep.shapes import inner, over, tree_map
from meanstep.tangents import automatic
from meanstep.types import Bridge, Field, Velocity
from meanstep.values import like, told


class Running(Precise):
    """Estimates the coefficient of least noise per bin of `(r, t)` during training, eq. (20), (53). Call `observe` every few steps.

    - `bins`: along each axis; 8.
    - `prior`: the value at the start, in [0, 1]: a number or a table `[bins, bins]` (rows by `t`, columns by `r`, as of `binned`); 1.
    - `rows`: how many rows of a bridge are observed; 32.
    - `keep`: the share that a bin's sums keep at each observation, in (0, 1], so about the last `1 / (1 - keep)` count; 0.99.
    - `strength`: how many rows the prior counts as against all rows, and the pooled estimate against those of one bin; 64. An
      empty bin has the pooled value, a full one its own.

    `ValueError` out of these ranges.

    `table` `[bins, bins]` holds the coefficients. Buffers are float64, so `state_dict` restores them exactly. No loss contains this
    module: save it in the checkpoint. Under torch.distributed all ranks must observe together: their sums are added, so values stay
    equal. Ensembles share one table. An observation costs a forward-mode pass and the center's forward pass on `rows` rows: `rows / B` of
    a step on `B` rows, docs/theory.md, section 11. Every 16 steps with `rows <= B / 4` it is below 3 percent.
    """

    swing: Tensor
    curvature: Tensor
    seen: Tensor
    prior: Tensor
    table: Tensor

    def __init__(self, bins: int = 8, prior: float | Tensor = 1.0, *, rows: int = 32, keep: float = 0.99, strength: float = 64.0) -> None:
        super().__init__()
        boundary.whole("bins", bins, 1)
        boundary.whole("rows", rows, 1)
        boundary.number("keep", keep, 0, 1, above=True)
        boundary.number("strength", strength, 0, above=True)
        start = torch.as_tensor(prior, dtype=torch.float64).expand(bins, bins).clone()
        inside(start, "prior", everywhere=True)
        self.bins, self.rows, self.keep, self.strength = bins, rows, keep, strength
        self.register_buffer("prior", start)
        self.register_buffer("table", start.clone())
        for name in ("swing", "curvature", "seen"):  # sums over rows of <y, y + v'>, |y + v'|^2 with y = J v', and 1
            self.register_buffer(name, torch.zeros(bins, bins, dtype=torch.float64))

    def extra_repr(self) -> str:
        """The settings, the prior among them."""
        return f"{self.bins}, prior={told(self.prior)}, rows={self.rows}, keep={self.keep:g}, strength={self.strength:g}"

    def forward(self, b: Bridge) -> Tensor:
        """The coefficient of every row, `[*B]`."""
        return self.table.to(b.t).flatten()[self._cells(b)]

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def _shrunk(self) -> Tensor:
        """The coefficient of every bin on [0, 1]: shrunk towards the pooled value, which is itself shrunk towards the prior, eq. (53)."""
        n, k = self.seen.sum(), self.strength
        mean = self.curvature.sum() / n.clamp(min=1)
        pooled = torch.where(mean > 0, self.swing.sum() / self.curvature.sum().clamp(min=torch.finfo(torch.float64).tiny), 0.0)
        goal = torch.where(mean > 0, (n * pooled.clamp(0, 1) + k * self.prior) / (n + k), self.prior)
        found = (self.swing + k * mean * goal) / (self.curvature + k * mean).clamp(min=torch.finfo(torch.float64).tiny)
        return torch.where(mean > 0, found, goal).clamp(0, 1)

    @torch.no_grad()
    def observe(self, field: Field, b: Bridge, center: Velocity, proxy: Velocity | None = None) -> None:
        """Update the table with the noise `v' = v_c - center` of the first `rows` rows of a bridge; rows with `r = t` do not count.

        `center`: an estimate of the marginal velocity; its error counts as noise (docs/theory.md, section 11). `proxy`: its bias, taken to
        be `proxy - center`, lowers the coefficient, for one more forward-mode pass. Masked entries do not count.
        """
        b = part(b, 0, min(self.rows, b.t.shape[-1]))
        middle = center(field, b).to(b.z)
        n = b.v - middle
        q = swung(field, b, n)
        found = [inner(q - n, q, b.t, b.mask), inner(q, q, b.t, b.mask), (b.gap > 0).double()]
        if proxy is not None:
            moved = swung(field, b, proxy(field, b).to(b.z) - middle)
            found[1] = found[1] + inner(moved, moved, b.t, b.mask)
        sums = torch.stack([self._summed(torch.where(b.gap > 0, x, 0.0), b) for x in found])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        for kept, new in zip((self.swing, self.curvature, self.seen), sums, strict=True):
            kept.mul_(self.keep).add_(new)
        self.table.copy_(self._shrunk())

    def _cells(self, b: Bridge) -> Tensor:
        inner = torch.arange(1, self.bins, device=b.t.device).to(b.t) / self.bins
        i, j = (torch.bucketize(p.contiguous(), inner) for p in (b.t, b.r))
        return i * self.bins + j

    def _summed(self, x: Tensor, b: Bridge) -> Tensor:
        zero = torch.zeros(self.bins**2, dtype=torch.float64, device=x.device)
        return zero.index_add_(0, self._cells(b).flatten(), x.flatten()).view(self.bins, self.bins).to(self.seen)


def part(b: Bridge, start: int, length: int) -> Bridge:
    """The `length` rows of a bridge from row `start` on, along its last batch axis."""
    return b._replace(**tree_map(lambda p: p.narrow(b.t.ndim - 1, start, length), b.rows))


def swung(field: Field, b: Bridge, w: Tensor) -> Tensor:
    """`(J + I) w = (t - r) (d_z u) w`, eq. (16), by one forward-mode pass."""
    du = automatic(field, b.z, b.r, b.t, b.y, (w, None, None))[1].to(w)
    return over(b.gap, du) * du


class Climber(Precise):
    """One coefficient in [0, 1] that follows a validation metric, lower is better: call `report` with the metric at each checkpoint.

    The first report moves the coefficient by `step`, up if it starts below 1/2. Later, if the metric fell by more than the share
    `margin` since the last report, the last move is repeated. Otherwise (also for nan) the direction is reversed and the step halved, down
    to `least`. At 0 and 1 the direction is reversed as well. It does not know why a metric fell: while training alone lowers it, the
    coefficient keeps its direction. So report when training has slowed down, or report a metric relative to a fixed baseline.

    Defaults: `start` 0.5, `step` 0.25, `least` 0.01, `margin` 0; `ValueError` unless `0 < least <= step <= 1` and `margin >= 0`. All ranks
    must report the same number. Deterministic; the state is in the buffers `beta`, `direction`, `step`, `last` and `reports`.
    """

    beta: Tensor
    direction: Tensor
    step: Tensor
    last: Tensor
    reports: Tensor

    def __init__(self, start: float = 0.5, step: float = 0.25, *, least: float = 0.01, margin: float = 0.0) -> None:
        super().__init__()
        boundary.number("start", start, 0, 1)
        boundary.rising("least and step", (least, step), 0, 1, above=True)
        boundary.number("margin", margin, 0)
        self.least, self.margin = least, margin
        values = {"beta": start, "direction": 1.0 if start < 0.5 else -1.0, "step": step, "last": float("nan")}
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("reports", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """The coefficient now, its next step and the limits."""
        return f"{told(self.beta)}, step={told(self.step)}, least={self.least:g}, margin={self.margin:g}"

    def forward(self, b: Bridge) -> Tensor:
        """The coefficient, 0-d."""
        return self.beta.to(b.t)

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @torch.no_grad()
    def report(self, metric: float) -> float:
        """Move the coefficient by a checkpoint's metric, and return its new value."""
        fell = metric < float(self.last) - self.margin * abs(float(self.last))
        if self.reports > 0 and not fell:
            self.direction.neg_()
            self.step.div_(2).clamp_(min=self.least)
        if not 0 <= float(self.beta + self.direction * self.step) <= 1 and float(self.beta) in (0.0, 1.0):
            self.direction.neg_()
        self.beta.add_(self.direction * self.step).clamp_(0, 1)
        if math.isfinite(metric):
            self.last.fill_(metric)
        self.reports += 1
        return float(self.beta)
