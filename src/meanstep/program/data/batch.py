"""What goes from the loader to the loss: rows, their condition, and what belongs to them row by row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meanstep.shapes import tree_map


class Batch(NamedTuple):
    """Rows of a training step: `x` `[B, *E]`, of any event shape.

    `start`: position of the first row in the stream of samples, which decides the random numbers of its step. `y`: the condition, a
    tensor or a tree of tensors with leading `B`, None for none; `noise`, `mask`: as `Loss` takes them, None for a fresh draw and no mask.
    """

    start: int
    x: Tensor
    y: Any = None
    noise: Tensor | None = None
    mask: Tensor | None = None

    def map(self, f: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `f` of every tensor."""
        return Batch(self.start, *tree_map(f, self[1:]))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """On a device, its floating numbers of a type: copies need not have ended when this returns."""
        return self.map(lambda p: p.to(device, dtype if p.is_floating_point() else p.dtype, non_blocking=True))
