"""All broadcasting there is: batch axes lead, event axes follow. Knows no times and no fields."""

import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor


@overload
def over(t: Tensor, z: Tensor) -> Tensor: ...
@overload
def over(t: float | Tensor, z: Tensor) -> float | Tensor: ...
def over(t: float | Tensor, z: Tensor) -> float | Tensor:
    """Append axes to `t` `[*B]` until it broadcasts over the event axes of `z` `[*B, *E]`; a number stays a number."""
    if isinstance(t, (int, float)) or not hasattr(t, "__torch_function__"):  # a tensor, or what stands for one inside a network
        return t
    return t.reshape((*t.shape, *(1,) * (z.ndim - t.ndim)))


def filled(x: float | Tensor, like: Tensor) -> Tensor:
    """A number or tensor as a tensor of the type of another and where that lives; a number is made there, which waits for no device."""
    return like.new_full((), x) if isinstance(x, int | float) else torch.as_tensor(x, dtype=like.dtype, device=like.device)


def event_size(z: Tensor, t: Tensor, mask: Tensor | None = None) -> float | Tensor:
    """Number of entries that count in each row of `z` `[*B, *E]`: a number, or `[*B]` under a mask."""
    return math.prod(z.shape[t.ndim :]) if mask is None else _kept(z, t, mask)


def _kept(z: Tensor, t: Tensor, mask: Tensor) -> Tensor:
    return over(mask, z).expand_as(z).reshape(*t.shape, -1).sum(-1)


def per_sample(x: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of `x` `[*B, *E]` over the event axes, `[*B]`; masked entries do not count, whatever they hold."""
    if mask is None:
        return x.reshape(*t.shape, -1).mean(-1)
    kept = torch.where(over(mask, x), x, torch.zeros((), dtype=x.dtype, device=x.device))
    return kept.reshape(*t.shape, -1).sum(-1) / _kept(x, t, mask).clamp(min=1)


def inner(x: Tensor, y: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
    """The inner product of each row's events, `[*B, *E] -> [*B]`, summed in float64; masked entries do not count."""
    product = x.double() * y.double()
    if mask is not None:
        product = torch.where(over(mask, product), product, 0.0)
    return product.reshape(*t.shape, -1).sum(-1)


def tree_map(f: Callable[..., Any], y: Any, *others: Any) -> Any:
    """Apply `f` to every tensor of a tensor, tuple, named tuple, list or dict; `None` stays `None`."""
    if y is None:
        return None
    if isinstance(y, dict):
        return {k: tree_map(f, v, *(o[k] for o in others)) for k, v in y.items()}
    if isinstance(y, (tuple, list)):
        parts = [tree_map(f, *row) for row in zip(y, *others, strict=True)]
        return type(y)(*parts) if hasattr(y, "_fields") else type(y)(parts)
    return f(y, *others)


def where(rows: Tensor, a: Any, b: Any) -> Any:
    """Row by row `a` where `rows` `[*B]` is true, else `b`, through tensors and structures of tensors."""
    return tree_map(lambda p, q: torch.where(over(rows, q), p, q), a, b)
