"""Images and labels by number, wherever they lie. Knows no sizes, no autoencoders, no caches."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image

from meanstep.program.console import UserError


class Broken(UserError):
    """An image that cannot be read: its place, in one line. `--skip-broken` counts these."""


@dataclass(frozen=True)
class Source:
    """Images and labels by number: `len(source)`, `source[i] -> (PIL image, label or -1)`; `UserError` if one cannot be read.

    `labels`: int64 `[N]`, or None; `read(i)`: the image; `where(i)`: its place, for complaints; `hashing`: parts of `digest`, computed
    when it is first asked for, as it may read everything. `channels`: what a cache of it has by default. `left_out`: how many of what
    kind lie there and are not read, by ending.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray | None = field(repr=False)
    count: int
    read: Callable[[int], Image.Image] = field(repr=False)
    where: Callable[[int], str] = field(repr=False)
    hashing: Callable[[], Sequence[str]] = field(repr=False)
    channels: int = 3
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        if not 0 <= i < self.count:
            raise IndexError(f"image {i} of {self.count}")
        try:
            image = self.read(i)
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:  # what PIL raises for damaged files
            raise Broken(f"cannot read {self.where(i)}: {' '.join(str(error).split())[:120] or type(error).__name__}") from error
        return image, self.label(i)

    def label(self, i: int) -> int:
        """The label of image `i`; -1 if there are none."""
        return -1 if self.labels is None else int(self.labels[i])

    @cached_property
    def digest(self) -> str:
        """sha256, in hex, of the contents, not of names of folders or times."""
        return hashlib.sha256("\n".join([*self.hashing(), *self.classes]).encode()).hexdigest()


def numbered(labels: np.ndarray) -> tuple[str, ...]:
    """Names for labels that have none: their numbers."""
    return tuple(map(str, range(int(labels.max(initial=-1)) + 1)))


def one_split(name: str, split: str) -> None:
    """`UserError` unless the split of a source that has no splits is `train`: what it holds is not handed out under another name."""
    if split != "train":
        raise UserError(f"{name} has no split {split!r}: it has one, train; name another source for another split")
