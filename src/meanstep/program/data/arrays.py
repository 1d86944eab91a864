"""Arrays as sources: scikit-learn's digits, and files of pictures (uint8) or of rows of numbers (floats). Never unpickles.

A new kind of file is an entry of `READERS`.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from meanstep.program.console import UserError
from meanstep.program.data import ragged
from meanstep.program.data.conditions import conditioned, known
from meanstep.program.data.formats import decoded
from meanstep.program.data.ragged import Like
from meanstep.program.data.request import Ragged, chosen
from meanstep.program.data.source import Source, numbered, one_split
from meanstep.program.reading import arrays, tensors

SPLITS = {"train": 0, "test": 1}
Parts = Mapping[str, np.ndarray]


def digits(split: str) -> Source:
    """scikit-learn's 1797 digits, 8 x 8 pixels of 17 levels, grey; there is one split, train."""
    if (package := find_spec("sklearn")) is None:
        raise UserError("digits needs scikit-learn: pip install 'meanstep[digits]'")
    one_split("digits", split)
    levels, labels = _digits(Path(package.origin or "").parent / "datasets" / "data" / "digits.csv.gz")
    pixels = np.rint(levels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return _stacked("digits", pixels, labels.astype(np.int64), tuple(map(str, range(10))))


@functools.cache
def _digits(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Levels `[N, 64]` and labels `[N]`, of the package's own file where it is: to import the package takes a second of every start."""
    if file.exists():
        held = np.loadtxt(file, delimiter=",")
        return held[:, :-1], held[:, -1]
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.data, bunch.target


def file(spec: str, split: str, conditions: Sequence[str] = (), how: Ragged = "refuse", like: Like = Like()) -> Source:
    """Of one array; or of several by name: encoded images (data, offsets), x_train ..., images and labels, x and y, or the one asked for.

    `conditions`: arrays of the file, of a split `NAME_train` ... if there are, in place of its labels. `how`, `like`: what becomes of rows
    that are padded already and whose `lengths` or `mask` the file holds, see `ragged.fitted`.
    """
    place, name = chosen(spec)
    path = Path(place).expanduser()
    parts = _read(path)
    asked = {condition: _of_split(condition, split, parts) for condition in conditions}
    known(list(asked.values()), [part for part in parts if part], str(path), "array")
    held = _opened(path, parts, split, name, tuple(asked.values()))
    held = conditioned(
        held, {condition: parts[part] for condition, part in asked.items()}, lambda i, of: f"{path}, array {of}, row {i} (from 0)"
    )
    return held if how == "refuse" or not held.plain else _cut(path, held, parts, split, how, like)


def _of_split(name: str, split: str, parts: Parts) -> str:
    return f"{name}_{split}" if f"{name}_{split}" in parts else name


def _cut(path: Path, held: Source, parts: Parts, split: str, how: Ragged, like: Like) -> Source:
    """Rows to their lengths, as the file states them: `lengths` `[N]`, or a `mask` `[N, T]` that is true where they are."""
    if not len(held):
        return held
    names = [part for word in ("mask", "lengths") if (part := _of_split(word, split, parts)) in parts]
    if not names:
        raise UserError(f"{path} has no array lengths or mask: save one beside its rows, or leave --data.ragged (--ragged) out")
    if len(names) > 1 and (names[0] in held.conditions or not _first(parts[names[0]])):  # a mask of something else
        names = names[1:]
    whole, *other = [_lengths(f"{path}, array {name}", parts[name], len(held)) for name in names]
    if other and (odd := whole != other[0]).any():
        raise UserError(f"{path}, row {int(np.argmax(odd))} (from 0): {names[0]} and {names[1]} say different lengths: keep one of them")
    shape, first = held.read(0).shape, parts[names[0]]
    masked = first.shape[1] if first.ndim == 2 else None
    along = ragged.axis_of(int(whole.max()), masked, shape, f"{path}, array {names[0]}", like)
    left_out = {part: n for part, n in held.left_out.items() if part not in names}
    like = like if like.shape or how != "pad" else Like(shape)
    return ragged.fitted(replace(held, left_out=left_out), whole, along, how, like)


def _masks(found: np.ndarray) -> bool:
    return found.ndim == 2 and found.dtype.kind in "biu"


def _holes(mask: np.ndarray) -> np.ndarray:
    """Rows of a mask `[N, T]` of which a true entry follows one that is not."""
    there = mask.astype(bool)
    return (~there[:, :-1] & there[:, 1:]).any(1)


def _first(found: np.ndarray) -> bool:
    """Whether it is a mask whose true entries come first."""
    return _masks(found) and not _holes(found).any()


def _lengths(where: str, found: np.ndarray, n: int) -> np.ndarray:
    """Lengths int64 `[N]`, as they are or of a mask; `UserError` for what is neither, a mask with a hole and a length of 0."""
    whole = found.astype(bool).sum(1) if _masks(found) else found
    if whole.shape != (n,) or whole.dtype.kind not in "iu":
        raise UserError(f"{where}: {found.dtype} {found.shape} for {n:,} rows: lengths [N] or a mask [N, T], a row each")
    if found.ndim == 2 and (holes := _holes(found)).any():
        raise UserError(f"{where}, row {int(np.argmax(holes))} (from 0): the mask has a hole: true entries come first")
    if (bad := whole < 1).any():
        raise UserError(f"{where}, row {int(np.argmax(bad))} (from 0): a length of 0: leave the row out")
    return whole.astype(np.int64)


def _opened(path: Path, parts: Parts, split: str, name: str, conditions: tuple[str, ...]) -> Source:
    if name:
        found = _of_split(name, split, parts)
        known([found], parts, str(path), "array")
        if found == name:
            one_split(path.name, split)
        return replace(_stacked(path.name, parts[found], None, ()), left_out=_unread(parts, found, *conditions))
    if "" in parts:
        one_split(path.name, split)
        return _stacked(path.name, parts[""], None, ())
    if {"data", "offsets"} <= parts.keys():
        if conditions:
            raise UserError(f"{path.name} holds encoded images, which have labels: leave --data.condition out")
        return _blob(path.name, parts, split)
    return _named(path, parts, split, conditions)


def reads(spec: str) -> bool:
    """Whether a source is a file of arrays by its ending."""
    return chosen(spec)[0].endswith(tuple(READERS))


def _read(path: Path) -> Parts:
    if not path.is_file():
        raise UserError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'there is no such file'}")
    return READERS[path.suffix](path)


def _npy(path: Path) -> Parts:
    return {"": arrays.mapped(path)}


def _npz(path: Path) -> Parts:
    return dict(arrays.archive(path))


def _safetensors(path: Path) -> Parts:
    """Half precision that NumPy has not as float32."""
    held = tensors.File.open(path).tensors()
    return {name: (x.float() if x.dtype.is_floating_point and x.dtype not in NUMPY else x).numpy() for name, x in held.items()}


NUMPY = (torch.float16, torch.float32, torch.float64)
"""Floats that NumPy has too."""
READERS: dict[str, Callable[[Path], Parts]] = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
"""By ending: the arrays of a file by name, one alone under an empty name."""


def _named(path: Path, parts: Parts, split: str, conditions: tuple[str, ...]) -> Source:
    if split not in SPLITS:
        raise UserError(f"{path.name} has no split {split!r}; give {' or '.join(SPLITS)}")
    rows = next((name for name in WHOLE if name in parts), "")
    whole = (rows, next((name for name in WHOLE.get(rows, ()) if name in parts), "labels"))
    if rows and not any(f"x_{name}" in parts for name in SPLITS):
        one_split(path.name, split)
    for x, y in [(f"x_{split}", f"y_{split}"), *([whole] if split == "train" else [])]:
        if x in parts:
            if x == "images" and parts[x].dtype != np.uint8:
                raise UserError(f"{path.name} holds images of type {parts[x].dtype}: save uint8 from 0 to 255, or name rows of numbers x")
            labels = None if conditions else parts.get(y)
            return replace(_stacked(path.name, parts[x], labels, _names(parts)), left_out=_unread(parts, x, *(conditions or (y,))))
    held = ", ".join(sorted(parts)[:8]) or "nothing"
    remedy = f"rows of numbers are named x, or {path.name}:NAME"
    raise UserError(f"{path.name} has no array x_{split}, no images and no data with offsets; it holds {held}; {remedy}")


WHOLE = {"images": ("labels",), "x": ("y", "labels")}
"""Names of the rows of a file without splits, and of their labels; the first of either that is there."""


def _unread(parts: Parts, *read: str) -> dict[str, int]:
    """Entries of the arrays that are neither read nor those of another split."""
    ours = {*read, "classes", "seeds", "noise", *(f"{part}_{name}" for name in SPLITS for part in "xy")}
    return {name: len(x) for name, x in parts.items() if name not in ours and x.ndim}


def _names(parts: Parts) -> tuple[str, ...]:
    return tuple(map(str, parts["classes"].tolist())) if "classes" in parts else ()


def _stacked(name: str, x: np.ndarray, y: np.ndarray | None, classes: tuple[str, ...]) -> Source:
    """Pictures of uint8, rows of floats."""
    if not x.ndim:
        raise UserError(f"{name} holds one number: give rows [N, ...]")
    if x.dtype.kind == "f" and x.dtype.itemsize <= 8:
        return _rows(name, x, y, classes)
    if x.dtype != np.uint8:
        raise UserError(f"{name} holds images of type {x.dtype}: save uint8 from 0 to 255, or rows of float32")
    if x.ndim == 4 and x.shape[-1] not in (1, 3) and x.shape[1] in (1, 3):
        x = np.moveaxis(x, 1, -1)
    if x.ndim not in (3, 4) or not math.prod(x.shape[1:]) or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
        raise UserError(f"{name} holds an array of shape {x.shape}: images are [N, H, W], [N, H, W, 3] or [N, 3, H, W], other rows floats")

    def read(i: int) -> Image.Image:
        pixels = np.ascontiguousarray(x[i])
        return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)

    found = _source(name, x, y, classes, read, "image")
    return replace(found, channels=3 if x.ndim == 4 and x.shape[-1] == 3 else 1)  # grey arrays stay grey


