"""Coefficients: numbers, tensors over an ensemble, functions of `(r, t)`, schedules over training, and the closed-form optima.

The optima are functions of the Jacobian's action, the noise and the proxy's bias, whoever measured them. Two coefficients learn while
training goes on, `Running` from the noise and `Climber` from a metric: modules whose state the program checkpoints.
"""

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from meanstep.precise import Precise
from meanstep.shapes import inner, over, tree_map
from meanstep.tangents import automatic
from meanstep.types import Bridge, Coefficient, Field, Velocity


def at(c: Coefficient, b: Bridge) -> float | Tensor:
    """The value of `c` on the rows of `b`: a number, or a tensor that broadcasts over `[*B]`."""
    value = c(b) if callable(c) else c
    if not isinstance(value, Tensor):
        return value
    value = over(value, b.t).to(b.t)
    if value.ndim > b.t.ndim or any(p not in (1, q) for p, q in zip(value.shape, b.t.shape, strict=False)):
        raise ValueError(f"a coefficient of shape {tuple(value.shape)} does not fit the batch shape {tuple(b.t.shape)}")
    return value


def checked(c: Coefficient, name: str) -> Coefficient:
    """`c` itself, or `ValueError` if it lies outside [0, 1]; a function's value is checked when called, on a CPU only if a tensor."""
    if callable(c):
        return lambda b: _inside(c(b), name, everywhere=False)
    return _inside(c, name, everywhere=True)


def _inside(value: float | Tensor, name: str, everywhere: bool) -> float | Tensor:
    if torch.compiler.is_compiling():  # a compiled step does not look at numbers
        return value
    if isinstance(value, Tensor):
        bad = value[~((value >= 0) & (value <= 1))] if everywhere or value.device.type == "cpu" else value[:0]
        if bad.numel():
            raise ValueError(f"{name} must lie in [0, 1], got a tensor that holds {bad.flatten()[0].item():g}")
    elif not hasattr(value, "__float__"):  # a numpy number is a number
        raise TypeError(f"{name} is a number, a tensor or a function of the bridge, got {value!r}")
    elif not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value:g}")
    return value


def linear(start: float, end: float, until: float = 1.0) -> Callable[[Bridge], float | Tensor]:
    """From `start` to `end` while progress goes from 0 to `until`, constant afterwards; `until` in (0, 1]."""
    if not 0 < until <= 1:
        raise ValueError(f"until is a share of the training in (0, 1], got {until:g}")
    return lambda b: start + (end - start) * _bounded(b.elapsed() / until, 0.0, 1.0)


def constant(value: float) -> Callable[[Bridge], float]:
    """The schedule that stays at `value`: the same as the number, where a function is asked for."""
    return lambda b: value


def cosine(start: float, end: float, until: float = 1.0) -> Callable[[Bridge], float | Tensor]:
    """From `start` to `end` along half a cosine while progress goes from 0 to `until`, flat at both ends; constant afterwards."""
    share = linear(0.0, 1.0, until)
    return lambda b: start + (end - start) * (1 - _applied(torch.cos, math.cos, math.pi * share(b))) / 2


def logistic(start: float, end: float, steepness: float = 10.0, middle: float = 0.5) -> Callable[[Bridge], float | Tensor]:
    """From `start` to `end` along a logistic curve about the progress `middle`, shifted and scaled to reach both ends exactly.

    Either direction; `sigmoid` is alpha-Flow's own form, from 1 to 0 and snapped.
    """
    if steepness <= 0 or not 0 <= middle <= 1:
        raise ValueError(f"a logistic needs a positive steepness and a middle in [0, 1], got {steepness:g} and {middle:g}")
    first, last = (math.tanh(steepness * (p - middle) / 2) for p in (0.0, 1.0))

    def value(b: Bridge) -> float | Tensor:
        share = (_applied(torch.tanh, math.tanh, steepness * (b.elapsed() - middle) / 2) - first) / (last - first)
        return start + (end - start) * share

    return value


def _applied(f: Callable[[Tensor], Tensor], g: Callable[[float], float], x: float | Tensor) -> float | Tensor:
    return f(x) if isinstance(x, Tensor) else g(x)


def _bounded(x: float | Tensor, low: float, high: float) -> float | Tensor:
    return x.clamp(low, high) if isinstance(x, Tensor) else min(max(x, low), high)


def over_t(start: float, end: float, power: float = 1.0) -> Callable[[Bridge], Tensor]:
    """From `start` at `t = 0` to `end` at `t = 1` like `t^power`, all training long; `power` is positive."""
    if not power > 0:
        raise ValueError(f"power is a positive number, got {power:g}")
    return lambda b: start + (end - start) * b.t**power


