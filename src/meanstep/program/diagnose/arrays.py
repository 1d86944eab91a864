"""A user's data of any event shape, and their labels: opened without reading more than is drawn. Knows no networks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from meanstep.program.console import UserError
from meanstep.program.data import Cache
from meanstep.program.data.manifest import NAME
from meanstep.program.diagnose import target
from meanstep.program.reading import arrays
from meanstep.program.reading.tensors import File
from meanstep.program.reproduce.points import sets

FEWEST = 16


@dataclass(frozen=True)
class Dataset:
    """Rows `x` `[N, *E]` and, if the file has them, conditions `y` `[N, ...]`; `name`: the file, for complaints."""

    x: Any
    y: Any
    name: str

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.x.shape[1:])

    def rows(self, index: Tensor, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Some rows and their conditions; `UserError` names the first one that is not finite."""
        at = index.numpy()
        x = torch.from_numpy(np.ascontiguousarray(self.x[at])).to(dtype)
        bad = ~x.flatten(1).isfinite().all(1)
        if bad.any():
            raise UserError(f"{self.name}: row {int(index[bad][0])} (from 0) is not finite; correct or drop the row")
        y = None if self.y is None else torch.from_numpy(np.ascontiguousarray(self.y[at]))
        return x.to(device), None if y is None else (y.to(dtype) if y.is_floating_point() else y.long()).to(device)

    def draw(self, n: int, generator: Generator, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """`n` rows, with replacement."""
        return self.rows(torch.randint(len(self), (n,), generator=generator), dtype, device)


def load(path: Path, labels: Path | None = None) -> Dataset:
    """The data of a file or of a cache's folder, with the labels of another file if given; `UserError` that names the mistake."""
    if (path / NAME).is_file():
        return of_cache(Cache.open(path), str(path), labels)
    x, y = READERS[_kind(path, "--data")](path)
    return _whole(path, x, _labels(labels) if labels is not None else y, labels)


def _whole(path: Path, x: Any, y: Any, labels: Path | None = None) -> Dataset:
    _real(path, x)
    if x.ndim < 2 or min(x.shape) < 1:
        what = f"{path} holds an array of shape {tuple(x.shape)}: give rows with at least one axis after the first, [N, ...]"
        raise UserError(what + arrays.ONE * (x.ndim == 1))
    if len(x) < FEWEST:
        raise UserError(f"{path} has {len(x)} rows; give at least {FEWEST}")
    if y is not None:
        _fits(labels or path, y, len(x))
    return Dataset(x, y, str(path))


def of_cache(cache: Cache, name: str, labels: Path | None = None, *, labelled: bool = True) -> Dataset:
    """The rows of a cache as the network sees them, without mirror images, and its labels, or those of a file, if they are wanted."""
    if cache.manifest.length is not None:
        raise UserError(f"{name} has rows that are padded to one length, and diagnose reads no mask: cut them, --data.ragged crop")
    known = cache.condition(torch.arange(len(cache))) if labelled else None
    if isinstance(known, dict):
        raise UserError(f"{name} has several conditions ({', '.join(known)}), and diagnose reads one: train with a single --data.condition")
    y = _labels(labels) if labels is not None else None if known is None else known.numpy()
    return _whole(Path(name), _Rows(cache), y)


@dataclass(frozen=True)
class _Rows:
    """A cache that is indexed like an array."""

    cache: Cache
    dtype: np.dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.cache), *self.cache.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return len(self.cache)

    def __getitem__(self, at: np.ndarray) -> np.ndarray:
        rows: np.ndarray = self.cache.rows(torch.from_numpy(at))[0].numpy()
        return rows


def _kind(path: Path, flag: str) -> str:
    return target.rows(path, flag).suffix.lower()


def _real(path: Path, x: np.ndarray) -> None:
    if x.dtype.kind not in "fiu":
        raise UserError(f"{path} holds entries of type {x.dtype}: save real numbers, e.g. float32")


def _fits(path: Path, y: np.ndarray, n: int) -> None:
    if y.dtype.kind not in "fiu":
        raise UserError(f"{path}: labels of type {y.dtype}; give whole numbers [N], or float conditions [N, ...]")
    if len(y) != n:
        raise UserError(f"{path}: {len(y)} labels for {n} rows of data; give one a row")
    if y.dtype.kind == "i" and y.min() < 0:
        raise UserError(f"{path}: label {y.min()} in row {int(y.argmin())} (from 0); labels are whole numbers of at least 0")


def _labels(path: Path) -> np.ndarray:
    if _kind(path, "--labels-file") in (".csv", ".parquet"):
        raise UserError(f"{path}: give labels as .npy, .npz or .safetensors")
    x, y = READERS[_kind(path, "--labels-file")](path)
    return x if y is None else y


def _npy(path: Path) -> tuple[np.ndarray, None]:
    return arrays.mapped(path), None


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    return _named(path, arrays.archive(path))


def _safetensors(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    held = File.open(path).tensors()
    parts = {name: p for name, p in held.items() if name in ("x", "y", "data", "labels") or len(held) == 1}
    return _named(path, {name: (p.float() if p.is_floating_point() else p).numpy() for name, p in parts.items()})


def _named(path: Path, parts: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    x = next((parts[name] for name in ("x", "data") if name in parts), None)
    y = next((parts[name] for name in ("y", "labels") if name in parts), None)
    if x is None and len(parts) == 1:
        x, y = next(iter(parts.values())), None
    if x is None:
        raise UserError(f"{path} has no array x (it has {', '.join(sorted(parts)[:6]) or 'none'}): name the data x and the labels y")
    return x, y


def _table(path: Path) -> tuple[np.ndarray, None]:
    return sets.load(path).numpy(), None


READERS: dict[str, Callable[[Path], tuple[np.ndarray, np.ndarray | None]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".csv": _table,
    ".parquet": _table,
}
