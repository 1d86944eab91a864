"""The sets: built-in laws by name, and a user's own points, read from a file with every mistake named, then scaled and split."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from meanstep.fields.planar import PLANAR, gaussian_mixture
from meanstep.keys import key
from meanstep.program.console import UserError
from meanstep.program.reading import arrays, files, tables
from meanstep.program.reproduce.points.published_sets import Drawn, dense_mixture
from meanstep.program.reproduce.points.settings import Settings, mixture_dimension
from meanstep.types import Bridge
from meanstep.velocities import Posterior

FEWEST, MOST = 100, 1 << 32
"""Fewest points, and most bytes of their file."""
Table = tuple[np.ndarray, list[int], list[str]]  # float64 [n, D], the row that each one is in the file, names of the columns


def load(path: Path | str) -> Tensor:
    """Points `[n, D]`, float32, from a `.csv` (header or none), `.npy` or `.parquet` file; `UserError` that names the first mistake."""
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}; give a .csv, .npy or .parquet file")
    data = files.content(path, MOST)
    if not data:
        raise UserError(f"{path} is empty; give at least {FEWEST} rows of numbers")
    return _checked(path, *READERS[path.suffix.lower()](path, data))


def _checked(path: Path, table: np.ndarray, rows: list[int], names: list[str]) -> Tensor:
    """The table as float32, if every entry is finite and there are enough points, coordinates and spread."""
    n, d = table.shape
    _wide(path, d)
    points = torch.from_numpy(table).float()
    bad = (~points.isfinite()).nonzero()
    if len(bad):
        i, j = bad[0].tolist()
        raise UserError(f"{path}, row {rows[i]}, column {names[j]}: {table[i, j]} is no finite float32 number; correct or drop the row")
    if n < FEWEST:
        raise UserError(f"{path} has {n} rows of numbers; give at least {FEWEST}")
    spread, largest = points.double().std(0).amax().item(), points.abs().max().item()
    if spread == 0:
        raise UserError(f"{path}: all {n} points are equal; give points that differ")
    if spread < 1e-4 * largest:
        raise UserError(f"{path}: a spread of {spread:.3g} at values up to {largest:.3g} is lost in float32; subtract the mean first")
    return points


def _wide(path: Path, columns: int) -> None:
    if columns < 2:
        raise UserError(f"{path} has {columns} column of numbers; give at least 2, one for each coordinate (in a .csv separated by commas)")


def _csv(path: Path, data: bytes) -> Table:
    """Lines of numbers between commas; the first may be names, and blank lines do not count."""
    names, lines = tables.cells_of(path, data)
    if not lines:
        raise UserError(f"{path} has no row of numbers; give at least {FEWEST}")
    width = len(names) or len(lines[0][1])
    _wide(path, width)  # first: without commas a line of numbers reads as one name
    names = names or [str(j + 1) for j in range(width)]
    values = [_row(path, line, cells, names) for line, cells in lines]
    return np.array(values), [line for line, _ in lines], names


def _row(path: Path, line: int, cells: list[str], names: list[str]) -> list[float]:
    if len(cells) != len(names):
        raise UserError(f"{path}, row {line} has {len(cells)} cells where {len(names)} are expected; give every row as many as the first")
    values = [tables.number(cell) for cell in cells]
    for name, cell, value in zip(names, cells, values, strict=True):
        if value is None:
            raise UserError(f"{path}, row {line}, column {name}: {cell.strip()!r} is no number; correct or drop the row")
    return [math.nan if value is None else value for value in values]


def _npy(path: Path, data: bytes) -> Table:
    """An array `[n, D]` of real numbers."""
    if data.startswith(b"PK"):
        raise UserError(f"{path} holds several arrays (numpy.savez); save one array [n, D] with numpy.save")
    try:
        table = arrays.whole(io.BytesIO(data), len(data), str(path))
    except UserError as error:
        raise UserError(f"{error}; save a whole array of numbers [n, D] with numpy.save") from None
    if table.dtype.kind not in "fiu":
        raise UserError(f"{path} holds entries of type {table.dtype}; save real numbers, e.g. float32")
    if table.ndim != 2:
        raise UserError(f"{path} holds an array of shape {table.shape}; save points as rows, [n, D]")
    n, d = table.shape
    return table.astype(np.float64), list(range(1, n + 1)), [str(j + 1) for j in range(d)]


def _parquet(path: Path, data: bytes) -> Table:
    """A table of numeric columns; a missing value counts as NaN."""
    table = tables.parquet_of(path, data)
    import pyarrow as pa

    for field in table.schema:
        if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)):
            raise UserError(f"{path}, column {field.name}: {field.type} is no number; drop the column or cast it to a float")
    columns = [column.cast(pa.float64(), safe=False).to_numpy() for column in table.columns]
    rows = np.stack(columns, -1) if columns else np.empty((table.num_rows, 0))
    return rows, list(range(1, table.num_rows + 1)), list(table.column_names)


READERS: dict[str, Callable[[Path, bytes], Table]] = {".csv": _csv, ".npy": _npy, ".parquet": _parquet}


class Points:
    """The empirical law of points `[n, D]`: shifted and scaled to mean 0 and mean variance 1, half of them held out.

    `training`, `held_out`: the halves, `[n - n // 2, D]` and `[n // 2, D]`, split by `seed`; `shift` `[D]` and `scale`: how to go back.
    What is trained on is the empirical law of the training half, so its marginal velocity is known.
    """

    regions = 0

    def __init__(self, points: Tensor, seed: int = 0) -> None:
        x = points.double()
        self.shift, self.scale = x.mean(0), x.var(0, correction=0).mean().sqrt()
        if not self.scale > 0:
            raise ValueError("all points are equal: they have no scale")
        order = torch.randperm(len(x), generator=key(seed, "points", "split")).to(x.device)
        x = ((x - self.shift) / self.scale)[order].to(points)
        self.held_out, self.training = x[: len(x) // 2], x[len(x) // 2 :]

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.training.shape[1]

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` rows of the training half, with replacement: `[n, D]`."""
        return self.training[torch.randint(len(self.training), (n,), generator=generator)]

    def held_out_sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` rows of the held-out half, with replacement: `[n, D]`."""
        return self.held_out[torch.randint(len(self.held_out), (n,), generator=generator)]

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """The marginal velocity of the training half's empirical law, eq. (31) without bias: `[N, D], [N] -> [N, D]`."""
        exact = Posterior(self.training, include_own=False)
        few = max(1, 2_000_000 // len(self.training))
        parts = zip(z.split(few), t.split(few), strict=True)
        return torch.cat([exact(None, Bridge(p, torch.zeros_like(p), q, q)) for p, q in parts])  # type: ignore[arg-type]

    def original(self, x: Tensor) -> Tensor:
        """Samples `[*B, D]` in the coordinates of the file."""
        return (x * self.scale + self.shift).to(x)


def law_of(name: str, settings: Settings) -> Any:
    """The data of a set, in float32."""
    return Points(load(settings.points or "")) if name == "points" else exact(name).to(torch.float32)


def published_law(name: str, settings: Settings) -> Any:
    """A set as the authors draw it, unscaled, in float32."""
    dim = mixture_dimension(name)
    return dense_mixture(dim, settings.centres == "fixed") if dim else Drawn(name, 2)


def exact(name: str) -> Any:
    """The law of a built-in set, as it is known in closed form."""
    dim = mixture_dimension(name)
    return gaussian_mixture(dim) if dim else PLANAR[name]()
