"""Tables as sources: a row of numbers for each row of a .csv or .parquet, of all columns but those that are conditions."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data.column import Column
from meanstep.program.data.columns import coded, fitted
from meanstep.program.data.conditions import conditioned, known
from meanstep.program.data.look import Look
from meanstep.program.data.request import Table as How
from meanstep.program.data.request import listed
from meanstep.program.data.source import Broken, Source, one_split
from meanstep.program.errors import shown
from meanstep.program.reading.tables import READERS as READERS
from meanstep.program.reading.tables import Table


def table(spec: str, split: str, conditions: Sequence[str] = (), how: How = "numbers", like: Sequence[Column] = ()) -> Source:
    """Rows float32 in the order of the columns, which become numbers as `how` says, or as those of `like` did.

    `UserError` for a column of texts that is no condition, where numbers alone are taken.
    """
    path = Path(spec).expanduser()
    one_split(path.name, split)
    held = READERS[path.suffix](path)
    known(conditions, held.columns, str(path), "column")
    names = [name for name in held.columns if name not in conditions]
    if not names:
        raise UserError(f"{path}: all columns are conditions, and none is left to learn: name fewer")
    columns = _columns(held, conditions, how, like)
    learned = [column for column in columns if column.way != "condition"]
    at = np.repeat(np.arange(len(learned)), [column.width for column in learned])
    x = np.concatenate([coded(c, held.columns[c.name] if c.way == "words" else held.numbers(c.name)) for c in learned], 1)

    def read(i: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            row: np.ndarray = x[i].astype(np.float32)
        if len(bad := np.flatnonzero(~np.isfinite(row))):
            what = _wrong(held, learned[at[bad[0]]], i)
            raise Broken(f"{what}: correct the row, or leave it out with --skip-broken")
        return row

    def hashing() -> list[str]:
        coding = [f"{c.name} {c.way} {c.words} {c.points}" for c in learned if c.way != "same"]
        return [str(x.shape), *names, hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest(), *coding]

    look = lambda: Look("table", 0, tuple(names))  # noqa: E731
    source = replace(Source(path.name, (), None, len(x), read, held.where, hashing), plain=True, columns=columns, look=look)
    return conditioned(source, {name: held.columns[name] for name in conditions}, held.where)


def _columns(held: Table, conditions: Sequence[str], how: How, like: Sequence[Column]) -> tuple[Column, ...]:
    if not like:
        return fitted(held.columns, conditions, how)
    if [column.name for column in like] != list(held.columns):
        raise UserError(
            f"{held.path} has the columns {listed(list(held.columns))}, and {listed([c.name for c in like])} are expected: name them so"
        )
    return tuple(like)


def _wrong(held: Table, column: Column, i: int) -> str:
    """What is wrong with a cell that is no number."""
    cell = held.columns[column.name][i]
    if column.way != "words":
        return f"{held.where(i, column.name)}: {cell:g} is no finite number in float32"
    known = f"{shown(str(cell), 60)} was not in the training data: they have {listed(column.words)}"
    return f"{held.where(i, column.name)}: {known if cell else 'the word is missing'}"
