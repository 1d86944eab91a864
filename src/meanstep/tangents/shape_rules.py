"""Rules of functions that move, pick and sum elements: what they do to the tangent, and where the batch lies afterwards."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from meanstep.tangents.dual import WHOLE, Dual, Unsupported, duals, operator, rule
from meanstep.tangents.rules import outside, shared_axis

# Regrouping in order -----------------------------------------------------------------------------------------------------------------


def merged(shape: Sequence[int], axis: int, out: Sequence[int], rows: int) -> tuple[int, int]:
    """Where the batch lies after elements were regrouped in order, and how many rows have a tangent there; `Unsupported` if torn."""
    before, size = math.prod(shape[:axis]), shape[axis]
    places = [k for k in range(len(out)) if math.prod(out[:k]) == before and out[k] * rows % size == 0]
    if not places:
        raise Unsupported(f"a reshape from {tuple(shape)} to {tuple(out)} takes the batch (axis {axis % len(shape)}) apart")
    same = axis % len(shape)
    alone = size == 1 and same in places  # a single row is like any axis of size 1: most regroupings leave it where it is
    place = same if alone else next((k for k in places if out[k] != 1), places[0])
    return place - len(out), out[place] * rows // size


@rule("reshape", "view", "flatten", "unflatten", "unsqueeze", "squeeze", "reshape_as", "view_as")
def _regrouped(out: Tensor, x: Any, *args: Any, **kwargs: Any) -> tuple[Tensor | None, int]:
    if not isinstance(x, Dual):  # only the shape is another's
        return None, 0
    if out.dtype != x.primal.dtype:
        raise Unsupported("a view of another type")
    axis, rows = merged(x.primal.shape, x.axis, out.shape, x.tangent.shape[x.axis])
    shape = list(out.shape)
    shape[axis] = rows
    return x.tangent.reshape(shape), axis


# Axes --------------------------------------------------------------------------------------------------------------------------------


@rule("permute")
def _permute(out: Tensor, x: Dual, *dims: Any, **kwargs: Any) -> tuple[Tensor, int]:
    order = kwargs.get("dims", dims[0] if dims and isinstance(dims[0], (tuple, list)) else dims)
    moved = [dim % x.dim() for dim in order]
    return x.tangent.permute(moved), moved.index(x.axis % x.dim()) - x.dim()


@rule("transpose", "swapaxes", "swapdims")
def _transpose(out: Tensor, x: Dual, *dims: int, **named: int) -> tuple[Tensor, int]:
    a, b = (dim % x.dim() for dim in (*dims, *named.values()))
    axis, n = x.axis % x.dim(), x.dim()
    return x.tangent.transpose(a, b), {a: b, b: a}.get(axis, axis) - n


@rule("movedim", "moveaxis")
def _movedim(out: Tensor, x: Dual, source: Any, destination: Any) -> tuple[Tensor, int]:
    pairs = [(source, destination)] if isinstance(source, int) else zip(source, destination, strict=True)
    moved = {to % x.dim(): dim % x.dim() for dim, to in pairs}
    order = [k for k in range(x.dim()) if k not in moved.values()]
    for to in sorted(moved):
        order.insert(to, moved[to])
    return _permute(out, x, *order)


def _transposed(a: int, b: int) -> property:
    def read(self: Any) -> Any:
        return self.transpose(a, b)

    return property(read, doc="The transpose.")


for _name, _dims in (("mT", (-2, -1)), ("T", (0, 1))):
    setattr(Dual, _name, _transposed(*_dims))


# Parts -------------------------------------------------------------------------------------------------------------------------------


def _without(x: Dual, dims: Sequence[int]) -> int:
    """The batch axis after other axes are gone."""
    return x.axis + sum(dim % x.dim() > x.axis % x.dim() for dim in dims)


@rule("chunk", "split", "tensor_split")
def _parts(out: Sequence[Tensor], x: Dual, sizes: Any = None, dim: int = 0, **named: Any) -> tuple[list[Tensor], int]:
    outside(x, dim)
    return list(torch.split(x.tangent, [part.shape[dim] for part in out], dim)), x.axis


@rule("unbind")
def _unbind(out: Sequence[Tensor], x: Dual, dim: int = 0) -> tuple[list[Tensor], int]:
    outside(x, dim)
    return list(x.tangent.unbind(dim)), _without(x, [dim])


@rule("narrow")
def _narrow(out: Tensor, x: Dual, dim: int, start: int, length: int) -> tuple[Tensor, int]:
    outside(x, dim)
    return x.tangent.narrow(dim, start, length), x.axis


@rule("select")
def _select(out: Tensor, x: Dual, dim: int, index: int) -> tuple[Tensor, int]:
    outside(x, dim)
    return x.tangent.select(dim, index), _without(x, [dim])


@rule("__getitem__")
def _item(out: Tensor, x: Dual, index: Any) -> tuple[Tensor, int]:
    """Numbers, slices, None and ... outside the batch axis."""
    index = index if isinstance(index, tuple) else (index,)
    if not all(part is None or part is Ellipsis or (isinstance(part, (int, slice)) and not isinstance(part, bool)) for part in index):
        raise Unsupported("indexing by tensors or lists")
    gone = sum(part is not None and part is not Ellipsis for part in index)
    where = next((k for k, part in enumerate(index) if part is Ellipsis), len(index))
    full = (*index[:where], *[slice(None)] * (x.dim() - gone), *index[where + 1 :])
    axes = [k for k, part in enumerate(full) if part is not None]  # place in the index of each axis of x
    place = axes[x.axis % x.dim()]
    if full[place] != slice(None):
        raise Unsupported("indexing the batch axis mixes the rows")
    left = sum(not isinstance(part, int) for part in full[place:])
    return x.tangent[full], -left


@rule("unfold", places=(Tensor,))
def _windows(out: Tensor, x: Dual, dimension: int, size: int, step: int) -> tuple[Tensor, int]:
    outside(x, dimension)
    return x.tangent.unfold(dimension, size, step), x.axis - 1


# Joining and repeating ---------------------------------------------------------------------------------------------------------------


def _filled(parts: Sequence[Any]) -> tuple[list[Tensor], int]:
    """The tangents of all parts, those of constants being 0."""
    found = duals(parts, {})
    return [p.tangent if isinstance(p, Dual) else torch.zeros_like(found[0].first(p)) for p in parts], shared_axis(found)


@rule("cat", "concat", "concatenate")
def _cat(out: Tensor, parts: Sequence[Any], dim: int = 0) -> tuple[Tensor, int]:
    tangents, axis = _filled(parts)
    outside(duals(parts, {})[0], dim)
    return torch.cat([d.to(out.dtype) for d in tangents], dim), axis


@rule("stack")
def _stack(out: Tensor, parts: Sequence[Any], dim: int = 0) -> tuple[Tensor, int]:
    tangents, axis = _filled(parts)
    return torch.stack([d.to(out.dtype) for d in tangents], dim), axis - (dim % out.ndim > axis % (out.ndim - 1))


@rule("expand", "expand_as", "broadcast_to")
def _expand(out: Tensor, x: Any, *shape: Any) -> tuple[Tensor | None, int]:
    if not isinstance(x, Dual):
        return None, 0
    if out.shape[x.axis] != x.primal.shape[x.axis]:
        raise Unsupported("expanding the batch axis")
    return x.tangent, x.axis  # its result is expanded like every other


@rule("repeat")
def _repeat(out: Tensor, x: Dual, *times: Any) -> tuple[Tensor, int]:
    times = tuple(times[0]) if isinstance(times[0], (tuple, list)) else times
    if times[x.axis] != 1:
        raise Unsupported("repeating the batch axis")
    return x.tangent.repeat(*times), x.axis


def _reduction(name: str, function: Callable[..., Tensor]) -> None:
    def tangent(out: Tensor, x: Dual, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> tuple[Tensor, int]:
        if dim is None:
            raise Unsupported(f"a {name} over all rows")
        dims = [dim] if isinstance(dim, int) else list(dim)
        outside(x, *dims)
        return function(x.tangent, dims, keepdim=keepdim), x.axis if keepdim else _without(x, dims)

    rule(name)(tangent)


_reduction("sum", torch.sum)
_reduction("mean", torch.mean)


# Constants ---------------------------------------------------------------------------------------------------------------------------


def _constant(name: str, place: Any = torch) -> None:
    """A function whose result has no tangent."""

    def constant(*args: Any, function: Callable[..., Any] = getattr(place, name), **kwargs: Any) -> Any:
        return function(*(p.primal if isinstance(p, Dual) else p for p in args), **kwargs)

    rule(name, table=WHOLE)(constant)


for _name in ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "eq", "ne", "lt", "le", "gt", "ge"):
    _constant(_name)


for _name in ("new_zeros", "new_ones", "new_empty", "new_full"):
    _constant(_name, Tensor)


for _sign in ("eq", "ne", "lt", "le", "gt", "ge"):
    operator(f"__{_sign}__", getattr(torch, _sign))
