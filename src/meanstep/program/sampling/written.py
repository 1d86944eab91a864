"""Samples as arrays and as tables in files. Knows no pictures and no networks."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meanstep.program.data import CODECS
from meanstep.program.errors import UserError
from meanstep.program.sampling import conditions
from meanstep.program.sampling.model import Model

LENGTHS = "lengths"
"""The array that holds how long each row is, as `--data.ragged` reads it."""


def npy(rows: Tensor, y: Any, model: Model, seeds: Sequence[int]) -> bytes:
    """The first of the arrays of `npz` alone."""
    box = io.BytesIO()
    (array,) = _rows(rows, y, model).values()
    np.save(box, array)
    return box.getvalue()


def npz(rows: Tensor, y: Any, model: Model, seeds: Sequence[int]) -> bytes:
    """Rows, what they were given, and their seeds, as arrays by name; rows of different lengths with zeros behind them, and `lengths`."""
    held: dict[str, Any] = _rows(rows, y, model)
    if isinstance(y, dict):
        length = model.manifest.length
        found = conditions.told(y, model.manifest)
        if length is not None:
            held[LENGTHS] = found.pop(length.name).astype(np.int64)
        held |= {f"condition_{name}": values for name, values in found.items()}
    elif y is not None:
        held |= {"labels": y.numpy(), "classes": np.array(model.classes)}
    box = io.BytesIO()
    np.savez_compressed(box, **held, seeds=np.array(seeds))
    return box.getvalue()


def _rows(rows: Tensor, y: Any, model: Model) -> dict[str, np.ndarray]:
    mask = model.mask(y)
    return dict(CODECS[model.manifest.codec].named(rows if mask is None else torch.where(mask, rows, 0.0)))


def text(rows: Tensor, y: Any, model: Model, seeds: Sequence[int]) -> bytes:
    """A table's columns with their names, as comma-separated values; numbers in the shortest digits that float32 needs."""
    found = model.table(rows, y)
    columns = [[str(np.float32(v)) for v in x] if x.dtype.kind == "f" else [str(v) for v in x] for x in found.values()]
    box = io.StringIO(newline="")
    writer = csv.writer(box, lineterminator="\n")
    writer.writerow(found)
    writer.writerows(zip(*columns, strict=True))
    return box.getvalue().encode()


def parquet(rows: Tensor, y: Any, model: Model, seeds: Sequence[int]) -> bytes:
    """A table's columns with their names and types; `UserError` without pyarrow."""
    found = model.table(rows, y)
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("writing .parquet needs pyarrow: pip install 'meanstep[parquet]', or give a name that ends in .csv") from None
    box = io.BytesIO()
    pq.write_table(pa.table({name: x.tolist() if x.dtype.kind == "U" else x for name, x in found.items()}), box)
    return box.getvalue()


WRITERS: dict[str, Callable[[Tensor, Any, Model, Sequence[int]], bytes]] = {".npz": npz, ".npy": npy, ".csv": text, ".parquet": parquet}
"""By ending: what a file holds."""
