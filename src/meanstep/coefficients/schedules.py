"""Coefficients that are fixed in advance: numbers, tensors over an ensemble, functions of `(r, t)`, schedules over training."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanstep import boundary
from meanstep.shapes import over
from meanstep.types import Bridge, Coefficient
from meanstep.values import Value, told, value


def at(c: Coefficient, b: Bridge) -> float | Tensor:
    """The value of `c` on the rows of `b`: a number, or a tensor that broadcasts over `[*B]`; `ValueError` for another shape."""
    value = c(b) if callable(c) else c
    if not isinstance(value, Tensor):
        return value
    value = over(value, b.t).to(b.t)
    if value.ndim > b.t.ndim or any(p not in (1, q) for p, q in zip(value.shape, b.t.shape, strict=False)):
        raise ValueError(f"a coefficient of shape {tuple(value.shape)} does not fit the batch shape {tuple(b.t.shape)}")
    return value


def checked(c: Coefficient, name: str) -> Coefficient:
    """`c` itself, or `ValueError` with its `name` if it lies outside [0, 1].

    A function's value is checked when it is called, that of a tensor on the CPU only.
    """
    if callable(c):
        return c if isinstance(c, Checked) and c.name == name else Checked(c, name)
    return inside(c, name, everywhere=True)


@dataclass(frozen=True, repr=False, eq=False)
class Checked(Value):
    """A function of the bridge whose values are seen to lie in [0, 1]; shown as the function itself."""

    function: Callable[[Bridge], float | Tensor]
    name: str

    def __repr__(self) -> str:
        return told(self.function)

    def __call__(self, b: Bridge) -> float | Tensor:
        """The value on the rows of a bridge."""
        return inside(self.function(b), self.name, everywhere=False)


def inside(value: float | Tensor, name: str, everywhere: bool) -> float | Tensor:
    """A value, or `ValueError` with its `name` if it lies outside [0, 1], `TypeError` for no number.

    `everywhere`: tensors on other devices than the CPU too.
    """
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


def _ends(start: float, end: float) -> None:
    boundary.number("the start of a schedule", start)
    boundary.number("the end of a schedule", end)


@value
def linear(start: float, end: float, until: float = 1.0) -> Callable[[Bridge], float | Tensor]:
    """From `start` to `end` while progress goes from 0 to `until`, constant afterwards; `ValueError` unless `until` is in (0, 1]."""
    _ends(start, end)
    boundary.number("until, the share of the training that it takes,", until, 0, 1, above=True)
    return lambda b: start + (end - start) * _bounded(b.elapsed() / until, 0.0, 1.0)


@value
def constant(value: float) -> Callable[[Bridge], float]:
    """A schedule that stays at `value`, for where a function is needed; `ValueError` if that is not finite."""
    boundary.number("a constant coefficient", value)
    return lambda b: value


@value
def cosine(start: float, end: float, until: float = 1.0) -> Callable[[Bridge], float | Tensor]:
    """From `start` to `end` along half a cosine while progress goes from 0 to `until`, flat at both ends; constant afterwards.

    `ValueError` as of `linear`.
    """
    _ends(start, end)
    share = linear(0.0, 1.0, until)
    return lambda b: start + (end - start) * (1 - _applied(torch.cos, math.cos, math.pi * share(b))) / 2


@value
def logistic(start: float, end: float, steepness: float = 10.0, middle: float = 0.5) -> Callable[[Bridge], float | Tensor]:
    """From `start` to `end` along a logistic curve centred at the progress `middle` in [0, 1], scaled to reach both ends exactly.

    `steepness`: positive; 10. `ValueError` out of these ranges. `sigmoid` is alpha-Flow's own form, from 1 to 0.
    """
    _ends(start, end)
    boundary.number("the steepness", steepness, 0, above=True)
    boundary.number("the progress at the middle", middle, 0, 1)
    first, last = (math.tanh(steepness * (p - middle) / 2) for p in (0.0, 1.0))

    def value(b: Bridge) -> float | Tensor:
        share = (_applied(torch.tanh, math.tanh, steepness * (b.elapsed() - middle) / 2) - first) / (last - first)
        return start + (end - start) * share

    return value


def _applied(f: Callable[[Tensor], Tensor], g: Callable[[float], float], x: float | Tensor) -> float | Tensor:
    return f(x) if isinstance(x, Tensor) else g(x)


def _bounded(x: float | Tensor, low: float, high: float) -> float | Tensor:
    return x.clamp(low, high) if isinstance(x, Tensor) else min(max(x, low), high)


@value
def over_t(start: float, end: float, power: float = 1.0) -> Callable[[Bridge], Tensor]:
    """From `start` at `t = 0` to `end` at `t = 1` like `t^power`, all training long; `ValueError` unless `power` is positive."""
    _ends(start, end)
    boundary.number("power", power, 0, above=True)
    return lambda b: start + (end - start) * b.t**power


@value
def sigmoid(begin: float = 0.0, end: float = 1.0, steepness: float = 25.0, snap: float = 0.005) -> Callable[[Bridge], float | Tensor]:
    """alpha-Flow's curriculum from 1 to 0 between the progress values `begin` and `end`; arXiv 2510.20771.

    `steepness`: 25, as published. `ValueError` unless `0 <= begin < end <= 1`. Within `snap` of 1 or 0 it is set to that end. If progress
    is a tensor (a compiled step), the step cannot switch to the exact derivative at 0: the value stays at `snap` there.
    """

    def value(b: Bridge) -> float | Tensor:
        k = _bounded(b.elapsed(), begin, end)
        power = steepness * (k - (begin + end) / 2) / (end - begin)
        if isinstance(power, Tensor):
            a = torch.sigmoid(-power)
            return torch.where(a > 1 - snap, 1.0, a.clamp(min=snap))
        share = (1 - math.tanh(power / 2)) / 2  # exp would overflow
        return 0.0 if share < snap else 1.0 if share > 1 - snap else share

    boundary.rising("the curriculum's begin and end", (begin, end), 0, 1, strict=True)
    boundary.number("the steepness", steepness, 0, above=True)
    boundary.number("the distance that snaps to an end", snap, 0, 0.5, below=True)
    return value


@value
def exponential(start: float, end: float) -> Callable[[Bridge], float | Tensor]:
    """Geometric interpolation from `start` to `end`, both positive (`ValueError`), over the training; SoFlow's, arXiv 2512.15657."""
    for name, end_ in (("start", start), ("end", end)):
        boundary.number(f"the {name} of a geometric schedule", end_, 0, above=True)
    return lambda b: start * (end / start) ** b.elapsed()  # number or tensor alike


@value
def halving(stages: int = 8) -> Callable[[Bridge], float | Tensor]:
    """From 1 to `2^-(stages - 1)` in equally long `stages`, each half of the one before. `ValueError` for none."""
    boundary.whole("the number of stages", stages, 1)

    def value(b: Bridge) -> float | Tensor:
        stage = b.elapsed() * stages
        return 0.5 ** (stage.floor().clamp(max=stages - 1) if isinstance(stage, Tensor) else min(int(stage), stages - 1))

    return value


@value
def binned(edges: Tensor, values: Tensor) -> Callable[[Bridge], Tensor]:
    """A coefficient per bin of `(r, t)`: `values` `[n, n]`, rows by `t`, columns by `r`, between the `n + 1` rising `edges`.

    `ValueError` if the two do not fit.
    """
    if edges.ndim != 1 or values.shape != (len(edges) - 1,) * 2:
        raise ValueError(f"{len(edges)} edges need a table of {len(edges) - 1} x {len(edges) - 1} values, got {tuple(values.shape)}")
    inner = edges[1:-1]
    return lambda b: values.to(b.t)[torch.bucketize(b.t.contiguous(), inner.to(b.t)), torch.bucketize(b.r.contiguous(), inner.to(b.t))]
