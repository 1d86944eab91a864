"""Tables in .csv and .parquet: columns by name, each of numbers or of words, and where an entry stands in the file. Knows no rows."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from meanstep.program.errors import UserError, first_line, shown
from meanstep.program.reading import files
from meanstep.program.reading.arrays import memory

MOST, COLUMNS = 1 << 32, 1 << 16
"""Most bytes of a file, and most columns."""
INTEGERS = (-(2**63), 2**63 - 1)
"""What int64 holds."""


@dataclass(frozen=True)
class Table:
    """`columns`: by name float64, int64 or texts `[N]`; missing ones NaN or empty. `lines`: the row of each in the file."""

    path: Path
    columns: Mapping[str, np.ndarray] = field(repr=False)
    lines: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, i: int, name: str = "") -> str:
        """The place of row `i`, of its entry in a column if one is named, for complaints."""
        return f"{self.path}, row {self.lines[i]}" + (f", column {name}" if name else "")

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64 `[N]`; `UserError` for the first entry that is a text."""
        column = self.columns[name]
        if column.dtype.kind != "U":
            return column.astype(np.float64)
        i = next(i for i, cell in enumerate(column.tolist()) if number(cell) is None)
        remedy = "correct the row, drop the column, give --data.table standard (--table), or make it a condition (--data.condition NAME)"
        raise UserError(f"{self.where(i, name)}: {shown(str(column[i]), 60)} is no number: {remedy}")


def read_csv(path: Path) -> Table:
    """Cells between commas; the first line may be names (else 1, 2, ...), and blank lines do not count. `UserError` for anything else."""
    names, rows = cells_of(path, files.content(path, MOST))
    if not rows:
        raise UserError(f"{path} has no rows: give a line of numbers for each, with commas between them")
    names = names or [str(k + 1) for k in range(len(rows[0][1]))]
    _named(path, names)
    for line, cells in rows:
        if len(cells) != len(names):
            raise UserError(
                f"{path}, row {line} has {len(cells)} cells where {len(names)} are expected: give every row as many as the first"
            )
    columns = {name: _column([cells[k].strip() for _, cells in rows]) for k, name in enumerate(names)}
    return Table(path, columns, np.array([line for line, _ in rows]))


def cells_of(path: Path, data: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names in the first line, none where it has a number, and the number and cells of every other line that is not blank."""
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no text in UTF-8 with commas: {first_line(error)}; save it as CSV again") from None
    header = bool(lines) and all(number(cell) is None for cell in lines[0][1])
    return [" ".join(cell.split()) for cell in lines[0][1]] if header else [], lines[header:]


def _named(path: Path, names: list[str]) -> None:
    if len(names) > COLUMNS:
        raise UserError(f"{path} has {len(names):,} columns, and at most {COLUMNS:,} are read: save the rows as .npy")
    if twice := next((name for k, name in enumerate(names) if name in names[:k]), None):
        raise UserError(f"{path} has two columns {shown(twice, 60)}: give each a name of its own")


def _column(cells: list[str]) -> np.ndarray:
    """Whole numbers, numbers, or texts if one of them is neither a number nor missing; in the latter case all of them."""
    if all(_whole(cell) for cell in cells):
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    values = [number(cell) if cell else np.nan for cell in cells]
    missing = not any(cells)
    return np.array(cells, dtype=np.str_) if None in values or missing else np.array(values, dtype=np.float64)


def _whole(cell: str) -> bool:
    digits = cell[1:] if cell[:1] in "+-" else cell
    return digits.isascii() and digits.isdigit() and len(digits) < 20 and INTEGERS[0] <= int(cell) <= INTEGERS[1]


def number(cell: str) -> float | None:
    """The number in a cell, or None; Python's `1_000` is no number in a file."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def parquet_of(path: Path, data: bytes) -> Any:
    """The table of pyarrow; `UserError` for what is none, for more numbers than memory should hold, and where pyarrow is missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError(f"reading {path} needs pyarrow: pip install pyarrow") from None
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        if (needed := 8 * file.metadata.num_rows * max(1, file.metadata.num_columns)) > memory():
            raise UserError(f"{path} says that it has {needed:,} bytes of numbers, more than half of this machine's memory: split it")
        return file.read()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}; write it again as parquet") from None


def read_parquet(path: Path) -> Table:
    """Columns of numbers, truth values and texts; `UserError` for what is no such table, and where pyarrow is missing."""
    table = parquet_of(path, files.content(path, MOST))
    import pyarrow as pa

    names = [" ".join(str(name).split()) for name in table.column_names]
    _named(path, names)
    columns = {name: _arrow(pa, path, name, column) for name, column in zip(names, table.columns, strict=True)}
    if not table.num_rows or not columns:
        raise UserError(f"{path} has no rows")
    return Table(path, columns, np.arange(1, table.num_rows + 1))


def _arrow(pa: Any, path: Path, name: str, column: Any) -> np.ndarray:
    kinds, kind = pa.types, column.type
    if kinds.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if kinds.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if kinds.is_integer(kind) and not column.null_count and kind != pa.uint64():
        return np.asarray(column.cast(pa.int64()).to_numpy())
    if kinds.is_integer(kind) or kinds.is_floating(kind):
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    if kinds.is_string(kind) or kinds.is_large_string(kind):
        return np.array([cell or "" for cell in column.to_pylist()], dtype=np.str_)
    raise UserError(f"{path}, column {name}: {kind} is neither number nor text: drop the column, or save its arrays as .npz")


READERS: dict[str, Callable[[Path], Table]] = {".csv": read_csv, ".parquet": read_parquet}
"""By ending."""
