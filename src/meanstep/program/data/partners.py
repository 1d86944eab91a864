"""A partner for each row, from another source or an array of the same file: by name in folders, else by number. Knows no networks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meanstep.program.data.ragged import beside_labels, sides
from meanstep.program.data.request import HOLDING, chosen
from meanstep.program.data.source import Source
from meanstep.program.errors import UserError

PAIR = "pair"
"""The condition that holds them."""
CHUNK = 64
"""Partners that are made ready at a time."""
Made = Callable[[list[Any], list[str]], np.ndarray]
"""From items of a source and their places to rows `[B, ...]` as a cache stores them."""


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


def paired(source: Source, other: Source, at: Sequence[int], made: Made, start: bool, shape: tuple[int, ...]) -> Source:
    """The source with a partner `[N, ...]` of the rows `at` as the condition `pair`; what were labels is another.

    `shape`: of a row as it is stored. `UserError` that names the row without a partner, or the partner of another shape.
    """
    if PAIR in source.conditions:
        raise UserError(f"{source.name}: the condition {PAIR} is what partners are called: give yours another name")
    if source.plain != other.plain:
        what = [f"{s.name} holds {s.noun}" for s in (source, other)]
        raise UserError(f"{what[0]}, {what[1]}: partners of pictures are pictures, of rows rows")
    number = _numbers(source, other)
    rows: np.ndarray | None = None
    for start_at in range(0, len(at), CHUNK):
        here = list(at[start_at : start_at + CHUNK])
        found = made([other[number[i]][0] for i in here], [other.where(number[i]) for i in here])
        if rows is None:
            if start and found.shape[1:] != shape:
                raise UserError(
                    f"{other.where(number[here[0]])} is {sides(found.shape[1:])}, its row {sides(shape)}: a flow keeps the shape"
                )
            rows = np.zeros((len(source), *found.shape[1:]), np.float32)
        rows[here] = found
    assert rows is not None

    def hashing() -> list[str]:
        return [*source.hashing(), f"pair {other.digest} {start}"]

    return replace(beside_labels(source, {PAIR: rows}), start=start, hashing=hashing)


def _numbers(source: Source, other: Source) -> Sequence[int]:
    """The number of each row's partner in the other source."""
    if source.names and other.names:
        there = {name: k for k, name in enumerate(other.names)}
        lacking = next((i for i, name in enumerate(source.names) if name not in there), None)
        if lacking is not None:
            name = source.names[lacking]
            raise UserError(f"{source.where(lacking)} has no partner {name} in {other.name}: put it there, or leave the row out")
        return [there[name] for name in source.names]
    if len(source) != len(other):
        more, less = (source, other) if len(source) > len(other) else (other, source)
        what = f"{more.where(len(less))} has no partner: {len(source):,} {source.noun} of {source.name}, {len(other):,} of {other.name}"
        raise UserError(f"{what}: give one for each, in one order")
    return range(len(source))
