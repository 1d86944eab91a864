"""Attention and its derivative along one direction, with the gradient of both: for losses that are differentiated through a tangent.

Tile by tile over heads and queries, all keys at once: no N x M matrix of a whole batch is stored. Plain PyTorch, on any device.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from meanstep.attention import together
from meanstep.attention.chunked import ELSEWHERE, SCORES, batched, flat, hide


class Together(torch.autograd.Function):
    """`o` and `do` of eq. (42), whose backward pass recomputes the scores. It cannot be differentiated twice."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """`[*B, N, Dv]` both."""
        ctx.save_for_backward(q, k, v, dq, dk, dv, mask)
        ctx.causal, ctx.scale = causal, scale
        ctx.set_materialize_grads(False)
        return together(q, k, v, dq, dk, dv, mask, causal, scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor | None, e: Tensor | None) -> tuple[Tensor | None, ...]:
        """Of the six inputs."""
        *inputs, mask = ctx.saved_tensors
        e = torch.zeros_like(g) if e is None and g is not None else e
        assert e is not None
        return *gradients(inputs, mask, g, e, ctx.causal, ctx.scale), None, None, None


def gradients(inputs: list[Tensor], mask: Tensor | None, g: Tensor | None, e: Tensor, causal: bool, scale: float) -> list[Tensor]:
    """The gradients of `q, k, v, dq, dk, dv` for `g` of the output and `e` of its derivative, each of its input's shape and dtype."""
    n, m = inputs[0].shape[-2], inputs[1].shape[-2]
    if not (e.numel() and m):
        return [torch.zeros_like(x) for x in inputs]
    here, above = [batched(x) for x in inputs], [None if x is None else batched(x) for x in (g, e)]
    sums = [_by_head(x) for x in here]
    seen = None if mask is None else batched(mask.expand(*inputs[0].shape[:-1], m))
    most = SCORES if e.device.type == "cpu" else ELSEWHERE
    rows = min(n, max(1, most // m))
    with torch.autocast(e.device.type, enabled=False):
        for part in _parts(here[0].shape[0], here[0].shape[1], max(1, most // (rows * m))):
            given, out = [flat(x[part]) for x in here], [x[part].flatten(0, 1) for x in sums]
            back = [None if x is None else flat(x[part]) for x in above]
            for i in range(0, n, rows):
                block = slice(i, i + rows)
                visible = _visible(None if seen is None else seen[part][:, :, block], causal, i, given[0][:, block], m)
                _block(given, out, [None if x is None else x[:, block] for x in back], block, visible, scale, first=i == 0)
    return [x.reshape(p.shape).to(p.dtype) for x, p in zip(sums, inputs, strict=True)]


def _parts(batch: int, n_heads: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Slices of `[B, H]` with at most `size` pairs: rows of one head, which products take as they lie in a projection's result."""
    for h in range(n_heads):
        for b in range(0, batch, size):
            yield slice(b, b + size), slice(h, h + 1)


def _by_head(x: Tensor) -> Tensor:
    """An empty `[B, H, N, D]` in the dtype that sums, whose heads lie one after the other."""
    b, h, n, d = x.shape
    return x.new_empty(h, b, n, d, dtype=torch.promote_types(x.dtype, torch.float32)).transpose(0, 1)


def _visible(mask: Tensor | None, causal: bool, start: int, q: Tensor, m: int) -> Tensor | None:
    """What is added to the scores `[G, n, M]` of a block of queries, or None."""
    if mask is None and not causal:
        return None
    added = q.new_zeros(len(q), q.shape[1], m)
    if mask is not None:
        hide(added, mask)
    if causal:
        added.masked_fill_(torch.ones_like(added[0], dtype=torch.bool).triu_(start + 1), -torch.inf)
    return added


def _block(
    inputs: list[Tensor], sums: list[Tensor], back: list[Any], block: slice, added: Tensor | None, scale: float, first: bool
) -> None:
    """Add what a block of queries `[G, n, .]` contributes; the `first` finds nothing there."""
    q, k, v, dq, dk, dv = inputs
    g, e = back
    q, dq = q[:, block] * scale, dq[:, block] * scale
    p = torch.bmm(q, k.mT)
    p = torch.softmax(p if added is None else p.add_(added), -1)
    if added is not None:
        p.nan_to_num_(nan=0.0)  # a query that sees no key
    t = torch.bmm(dq, k.mT).baddbmm_(q, dk.mT)
    y, x = torch.bmm(e, v.mT), torch.bmm(e, dv.mT)
    if g is not None:
        x.baddbmm_(g, v.mT)
    t.sub_((p * t).sum(-1, keepdim=True))
    y.sub_((p * y).sum(-1, keepdim=True))  # y and t have weighted mean 0: the terms of both means drop out of the softmax's gradient
    x.addcmul_(y, t)
    s = x.sub_((p * x).sum(-1, keepdim=True)).mul_(p)
    t.mul_(p)
    y.mul_(p)
    sq, sk, sv, sdq, sdk, sdv = sums
    old = 0 if first else 1
    sv.baddbmm_(t.mT, e, beta=old)
    if g is not None:
        sv.baddbmm_(p.mT, g)
    sdv.baddbmm_(p.mT, e, beta=old)
    sk.baddbmm_(s.mT, q, beta=old).baddbmm_(y.mT, dq)
    sdk.baddbmm_(y.mT, q, beta=old)
    sq[:, block].baddbmm_(s, k, beta=0, alpha=scale).baddbmm_(y, dk, alpha=scale)
    sdq[:, block].baddbmm_(y, k, beta=0, alpha=scale)
