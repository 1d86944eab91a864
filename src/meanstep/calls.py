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
    if torch.compiler.is_compiling():
        return real(field(z, r, t, y), "the field")
    before = dict(_versions(z, r, t, y))
    try:
        u = real(field(z, r, t, y), "the field")
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if not getattr(error, "__notes__", None):
            error.add_note(f"the network was called as field(z, r, t, y) with z {_form(z)}, r {_form(r)}, t {_form(t)}, y {_form(y)}")
        raise
    if isinstance(u, Tensor) and (u.device != z.device or u.layout != torch.strided):
        raise ValueError(f"the field returned a {u.layout} tensor on {u.device} for samples on {z.device}: return z's own kind of tensor")
    for name, version in _versions(z, r, t, y):
        if version != before.get(name, version):
            raise ValueError(f"the network changes its input {name} in place, so its passes see different inputs: work on a copy")
    return u


def real(x: Any, what: str) -> Any:
    """A tensor of floating-point numbers, or what is no tensor at all; `TypeError` for others, whose values would be cut."""
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise TypeError(f"{what} returned {x.dtype}, and a velocity is made of real floating-point numbers: return z's type")
    return x


def samples(z: Any, batch_dims: int = 1, name: str = "z", remedy: str = "ms.noise(seeds, shape)") -> Tensor:
    """`z` itself, `[*B, *E]` of real floating-point numbers with `batch_dims` batch axes before the event's; else an error."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{name} must be a torch tensor, one row for each sample, got {type(z).__name__} {z!r:.40}: {remedy}")
    if not z.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {z.dtype}: {remedy}, or {name}.float()")
    if z.ndim <= batch_dims:
        raise ValueError(f"{name} of shape {tuple(z.shape)} leaves no event axis after batch_dims={batch_dims}: use {name}[..., None]")
    return z


def _form(x: Any) -> str:
    if isinstance(x, dict):
        return "{" + ", ".join(f"{k!r}: {_form(p)}" for k, p in x.items()) + "}"
    if isinstance(x, (tuple, list)):
        return "(" + ", ".join(map(_form, x)) + ")"
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}" if hasattr(x, "dtype") else type(x).__name__


def wrong_shape(found: Sequence[int], z: Tensor) -> str:
    """The complaint about a field's result."""
    return f"the field returned shape {tuple(found)} for samples of shape {tuple(z.shape)}: it must return one velocity per entry of z"


def no_tensor(u: Any) -> str:
    """The complaint about a result that is no tensor."""
    return f"the field returned a {type(u).__name__}, not a tensor: pick the velocity, e.g. ms.as_field(net, output=lambda out: out[0])"


def _versions(z: Any, r: Any, t: Any, y: Any) -> Iterator[tuple[str, int]]:
    """How often each input was changed in place, by its name; not for tensors of inference mode, which do not count."""
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
