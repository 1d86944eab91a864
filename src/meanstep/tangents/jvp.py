"""Evaluations of a field with a derivative along the first rows: the ways to make one. Knows no objectives.

A way is a function `(field, z, r, t, y, along) -> (u, du)`: `u` `[*B, *E]` of all rows carries the gradient, `du` is the derivative along
`(dz, dr, dt)` of the first rows, as many as the directions have.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

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


def taped(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Directions) -> tuple[Tensor, Tensor]:
    """`carried` with a derivative that has a graph; the rows without one take a pass of their own. `Unsupported` if a rule lacks.

    `along` as of `carried`. In one pass the gradient of every part that has a tangent would be padded with zeros for the other rows, and
    added.
    """
    rows, rest = divided(z, r, t, y, along)
    u, (du,) = beside(field, rows[0], rows[1], rows[2], rows[3], (along,), recorded=True)
    return u if rest is None else torch.cat([u, guarded(field, *rest)], t.ndim - 1), du


def beside(
    field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, directions: Sequence[Directions], recorded: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """`carried` with a tangent along each of several directions, all by one pass; `recorded`: along one, with a graph."""
    graded = torch.is_grad_enabled()
    given: list[Any] = [_dual(p, ds, t, graded, recorded) for p, ds in zip((z, r, t), zip(*directions, strict=True), strict=True)]
    with taken_for_tensors():
        out: Any = guarded(field, given[0], given[1], given[2], y)
    if isinstance(out, Tensor):
        return out, [torch.zeros_like(divided(out, r, t, None, directions[0])[0][0]) for _ in directions]
    if not isinstance(out, Dual) or out.axis % out.dim() != t.ndim - 1:
        raise Unsupported("the network's result is no tensor with the batch where it was")
    found = out.tangents if isinstance(out, Several) else (out.tangent,)
    return out.primal, [torch.zeros_like(out.tangent) if d is None else d for d in found]


def _dual(p: Tensor, ds: Sequence[Tensor | None], t: Tensor, graded: bool, recorded: bool) -> Any:
    given, axis = [None if d is None else d.to(p) for d in ds], t.ndim - 1 - p.ndim
    if len(given) > 1:
        return several(p, given, axis, graded)
    return p if given[0] is None else Dual(p, given[0], axis, graded, recorded=recorded)


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
    with rehearsal(rows[0], field) as rehearsed, nullcontext() if transformed() else Rules():
        du = derivative(bare(field), rows[0], rows[1], rows[2], rows[3], along)[1]
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


def bare(field: Field) -> Field:
    """The network inside a DDP wrapper, through which forward mode fails."""
    inner: Field = field.module if isinstance(field, nn.parallel.DistributedDataParallel) else field
    return inner


def transformed() -> bool:
    """Whether this runs inside vmap, grad and the like, for which our operators have no rules."""
    return torch._C._functorch.peek_interpreter_stack() is not None