def _rows(name: str, x: np.ndarray, y: np.ndarray | None, classes: tuple[str, ...]) -> Source:
    """Rows `[N, ...]` of numbers, of float64 as float32."""
    if x.ndim < 2 or not math.prod(x.shape[1:]):
        what = f"{name} holds an array of shape {x.shape}: give rows with at least one axis after the first and an entry, [N, ...]"
        raise UserError(what + arrays.ONE * (x.ndim == 1))
    kind = np.float16 if x.dtype.itemsize == 2 else np.float32

    def read(i: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(x[i], dtype=kind)

    return replace(_source(name, x, y, classes, read, "row"), where=lambda i: f"{name}, row {i} (from 0)", plain=True)


def _source(name: str, x: np.ndarray, y: np.ndarray | None, classes: tuple[str, ...], read: Callable[[int], object], noun: str) -> Source:
    labels = _labels(name, y, len(x))

    def hashing() -> list[str]:
        return [str(x.shape), _hash(x), "" if labels is None else _hash(labels)]

    return Source(name, _classes(classes, labels), labels, len(x), read, lambda i: f"{name}, {noun} {i}", hashing)


def _blob(name: str, parts: Parts, split: str) -> Source:
    """Encoded files end to end: `data` uint8, `offsets` `[N + 1]`; `labels`, `split` (0 train, 1 test), `names`, `classes` if there."""
    data, offsets = parts["data"], parts["offsets"].astype(np.int64)
    n = len(offsets) - 1
    if data.dtype != np.uint8 or data.ndim != 1 or n < 0 or offsets[0] < 0 or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise UserError(f"{name} is damaged: its offsets do not rise within its data of {len(data)} bytes")
    if split not in SPLITS or ("split" not in parts and split != "train"):
        raise UserError(f"{name} has no split {split!r}; give train{' or test' if 'split' in parts else ''}")
    marks = parts.get("split", np.zeros(n, np.uint8))
    if len(marks) != n:
        raise UserError(f"{name} is damaged: {len(marks)} marks of a split for {n} images")
    at = np.flatnonzero(marks == SPLITS[split])
    others = {f"marked {k}": int((marks == k).sum()) for k in np.unique(marks).tolist() if k not in SPLITS.values()}
    labels = _labels(name, parts.get("labels"), n)
    labels = None if labels is None else labels[at]
    names = parts.get("names")

    def read(i: int) -> Image.Image:
        return decoded(data[offsets[at[i]] : offsets[at[i] + 1]].tobytes())

    def where(i: int) -> str:
        return f"{name}, image {at[i]}" + (f" ({names[at[i]]})" if names is not None and len(names) == n else "")

    def hashing() -> list[str]:
        return [_hash(data), _hash(offsets), _hash(at), "" if labels is None else _hash(labels)]

    return Source(name, _classes(_names(parts), labels), labels, len(at), read, where, hashing, left_out=others)


def _labels(name: str, y: np.ndarray | None, n: int) -> np.ndarray | None:
    if y is None:
        return None
    if y.dtype.kind not in "iu" or y.shape not in ((n,), (n, 1)):
        raise UserError(
            f"{name}: labels of type {y.dtype} and shape {y.shape} for {n} images; give whole numbers [{n}], or name it as a condition"
        )
    return y.reshape(n).astype(np.int64)


def _classes(names: tuple[str, ...], labels: np.ndarray | None) -> tuple[str, ...]:
    return () if labels is None else names or numbered(labels)


def _hash(x: np.ndarray) -> str:
    found = hashlib.sha256(f"{x.dtype.name} {x.shape}".encode())
    step = max(1, (1 << 24) // max(1, x[:1].nbytes))  # a memory-mapped array is not copied as a whole
    for start in range(0, len(x), step):
        found.update(np.ascontiguousarray(x[start : start + step]).tobytes())
    return found.hexdigest()
