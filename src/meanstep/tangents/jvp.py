"""Evaluations of a field with a derivative along the first rows: the ways to make one, and the choice. Knows no objectives.

A way is a function `(field, z, r, t, y, along) -> (u, du)`: `u` `[*B, *E]` of all rows carries the gradient, `du` is the derivative along
`(dz, dr, dt)` of the first rows, as many as the directions have.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from meanstep.calls import guarded
from meanstep.shapes import tree_map
from meanstep.tangents import heads, layer_rules, recurrent, rules, shape_rules  # noqa: F401 (they fill the table)
from meanstep.tangents.asking import taken_for_tensors
from meanstep.tangents.dual import Dual, Several, Unsupported, several
from meanstep.tangents.forward_mode import Directions, Rules, derivative
from meanstep.types import Field

Way = Callable[[Field, Tensor, Tensor, Tensor, Any, Directions], tuple[Tensor, Tensor]]
T = TypeVar("T")


@contextmanager
def rehearsal(z: Tensor, field: Field) -> Iterator[SimpleNamespace]:
    """No gradient, and the random numbers drawn inside (dropout), `drew` says whether some were, are drawn again by whatever follows.

    Under compile the random state cannot be touched: `ValueError` if the field has a dropout layer at work.
    """
    found = SimpleNamespace(drew=False)
    if torch.compiler.is_compiling():
        if isinstance(field, nn.Module) and (layer := _dropout(field)):
            raise ValueError(
                f"this rate evaluates the network twice with the same dropout, which cannot be compiled: remove {layer} or do not compile"
            )
        with torch.no_grad():
            yield found
        return
    devices = [] if z.device.type == "cpu" else [z.device]
    with torch.no_grad(), torch.random.fork_rng(devices, device_type=z.device.type if devices else "cuda"):
        before = _random_state(z.device)
        yield found
        found.drew = not torch.equal(before, _random_state(z.device))


def _random_state(device: torch.device) -> Tensor:
    return torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)


def _dropout(field: nn.Module) -> str | None:
    """The name of a dropout layer in train mode."""
    for name, module in field.named_modules():
        share = module.dropout if isinstance(module, nn.MultiheadAttention) else getattr(module, "p", 0.0)
        if module.training and share and isinstance(module, (nn.modules.dropout._DropoutNd, nn.MultiheadAttention)):
            return name or type(module).__name__
    return None


# Ways --------------------------------------------------------------------------------------------------------------------------------


def carried(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, Tensor]:
    """One forward pass of all rows; a tangent without gradient travels beside the first ones by our rules. `Unsupported` if one lacks.

    `along`: `(dz, dr, dt)`, None meaning 0, of as many first rows as have a tangent. The result is `u` of all rows and the derivative of
    these.
    """
    u, (du,) = beside(field, z, r, t, y, (along,))
    return u, du


def beside(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, directions: Sequence[Directions]) -> tuple[Tensor, list[Tensor]]:
    """`carried` with a tangent along each of several directions, all by one pass."""
    graded = torch.is_grad_enabled()
    given: list[Any] = [_dual(p, ds, t, graded) for p, ds in zip((z, r, t), zip(*directions, strict=True), strict=True)]
    with taken_for_tensors():
        out: Any = guarded(field, given[0], given[1], given[2], y)
    if isinstance(out, Tensor):
        return out, [torch.zeros_like(divided(out, r, t, None, directions[0])[0][0]) for _ in directions]
    if not isinstance(out, Dual) or out.axis % out.dim() != t.ndim - 1:
        raise Unsupported("the network's result is no tensor with the batch where it was")
    found = out.tangents if isinstance(out, Several) else (out.tangent,)
    return out.primal, [torch.zeros_like(out.tangent) if d is None else d for d in found]


def _dual(p: Tensor, ds: Sequence[Tensor | None], t: Tensor, graded: bool) -> Any:
    given, axis = [None if d is None else d.to(p) for d in ds], t.ndim - 1 - p.ndim
    if len(given) > 1:
        return several(p, given, axis, graded)
    return p if given[0] is None else Dual(p, given[0], axis, graded)


def separate(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, Tensor]:
    """A forward-mode pass of the first rows without gradient, then an ordinary one of all rows with whatever kernels the network likes.

    `along` as of `carried`. If the first pass draws random numbers (dropout), its rows get an ordinary pass of their own that draws the
    same.
    """
    rows, rest = divided(z, r, t, y, along)
    du, drew = aside(field, rows, along)
    if not drew or rest is None:
        return guarded(field, z, r, t, y), du
    return torch.cat([guarded(field, *rows), guarded(field, *rest)], t.ndim - 1), du


def aside(field: Field, rows: Any, along: Directions) -> tuple[Tensor, bool]:
    """The derivative by a forward-mode pass without gradient, and whether random numbers were drawn, which are drawn again afterwards."""
    with rehearsal(rows[0], field) as rehearsed, nullcontext() if _transformed() else Rules():
        du = derivative(_bare(field), rows[0], rows[1], rows[2], rows[3], along)[1]
    return du, rehearsed.drew


def recorded(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, Tensor]:
    """A forward-mode pass of the first rows with its graph, the derivative's included, and an ordinary one of the other rows.

    `along` as of `carried`.
    """
    rows, rest = divided(z, r, t, y, along)
    u, du = derivative(field, rows[0], rows[1], rows[2], rows[3], along)
    return u if rest is None else torch.cat([u, guarded(field, *rest)], t.ndim - 1), du


def divided(z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Any, Any]:
    """The rows that a derivative is asked for, and the others if there are any."""
    axis, n = t.ndim - 1, next(d.shape[t.ndim - 1] for d in along if d is not None)
    rows = tree_map(lambda p: p.narrow(axis, 0, n), (z, r, t, y))
    return rows, tree_map(lambda p: p.narrow(axis, n, t.shape[axis] - n), (z, r, t, y)) if n < t.shape[axis] else None


def _bare(field: Field) -> Field:
    """The network inside a DDP wrapper, through which forward mode fails."""
    inner: Field = field.module if isinstance(field, nn.parallel.DistributedDataParallel) else field
    return inner


def _transformed() -> bool:
    """Whether this runs inside vmap, grad and the like, for which our operators have no rules."""
    return torch._C._functorch.peek_interpreter_stack() is not None


# The choice --------------------------------------------------------------------------------------------------------------------------


class Verdict:
    """What is known of one module in one mode: how often it was asked, and why its tangents cannot be carried, if they cannot."""

    def __init__(self, training: bool) -> None:
        self.calls, self.reason, self.training = 0, "", training


VERDICTS: WeakKeyDictionary[nn.Module, Verdict] = WeakKeyDictionary()


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


def chosen(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions, run: Callable[[Way], T]) -> T:
    """What `run` makes of the way that suits the field, see `automatic`."""
    module = getattr(field, "headed", field)
    if torch.compiler.is_compiling():
        known = trusted(field) or getattr(module, "_tangents_found_right", False)
        return run(carried if known else recorded)
    if not isinstance(module, nn.Module) or _transformed():
        return run(carried if trusted(field) else separate)
    verdict = VERDICTS.setdefault(module, Verdict(module.training))
    if verdict.training != module.training:
        verdict = VERDICTS[module] = Verdict(module.training)
    verdict.calls += 1
    if _due(verdict, field, z, t):
        verdict.reason = _checked(module, field, z, r, t, y, along)
    if not verdict.reason:
        try:
            return run(carried)
        except torch.OutOfMemoryError:
            raise
        except Exception as missing:  # whatever a network does with an object that is no tensor
            verdict.reason = str(missing) or type(missing).__name__
            _mark(module, False)
    return run(separate)


def _due(verdict: Verdict, field: Field, z: Tensor, t: Tensor) -> bool:
    """Whether this call is checked: not what is trusted, not a single row, not while a CUDA graph is captured."""
    if trusted(field) or verdict.reason or verdict.calls & (verdict.calls - 1) or t.shape[t.ndim - 1] < 2:
        return False
    return not (z.is_cuda and torch.cuda.is_current_stream_capturing())


def _checked(module: nn.Module, field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> str:
    """The objection of four rows, and the module's buffers as they were."""
    kept = [(b, b.clone()) for b in module.buffers()]
    rows: Any = tree_map(lambda p: p.narrow(t.ndim - 1, 0, min(4, p.shape[t.ndim - 1])), (z, r, t, y, along))
    reason = _objection(field, rows[0], rows[1], rows[2], rows[3], rows[4])
    with torch.no_grad():
        for buffer, value in kept:
            buffer.copy_(value)
    _mark(module, not reason)
    return reason


