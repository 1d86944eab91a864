"""Which way a field's derivatives are made: carried where that was found right on a few rows, else by torch's forward mode."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from meanstep.calls import guarded
from meanstep.precise import uncast, weighs_low
from meanstep.shapes import tree_map
from meanstep.tangents.forward_mode import Directions, Rules, derivative
from meanstep.tangents.jvp import Way, bare, carried, recorded, rehearsal, separate, taped, transformed
from meanstep.types import Field

T = TypeVar("T")


class Verdict:
    """What is known of one module in one mode: how often it was asked, and why its tangents cannot be carried, if they cannot."""

    def __init__(self, training: bool) -> None:
        self.calls, self.reason, self.training = 0, "", training


VERDICTS: WeakKeyDictionary[nn.Module, Verdict] = WeakKeyDictionary()
GRAPHS: WeakKeyDictionary[nn.Module, Verdict] = WeakKeyDictionary()
"""The same of derivatives that have a graph."""


def trusted(field: Any) -> bool:
    """Whether the field's own class says `carries_tangents = True`; a subclass must say so again."""
    return "carries_tangents" in type(field).__dict__ and bool(field.carries_tangents)


def automatic(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, Tensor]:
    """`carried` where it works, else `separate`; under compile `carried` for what is trusted or was found right before, else `recorded`.

    `along` as of `carried`. A module is tried on four of its rows both ways, values, tangents and gradients, in its calls number 1, 2, 4, 8
    and so on: one that leaves out a tangent is found out, also if its first layers start from zero. Its mode (train or eval) changing
    starts it anew.
    """
    return chosen(field, z, r, t, y, along, lambda way: way(field, z, r, t, y, along))


def automatic_recorded(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, Tensor]:
    """A derivative with a graph: `taped` where it works, else `recorded`, with which it is compared as `automatic` compares.

    `along` as of `carried`. Under compile and inside torch.func always `recorded`.
    """
    return chosen(field, z, r, t, y, along, lambda way: way(field, z, r, t, y, along), graph=True)


def chosen(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions, run: Callable[[Way], T], graph: bool = False) -> T:
    """What `run` makes of the way that suits the field, see `automatic`; with a `graph`, see `automatic_recorded`."""
    module = getattr(field, "headed", field)
    if torch.compiler.is_compiling():
        known = not graph and (trusted(field) or getattr(module, "_tangents_found_right", False))
        return run(carried if known else recorded)
    fast, slow, verdicts = (taped, recorded, GRAPHS) if graph else (carried, separate, VERDICTS)
    if graph and bare(field) is not field:  # DDP would have to follow the tangent's graph: refused by the other way, with the remedy
        return run(slow)
    if not isinstance(module, nn.Module) or transformed():
        return run(fast if trusted(field) and not (graph and transformed()) else slow)
    verdict = verdicts.setdefault(module, Verdict(module.training))
    if verdict.training != module.training:
        verdict = verdicts[module] = Verdict(module.training)
    verdict.calls += 1
    reason = _checked(module, field, z, r, t, y, along, graph) if _due(verdict, field, z, t) else verdict.reason
    if not reason:
        try:
            return run(fast)
        except torch.OutOfMemoryError:
            raise
        except Exception as missing:  # whatever a network does with an object that is no tensor
            reason = str(missing) or type(missing).__name__
    try:
        found = run(slow)
    except Exception:  # of the rows and not of the way: nothing is known of the network by it
        verdict.calls -= 1
        raise
    verdict.reason = reason
    if not graph:
        _mark(module, False)
    return found


def _due(verdict: Verdict, field: Field, z: Tensor, t: Tensor) -> bool:
    """Whether this call is checked: not what is trusted, not a single row, not while a CUDA graph is captured."""
    if trusted(field) or verdict.reason or verdict.calls & (verdict.calls - 1) or t.shape[t.ndim - 1] < 2:
        return False
    return not (z.is_cuda and torch.cuda.is_current_stream_capturing())


def _checked(module: nn.Module, field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions, graph: bool) -> str:
    """The objection of four rows, and the module's buffers as they were."""
    kept = [(b, b.clone()) for b in module.buffers()]
    rows: Any = tree_map(lambda p: p.narrow(t.ndim - 1, 0, min(4, p.shape[t.ndim - 1])), (z, r, t, y, along))
    reason = _objection(field, rows[0], rows[1], rows[2], rows[3], rows[4], graph)
    with torch.no_grad():
        for buffer, value in kept:
            buffer.data.copy_(value)  # uncounted: an earlier graph may need the buffer
    if not graph and not reason:
        _mark(module, True)
    return reason


def _mark(module: Any, right: bool) -> None:
    """Where a compiled step can read the verdict."""
    module._tangents_found_right = right


