"""A field is called here, and is seen to leave its inputs as they are and to return a velocity. Knows no derivatives and no objectives."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from meanstep.types import Field


def called(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
    """`field(z, r, t, y)`, one velocity for each entry of `z`; `TypeError` or `ValueError` for anything else, or an input it changed."""
    u: Any = guarded(field, z, r, t, y)
    if not isinstance(u, Tensor):
        raise TypeError(no_tensor(u))
    if u.shape != z.shape:
        raise ValueError(wrong_shape(u.shape, z))
    return u


def guarded(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
    """`field(z, r, t, y)` of any shape; `ValueError` if it changed an input in place, which is seen wherever torch counts changes."""
    before = dict(_versions(z, r, t, y))
    u = real(field(z, r, t, y), "the field")
    for name, version in _versions(z, r, t, y):
        if version != before.get(name, version):
            raise ValueError(f"the network changes its input {name} in place, so its passes see different inputs: work on a copy")
    return u


def real(x: Any, what: str) -> Any:
    """A tensor of floating-point numbers, or what is no tensor at all; `TypeError` for others, whose values would be cut."""
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise TypeError(f"{what} returned {x.dtype}, and a velocity is made of real floating-point numbers: return z's type")
    return x


def wrong_shape(found: Sequence[int], z: Tensor) -> str:
    """The complaint about a field's result."""
    return f"the field returned shape {tuple(found)} for samples of shape {tuple(z.shape)}: it must return one velocity per entry of z"


def no_tensor(u: Any) -> str:
    """The complaint about a result that is no tensor."""
    return f"the field returned a {type(u).__name__}, not a tensor: pick the velocity, e.g. ms.as_field(net, output=lambda out: out[0])"


def _versions(z: Any, r: Any, t: Any, y: Any) -> Iterator[tuple[str, int]]:
    """How often each input was changed in place, by its name; not under compile nor for tensors of inference mode, which do not count."""
    if torch.compiler.is_compiling():
        return
    for name, part in _named((("z", z), ("r", r), ("t", t), ("y", y))):
        if isinstance(part, Tensor) and not part.is_inference():
            yield name, part._version


def _named(parts: Any) -> Iterator[tuple[str, Any]]:
    for name, part in parts:
        if isinstance(part, dict):
            yield from _named((f"{name}[{k!r}]", p) for k, p in part.items())
        elif isinstance(part, (tuple, list)):
            yield from _named((f"{name}[{k}]", p) for k, p in enumerate(part))
        else:
            yield name, part
