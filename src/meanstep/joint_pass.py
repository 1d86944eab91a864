"""Answers the queries of several objectives by one forward pass of the field. Knows no objectives and no losses."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from meanstep.calls import guarded, real, wrong_shape
from meanstep.shapes import tree_map
from meanstep.tangents import Directions, Dual, automatic, several_along, trusted
from meanstep.types import Answer, Field, Query
from meanstep.velocities import auxiliary

T = TypeVar("T")
Probed = tuple[Tensor, Tensor | None, Tensor | None]
"""`u` of a query, its derivative if one was asked for, and those along its probes."""


Hidden = dict[nn.Module, dict[int, Tensor]]
"""What modules of a field return in the pass that carries the gradient, by the number of the query: `[*B, ...]` each."""


@dataclass(frozen=True, eq=False)  # torch 2.11 compares it before it has its entries, while it compiles
class WithHead:
    """A field and its auxiliary head in one pass: `[*B, 2, *E]`, from the field's `with_head(z, r, t, y) -> (u, v)`."""

    headed: Any

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None, /) -> Tensor:
        """Evaluate both."""
        u, v = self.headed.with_head(z, r, t, y)
        return torch.stack([u, v], t.ndim)

    @property
    def carries_tangents(self) -> bool:
        """As of the field."""
        return trusted(self.headed)


def answered(field: Field, query: Query, finish: Callable[[Answer], T]) -> T:
    """What `finish` makes of the answer to one query."""
    return finish(together(field, [query])[0])


def together(field: Field, queries: Sequence[Query], heads: dict[int, list[int]] | None = None) -> list[Answer]:
    """The answers to all queries: those whose conditions have the same structure and whose derivatives are made the same way in one pass.

    Rows with a derivative come first; no row is evaluated twice, and none without a derivative pays for one. `heads`: queries of the head
    that ask for the same rows as some others, in order; a field with a method `with_head` answers them by the same pass.
    """
    return [(u, du) for u, du, _ in probed(field, queries, heads)]


def probed(field: Field, queries: Sequence[Query], heads: dict[int, list[int]] | None = None, hidden: Hidden | None = None) -> list[Probed]:
    """`together`, and beside each answer the derivatives along the query's probes, `[K, *B, *E]`, or None without any.

    They travel in the pass that answers the query. Of one whose answer is known already, or is the head's, they take a pass of their own.
    `hidden`: filled with what its modules return for each query that a pass answers.
    """
    heads = {k: rows for k, rows in (heads or {}).items() if getattr(field, "with_head", None) is not None}
    found: dict[int, Probed] = {k: (q.value, None, _apart(field, q)) for k, q in enumerate(queries) if q.value is not None}
    waiting = sorted((k for k in range(len(queries)) if k not in found | heads), key=lambda k: len(_directions(queries[k])) == 0)
    read: dict[int, Tensor] = {}
    while waiting:
        lead = queries[waiting[0]]
        group = [k for k in waiting if _alike(queries[k], lead)]
        waiting = [k for k in waiting if k not in group]
        both = any(k in rows for rows in heads.values() for k in group)
        with _listening(hidden or {}) as heard:
            answers = _joined(field, [queries[k] for k in group], both)
        sizes, axis = [queries[k].t.shape[-1] for k in group], queries[group[0]].t.ndim - 1
        for layer, out in heard.items():
            if out.ndim > axis and out.shape[axis] == sum(sizes):
                (hidden or {})[layer].update(zip(group, _cut(out, sizes, axis), strict=True))
        for k, (u, v, slopes) in zip(group, answers, strict=True):
            found[k] = _sorted(queries[k], u, slopes) if not queries[k].head else (u, None, _apart(field, queries[k]))
            if v is not None:
                read[k] = v
    for k, rows in heads.items():
        found[k] = torch.cat([read[j] for j in rows], queries[k].t.ndim - 1), None, _apart(field, queries[k])
    return [found[k] for k in range(len(queries))]


@contextmanager
def _listening(hidden: Hidden) -> Iterator[dict[nn.Module, Tensor]]:
    """What the modules return in here with a gradient, the last time each."""
    heard: dict[nn.Module, Tensor] = {}

    def hear(layer: nn.Module, _: Any, out: Any) -> None:
        out = out.primal if isinstance(out, Dual) else out
        if isinstance(out, Tensor) and out.requires_grad and not is_functorch_wrapped_tensor(out):
            heard[layer] = out

    hooks = [layer.register_forward_hook(hear) for layer in hidden]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _directions(q: Query) -> tuple[Directions, ...]:
    """Along what a query asks for derivatives: its own first, then its probes; the head's probes are not its own."""
    probes = () if q.probes is None or q.head else q.probes.unbind(0)
    return (*(() if q.along is None else (q.along,)), *((e, None, None) for e in probes))


