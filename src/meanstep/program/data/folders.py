"""Folders of files that are a row each: arrays in .npy, sounds in .wav. A new kind of file is an entry of `READERS`."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from meanstep.program.data import ragged
from meanstep.program.data.look import Look
from meanstep.program.data.ragged import Like, sides
from meanstep.program.data.request import Ragged
from meanstep.program.data.source import Broken, Source
from meanstep.program.errors import UserError
from meanstep.program.reading import arrays, sounds

Row = tuple[int, np.ndarray]
"""Samples a second, 0 where there is no such thing, and the numbers."""


def _npy(path: Path) -> Row:
    found = arrays.mapped(path)
    if found.dtype.kind != "f" or found.dtype.itemsize > 8:
        raise UserError(f"{path} holds numbers of type {found.dtype}: save float32")
    if not found.ndim or not math.prod(found.shape):
        raise UserError(f"{path} holds an array of shape {found.shape}: give a row with at least one axis and an entry")
    with np.errstate(over="ignore"):
        return 0, np.asarray(found, dtype=np.float16 if found.dtype.itemsize == 2 else np.float32)


READERS: dict[str, Callable[[Path], Row]] = {".npy": _npy, ".wav": sounds.wav}
"""By ending: the row of a file."""


def rows(
    name: str,
    classes: tuple[str, ...],
    labels: np.ndarray | None,
    paths: Sequence[Path],
    hashing: Callable[[], Sequence[str]],
    left_out: Mapping[str, int],
    how: Ragged = "refuse",
    like: Like = Like(),
) -> Source:
    """A row of each file; `UserError` that names the first of another rate than the first, or of another shape if that is to be refused.

    `how`, `like`: see `ragged.fitted`.
    """
    reader = READERS[paths[0].suffix.lower()]

    @cache
    def first() -> tuple[Path, int, tuple[int, ...]]:
        for path in paths:
            try:
                rate, row = reader(path)
            except UserError:
                continue
            return path, rate, row.shape
        raise Broken(f"none of the {len(paths):,} files of {name} can be read, such as {paths[0]}")

    def read(i: int) -> np.ndarray:
        try:
            rate, row = reader(paths[i])
        except UserError as error:
            raise Broken(str(error)) from None
        path, usual, shape = first()
        if rate != usual:
            raise UserError(f"{paths[i]} has {rate:,} samples a second, {path.name} {usual:,}: resample them to one rate")
        if how == "refuse" and row.shape != shape:
            remedy = "cut or pad them to one shape, or give --data.ragged pad or crop (--ragged of meanstep cache)"
            raise UserError(f"{paths[i]} is {sides(row.shape)}, {path.name} {sides(shape)}: {remedy}")
        return row

    look = lambda: Look("sound", rate) if (rate := first()[1]) else Look()  # noqa: E731
    found = Source(name, classes, labels, len(paths), read, lambda i: str(paths[i]), hashing, left_out=left_out, plain=True, look=look)
    if how == "refuse":
        return found
    along, lengths = ragged.alongside([_shape(reader, path) for path in paths], list(map(str, paths)), like)
    return ragged.fitted(found, lengths, along, how, like)


def _shape(reader: Callable[[Path], Row], path: Path) -> tuple[int, ...] | None:
    try:
        return reader(path)[1].shape
    except UserError:
        return None
