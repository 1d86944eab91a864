"""A GELU, a LayerNorm, and a scale and shift of tokens with their tangents: value, tangent and the gradient of both in few steps.

Torch differentiates its own backward kernels in twenty steps each, all over memory, and adds up what the value's and the tangent's passes
send back to one input. Here both share what they can, tile by tile in a core's cache. An input is `x` with a tangent `d`.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
once = torch.autograd.function.once_differentiable

ENTRIES = 2**17
"""Of a tile, on a CPU. Tried on one core of an EPYC, 2^13 to 2^18: smaller ones pay for the calls."""
CUBIC = 0.044715


def tiles(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows of all parts at a time, which have as many; on an accelerator all of them."""
    size = max(1, ENTRIES * len(parts[0]) // max(1, parts[0].numel())) if parts[0].device.type == "cpu" else max(1, len(parts[0]))
    return zip(*(torch.split(part, size) for part in parts), strict=True)


def wide(*parts: Tensor) -> list[Tensor]:
    """Half precision in float32."""
    return [part.to(torch.promote_types(part.dtype, torch.float32)) for part in parts]


class Gelu(torch.autograd.Function):
    """`gelu(x)` and `gelu'(x) d`; `approximate` as of `F.gelu`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
        """`d` of the shape of `x`. Kept for later are `gelu'(x)` and `gelu''(x) d`."""
        made = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(4)]
        space: list[Tensor] = []
        for at, e, *out in tiles(*(part.reshape(-1) for part in (x, d, *made))):
            at = wide(at)[0]
            space = space or [torch.empty_like(at) for _ in range(6)]
            spare = [part[: len(at)] for part in space]  # memory that is asked for anew comes in pages of zeros
            y, slope, curve = (out[0], *out[2:]) if at.dtype == x.dtype else spare[3:]
            bends(at, y, slope, curve, spare[:3], approximate)
            torch.mul(slope, e, out=out[1])
            curve.mul_(e)
            if y is not out[0]:
                for filled, part in zip((out[0], *out[2:]), (y, slope, curve), strict=True):
                    filled.copy_(part)
        ctx.save_for_backward(*made[2:])
        ctx.set_materialize_grads(False)
        return made[0], made[1]

    @staticmethod
    @once
    def backward(ctx: Any, g: Tensor | None, e: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        """`gelu'(x) g + gelu''(x) d e`, and `gelu'(x) e`."""
        slope, curve = ctx.saved_tensors
        if g is None or e is None:
            return (None if g is None else slope * g, None, None) if e is None else (curve * e, slope * e, None)
        into, along = torch.empty_like(slope), torch.empty_like(slope)
        for s, c, a, b, out, side in tiles(*(part.reshape(-1) for part in (slope, curve, g, e, into, along))):
            torch.mul(s, a, out=out).addcmul_(c, b)
            torch.mul(s, b, out=side)
        return into, along, None


def bends(x: Tensor, y: Tensor, slope: Tensor, curve: Tensor, space: list[Tensor], approximate: str) -> None:
    """Fill in GELU at `x`, and its first two derivatives; `space`: three more of its shape."""
    share, inner, rest = space
    if approximate == "none":
        torch.mul(x, x, out=rest)
        torch.mul(rest, -0.5, out=inner).exp_().mul_(1 / math.sqrt(2 * math.pi))  # the density
        torch.mul(x, math.sqrt(0.5), out=share).erf_().add_(1).mul_(0.5)
        torch.mul(share, x, out=y)
        torch.addcmul(share, x, inner, out=slope)
        torch.mul(rest.neg_().add_(2), inner, out=curve)
        return
    k = math.sqrt(8 / math.pi)  # tanh(w / 2) = 2 sigmoid(w) - 1 with w = k (x + CUBIC x^3)
    third, nine, twelve, last = (x.new_full((), c) for c in (k / 3, 9.0, 12.0, -2 * k))
    torch.add(third, torch.mul(x, x, out=inner), alpha=k * CUBIC, out=inner)  # w' / 3
    moved = torch.mul(inner, x, out=y)  # x w' / 3
    torch.add(moved, x, alpha=2 * k / 3, out=share).sigmoid_()
    bell = torch.addcmul(share, share, share, value=-1, out=curve)  # the sigmoid's derivative
    torch.addcmul(share, bell, moved, value=3, out=slope)
    torch.add(nine, share, alpha=-18, out=rest)
    torch.addcmul(twelve, rest, moved, out=rest)
    torch.addcmul(last, rest, inner, out=rest)
    curve.mul_(rest)
    torch.mul(share, x, out=y)


def along_gelu(d: Tensor, x: Tensor) -> Tensor:
    """`gelu'(x) d` of the tanh form, without gradient: a sigmoid in place of torch's tanh and its polynomial twice."""
    made = torch.empty_like(x, memory_format=torch.contiguous_format)
    k, space = math.sqrt(8 / math.pi), None
    third = x.new_full((), k / 3)
    for at, e, out in tiles(x.reshape(-1), d.reshape(-1), made.view(-1)):
        space = torch.empty(2, len(at), dtype=x.dtype, device=x.device) if space is None else space
        moved, share = space[:, : len(at)]
        torch.add(third, torch.mul(at, at, out=moved), alpha=k * CUBIC, out=moved).mul_(at)  # as in `bends`
        torch.add(moved, at, alpha=2 * k / 3, out=share).sigmoid_()
        bell = torch.addcmul(share, share, share, value=-1, out=out)
        torch.addcmul(share, bell, moved, value=3, out=out).mul_(e)
    return made


class LayerNorm(torch.autograd.Function):
    """A LayerNorm without weight over the last axis and its tangent `J d`, where `J` is its symmetric Jacobian at `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """`[..., C]`, both contiguous."""
        y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(x, d, y, mean, rstd)
        ctx.set_materialize_grads(False)
        return y, _jacobian(d, x, mean, rstd)

    @staticmethod
    @once
    def backward(ctx: Any, g: Tensor | None, e: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        """`J g` and the gradient of `<e, J d>`, that is `J (g - s <d, y> e - s <e, y> d) - s <e, J d> y` with `s` one over the deviation
        and means for products; and `J e`.
        """
        x, d, y, mean, rstd = ctx.saved_tensors
        if e is None:
            return (None if g is None else _jacobian(g.contiguous(), x, mean, rstd)), None, None
        into, along = torch.empty_like(x), torch.empty_like(x)
        given = (x, d, y, mean, rstd, e, *(() if g is None else (g,)), into, along)
        space = None
        for at, c, h, m, s, b, *rest in tiles(*(part.reshape(-1, part.shape[-1]) for part in given)):
            back = _jacobian(b, at, m, s)
            rest[-1].copy_(back)
            c, h, b, back = wide(c, h, b, back)
            space = torch.empty_like(h) if space is None else space
            moved = space[: len(h)]
            dh, eh, ed = (torch.mul(p, q, out=moved).mean(-1, keepdim=True).mul_(-s) for p, q in ((c, h), (b, h), (c, back)))
            torch.mul(b, dh, out=moved).addcmul_(c, eh)
            if g is not None:
                moved.add_(rest[0])
            rest[-2].copy_(_jacobian(moved.to(at.dtype), at, m, s).to(h.dtype).addcmul_(h, ed))
        return into, along, None


def _jacobian(d: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """`J d`."""
    found: Tensor = aten.native_layer_norm_backward(d, x, x.shape[-1:], mean, rstd, None, None, [True, False, False])[0]
    return found


class Scaled(torch.autograd.Function):
    """`y = scale x + shift` and its tangent for `x` `[B, N, C]`, a scale `[B, 1, C]`, and a shift `[B, 1, C]` or `[B, N, C]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, dx: Tensor, dscale: Tensor, dshift: Tensor) -> tuple[Tensor, Tensor]:
        """Tangents of the shapes of their values."""
        y, dy = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
        for at, d, s, ds, b, db, out, side in tiles(x, dx, scale, dscale, shift, dshift, y, dy):
            torch.mul(at, s, out=out).add_(b)
            torch.mul(d, s, out=side).addcmul_(at, ds).add_(db)
        ctx.save_for_backward(x, scale, dx, dscale)
        ctx.one = shift.shape[1] == 1 and x.shape[1] != 1
        return y, dy

    @staticmethod
    @once
    def backward(ctx: Any, g: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        """Of the six inputs."""
        x, scale, dx, dscale = ctx.saved_tensors
        into, along = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
        sums = [torch.empty_like(scale, memory_format=torch.contiguous_format) for _ in range(4 if ctx.one else 2)]
        space = None
        for at, d, s, ds, a, b, out, side, *total in tiles(x, dx, scale, dscale, g, e, into, along, *sums):
            torch.mul(a, s, out=out).addcmul_(b, ds)
            torch.mul(b, s, out=side)
            space = torch.empty_like(out) if space is None else space
            moved = space[: len(out)]
            torch.sum(torch.mul(a, at, out=moved).addcmul_(b, d), 1, keepdim=True, out=total[0])
            torch.sum(torch.mul(b, at, out=moved), 1, keepdim=True, out=total[1])
            for part, found in zip((a, b), total[2:], strict=False):
                torch.sum(part, 1, keepdim=True, out=found)
        return into, sums[0], sums[2] if ctx.one else g, along, sums[1], sums[3] if ctx.one else e