def _sorted(q: Query, u: Tensor, slopes: list[Tensor]) -> Probed:
    """The answer, and what its probes found."""
    own = [] if q.along is None else slopes[:1]
    return u, own[0] if own else None, None if q.probes is None else torch.stack(slopes[len(own) :])


@torch.no_grad()
def _apart(field: Field, q: Query) -> Tensor | None:
    """The derivatives along a query's probes by a pass of their own."""
    if q.probes is None:
        return None
    alone = Query(q.z, q.r, q.t, q.y, way=q.way, probes=q.probes)
    return torch.stack(several_along(q.way or automatic, field, q.z, q.r, q.t, q.y, _directions(alone))[1])


def _alike(q: Query, lead: Query) -> bool:
    mine, theirs = _directions(q), _directions(lead)
    same_way = len(mine) == 0 or (q.way is lead.way and _pattern(mine) == _pattern(theirs))
    return same_way and q.head == lead.head and _structure(q.y, q.t.ndim) == _structure(lead.y, lead.t.ndim) and q.z.dtype == lead.z.dtype


def _pattern(directions: tuple[Directions, ...]) -> list[list[bool]]:
    """Which of the inputs move along each direction."""
    return [[d is not None for d in along] for along in directions]


def _structure(y: Any, axes: int) -> Any:
    """What conditions must share to be joined along the last of the batch's `axes`."""
    if isinstance(y, dict):
        return {name: _structure(part, axes) for name, part in y.items()}
    if isinstance(y, (tuple, list)):
        return type(y), [_structure(part, axes) for part in y]
    return None if y is None else (y.dtype, y.shape[: axes - 1], y.shape[axes:])


def _joined(field: Field, queries: list[Query], both: bool) -> list[tuple[Tensor, Tensor | None, list[Tensor]]]:
    """One pass of queries that fit together, those with derivatives first: `u`, the head's velocity if `both`, the derivatives."""
    axis, read = queries[0].t.ndim - 1, WithHead(field) if both else auxiliary(field) if queries[0].head else field

    def join(*parts: Tensor) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts, axis)

    z, r, t, y = tree_map(join, *[(q.z, q.r, q.t, q.y) for q in queries])
    moving = [directions for directions in map(_directions, queries) if len(directions)]
    if moving:
        along: Any = [_row(parts, join) for parts in zip(*moving, strict=True)]
        out, found = several_along(queries[0].way or automatic, read, z, r, t, y, along)
    else:
        out, found = guarded(read, z, r, t, y), []
    _check(out, z, t, both)
    sizes = [q.t.shape[axis] for q in queries]
    cut = [_cut(slope, sizes[: len(moving)], axis) for slope in found]
    slopes = [[part[k] for part in cut] if k < len(moving) else [] for k in range(len(queries))]
    if not both:
        return [(u, None, du) for u, du in zip(_cut(out, sizes, axis), slopes, strict=True)]
    pairs = (part.unbind(t.ndim) for part in _cut(out, sizes, axis))
    return [(u, v, [d.select(t.ndim, 0) for d in du]) for (u, v), du in zip(pairs, slopes, strict=True)]


def _row(parts: Sequence[Directions], join: Callable[..., Tensor]) -> Any:
    """One direction of several queries, joined."""
    return tuple(None if ds[0] is None else join(*ds) for ds in zip(*parts, strict=True))


def _cut(x: Tensor, sizes: list[int], axis: int) -> list[Tensor]:
    """Consecutive rows; copies under compile, where parts of one split that leave a graph are put on a wrong base (torch 2.13)."""
    if not torch.compiler.is_compiling():
        return list(torch.split(x, sizes, axis))
    return [x.narrow(axis, sum(sizes[:k]), n).clone() for k, n in enumerate(sizes)]


def _check(out: Any, z: Tensor, t: Tensor, both: bool) -> None:
    found = tuple(out.shape) if not both else (*out.shape[: t.ndim], *out.shape[t.ndim + 1 :])
    if found != tuple(z.shape):
        raise ValueError(wrong_shape(found, z))
    real(out, "the field")
