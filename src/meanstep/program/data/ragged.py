"""Rows of different lengths brought to one: filled up with zeros, their own lengths beside them, or cut to the shortest. Knows no files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from meanstep.program.data.request import Ragged as How
from meanstep.program.data.source import Broken, Source
from meanstep.program.errors import UserError

LENGTH, LABEL = "length", "label"
"""The conditions that hold the lengths of padded rows, and what were labels if rows have lengths or partners too."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Like:
    """Rows that others are to be like: their `shape`, and the axis `along` which lengths are stated; neither where there are none."""

    shape: Shape = ()
    along: int | None = None


def alongside(shapes: Sequence[Shape | None], wheres: Sequence[str], like: Like = Like()) -> tuple[int, np.ndarray]:
    """The one axis along which shapes differ, also from that of rows `like` these, and the lengths there; the last if none does.

    None, of a broken row, is as long as any. `UserError` that names the first shape that differs from the one before in more.
    """
    there = [i for i, shape in enumerate(shapes) if shape is not None]
    if not there:
        raise Broken(f"none of the {len(shapes):,} rows can be read, such as {wheres[0]}")
    first, said = (like.shape, "training rows") if like.shape else (shapes[there[0]] or (), wheres[there[0]])
    along = like.along
    for i in there:
        shape = shapes[i] or ()
        odd = [k for k, (a, b) in enumerate(zip(shape, first, strict=False)) if a != b]
        if len(shape) != len(first) or len(odd) > 1 or (odd and along not in (None, odd[0])):
            raise UserError(f"{wheres[i]} is {sides(shape)}, {said} {sides(first)}: rows may differ along one axis, always the same")
        along = odd[0] if odd else along
    along = len(first) - 1 if along is None else along
    known = [shape[along] if shape is not None else max(s[along] for s in shapes if s is not None) for shape in shapes]
    return along, np.array(known, dtype=np.int64)


def axis_of(longest: int, masked: int | None, shape: Shape, where: str, like: Like) -> int:
    """The axis of a padded row that lengths are along: that of rows `like` these, else the only one that can be.

    `masked`: how long it is, where a mask says so; else no shorter than the longest. `UserError` if none can be, or several.
    """
    fits = [k for k, side in enumerate(shape) if (side >= longest if masked is None else side == masked)]
    chosen = fits if like.along is None else [k for k in fits if k == like.along]
    if len(chosen) == 1:
        return chosen[0]
    if not fits or like.along is not None:
        what = f"the longest is {longest}" if masked is None else f"it is {masked} long"
        none = "no axis" if like.along is None else f"axis {like.along}, along which training rows differ,"
        raise UserError(f"{where}: {what}, and {none} of a row of {sides(shape)} can be: pad the rows to the longest of them")
    which = f"they may be along either of {len(fits)} axes of a row of {sides(shape)}"
    remedy = "save a mask [N, T] beside the rows" if masked is None else "pad the rows and the mask by one more"
    raise UserError(f"{where}: {which}: {remedy}")


def fitted(source: Source, lengths: np.ndarray, along: int, how: How, like: Like = Like()) -> Source:
    """The source with rows of one length: that of rows `like` these, else the longest if they are padded, the shortest if they are cut.

    Rows padded have their lengths as a condition, and what was their labels as another.
    """
    if not len(lengths):
        return source
    if LENGTH in source.conditions:
        raise UserError(f"{source.name}: the condition {LENGTH} is that of the rows' own lengths: give yours another name")
    side = like.shape[along] if like.shape else int(lengths.max() if how == "pad" else lengths.min())

    def read(i: int) -> np.ndarray:
        n = int(lengths[i])
        if (n > side) if how == "pad" else (n < side):
            raise Broken(f"{source.where(i)} has length {n}, and rows have {side} here: {'cut it' if how == 'pad' else 'leave it out'}")
        row: np.ndarray = source.read(i)
        row = row[(slice(None),) * along + (slice(min(n, side)),)]
        return np.pad(row, [(0, side - row.shape[k] if k == along else 0) for k in range(row.ndim)])

    def hashing() -> list[str]:
        return [*source.hashing(), f"{how} {along} {side} {lengths.tolist()}"]

    found = replace(source, read=read, hashing=hashing)
    if how == "crop":
        return found
    return replace(beside_labels(found, {LENGTH: lengths.astype(np.float32)}), along=along)


def beside_labels(source: Source, more: dict[str, np.ndarray]) -> Source:
    """The source with more conditions, and its labels among them."""
    words, conditions = dict(source.words), dict(source.conditions)
    if source.labels is not None and not conditions:
        conditions, words = {LABEL: source.labels}, {LABEL: source.classes}
    return replace(source, conditions=conditions | more, words=words, labels=None, classes=())


def filled(lengths: Tensor, shape: Shape, along: int) -> Tensor:
    """Bool `[B, *shape]`: true before each row's length `[B]` along an axis of the row."""
    at = torch.arange(shape[along], device=lengths.device).reshape(-1, *(1 for _ in shape[along + 1 :]))
    return (at < lengths.reshape(-1, *(1 for _ in shape))).expand(len(lengths), *shape)


def sides(shape: Shape) -> str:
    """A shape in words."""
    return " x ".join(map(str, shape))