def _mark(module: Any, right: bool) -> None:
    """Where a compiled step can read the verdict."""
    module._tangents_found_right = right


def _objection(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> str:
    """Why tangents cannot be carried through a module, or nothing: values, tangents and gradients of both ways on a few rows."""
    bare, axis = _bare(field), t.ndim - 1
    along = tuple(None if d is None else d.narrow(axis, 0, min(2, d.shape[axis])) for d in along)  # type: ignore[assignment]
    leaf = z.detach().requires_grad_(torch.is_grad_enabled())
    try:
        u, found, pull = _trial(lambda: carried(bare, leaf, r, t, y, along), leaf, field)
    except Exception as missing:  # whatever a network does with an object that is no tensor
        return f"{type(missing).__name__}: {missing}"
    everywhere = _padded(along, (z, r, t), axis)  # all rows, as in the other passes, so that dropout drops the same
    with rehearsal(z, field) as rehearsed:
        slope, tolerance = _reference(bare, z, r, t, y, everywhere)
    if rehearsed.drew and not _apart(found, slope.narrow(axis, 0, found.shape[axis])) <= tolerance:
        slope, tolerance = _difference(bare, z, r, t, y, everywhere)  # forward mode drops others where a tensor is not contiguous
    plain, _, other = _trial(lambda: (bare(leaf, r, t, y), None), leaf, field)
    pairs = (("tangents", found, slope.narrow(axis, 0, found.shape[axis])), ("values", u, plain), ("gradients", pull, other))
    for what, ours, theirs in pairs:
        if not (error := _apart(ours, theirs)) <= tolerance:
            return f"carried {what} are off by {error:.2g} of their norm"
    return ""


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """How far the first is from the second, in its norm; 0 where the second is not finite."""
    size, error = (x.detach().float().norm().item() for x in (theirs, ours.to(theirs) - theirs))
    if not math.isfinite(size) or error <= 1e-30:
        return 0.0
    return error / size if size else math.inf


def _trial(run: Callable[[], tuple[Tensor, Any]], leaf: Tensor, field: Field) -> tuple[Tensor, Any, Tensor]:
    """What a pass gives, and the gradient of its sum of squares in the samples (in the weights it would count for DDP and FSDP)."""
    graded = leaf.requires_grad
    with rehearsal(leaf, field), torch.set_grad_enabled(graded):
        u, found = run()
        return u, found, torch.autograd.grad(u.float().square().sum(), leaf)[0] if graded and u.requires_grad else u


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

    with torch.autocast(z.device.type, enabled=False):
        return (at(h) - at(-h)) / (2 * h), 0.1