def sigmoid(begin: float = 0.0, end: float = 1.0, steepness: float = 25.0, snap: float = 0.005) -> Callable[[Bridge], float | Tensor]:
    """alpha-Flow's curriculum from 1 to 0 between the progress values `begin` and `end`, snapped to its ends; arXiv 2510.20771.

    Where progress is a tensor (a compiled step) it cannot switch to another computation at the end: it stays at `snap` there.
    """

    def value(b: Bridge) -> float | Tensor:
        k = _bounded(b.elapsed(), begin, end)
        power = steepness * (k - (begin + end) / 2) / (end - begin)
        if isinstance(power, Tensor):
            a = torch.sigmoid(-power)
            return torch.where(a > 1 - snap, 1.0, a.clamp(min=snap))
        share = 1 / (1 + math.exp(power))
        return 0.0 if share < snap else 1.0 if share > 1 - snap else share

    if not 0 <= begin < end <= 1:
        raise ValueError(f"the curriculum needs 0 <= begin < end <= 1, got begin={begin:g}, end={end:g}")
    return value


def exponential(start: float, end: float) -> Callable[[Bridge], float | Tensor]:
    """Geometric interpolation from `start` to `end` over the training; SoFlow's step schedule, arXiv 2512.15657."""
    if start <= 0 or end <= 0:
        raise ValueError(f"a geometric schedule needs positive ends, got {start:g} and {end:g}")
    return lambda b: start * (end / start) ** b.elapsed()  # number or tensor alike


def binned(edges: Tensor, values: Tensor) -> Callable[[Bridge], Tensor]:
    """A coefficient per bin of `(r, t)`: `values` `[n, n]`, rows by `t`, columns by `r`, between the `n + 1` rising `edges`."""
    if edges.ndim != 1 or values.shape != (len(edges) - 1,) * 2:
        raise ValueError(f"{len(edges)} edges need a table of {len(edges) - 1} x {len(edges) - 1} values, got {tuple(values.shape)}")
    inner = edges[1:-1]
    return lambda b: values.to(b.t)[torch.bucketize(b.t.contiguous(), inner.to(b.t)), torch.bucketize(b.r.contiguous(), inner.to(b.t))]


def scalar_optimum(kappa: float | Tensor, noise: float | Tensor, bias: float | Tensor = 0.0) -> float | Tensor:
    """The paper's `kappa / (kappa + 1) * noise / (noise + bias)`, eq. (19): the unconstrained minimiser for `J = kappa I`.

    `kappa`: signed Jacobi factor; `noise`: `Tr S`; `bias`: squared norm of the proxy's bias. A trained field has `kappa < 0`: the
    value is then outside [0, 1] and must not be clipped blindly, use `clipped_optimum`. Singular at `kappa = -1` (every `r = t` row).
    Source: arXiv 2605.09235, Theorem 4 (as summarised; its sign convention is discussed in docs/theory.md).
    """
    return kappa / (kappa + 1) * noise / (noise + bias)


