"""Averages of the weights: exponential ones at fixed decays and power-function ones, by name. Knows no files."""

from collections.abc import Callable, Iterable

import numpy as np
from torch import nn

from meanstep import averages
from meanstep.program.console import UserError
from meanstep.values import value


class Average(averages.Average):
    """An average by its name: a decay such as `0.9999`, `power-0.10` for the power function of that relative width, or `half-life-500000`
    for a half-life in samples, of which a step sees `batch`, under a `ramp`.
    """

    def __init__(self, name: str, net: nn.Module, batch: int = 1, ramp: float = 0.0) -> None:
        exponent = _exponent(float(name.removeprefix("power-"))) if name.startswith("power-") else None
        if name.startswith(HALF_LIFE):
            super().__init__(net, half_life(float(name.removeprefix(HALF_LIFE)), batch, ramp))
        else:
            super().__init__(net, float(name) if exponent is None else power(exponent))
        self.name, self.power = name, exponent


HALF_LIFE = "half-life-"


@value
def half_life(samples: float, batch: int, ramp: float = 0.05) -> Callable[[int], float]:
    """The decay of every step of `batch` samples that halves a weight's share in `samples`, at most in `ramp` of those seen; 2206.00364."""

    def decay(step: int) -> float:
        lasting = min(samples, step * batch * ramp) if ramp else samples
        return float(0.5 ** (batch / lasting)) if lasting else 0.0

    return decay


def power(exponent: float) -> Callable[[int], float]:
    """The decay of every step, `(1 - 1/step)^(exponent + 1)`; arXiv 2312.02696."""
    return lambda step: (1 - 1 / step) ** (exponent + 1)


def names(decays: Iterable[float], widths: Iterable[float], half_lives: Iterable[float] = ()) -> tuple[str, ...]:
    """The averages' names: `0.9999` for a decay, `power-0.10` for a relative width, `half-life-500000`; `UserError` if out of range."""
    decays, widths, lives = tuple(decays), tuple(widths), tuple(half_lives)
    for life in lives:
        if not 1 <= life <= 1e15:
            raise UserError(f"--averages.half-lives: a half-life is a number of samples from 1, got {life:g}")
    for decay in decays:
        if not 0 <= decay < 1:
            raise UserError(f"--averages.decays: a decay lies in [0, 1), got {decay:g}")
    for width in widths:
        if not 0.01 <= width <= 0.28:
            raise UserError(f"--averages.widths: the relative width of a power-function average lies in [0.01, 0.28], got {width:g}")
    return tuple(
        dict.fromkeys([*(f"{decay:.15g}" for decay in decays), *map(_wide, widths), *(f"{HALF_LIFE}{life:.15g}" for life in lives)])
    )


def _wide(width: float) -> str:
    """Two digits, or as many as it has."""
    return f"power-{width:.2f}" if float(f"{width:.2f}") == width else f"power-{width:.15g}"


def _exponent(width: float) -> float:
    """The exponent whose profile has the relative standard deviation `width`: `width^2 = (g + 1) / ((g + 2)^2 (g + 3))`."""
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())
