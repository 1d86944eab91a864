"""What a run's records tell of its training, as numbers that rules read. Knows no networks."""

from bisect import insort
from collections.abc import Sequence
from math import inf

from meanstep.program.runs.records import Record
from meanstep.program.runs.report.history import judged

BEFORE = 3
"""Records that a jump is counted from at least."""


def history(records: Sequence[Record], seen: int) -> dict[str, float]:
    """Of the records up to `seen` samples; what they do not tell is missing.

    `jump`: the largest residual over the median of those before it, `jump_to` and `jump_seen`: where; `above_floor`: the last distance
    that training told its best checkpoint by, over what rows of the data score, for rows, whose evaluations state it; missing where the
    last samples were not finite.
    """
    known = [record for record in records if record["seen"] <= seen]
    return _jump(known) | _above_floor(known)


def _jump(records: Sequence[Record]) -> dict[str, float]:
    found = [(r["seen"], r["residual"]) for r in records if r["kind"] == "train" and isinstance(r.get("residual"), int | float)]
    worst: dict[str, float] = {}
    before: list[float] = []
    for at, residual in found:
        if len(before) >= BEFORE:
            k = len(before)
            median = (before[(k - 1) // 2] + before[k // 2]) / 2
            ratio = residual / median if median > 0 else inf if residual > 0 else 1.0
            if ratio > worst.get("jump", 0.0):
                worst = {"jump": ratio, "jump_to": float(residual), "jump_seen": float(at)}
        insort(before, residual)
    return worst


def _above_floor(records: Sequence[Record]) -> dict[str, float]:
    last = next((r for r in reversed(records) if r["kind"] == "evaluation"), {})
    floor, distance = last.get("floor"), judged(last)
    if isinstance(floor, int | float) and floor > 0 and isinstance(distance, int | float):
        return {"above_floor": distance / floor, "distance": float(distance), "floor": float(floor)}
    return {}
