"""The tangents of layers: norms, attention, dropout, convolutions and pooling.

LayerNorm without its weight, softmax and elementwise functions have symmetric Jacobians, so their tangent is the fused backward kernel
with the tangent in place of the incoming gradient.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meanstep import modulation
from meanstep.attention import derivative
from meanstep.attention.backward import Together
from meanstep.tangents.curved import LayerNorm, Scaled
from meanstep.tangents.dual import PAIRS, WHOLE, Dual, Unsupported, duals, rule
from meanstep.tangents.rules import alone, kept, outside, pair, paired, plain, shared_axis

aten = torch.ops.aten


def _scaled(d: Tensor, weight: Tensor | None) -> Tensor:
    return d if weight is None else d * weight


@rule("layer_norm")
def _layer_norm(
    out: Tensor, x: Dual, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, int]:
    alone("a norm's weight", weight, bias)
    outside(x, *range(-len(shape), 0))
    rows, d = x.rows.to(out.dtype).contiguous(), x.tangent.to(out.dtype).contiguous()
    if torch.is_grad_enabled():
        return _scaled(_unit_norm(d, rows, len(shape), eps), weight), x.axis
    _, mean, rstd = torch.native_layer_norm(rows, shape, None, None, eps)
    back = aten.native_layer_norm_backward(d, rows, shape, mean, rstd, None, None, [True, False, False])
    return _scaled(back[0], weight), x.axis


@rule("layer_norm", table=PAIRS, places=(F,))
def _layer_norm_pair(
    x: Any, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Dual | None:
    """Without a weight; of one axis if the tangent has a graph, else with the value's own mean and deviation."""
    if weight is not None or bias is not None or torch.is_autocast_enabled(x.device.type) or torch.compiler.is_compiling():
        return None
    if x.recorded:
        if len(shape) != 1 or not paired(x):
            return None
        outside(x, -1)
        return pair(LayerNorm.apply(x.primal.contiguous(), x.tangent.contiguous(), eps), x.axis)  # type: ignore[no-untyped-call]
    if not plain(x) or x.axis != -x.ndim or len(shape) >= x.ndim:
        return None
    out, mean, rstd = torch.native_layer_norm(x.primal, shape, None, None, eps)
    with torch.no_grad():
        rows, d = x.rows.contiguous(), x.tangent.contiguous()
        n = len(d)
        made = aten.native_layer_norm_backward(d, rows, shape, mean[:n], rstd[:n], None, None, [True, False, False])[0]
    return Dual(out, made, x.axis, x.graded, backward=x.backward)


def _unit_norm(d: Tensor, x: Tensor, axes: int, eps: float) -> Tensor:
    """The tangent of a norm over the last axes, without weight, with a gradient."""
    found: Tensor
    _, found = LayerNorm.apply(x.flatten(-axes), d.flatten(-axes), eps)  # type: ignore[no-untyped-call]
    return found.view_as(x)


