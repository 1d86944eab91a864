"""Coefficients: numbers, tensors over an ensemble, functions of `(r, t)`, schedules over training, and the closed-form optima.

Knows no networks: the optima are functions of the Jacobian's action, the noise and the proxy's bias, whoever measured them.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from meanstep.shapes import over
from meanstep.types import Bridge, Coefficient


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


def _bounded(x: float | Tensor, low: float, high: float) -> float | Tensor:
    return x.clamp(low, high) if isinstance(x, Tensor) else min(max(x, low), high)


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