def _objection(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions, graph: bool) -> str:
    """Why tangents cannot be carried through a module, or nothing: values, tangents and gradients of both ways on a few rows."""
    inner, axis = bare(field), t.ndim - 1
    along = tuple(None if d is None else d.narrow(axis, 0, min(2, d.shape[axis])) for d in along)  # type: ignore[assignment]
    leaf = z.detach().requires_grad_(torch.is_grad_enabled())
    try:
        u, found, pull = _trial(lambda: (taped if graph else carried)(inner, leaf, r, t, y, along), leaf, field)
    except Exception as missing:  # whatever a network does with an object that is no tensor
        return f"{type(missing).__name__}: {missing}"
    everywhere = _padded(along, (z, r, t), axis)  # all rows, as in the other passes, so that dropout drops the same
    if graph:
        return _other_graph(field, leaf, r, t, y, everywhere, (u, found, pull))
    with rehearsal(z, field) as rehearsed:
        slope, tolerance = _reference(inner, z, r, t, y, everywhere)
    if rehearsed.drew and not _apart(found, slope.narrow(axis, 0, found.shape[axis])) <= tolerance:
        slope, tolerance = _difference(inner, z, r, t, y, everywhere)  # forward mode drops others where a tensor is not contiguous
    plain, _, other = _trial(lambda: (inner(leaf, r, t, y), None), leaf, field)
    return _compared((u, found, pull), (plain, slope.narrow(axis, 0, found.shape[axis]), other), tolerance)


def _other_graph(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions, ours: tuple[Tensor, Tensor, Tensor]) -> str:
    """What a recorded forward-mode pass has against values, derivatives and gradients of both."""
    axis, n = t.ndim - 1, ours[1].shape[t.ndim - 1]

    def run() -> tuple[Tensor, Tensor]:
        u, du = recorded(bare(field), z, r, t, y, along)
        return u, du.narrow(axis, 0, n)

    try:
        theirs = _trial(run, z, field)
    except Exception as missing:  # it has none to compare with, and says so itself when it is asked
        return f"{type(missing).__name__}: {missing}"
    half = torch.is_autocast_enabled(z.device.type) or ours[1].dtype in (torch.bfloat16, torch.float16)
    return _compared(ours, theirs, 0.1 if half else 1e-3)


def _compared(ours: tuple[Tensor, Tensor, Tensor], theirs: tuple[Tensor, Tensor, Tensor], tolerance: float) -> str:
    """What is wrong with a value, its derivative and a gradient, or nothing."""
    for what, a, b in zip(("values", "tangents", "gradients"), ours, theirs, strict=True):
        if not (error := _apart(a, b)) <= tolerance:
            return f"carried {what} are off by {error:.2g} of their norm"
    return ""


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """How far the first is from the second, in its norm; 0 where the second is not finite."""
    size, error = (x.detach().float().norm().item() for x in (theirs, ours.to(theirs) - theirs))
    if not math.isfinite(size) or error <= 1e-30:
        return 0.0
    return error / size if size else math.inf


def _trial(run: Callable[[], tuple[Tensor, Any]], leaf: Tensor, field: Field) -> tuple[Tensor, Any, Tensor]:
    """What a pass gives, and the gradient of its sum of squares in the samples (in the weights it would count for DDP and FSDP).

    A derivative that has a graph is part of the sum.
    """
    graded = leaf.requires_grad
    with rehearsal(leaf, field), torch.set_grad_enabled(graded):
        u, found = run()
        if not (graded and u.requires_grad):
            return u, found, u
        outs = [x for x in (u, found) if isinstance(x, Tensor) and x.requires_grad]
        return u, found, torch.autograd.grad([x.float().square().sum() for x in outs], leaf)[0]


def _padded(along: Directions, like: tuple[Tensor, Tensor, Tensor], axis: int) -> Any:
    """The directions on all rows, 0 on those that had none."""

    def longer(d: Tensor | None, p: Tensor) -> Tensor | None:
        if d is None:
            return None
        n = d.shape[axis]
        return torch.cat([d, d.new_zeros(p.narrow(axis, n, p.shape[axis] - n).shape)], axis)

    return [longer(d, p) for d, p in zip(along, like, strict=True)]


def _reference(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, float]:
    """The derivative by forward mode, or by a symmetric difference where a layer has no such derivative, and how well it is known."""
    for layers in (nullcontext(), Rules(nn.functional.group_norm)):  # torch has no derivative of that on a view, such as transposed tokens
        try:
            with layers:
                found = derivative(field, z, r, t, y, along)[1]
            half = torch.is_autocast_enabled(z.device.type) or found.dtype in (torch.bfloat16, torch.float16)
            return found, 0.1 if half else 1e-3
        except (TypeError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
    return _difference(field, z, r, t, y, along)


def _difference(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, float]:
    """The symmetric difference, the same random numbers at both ends, and how well it is known."""
    h = torch.finfo(z.dtype).eps ** (1 / 3)

    def at(s: float) -> Tensor:
        moved = [p if d is None else p + s * d.to(p) for p, d in zip((z, r, t), along, strict=True)]
        with rehearsal(z, field):
            return guarded(field, moved[0], moved[1], moved[2], y)

    with nullcontext() if weighs_low(field) else uncast(z):
        return (at(h) - at(-h)) / (2 * h), 0.1
