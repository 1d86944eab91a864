"""The best coefficient as the authors estimate it and as we do, on the weights trained at beta = 0: a table. Knows no networks."""

from collections.abc import Callable
from typing import Any

from meanstep.program.pages.statistics import mean
from meanstep.program.pages.verdicts import number
from meanstep.program.reproduce.images.results import EXACT, Results
from meanstep.program.reproduce.report.results import at

Read = Callable[[Any], Any]
HEAD = ("quantity", "published, on their DiT", "their estimator here", "ours here")
ABOUT = (
    "Their κ is a norm, so it is 1 for a network that moves nothing, where the signed one is -1; their bias is how far the EMA copy lags "
    "behind on Gaussian inputs; their matrix form leaves the bias out and takes the network's own boundary for the marginal velocity, "
    "eq. (54). Ours: signed, about {center}. Means over seeds at the end, weights trained at β = 0."
)
CENTERS = {"data": "the data's own velocity", "ema": "the EMA copy"}


def rows(results: Results) -> list[tuple[str, str, str, str]]:
    """Quantity, as published, by their estimator and by ours, in words; none in a study that did not measure theirs."""
    center = _center(results)
    found = [
        ("κ", "1", _value(results, "published", "kappa"), _value(results, kappa(center))),
        ("bias over noise", "0.085, 0.018, 0.006", _value(results, lag), _value(results, exact_bias)),
        (
            "β, scalar form",
            "0.46, 0.49, 0.50",
            _value(results, "published", "scalar"),
            _value(results, "error", center, "optimum", "sign", 0),
        ),
        ("β, matrix form", "0.94", _value(results, "published", "matrix"), _value(results, "error", center, "optimum", "matrix", 0)),
    ]
    return [row for row in found if any(row[2:])] if any(row[2] for row in found) else []


def kappa(center: str) -> Read:
    """The signed Jacobi factor along the noise, `E<J v', v'> / E|v'|^2`."""

    def read(record: Any) -> float | None:
        a, b, s = (at(record, "error", center, name) for name in "abs")
        return (b - a) / s if None not in (a, b, s) and s else None

    return read


def lag(record: Any) -> float | None:
    """The published `|b|^2` over the published `sigma^2 d`."""
    gap, square = (at(record, "published", name) for name in ("gap", "square"))
    return gap / square if gap is not None and square else None


def exact_bias(record: Any) -> float | None:
    """The bias over the noise; a bound on it, which holds single pairs' noise too, is another quantity."""
    found: float | None = at(record, "bias", "value") if at(record, "bias", "kind") == EXACT else None
    return found


def about(results: Results) -> str:
    """What the table's words mean."""
    return ABOUT.format(center=CENTERS[_center(results)])


def _center(results: Results) -> str:
    return next((c for c in CENTERS if _value(results, "error", c, "s")), "ema")


def _value(results: Results, *names: Any) -> str:
    """The mean over seeds of an entry, or of what a function reads, with its interval; empty where there is none."""
    read = names[0] if callable(names[0]) else lambda record: _entry(record, names)
    found = mean(results.value(results.base, results.end, read).values())
    return "" if found is None else number(found.mean) + (f" ± {number(found.high - found.mean)}" if found.high is not None else "")


def _entry(record: Any, names: tuple[Any, ...]) -> Any:
    *path, last = names
    held = at(record, *path)
    return (held[last] if isinstance(held, list) and len(held) > last else None) if isinstance(last, int) else at(held, last)
