"""What a user hands in, looked at where it comes in: numbers in a range, rising pairs, functions. Knows none of the parts that ask."""

import inspect
import math
from typing import Any

from torch import nn


def number(name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False) -> None:
    """`TypeError` for no number, `ValueError` for one that is not finite or outside [low, high]; `above`, `below`: without that end."""
    words = _range(low, high, above, below)
    if not _numeric(value):
        raise TypeError(f"{name} {words}, got {value!r:.60}")
    if not _within(float(value), low, high, above, below):
        raise ValueError(f"{name} {words}, got {float(value):g}")


def whole(name: str, value: Any, low: int) -> None:
    """`TypeError` for no whole number, `ValueError` for one below `low`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is a whole number of at least {low}, got {value!r:.60}")
    if value < low:
        raise ValueError(f"{name} is a whole number of at least {low}, got {value}")


def rising(name: str, pair: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False, strict: bool = False) -> None:
    """`ValueError` for what is not two finite numbers in [low, high] (without `low` if `above`), the first at most the second.

    `strict`: below the second.
    """
    there = isinstance(pair, tuple | list) and len(pair) == 2 and all(_numeric(x) and _within(float(x), low, high, above) for x in pair)
    if not there or pair[0] > pair[1] or (strict and pair[0] == pair[1]):
        where = (
            "finite" if high == -low else f"in [{low:g}, {high:g}]" if high < math.inf else f"{'above' if above else 'of at least'} {low:g}"
        )
        order = f"two {'different ' if strict else ''}numbers, the smaller one first, {where}"
        raise ValueError(f"{name}: {order}, got {pair!r:.60}")


def spread(name: str, pair: Any) -> None:
    """`ValueError` for what is not the mean and the deviation of a normal distribution."""
    if not (
        isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_numeric, pair)) and math.isfinite(pair[0]) and _positive(pair[1])
    ):
        raise ValueError(f"{name}: a finite mean and a positive, finite deviation, got {pair!r:.60}")


def function(name: str, value: Any, like: str, takes: int = 0) -> None:
    """`TypeError` for what cannot be called, or not with `takes` arguments; `like` says what it should be, with an example."""
    if not callable(value):
        raise TypeError(f"{name} is {like}, got {value!r:.60}")
    asked = value.forward if isinstance(value, nn.Module) else value
    try:
        signature = inspect.signature(asked)
    except (TypeError, ValueError):  # a built-in function: it will say for itself what it takes
        return
    try:
        signature.bind(*(None,) * takes)
    except TypeError:
        who = getattr(value, "__name__", type(value).__name__)
        raise TypeError(f"{name} is {like}, called with {takes} arguments, and {who} takes {signature!s:.90}") from None


def kind(name: str, value: Any, wanted: type, like: str) -> None:
    """`TypeError` for what is no `wanted`; `like` says what it should be, with an example."""
    if not isinstance(value, wanted):
        raise TypeError(f"{name} is {like}, got {value!r:.60}")


def velocity(name: str, value: Any) -> None:
    """`TypeError` for what is no velocity, or a field in place of its velocity."""
    like = "a velocity (field, bridge) -> v, such as velocities.conditional, or velocities.of(net) of another field"
    function(name, value, like, 2)


def sampler(name: str, value: Any) -> None:
    """`TypeError` for what is no sampler of times."""
    function(name, value, "a sampler (shape, generator) -> (r, t), such as times.logit_normal()", 2)


def weight(name: str, value: Any) -> None:
    """`TypeError` for what is no weight."""
    function(name, value, "a weight (error, bridge) -> loss of each row, such as weights.adaptive()", 2)


def prepare(name: str, value: Any) -> None:
    """`TypeError` for what is no function of the bridge."""
    function(name, value, "a function of the bridge, such as velocities.as_is", 1)


def _numeric(value: Any) -> bool:
    return hasattr(value, "__float__") and getattr(value, "ndim", 0) == 0 and not isinstance(value, bool)


def _positive(x: Any) -> bool:
    return 0 < float(x) < math.inf


def _within(x: float, low: float, high: float, above: bool = False, below: bool = False) -> bool:
    return math.isfinite(x) and low <= x <= high and not (above and x == low) and not (below and x == high)


def _range(low: float, high: float, above: bool, below: bool) -> str:
    if (low, high) == (-math.inf, math.inf):
        return "is a finite number"
    if high == math.inf:
        return "is a positive number" if above and low == 0 else f"is a finite number {'above' if above else 'of at least'} {low:g}"
    return f"lies in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
