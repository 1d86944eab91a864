"""What a network is given beside its rows: categories, numbers and arrays by name, as a vector or as channels. Knows no networks."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Sizes = dict[str, int | tuple[int, ...]]


def sizes(conditions: Mapping[str, int | Sequence[int]] | None, classes: int = 0) -> Sizes:
    """Conditions by name, each a number of categories or a shape; `ValueError` for some beside labels, and for sizes that cannot be."""
    if classes and conditions:
        raise ValueError("a network takes labels or other conditions: give classes or conditions")
    found: Sizes = {name: size if isinstance(size, int) else tuple(size) for name, size in (conditions or {}).items()}
    for name, size in found.items():
        if size < 1 if isinstance(size, int) else min(size, default=1) < 1:
            raise ValueError(f"conditions: {name} has {size} categories or a shape with an empty axis")
    return found


def parts(known: Sizes, y: Any, kind: str) -> Iterator[tuple[str, int | tuple[int, ...], Tensor]]:
    """Name, size and tensor of each condition: `y` a tensor where there is one, else by name; `ValueError` where there is none."""
    if known and y is None:
        raise ValueError(f"this {kind} takes the conditions {', '.join(known)}, and y is None")
    if len(known) > 1 and not isinstance(y, dict):
        raise ValueError(f"this {kind} takes the conditions {', '.join(known)}, and y is a {type(y).__name__}: give a dict with each")
    for name, size in known.items():
        if isinstance(y, dict) and name not in y:
            raise ValueError(f"this {kind} takes the conditions {', '.join(known)}, and y has no {name}, but {', '.join(map(str, y))}")
        part = y[name] if isinstance(y, dict) else y
        yield name, size, labels(part, name) if isinstance(size, int) else part


def labels(y: Any, name: str = "y") -> Tensor:
    """Labels or categories as the int64 that torch's embeddings take; `TypeError` for what is no tensor of whole numbers."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        raise TypeError(f"{name} holds categories, a tensor of whole numbers, got {getattr(y, 'dtype', type(y).__name__)}")
    return y.long()


def on_grid(shape: int | tuple[int, ...], grid: Sequence[int]) -> bool:
    """Whether an array's shape is that of channels on a grid, `(k, *grid)`; of two and more axes a coarser one whose axes divide it too."""
    if isinstance(shape, int) or len(shape) != len(grid) + 1:
        return False
    axes = shape[1:]
    return axes == tuple(grid) or (len(grid) > 1 and min(axes) > 1 and all(n % k == 0 for k, n in zip(axes, grid, strict=True)))


class Given(nn.Module):
    """Conditions of a network of rows on a `grid`: arrays on it are `channels` beside the row's own, all others are added to a vector.

    A category has an embedding, one more than there are for none; numbers and other arrays, flattened, pass two layers.
    """

    def __init__(self, conditions: Sizes, width: int, grid: Sequence[int], kind: str) -> None:
        super().__init__()
        self.sizes, self.grid, self.kind = conditions, tuple(grid), kind
        self.channels = sum(size[0] for size in conditions.values() if not isinstance(size, int) and on_grid(size, grid))
        self.embedded = nn.ModuleList(
            nn.Embedding(size + 1, width)
            if isinstance(size, int)
            else nn.Sequential(nn.Linear(math.prod(size), width), nn.SiLU(), nn.Linear(width, width))
            for size in conditions.values()
            if not on_grid(size, grid)
        )

    def vector(self, y: Any) -> Tensor | None:
        """The sum of what is no channel, `[B, width]`; None if all are."""
        found, layers = None, iter(self.embedded)
        for name, size, part in parts(self.sizes, y, self.kind):
            if on_grid(size, self.grid):
                continue
            layer = next(layers)
            if not isinstance(size, int):
                self._check(name, size, part)
                part = part.reshape(part.shape[0], -1).to(next(layer.parameters()))
            found = layer(part) if found is None else found + layer(part)
        return found

    def beside(self, z: Tensor, y: Any) -> Tensor:
        """The row with its channels, `[B, C + channels, *grid]`; coarser arrays are repeated."""
        if not self.channels:
            return z
        found = [z]
        for name, size, part in parts(self.sizes, y, self.kind):
            if not isinstance(size, int) and on_grid(size, self.grid):
                self._check(name, size, part)
                for axis, (k, n) in enumerate(zip(size[1:], self.grid, strict=True)):
                    part = part.repeat_interleave(n // k, axis + 2) if n > k else part
                found.append(part.to(z))
        return torch.cat(found, 1)

    def _check(self, name: str, size: tuple[int, ...], part: Tensor) -> None:
        if tuple(part.shape[1:]) != size:
            raise ValueError(f"the condition {name} has shape {tuple(part.shape)}, and this {self.kind} takes rows of shape {size}")
