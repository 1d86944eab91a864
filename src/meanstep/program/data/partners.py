"""A partner for each row, from another source or an array of the same file: by name in folders, else by number. Knows no networks."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meanstep.program.data.beside import Condition
from meanstep.program.data.ragged import LABEL, beside_labels, sides
from meanstep.program.data.request import HOLDING, chosen
from meanstep.program.data.source import Broken, Source
from meanstep.program.errors import UserError

PAIR = "pair"
"""The condition that holds them."""
CHUNK = 64
"""Partners that are made ready at a time."""
Item = Callable[[Any, str], np.ndarray]
"""From an item of a source and its place, for complaints, to an array."""
Made = Callable[[np.ndarray], np.ndarray]
"""From such arrays `[B, ...]` to rows as a cache stores them."""


def named(conditions: Sequence[Condition], asked: Collection[str] = ()) -> tuple[str, ...]:
    """Those that a command names: no row's own length, and of what were labels beside lengths or partners only if `asked` for."""
    taken = any(c.along is not None or c.name == PAIR for c in conditions)
    return tuple(c.name for c in conditions if c.along is None and (c.name != LABEL or not taken or LABEL in asked))


def spec(pair: str, source: str) -> str:
    """The source that a pair names: a file or folder, else an array of the file that is the source."""
    file, _ = chosen(source)
    inside = file.endswith(HOLDING) and not Path(pair).expanduser().exists() and Path(pair).name == pair and not Path(pair).suffix
    return f"{file}:{pair}" if inside else pair


def with_array(source: Source, spec: str, where: str) -> Source:
    """The source at `spec`, of whose file `where` reads another array: that one is not left out."""
    (file, _), (theirs, name) = chosen(spec), chosen(where)
    same = Path(file).expanduser().resolve() == Path(theirs).expanduser().resolve()
    return replace(source, left_out={k: n for k, n in source.left_out.items() if k != name}) if same else source


def paired(source: Source, other: Source, at: Sequence[int], item: Item, made: Made, start: bool, shape: tuple[int, ...]) -> Source:
    """The source with a partner `[N, ...]` of the rows `at` as the condition `pair`; what were labels is another.

    `shape`: of a row as it is stored. A row whose partner cannot be read cannot be read either; its partner is NaN. `UserError` that names
    the row without a partner, or the partner of another shape.
    """
    if PAIR in source.conditions:
        raise UserError(f"{source.name}: the condition {PAIR} is what partners are called: give yours another name")
    if source.plain != other.plain:
        what = [f"{s.name} holds {s.noun}" for s in (source, other)]
        raise UserError(f"{what[0]}, {what[1]}: partners of pictures are pictures, of rows rows")
    number = _numbers(source, other)
    rows: np.ndarray | None = None
    broken: dict[int, Broken] = {}
    for start_at in range(0, len(at), CHUNK):
        items: dict[int, np.ndarray] = {}
        for i in at[start_at : start_at + CHUNK]:
            try:
                items[i] = item(other[number[i]][0], other.where(number[i]))
            except Broken as error:
                broken[i] = error
        if not items:
            continue
        here, found = list(items), made(np.stack(list(items.values())))
        if rows is None:
            if start and found.shape[1:] != shape:
                raise UserError(
                    f"{other.where(number[here[0]])} is {sides(found.shape[1:])}, its row {sides(shape)}: a flow keeps the shape"
                )
            rows = np.zeros((len(source), *found.shape[1:]), np.float32)
        rows[here] = found
    if rows is None:
        raise next(iter(broken.values()))
    rows[list(broken)] = np.nan

    def read(i: int) -> Any:
        if i in broken:
            raise broken[i]
        return source.read(i)

    def hashing() -> list[str]:
        return [*source.hashing(), f"pair {other.digest} {start}"]

    return replace(beside_labels(source, {PAIR: rows}), start=start, read=read, hashing=hashing)


def _numbers(source: Source, other: Source) -> Sequence[int]:
    """The number of each row's partner in the other source."""
    if source.names and other.names:
        there = {name: k for k, name in enumerate(other.names)}
        lacking = next((i for i, name in enumerate(source.names) if name not in there), None)
        if lacking is not None:
            name = source.names[lacking]
            raise UserError(f"{source.where(lacking)} has no partner {name} in {other.name}: put it there, or leave the row out")
        numbers, count = [there[name] for name in source.names], Counter(other.names)
        twice = next((i for i, name in enumerate(source.names) if count[name] > 1), None)
        if twice is not None:
            both = " and ".join(other.where(k) for k, name in enumerate(other.names) if name == source.names[twice])
            raise UserError(f"{source.where(twice)} has more than one partner, {both}: keep one of them")
        return numbers
    if len(source) != len(other):
        more, less = (source, other) if len(source) > len(other) else (other, source)
        what = f"{more.where(len(less))} has no partner: {len(source):,} {source.noun} of {source.name}, {len(other):,} of {other.name}"
        raise UserError(f"{what}: give one for each, in one order")
    return range(len(source))
