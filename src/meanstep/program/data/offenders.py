"""What a cache cannot take of its source: looked for in all of it and said once, with the first few."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from meanstep.program.data.source import Broken
from meanstep.program.errors import UserError

if TYPE_CHECKING:
    from meanstep.program.data.opened import Opened

FEW = 4
"""Offenders that a message names."""
Offender = tuple[int, UserError]
"""Number of an item, and why it cannot be taken."""


class Offence(UserError):
    """An item that cannot be taken, so that others may be looked for."""


def found(opened: "Opened", told: Callable[[int], None] = lambda done: None) -> list[Offender]:
    """The items that cannot be taken, in order: all are read. `told(done)`: how many were."""
    index, size = opened.index, opened.request.batch

    def look(start: int) -> list[Offender]:
        return [offender for i in index[start : start + size].tolist() for offender in _tried(opened, i)]

    offenders: list[Offender] = []
    with ThreadPoolExecutor(opened.request.workers) as pool:
        for k, some in enumerate(pool.map(look, range(0, len(index), size))):
            offenders += some
            told(min((k + 1) * size, len(index)))
    return offenders


def _tried(opened: "Opened", i: int) -> list[Offender]:
    try:
        opened.take(i)
    except UserError as error:
        return [(i, error)]
    return []


def refused(opened: "Opened", offenders: Sequence[Offender]) -> UserError | None:
    """The complaint about those that `skip_broken` does not leave out; None if there are none."""
    skip = opened.request.skip_broken
    held = [(i, error) for i, error in offenders if not (skip and isinstance(error, Broken))]
    if len(held) < 2:
        return held[0][1] if held else None
    broken = sum(isinstance(error, Broken) for _, error in held)
    remedy = f"; meanstep cache --skip-broken leaves out {broken:,} of them" if broken else ""
    number = f"{len(held):,} of {len(opened.index):,} {opened.noun} cannot be taken"
    return UserError(f"{held[0][1]}. {number}: {few([opened.source.where(i) for i, _ in held[:FEW]], len(held))}{remedy}")


def few(parts: Sequence[str], count: int, between: str = ", ") -> str:
    """The first few, and how many more there are of `count`."""
    return between.join(parts[:FEW]) + (f"{between}and {count - FEW:,} more" if count > FEW else "")


def skipped(opened: "Opened", errors: Sequence[str], count: int) -> str:
    """That so many were left out as broken, and why the first few were."""
    return f"left out as broken, {count:,} of {len(opened.index):,} {opened.noun}: {few(errors, count, '; ')}"
