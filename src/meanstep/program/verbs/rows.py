"""Data that a program in Python holds in memory, as a file that a run's configuration can name. Knows no networks.

The file lies in the user's own folder under a digest of its contents, so that the same rows are the same source, here and on the command
line.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data.ensured import user_folder
from meanstep.program.disk import made, write
from meanstep.program.errors import shown

TAKEN = "an array or tensor of rows, a dict of them (x and y, or x and conditions by name), or a file, folder or source by name"
ROWS, LABELS, BESIDE = ("x", "images", "data"), ("y", "labels"), ("classes",)
"""Names of the rows of a dict, of their labels, and of what is neither rows nor a condition."""


@dataclass(frozen=True)
class Named:
    """`source`: what `--data.source` would be; `condition`: the conditions that come with it, where it says so."""

    source: str
    condition: tuple[str, ...] = ()


def named(data: Any) -> Named:
    """The name of data: a path as it is, arrays as a file that is written once. `UserError` for what is none of these."""
    if isinstance(data, str | os.PathLike):
        return Named(os.fspath(data) if isinstance(data, str) else str(Path(data)))
    arrays = parts(data)
    beside = [name for name in arrays if name not in ("x", *BESIDE)]
    labelled = beside in (["y"], ["labels"]) and _whole(arrays[beside[0]])
    return Named(str(written(arrays)), () if labelled else tuple(beside))


def parts(data: Any) -> dict[str, np.ndarray]:
    """Arrays by name, the rows as `x`: floats, or uint8 of pictures. `UserError` for rows that are not told apart from conditions."""
    if not isinstance(data, Mapping):
        return {"x": _rows(_array(data, "data"), "data")}
    found = {str(name): _array(part, f"data[{name!r}]") for name, part in data.items()}
    rows = [name for name in ROWS if name in found]
    if len(rows) != 1:
        raise UserError(f"data is a dict whose rows are called x, got {shown(list(found), 200)}: give {TAKEN}")
    x = _rows(found.pop(rows[0]), f"data[{rows[0]!r}]")
    for name, part in found.items():
        if name not in BESIDE and (not part.ndim or len(part) != len(x)):
            raise UserError(f"data[{name!r}]: shape {part.shape} for {len(x):,} rows: give one entry for each")
    return {"x": x, **found}


def _array(value: Any, what: str) -> np.ndarray:
    """An array of what can be one: tensors anywhere, tables of numbers, nested lists."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        found = np.asarray(None)
    if found.dtype.kind not in "biufUS":
        raise UserError(f"{what}: give {TAKEN}, got {type(value).__name__}{f' of {found.dtype}' if found.ndim else ''}")
    return found


def _rows(x: np.ndarray, what: str) -> np.ndarray:
    if x.dtype.kind != "f" and x.dtype != np.uint8:
        raise UserError(f"{what}: rows are floats, or uint8 from 0 to 255 for pictures, got {x.dtype}: call .float() or .astype('float32')")
    if x.ndim < 2 or not x.size:
        raise UserError(f"{what}: rows [N, ...] with at least one axis after the first and an entry, got shape {x.shape}")
    return x


def _whole(y: np.ndarray) -> bool:
    return y.dtype.kind in "iu" and y.ndim == 1 and int(y.min(initial=0)) >= 0


def written(arrays: Mapping[str, np.ndarray]) -> Path:
    """The file of the arrays, made if it is not there."""
    found = hashlib.sha256()
    for name, x in sorted(arrays.items()):
        found.update(f"{name} {x.dtype.str} {x.shape}".encode())
        found.update(np.ascontiguousarray(x).tobytes())
    path = made(user_folder() / "arrays") / f"rows-{found.hexdigest()[:16]}.npz"
    if not path.is_file():
        box = io.BytesIO()
        np.savez(box, **arrays)  # type: ignore[arg-type]
        write(path, box.getvalue())
    return path