def clipped_optimum(kappa: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """The minimiser of the same parabola on [0, 1], eq. (19b), for any sign of `kappa`; at `kappa = -1` every beta is equal and it is 0."""
    curvature = (kappa + 1) ** 2 * (noise + bias)
    slope = kappa * (kappa + 1) * noise
    return torch.where(curvature > 0, slope / torch.where(curvature > 0, curvature, 1.0), 0.0).clamp(0, 1)


def matrix_optimum(jn: Tensor, n: Tensor, jb: Tensor | None = None) -> Tensor:
    """The minimiser on [0, 1] of the mean of `|jn - beta (jn + n)|^2 + beta^2 |jb|^2`, eq. (20): one number for all rows, 0-d.

    `n`: draws of the noise `v' = v - E[v | z]`, `jn`: `J n`, `jb`: `(J + I) b` with the proxy's bias `b`; all `[N, *E]`.
    """
    swing = jn + n
    curvature = swing.square().sum() + (jb.square().sum() if jb is not None else 0.0)
    return ((jn * swing).sum() / curvature).clamp(0, 1) if curvature > 0 else torch.zeros_like(curvature)


# Learned while training goes on ------------------------------------------------------------------------------------------------------


class Running(Precise):
    """A coefficient per bin of `(r, t)` from running moments of the noise, eq. (20), (53); a function of the bridge like any other.

    Call `observe` every few steps. `bins`: along each axis; `prior`: where it starts, a number or a table `[bins, bins]` (rows by `t`,
    columns by `r`, as of `binned`); `rows`: how many of a bridge's rows are observed; `keep`: what a bin's sums keep at each
    observation, so the last `1 / (1 - keep)` ones count; `strength`: the number of rows that the prior is worth against all rows, and
    the pooled estimate against those of one bin: an empty bin has the pooled value, a full one its own.

    `table` `[bins, bins]` holds the coefficients. Buffers are float64, so `state_dict` restores it exactly; it belongs to no loss,
    checkpoint it beside the network. Under torch.distributed all ranks must observe together: their sums are added, the values stay
    equal. Ensembles share one table. An observation costs a forward-mode pass and the center's forward pass on `rows` rows: `rows / B` of
    a step on `B` rows, docs/theory.md, section 11; every 16 steps with `rows <= B / 4` it is below 3 percent.
    """

    swing: Tensor
    curvature: Tensor
    seen: Tensor
    prior: Tensor
    table: Tensor

    def __init__(self, bins: int = 8, prior: float | Tensor = 1.0, *, rows: int = 32, keep: float = 0.99, strength: float = 64.0) -> None:
        super().__init__()
        if bins < 1 or rows < 1 or not 0 < keep <= 1 or strength <= 0:
            raise ValueError(f"need bins, rows >= 1, 0 < keep <= 1, strength > 0, got {bins}, {rows}, {keep:g} and {strength:g}")
        start = torch.as_tensor(prior, dtype=torch.float64).expand(bins, bins).clone()
        _inside(start, "prior", everywhere=True)
        self.bins, self.rows, self.keep, self.strength = bins, rows, keep, strength
        self.register_buffer("prior", start)
        self.register_buffer("table", start.clone())
        for name in ("swing", "curvature", "seen"):  # sums over rows of <y, y + v'>, |y + v'|^2 with y = J v', and 1
            self.register_buffer(name, torch.zeros(bins, bins, dtype=torch.float64))

    def forward(self, b: Bridge) -> Tensor:
        """The coefficient of every row, `[*B]`."""
        return self.table.to(b.t).flatten()[self._cells(b)]

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
        """Take the noise `v' = v_c - center` of the first `rows` rows of a bridge into account; rows with `r = t` say nothing.

        What is off in the center enters as noise (docs/theory.md, section 11). With `proxy` its bias, taken to be `proxy - center`, counts
        against it, for one more forward-mode pass. Entries under a mask do not count.
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
    """Rows of a bridge along its last batch axis."""
    return b._replace(**tree_map(lambda p: p.narrow(b.t.ndim - 1, start, length), b.rows))


def swung(field: Field, b: Bridge, w: Tensor) -> Tensor:
    """`(J + I) w = (t - r) (d_z u) w`, eq. (16), by one forward-mode pass."""
    du = automatic(field, b.z, b.r, b.t, b.y, (w, None, None))[1].to(w)
    return over(b.gap, du) * du


class Climber(Precise):
    """One coefficient that climbs by a validation metric, the lower the better: `report` it at checkpoints, in order.

    The rule: the first report moves the coefficient by `step`, up if it starts below 1/2. Later, if the metric fell by more than the share
    `margin` since the report before, the last move was right and is repeated; otherwise (a nan included) the direction is reversed and
    the step halved, down to `least`. At 0 and 1 the direction is reversed as well. Deterministic. It does not know why a metric fell:
    while training alone lowers it, it goes on in its direction, so report when that has slowed down, or a metric relative to a fixed
    baseline. All ranks must report the same number. State: buffers `beta`, `direction`, `step`, `last` and `reports`.
    """

    beta: Tensor
    direction: Tensor
    step: Tensor
    last: Tensor
    reports: Tensor

    def __init__(self, start: float = 0.5, step: float = 0.25, *, least: float = 0.01, margin: float = 0.0) -> None:
        super().__init__()
        _inside(start, "start", everywhere=True)
        if not 0 < least <= step <= 1 or margin < 0:
            raise ValueError(f"need 0 < least <= step <= 1 and margin >= 0, got {least:g}, {step:g} and {margin:g}")
        self.least, self.margin = least, margin
        values = {"beta": start, "direction": 1.0 if start < 0.5 else -1.0, "step": step, "last": float("nan")}
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("reports", torch.zeros((), dtype=torch.int64))

    def forward(self, b: Bridge) -> Tensor:
        """The coefficient, 0-d."""
        return self.beta.to(b.t)

    @torch.no_grad()
    def report(self, metric: float) -> float:
        """Take a checkpoint's metric into account; the coefficient until the next one."""
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