@rule("rms_norm")
def _rms_norm(out: Tensor, x: Dual, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> tuple[Tensor, int]:
    alone("a norm's weight", weight)
    dims = tuple(range(-len(shape), 0))
    outside(x, *dims)
    rows = x.rows
    scale = (rows.square().mean(dims, keepdim=True) + (torch.finfo(rows.dtype).eps if eps is None else eps)).rsqrt()
    unit = rows * scale
    return _scaled((x.tangent - unit * (unit * x.tangent).mean(dims, keepdim=True)) * scale, weight), x.axis


@rule("group_norm")
def _group_norm(
    out: Tensor, x: Dual, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, int]:
    alone("a norm's weight", weight, bias)
    outside(x, *range(1, x.dim()))
    rows, d = x.rows.to(out.dtype).contiguous(), x.tangent.to(out.dtype).contiguous()
    n, c, size = rows.shape[0], rows.shape[1], math.prod(rows.shape[2:])
    if torch.is_grad_enabled():
        back = _unit_norm(d.reshape(n, groups, -1), rows.reshape(n, groups, -1), 1, eps).view_as(rows)
        return _scaled(back, None if weight is None else weight.reshape(-1, *(1,) * (rows.ndim - 2))), x.axis
    _, mean, rstd = torch.native_group_norm(rows, None, None, n, c, size, groups, eps)
    back = aten.native_group_norm_backward(d, rows, mean, rstd, None, n, c, size, groups, [True, False, False])[0]
    return _scaled(back, None if weight is None else weight.reshape(-1, *(1,) * (rows.ndim - 2))), x.axis


@rule("batch_norm", places=(F,))
def _batch_norm(
    out: Tensor,
    x: Dual,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, int]:
    if training or variance is None:
        raise Unsupported("BatchNorm in train mode mixes the rows")
    outside(x, *range(1, x.dim()))
    return x.tangent * _scaled((variance + eps).rsqrt(), weight).reshape(-1, *(1,) * (x.dim() - 2)), x.axis


@rule("softmax")
def _softmax(out: Tensor, x: Dual, dim: int, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
    outside(x, dim)
    y = x.first(out)
    return torch._softmax_backward_data(x.tangent.to(y.dtype), y, dim, y.dtype), x.axis


@rule("log_softmax")
def _log_softmax(out: Tensor, x: Dual, dim: int, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
    outside(x, dim)
    return x.tangent - (x.first(out).exp() * x.tangent).sum(dim, keepdim=True), x.axis


@rule("scaled_dot_product_attention")
def _attention(
    out: Tensor,
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, int]:
    alone("an attention mask", attn_mask)
    axis = shared_axis(found := duals((q, k, v), {}))
    if dropout_p or axis > -3 or (enable_gqa and axis == -3):
        raise Unsupported("attention with dropout, or along the batch axis")
    x = found[0]
    rows = [x.first(p) for p in (q, k, v)]
    tangents = [p.tangent if isinstance(p, Dual) else torch.zeros_like(r) for p, r in zip((q, k, v), rows, strict=True)]
    mask = x.first(attn_mask) if isinstance(attn_mask, Tensor) else None
    wide = x.first(out).shape[:-2]
    same = [_heads(p, wide, enable_gqa).to(out.dtype) for p in (*rows, *tangents)]  # autocast decides in which type the attention runs
    q, k, v, dq, dk, dv = same
    size = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if torch.is_grad_enabled():
        if _learns(attn_mask):
            raise Unsupported("attention under a mask that learns, through a tangent with a gradient")
        made: Tensor = Together.apply(q, k, v, dq, dk, dv, mask, is_causal, size)[1]  # type: ignore[no-untyped-call]
        return made, axis
    return derivative(q, k, v, dq, dk, dv, mask, is_causal, size), axis


def _heads(x: Tensor, wide: torch.Size, grouped: bool) -> Tensor:
    """Queries, keys or values `[..., N, D]` over the leading axes `wide` of the output; `grouped`: heads repeat, as in torch."""
    if x.shape[:-2] == wide:
        return x
    return (x.repeat_interleave(wide[-1] // x.shape[-3], -3) if grouped else x).expand(*wide, *x.shape[-2:])


@rule("scaled_dot_product_attention", table=PAIRS, places=(F,))
def _attention_pair(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Dual | None:
    """Of heads and rows that are not shared, without a mask that learns, and without autocast."""
    if dropout_p or enable_gqa or _learns(attn_mask) or not paired(q, k, v) or torch.is_autocast_enabled(q.device.type):
        return None
    if shared_axis((q, k, v)) > -3 or len({x.shape[:-2] for x in (q, k, v)}) > 1:
        return None
    parts, size = (q.primal, k.primal, v.primal, q.tangent, k.tangent, v.tangent), q.shape[-1] ** -0.5 if scale is None else float(scale)
    return pair(Together.apply(*parts, attn_mask, is_causal, size), q.axis)  # type: ignore[no-untyped-call]


def _learns(mask: Any) -> bool:
    """Whether a mask needs a gradient, or depends on the inputs: `Together` has none for it."""
    return isinstance(mask, Dual) or (isinstance(mask, Tensor) and mask.requires_grad)


def _leading(*parts: Any) -> int:
    """How many rows have a tangent, where every batch lies first."""
    found = duals(parts, {})
    if any(x.axis != -x.ndim for x in found):
        raise Unsupported("a scale and shift of tokens whose batch does not lie first")
    return len(found[0].tangent)


def _scaled_tokens(rows: int, x: Any, scale: Any, plain: Any, shift: Any) -> tuple[Tensor, int]:
    """The tangent of `plain(scale) x + shift`, where `plain` adds a constant."""
    d: Any = None
    if isinstance(x, Dual):
        d = x.tangent * plain((scale.primal if isinstance(scale, Dual) else scale)[:rows, None])
    if isinstance(scale, Dual):
        value, ds = (x.primal if isinstance(x, Dual) else x)[:rows], scale.tangent[:, None]
        d = value * ds if d is None else torch.addcmul(d, value, ds)
    if isinstance(shift, Dual):
        db = shift.tangent if shift.ndim == 3 else shift.tangent[:, None]
        d = db if d is None else d + db
    return d, -3


@rule("modulate", places=(modulation,))
def _modulate(out: Tensor, x: Any, shift: Any, scale: Any) -> tuple[Tensor, int]:
    return _scaled_tokens(_leading(x, shift, scale), x, scale, lambda s: 1 + s, shift)


@rule("gated", places=(modulation,))
def _gated(out: Tensor, h: Any, gate: Any, x: Any) -> tuple[Tensor, int]:
    return _scaled_tokens(_leading(h, gate, x), x, gate, lambda s: s, h)


@rule("modulate", table=PAIRS, places=(modulation,))
def _modulate_pair(x: Any, shift: Any, scale: Any) -> Dual | None:
    if not paired(x, shift, scale) or _leading(x, shift, scale) == 0:
        return None
    values = x.primal, 1 + scale.primal[:, None], shift.primal[:, None]
    return pair(Scaled.apply(*values, x.tangent, scale.tangent[:, None], shift.tangent[:, None]), -3)  # type: ignore[no-untyped-call]


@rule("gated", table=PAIRS, places=(modulation,))
def _gated_pair(h: Any, gate: Any, x: Any) -> Dual | None:
    if not paired(h, gate, x) or _leading(h, gate, x) == 0:
        return None
    return pair(Scaled.apply(x.primal, gate.primal[:, None], h.primal, x.tangent, gate.tangent[:, None], h.tangent), -3)  # type: ignore[no-untyped-call]


@rule("dropout", table=WHOLE)
def _dropout(x: Dual, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """One mask for both: what dropout makes of ones, which draws the same random numbers."""
    if not (training and p):
        return x
    kept(inplace, x.tangent)
    return x * F.dropout(torch.ones_like(x.primal), p, training)  # type: ignore[operator]


def _batched(name: str, bias: bool = False, **where: Any) -> None:
    """Functions that are linear in `x` `[B, ...]` and keep its first axis."""

    def tangent(out: Tensor, x: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, int]:
        alone("a layer's weight", *args, *kwargs.values())
        outside(x, *range(1, x.dim()))
        args = (args[0], None, *args[2:]) if bias and len(args) > 1 else args
        function = getattr(F, name)
        return function(x.tangent, *args, **{k: None if k == "bias" else v for k, v in kwargs.items()}), -out.ndim

    rule(name, **where)(tangent)


for _name in (f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)):
    _batched(_name, bias=True)
for _name in ("interpolate", "pixel_shuffle", "pixel_unshuffle", "fold"):
    _batched(_name)
_batched("unfold", places=(F,))
for _name in (f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)):
    _batched(_name)


@rule("pad")
def _pad(out: Tensor, x: Dual, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> tuple[Tensor, int]:
    if len(pad) // 2 >= -x.axis:
        raise Unsupported("padding the batch axis")
    return F.pad(x.tangent, list(pad), mode), x.axis
