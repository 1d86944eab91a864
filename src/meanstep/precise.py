"""State that takes small steps keeps its precision. Knows no mathematics."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn


class Precise(nn.Module):
    """A module whose numbers take small steps, which less precision would lose: `.to`, `.half` and the like never lower their type."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def kept(x: Tensor) -> Tensor:
            moved = fn(x)
            return x.to(moved.device) if _lowers(x, moved) else moved

        return super()._apply(kept, recurse)  # type: ignore[no-untyped-call]


def _lowers(x: Tensor, moved: Tensor) -> bool:
    both = x.is_floating_point() and moved.is_floating_point()
    return both and torch.finfo(moved.dtype).eps > torch.finfo(x.dtype).eps


def low(x: Tensor) -> bool:
    """Whether a tensor is of a floating type of less precision than float32."""
    return x.is_floating_point() and x.element_size() < 4


def weighs_low(field: object) -> bool:
    """Whether a network has weights of less precision than float32, which autocast alone brings together with float32."""
    return isinstance(field, nn.Module) and any(low(p) for p in field.parameters())


def uncast(x: Tensor) -> AbstractContextManager[Any]:
    """Operations on a tensor's device in the types of what they get, whatever the autocast around."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
