"""Images in arrays: scikit-learn's digits, .npz and .npy files. Never unpickles."""

import hashlib
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from meanstep.program.console import UserError
from meanstep.program.data.formats import decoded
from meanstep.program.data.source import Source, numbered, one_split

SPLITS = {"train": 0, "test": 1}


def digits(split: str) -> Source:
    """scikit-learn's 1797 digits, 8 x 8 pixels of 17 levels, grey; there is one split, train."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("digits needs scikit-learn: pip install 'meanstep[digits]'") from None
    one_split("digits", split)
    held = load_digits()
    pixels = np.rint(held.images * (255 / 16)).astype(np.uint8)
    return _stacked("digits", pixels, held.target, tuple(map(str, range(10))))


def file(spec: str, split: str) -> Source:
    """A .npy of images, or a .npz: encoded images (data, offsets), x_train ..., or images and labels."""
    path = Path(spec).expanduser()
    if not path.is_file():
        raise UserError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'there is no such file'}")
    if path.suffix == ".npy":
        one_split(path.name, split)
        return _stacked(path.name, _npy(path), None, ())
    parts = _npz(path)
    if {"data", "offsets"} <= parts.keys():
        return _blob(path.name, parts, split)
    return _named(path, parts, split)


def _npy(path: Path) -> np.ndarray:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(f"cannot read {path}: {_reason(error)}") from error
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path} holds several arrays: name it .npz")
    return found


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (AttributeError, TypeError, ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise UserError(f"cannot read {path}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if "allow_pickle" in str(error) or "Python objects" in str(error) or isinstance(error, AttributeError | TypeError):
        return "it holds pickled objects or no arrays; save plain arrays with numpy.savez"
    return str(error).split("\n")[0].rstrip(".")[:120] or type(error).__name__


def _named(path: Path, parts: dict[str, np.ndarray], split: str) -> Source:
    if split not in SPLITS:
        raise UserError(f"{path.name} has no split {split!r}; give {' or '.join(SPLITS)}")
    if "images" in parts and not any(f"x_{name}" in parts for name in SPLITS):
        one_split(path.name, split)
    pairs = [(f"x_{split}", f"y_{split}"), ("images", "labels")]
    for x, y in pairs:
        if x in parts and (x != "images" or split == "train"):
            return replace(_stacked(path.name, parts[x], parts.get(y), _names(parts)), left_out=_unread(parts, x, y))
    held = ", ".join(sorted(parts)[:8]) or "nothing"
    raise UserError(f"{path.name} has no array x_{split}, no images and no data with offsets; it holds {held}")


def _unread(parts: dict[str, np.ndarray], *read: str) -> dict[str, int]:
    """Entries of the arrays that are neither read nor those of another split."""
    known = {*read, "classes", "seeds", *(f"{part}_{name}" for name in SPLITS for part in "xy")}
    return {name: len(x) for name, x in parts.items() if name not in known and x.ndim}


def _names(parts: dict[str, np.ndarray]) -> tuple[str, ...]:
    return tuple(map(str, parts["classes"].tolist())) if "classes" in parts else ()


def _stacked(name: str, x: np.ndarray, y: np.ndarray | None, classes: tuple[str, ...]) -> Source:
    """uint8 `[N, H, W]`, `[N, H, W, 1 or 3]` or `[N, 1 or 3, H, W]`."""
    if x.dtype != np.uint8:
        raise UserError(f"{name} holds images of type {x.dtype}: save uint8 from 0 to 255")
    if x.ndim == 4 and x.shape[-1] not in (1, 3) and x.shape[1] in (1, 3):
        x = np.moveaxis(x, 1, -1)
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] not in (1, 3)):
        raise UserError(f"{name} holds an array of shape {x.shape}: images are [N, H, W], [N, H, W, 3] or [N, 3, H, W]")
    labels = _labels(name, y, len(x))

    def read(i: int) -> Image.Image:
        pixels = np.ascontiguousarray(x[i])
        return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)

    def hashing() -> list[str]:
        return [str(x.shape), _hash(x), "" if labels is None else _hash(labels)]

    return Source(name, _classes(classes, labels), labels, len(x), read, lambda i: f"{name}, image {i}", hashing, _channels(x))


def _channels(x: np.ndarray) -> int:
    """Grey arrays stay grey."""
    return 3 if x.ndim == 4 and x.shape[-1] == 3 else 1


def _blob(name: str, parts: dict[str, np.ndarray], split: str) -> Source:
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
        raise UserError(f"{name}: labels of type {y.dtype} and shape {y.shape} for {n} images; give whole numbers [{n}]")
    return y.reshape(n).astype(np.int64)


def _classes(names: tuple[str, ...], labels: np.ndarray | None) -> tuple[str, ...]:
    return () if labels is None else names or numbered(labels)


def _hash(x: np.ndarray) -> str:
    found = hashlib.sha256(f"{x.dtype.name} {x.shape}".encode())
    step = max(1, (1 << 24) // max(1, x[:1].nbytes))  # a memory-mapped array is not copied as a whole
    for start in range(0, len(x), step):
        found.update(np.ascontiguousarray(x[start : start + step]).tobytes())
    return found.hexdigest()
