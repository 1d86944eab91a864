"""Images, or rows of numbers, and labels by number, wherever they lie."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from meanstep.program.console import UserError
from meanstep.program.data.column import Column
from meanstep.program.data.look import Look


class Broken(UserError):
    """An image or row that cannot be read: its place, in one line. `--skip-broken` counts these."""


@dataclass(frozen=True)
class Source:
    """Items and labels by number: `len(source)`, `source[i] -> (item, label or -1)`; `UserError` if one cannot be read.

    An item is a PIL image or, of a `plain` source, an array of finite numbers of one shape. `labels`: int64 `[N]`, or None; `read(i)`: the
    item; `where(i)`: its place, for complaints; `hashing`: parts of `digest`, computed when it is first asked for, as it may read
    everything. `channels`: what a cache of pictures has by default. `left_out`: how many of what kind lie there and are not read, by
    ending. `conditions`: what was asked for beside the items, by name: int64 `[N]` of categories, whose `words` are their names, or float32
    `[N, ...]`; one alone of categories is the labels too. `along`: the axis of a row whose length, before rows were padded to one, the
    condition `length` is. `columns`: those of a table, and how they became numbers. `start`: whether the condition `pair` is where the
    flow starts. `names`: what the items are called, for partners in another source; none where only their number counts. `look`: how
    rows of a plain source are shown, asked once one could be read.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray | None = field(repr=False)
    count: int
    read: Callable[[int], Any] = field(repr=False)
    where: Callable[[int], str] = field(repr=False)
    hashing: Callable[[], Sequence[str]] = field(repr=False)
    channels: int = 3
    left_out: Mapping[str, int] = field(default_factory=dict)
    plain: bool = False
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    along: int | None = None
    columns: tuple[Column, ...] = field(default=(), repr=False)
    start: bool = False
    names: Sequence[str] = field(default=(), repr=False)
    look: Callable[[], Look] = field(default=Look, repr=False)

    def __post_init__(self) -> None:
        for word in (self.name, *self.classes, *self.conditions, *(word for names in self.words.values() for word in names)):
            if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
                raise UserError(f"{word}: a source and its classes have names in UTF-8, which this is not: rename it")

    def __len__(self) -> int:
        return self.count

    @property
    def noun(self) -> str:
        """What many items are called."""
        return "rows" if self.plain else "images"

    def __getitem__(self, i: int) -> tuple[Any, int]:
        if not 0 <= i < self.count:
            raise IndexError(f"item {i} of {self.count}")
        try:
            item = self.read(i)
            if isinstance(item, Image.Image):
                item.load()
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:  # what PIL raises for damaged files
            raise Broken(f"cannot read {self.where(i)}: {' '.join(str(error).split())[:120] or type(error).__name__}") from error
        if isinstance(item, np.ndarray) and not np.isfinite(item).all():
            raise Broken(f"{self.where(i)} is not finite in {item.dtype}: correct it, or leave it out with --skip-broken")
        return item, self.label(i)

    def label(self, i: int) -> int:
        """The label of item `i`; -1 if there are none."""
        return -1 if self.labels is None else int(self.labels[i])

    @cached_property
    def digest(self) -> str:
        """sha256, in hex, of the contents, not of names of folders or times."""
        return hashlib.sha256("\n".join([*self.hashing(), *self.classes]).encode(errors="surrogateescape")).hexdigest()


CLASSES = 1 << 20


def numbered(labels: np.ndarray) -> tuple[str, ...]:
    """Names for labels that have none: their numbers. `UserError` for one that numbers no class."""
    if int(labels.max(initial=0)) >= CLASSES:
        raise UserError(f"a label is {labels.max()}: labels count classes from 0, of which there are at most {CLASSES:,}")
    return tuple(map(str, range(int(labels.max(initial=-1)) + 1)))


def one_split(name: str, split: str) -> None:
    """`UserError` unless the split of a source that has no splits is `train`: what it holds is not handed out under another name."""
    if split != "train":
        raise UserError(f"{name} has no split {split!r}: it has one, train; name another source for another split")
