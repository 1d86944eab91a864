"""Tangents of a GELU and of a LayerNorm with a gradient: the passes of their backward in few steps over memory.

Torch differentiates its own backward kernels in twenty steps each; here a gradient in the input and one in the tangent share what they can.
"""

import math
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
once = torch.autograd.function.once_differentiable

ENTRIES = 2**15
"""Of a tile whose temporaries stay in a core's second-level cache."""
CUBIC = 0.044715


class Gelu(torch.autograd.Function):
    """`gelu'(x) d`, with a gradient in `d` and in `x`; `approximate` as of `F.gelu`."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, x: Tensor, approximate: str) -> Tensor:
        """`d` broadcast to `x`."""
        ctx.save_for_backward(d, x)
        ctx.approximate = approximate
        out: Tensor = aten.gelu_backward(d, x, approximate=approximate)
        return out

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """`gelu'(x) g` and `gelu''(x) d g`."""
        d, x = ctx.saved_tensors
        slope, curve = (
            torch.empty_like(x, memory_format=torch.contiguous_format),
            torch.empty_like(x, memory_format=torch.contiguous_format),
        )
        flat = [part.reshape(-1) for part in (grad, d, x, slope, curve)]
        size = ENTRIES if x.device.type == "cpu" else max(1, x.numel())
        for g, e, at, first, second in zip(*(part.split(size) for part in flat), strict=True):
            bends(at, first, second, ctx.approximate)
            first.mul_(g)
            second.mul_(g).mul_(e)
        return slope, curve, None


def bends(x: Tensor, first: Tensor, second: Tensor, approximate: str) -> None:
    """Fill in the first two derivatives of GELU at `x`."""
    if approximate == "none":
        density = x.square().mul_(-0.5).exp_().mul_(1 / math.sqrt(2 * math.pi))
        torch.mul(x, math.sqrt(0.5), out=first)
        first.erf_().add_(1).mul_(0.5).addcmul_(x, density)
        square = x.square().neg_().add_(2)
        torch.mul(density, square, out=second)
        return
    k = math.sqrt(2 / math.pi)
    square = x.square()
    du = square.mul(3 * k * CUBIC).add_(k)
    th = square.mul_(k * CUBIC).add_(k).mul_(x).tanh_()
    s = th.square().neg_().add_(1)
    half = du.mul(x).mul_(0.5)
    torch.add(th, 1, out=first)
    first.mul_(0.5).addcmul_(half, s)
    torch.mul(half, th, out=second)  # half of x th du
    second.mul_(du).mul_(-2).add_(du).addcmul_(x.square(), torch.ones((), dtype=x.dtype, device=x.device), value=3 * k * CUBIC).mul_(s)


class LayerNorm(torch.autograd.Function):
    """The tangent of a LayerNorm without weight over the last axis, with a gradient in the tangent `d` and in `x`."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, x: Tensor, eps: float) -> Tensor:
        """`[..., C]`."""
        shape = x.shape[-1:]
        _, mean, rstd = torch.native_layer_norm(x, shape, None, None, eps)
        out: Tensor = aten.native_layer_norm_backward(d, x, shape, mean, rstd, None, None, [True, False, False])[0]
        ctx.save_for_backward(d, x, mean, rstd, out)
        return out

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """With `h` the normed input, `s` one over its deviation and `J` the symmetric Jacobian: `J g`, and the gradient of `<g, J d>`."""
        d, x, mean, rstd, out = ctx.saved_tensors
        grad = grad.contiguous()
        back = aten.native_layer_norm_backward(grad, x, x.shape[-1:], mean, rstd, None, None, [True, False, False])[0]
        h, size = (x - mean).mul_(rstd), x.shape[-1]
        a, b, c = (torch.linalg.vecdot(*pair)[..., None].div_(size) for pair in ((grad, h), (d, h), (grad, out)))
        into = h.mul_(c.mul_(rstd).neg_()).addcmul_(back, b.mul_(rstd).neg_()).addcmul_(out, a.mul_(rstd).neg_())
        return back, into, None
