"""Averages of the weights: exponential ones at fixed decays and power-function ones, by name. Knows no files."""

from collections.abc import Callable, Iterable

import numpy as np
from torch import nn

from meanstep import averages
from meanstep.program.console import UserError


class Average(averages.Average):
    """An average by its name: a decay such as `0.9999`, or `power-0.10` for the power function of that relative width."""

    def __init__(self, name: str, net: nn.Module) -> None:
        exponent = _exponent(float(name.removeprefix("power-"))) if name.startswith("power-") else None
        super().__init__(net, float(name) if exponent is None else power(exponent))
        self.name, self.power = name, exponent


def power(exponent: float) -> Callable[[int], float]:
    """The decay of every step, `(1 - 1/step)^(exponent + 1)`; arXiv 2312.02696."""
    return lambda step: (1 - 1 / step) ** (exponent + 1)


def names(decays: Iterable[float], widths: Iterable[float]) -> tuple[str, ...]:
    """The averages' names: `0.9999` for a decay, `power-0.10` for a relative width; `UserError` for numbers out of range."""
    decays, widths = tuple(decays), tuple(widths)
    for decay in decays:
        if not 0 <= decay < 1:
            raise UserError(f"--averages.decays: a decay lies in [0, 1), got {decay:g}")
    for width in widths:
        if not 0.01 <= width <= 0.28:
            raise UserError(f"--averages.widths: the relative width of a power-function average lies in [0.01, 0.28], got {width:g}")
    return tuple(dict.fromkeys([*(f"{decay:.15g}" for decay in decays), *map(_wide, widths)]))


def _wide(width: float) -> str:
    """Two digits, or as many as it has."""
    return f"power-{width:.2f}" if float(f"{width:.2f}") == width else f"power-{width:.15g}"


def _exponent(width: float) -> float:
    """The exponent whose profile has the relative standard deviation `width`: `width^2 = (g + 1) / ((g + 2)^2 (g + 3))`."""
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())
