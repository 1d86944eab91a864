"""Tables as sources: a row of numbers for each row of a .csv or .parquet, of all columns but those that are conditions."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data.conditions import conditioned, known
from meanstep.program.data.look import Look
from meanstep.program.data.source import Broken, Source, one_split
from meanstep.program.reading.tables import READERS as READERS


def table(spec: str, split: str, conditions: Sequence[str] = ()) -> Source:
    """Rows `[columns]` float32 in the order of the columns; `UserError` for a column of texts that is no condition."""
    path = Path(spec).expanduser()
    one_split(path.name, split)
    held = READERS[path.suffix](path)
    known(conditions, held.columns, str(path), "column")
    names = [name for name in held.columns if name not in conditions]
    if not names:
        raise UserError(f"{path}: all columns are conditions, and none is left to learn: name fewer")
    x = np.stack([held.numbers(name) for name in names], -1)

    def read(i: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            row: np.ndarray = x[i].astype(np.float32)
        if len(bad := np.flatnonzero(~np.isfinite(row))):
            what = f"{held.where(i, names[bad[0]])}: {x[i, bad[0]]:g} is no finite number in float32"
            raise Broken(f"{what}: correct the row, or leave it out with --skip-broken")
        return row

    def hashing() -> list[str]:
        return [str(x.shape), *names, hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()]

    source = replace(
        Source(path.name, (), None, len(x), read, held.where, hashing), plain=True, look=lambda: Look("table", 0, tuple(names))
    )
    return conditioned(source, {name: held.columns[name] for name in conditions}, held.where)
