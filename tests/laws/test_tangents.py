"""Every rule of `meanstep.tangents` against torch's own forward mode, in float64: the tangent, the primal, and where the batch lies."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meanstep.modulation import gated, modulate
from meanstep.tangents import Dual, Unsupported, carried, differentiable_kernels, has_rule
from meanstep.tangents.dual import RULES, WHOLE
from meanstep.tangents.forward_mode import WrittenOut

B, N, C = 5, 3, 4
"""Rows, tokens, channels. Rules confuse sizes before all else, so some rows of the table set them equal."""


class Row(NamedTuple):
    """`body(call, *tensors)` for each spelling `call` of `name`; the batch is axis `at[k]` of tensor k, the first if `at` is empty."""

    name: str
    body: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    at: tuple[int, ...] = ()
    only: Any = None
    other_than: Any = None


ROWS: list[Row] = []


def row(names: str, body: Callable[..., Any], *shapes: tuple[int, ...], **options: Any) -> None:
    for name in names.split() or [""]:
        ROWS.append(Row(name, body, shapes, **options))


def constant(*shape: int, seed: int = 0) -> Tensor:
    """The same in every call."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64) + 0.4


def weight(*shape: int) -> Tensor:
    return constant(*shape) - 0.9


def signs(*shape: int) -> Tensor:
    return constant(*shape) > 0.9


# Inputs lie in (0.3, 1.3): where both signs matter a row subtracts 0.8 -----------------------------------------------------------------

row("silu gelu mish relu leaky_relu softplus sigmoid tanh sin cos abs", lambda f, x: f(x - 0.8), (B, N, C))
row("exp log sqrt rsqrt square reciprocal neg clone contiguous", lambda f, x: f(x), (B, N, C))
row("gelu", lambda f, x: f(x - 0.8, approximate="tanh"), (B, C))
row("leaky_relu", lambda f, x: f(x - 0.8, 0.3) + f(x - 0.8, negative_slope=0.1), (B, C))
row("softplus", lambda f, x: f(x, 2, 1.5) + f(x, beta=3), (B, C))
row("pow", lambda f, x: f(x, 2) + f(x, 0.5) + f(x, -1) + f(x, 0), (B, C))
row("pow", lambda f, x: f((x - 0.8).relu(), torch.arange(C)) + f((x - 0.8).relu(), 0), (B, C))  # 0 ** 0 has no slope
row("pow", lambda f, x: f(x, constant(C)) + f(x, constant(B, 1)) + f(x, torch.tensor(2.5)), (B, C))
row("clamp clip", lambda f, x: f(x, 0.5, 1.0) + f(x, min=0.7) + f(x, max=0.7) + f(x, 0.6), (B, C))
row("clamp clip", lambda f, x: f(x, constant(B, C)) + f(x, max=constant(C)), (B, C))
row("contiguous clone", lambda f, x: f(x.transpose(1, 2)), (B, N, C))

row("to", lambda f, x: f(x, torch.float32) + f(x, "cpu", torch.float32) + f(x, torch.ones(2)), (B, C))
row("to", lambda f, x: f(constant(C), x) * x, (B, C))
row("type_as", lambda f, x: f(x, torch.ones(1)) + f(torch.ones(C), x) * x, (B, C))
row("type", lambda f, x: f(x, torch.float32), (B, C))
row("float double half bfloat16", lambda f, x: f(x), (B, C))
row("to", lambda f, x: x * f(3 * x, torch.int64), (B, C))
row("type", lambda f, x: x * f(3 * x, torch.bool), (B, C))

row("add sub mul multiply div true_divide", lambda f, x, y: f(x, y), (B, C), (B, C))
row("add sub mul multiply div true_divide", lambda f, x, y: f(x[:, None], y) + 2 * f(y, x[:, None]), (B, C), (B, N, C))
row("add sub mul multiply div true_divide", lambda f, x, y: f(x, y), (B, 1, 1), (B, N, C))
row("add sub mul multiply div true_divide", lambda f, x: f(x, 3) + f(x, constant(C)) + f(x, constant(B, C)) + f(x, constant(B, 1)), (B, C))
row("add sub mul multiply div true_divide", lambda f, x: f(constant(C), x) + f(constant(B, C), x) + f(constant(1, C), x), (B, C))
row("add sub mul multiply div true_divide", lambda f, x: f(constant(3, B, C), x) + f(x, constant(7, 1, B, C)).sum(0), (B, C))
row("add sub mul multiply div true_divide", lambda f, x: f(constant(B), x) + f(x, constant(1, B)) + f(x, constant(B, 1)), (B, B))
row("add sub mul multiply div true_divide", lambda f, x: f(x, constant(B, B)) + f(constant(B, B, 1), x), (B, B, B))
row(
    "add sub mul multiply div true_divide",
    lambda f, x, y: f(x, y) + f(x, constant(B, 1)) + f(constant(2, B, C), y),
    (2, B, C),
    (2, B, C),
    at=(1, 1),
)
row("add sub", lambda f, x, y: f(x, y, alpha=3) + f(x, constant(C), alpha=2) + f(constant(B, C), x, alpha=0.5), (B, C), (B, C))
row("", lambda _, x: (1 - x) * (2 / x) + (x - 1) / 2 + x / x + -x + x**3 + (3 + x) + (x + 3) + 2 * x, (B, C))
row("", lambda _, x, y: (x + y) * (x - y) / (x * y) + constant(B, C) / x - constant(C) * y, (B, C), (B, C))
row("", lambda _, x: x * (x > 0.7) + x * (x < 0.9) + x * (x >= 0.5) + x * (x <= 0.6), (B, C))
row("", lambda _, x: x * (x == x) + x * (x != 0.5), (B, C))
row("", lambda _, x: x @ constant(C, 2) + constant(B, 2), (B, C))
row("", lambda _, x: constant(3, C) @ x.mT + x.T[:3], (B, C))

row("lerp", lambda f, x, y: f(x, y, 0.3) + f(x, y, constant(B, 1)) + f(x, y, constant(C)), (B, C), (B, C))
row("lerp", lambda f, x: f(x, constant(B, C), 0.3) + f(constant(B, C), x, constant(B, C)), (B, C))
row("where", lambda f, x, y: f(signs(B, C), x, y) + f(signs(C), x, y) + f(signs(B, 1), x, y), (B, C), (B, C), other_than=Tensor)
row("where", lambda f, x: f(signs(B, C), x, 0.0) + f(x > 0.7, 1.0, x) + f(signs(B, 1), x, constant(B, C)), (B, C), other_than=Tensor)
row("where", lambda f, x, y: f(x, signs(B, C), y) + f(x, signs(C), 0.0) + f(x, y > 0.7, constant(B, C)), (B, C), (B, C), only=Tensor)
row("where", lambda f, x: f(constant(B, C), signs(B, C), x), (B, C), only=Tensor)

row("matmul", lambda f, x, y: f(x, y), (B, N, C), (B, C, 2))
row("matmul", lambda f, x: f(x, constant(C, 2)) + f(x, constant(B, C, 2)) + f(x, constant(1, C, 2)), (B, N, C))
row("matmul", lambda f, x: f(constant(2, N), x) + f(constant(B, 2, N), x), (B, N, C))
row("matmul mm", lambda f, x: f(x, constant(C, 2)), (B, C))
row("matmul mm", lambda f, x: f(constant(3, C), x), (C, B), at=(1,))
row("matmul mm", lambda f, x: f(x, constant(B, B)), (B, B))
row("matmul", lambda f, x: f(x, constant(B, B)) + f(x, constant(B, B, B)) + f(constant(B, B), x), (B, B, B))
row("matmul", lambda f, x: f(x, constant(6, C, 2)), (B, C))
row("matmul", lambda f, x: f(x, constant(2, C, 3)), (2, B, C), at=(1,))
row("matmul", lambda f, x, y: f(x, y), (B, 2, N, C), (B, 2, C, N))
row("matmul", lambda f, x: f(x, constant(2, C, N)) + f(x, constant(C, N)), (B, 2, N, C))
row("matmul", lambda f, x: f(x, constant(B, C, N)), (B, B, N, C))
row("bmm", lambda f, x, y: f(x, y) + f(x, constant(B, C, 2)) + f(constant(B, N, C), y), (B, N, C), (B, C, 2))
row("linear", lambda f, x: f(x, constant(2, C), constant(2)) + f(x, constant(2, C)) + f(x, weight=constant(2, C), bias=None), (B, N, C))
row("linear", lambda f, x: f(x, constant(B, B), constant(B)), (B, B))
row("linear", lambda f, x: f(x, constant(B, C), constant(B)), (N, B, C), at=(1,))
row("bilinear", lambda f, x, y: f(x, y, constant(2, C, 3), constant(2)), (B, C), (B, 3))
row("bilinear", lambda f, x: f(x, constant(B, 3), constant(2, C, 3)) + f(constant(B, 3), x, constant(2, 3, C)), (B, C))
row("einsum", lambda f, x, y: f("bnc,bmc->bnm", x, y) + f("bnc, bmc -> bnm", [x, y]), (B, N, C), (B, N, C))
row("einsum", lambda f, x: f("bnc,cd->bnd", x, constant(C, 2)) + f("bnc,bcd->bnd", x, constant(B, C, 2)), (B, N, C))
row("einsum", lambda f, x: f("cd,bnc->dbn", constant(B, B), x), (B, B, B))
row("einsum", lambda f, x, y: f("nb,bc->cbn", x, y), (N, B), (B, C), at=(1, 0))
row("einsum", lambda f, x, y: f("bc,bc,b,cd->bd", x, y, constant(B), constant(C, C)), (B, C), (B, C))

row(
    "layer_norm", lambda f, x: f(x, (C,), constant(C), constant(C, seed=1)) + f(x, [C]) + f(x, (C,), weight=constant(C), eps=0.1), (B, N, C)
)
row("layer_norm", lambda f, x: f(x, (N, C), constant(N, C)), (B, N, C))
row("layer_norm", lambda f, x: f(x.transpose(1, 2), (B,), constant(B)), (B, B, B))
row("layer_norm", lambda f, x: f(x, (C,)), (2, B, C), at=(1,))
row("rms_norm", lambda f, x: f(x, (C,), constant(C), 1e-6) + f(x, (C,)) + f(x, (C,), weight=constant(C), eps=0.1), (B, N, C))
row("rms_norm", lambda f, x: f(x, (N, C), constant(N, C)), (B, N, C))
row("rms_norm", lambda f, x: f(x, (B,), constant(B)), (B, B, B))
row("group_norm", lambda f, x: f(x, 2, constant(C), constant(C)) + f(x, 1) + f(x, num_groups=4, weight=constant(C)), (B, C, 3, 2), only=F)
row("group_norm", lambda f, x: f(x, 2, constant(C), constant(C)) + f(x, 1), (B, C, 3, 2))
row("group_norm", lambda f, x: f(x, 2, constant(C)), (B, C))
row("group_norm", lambda f, x: f(x, 5, constant(B), constant(B)), (B, B, B))
row("batch_norm", lambda f, x: f(x, constant(C), constant(C), constant(C), constant(C)), (B, C, 3, 2), only=F)
row("batch_norm", lambda f, x: f(x, constant(B), constant(B), eps=0.1), (B, B), only=F)
row("batch_norm", lambda f, x: f(x, constant(C), constant(C), constant(C), constant(C), False, 0.1, 1e-5, False), (B, C, 3), other_than=F)
row("softmax log_softmax", lambda f, x: f(x, 1) + f(x, -1) + f(x, dim=-2), (B, N, C))
row("softmax log_softmax", lambda f, x: f(x, -1, dtype=torch.float32), (B, N, C))
row("softmax log_softmax", lambda f, x: f(x, 0) + f(x, dim=2), (B, B, B), at=(1,))

row("scaled_dot_product_attention", lambda f, q, k, v: f(q, k, v), *[(B, 2, N, C)] * 3)
row("scaled_dot_product_attention", lambda f, q, k, v: f(q, k, v, is_causal=True, scale=0.3), *[(B, N, C)] * 3)
row("scaled_dot_product_attention", lambda f, q, k, v: f(q, k, v, constant(B, 1, N, 6)), (B, 2, N, C), (B, 2, 6, C), (B, 2, 6, 7))
row("scaled_dot_product_attention", lambda f, q, k, v: f(q, k, v, attn_mask=signs(B, 2, N, N) | torch.eye(N).bool()), *[(B, 2, N, C)] * 3)
row("scaled_dot_product_attention", lambda f, q, k, v: f(q, k, v, constant(B, B)) + f(q, k, v, constant(B, B, B)), *[(B, B, B, B)] * 3)
row("scaled_dot_product_attention", lambda f, q: f(q, constant(B, 2, 6, C), constant(B, 2, 6, C)), (B, 2, N, C))
row("scaled_dot_product_attention", lambda f, k, v: f(constant(B, 2, N, C), k, v), *[(B, 2, 6, C)] * 2)
row("scaled_dot_product_attention", lambda f, q: f(q, constant(1, 2, 6, C), constant(2, 6, C)), (B, 2, N, C))  # the same keys for all rows
row("scaled_dot_product_attention", lambda f, q, k, v: f(q, k, v, constant(B, 2, 1, 6)), (B, 2, N, C), (B, 1, 6, C), (B, 1, 6, 7))
row("scaled_dot_product_attention", lambda f, k, v: f(constant(1, 2, N, C), k, v), *[(B, 2, 6, C)] * 2)
row("scaled_dot_product_attention", lambda f, q, k, v: f(q, k, v, enable_gqa=True), (B, 4, N, C), (B, 2, 6, C), (B, 1, 6, 7))
row("scaled_dot_product_attention", lambda f, q: f(q, constant(1, 2, 6, C), constant(1, 2, 6, C), enable_gqa=True), (B, 4, N, C))

row("dropout", lambda f, x: f(x, 0.4, True) + f(x, 0.4, False) + f(x, 0.0, True), (B, N, C))
row("dropout", lambda f, x: f(x), (B, N, C), only=F)

for _n, _size in ((1, (7,)), (2, (7, 6)), (3, (4, 5, 4))):
    _k = (3, 2, 3)[:_n]
    row(
        f"conv{_n}d",
        lambda f, x, k=_k: f(x, constant(2, C, *k), constant(2), 2, 1) + f(x, constant(2, C, *k), stride=2, padding=1),
        (B, C, *_size),
    )
    row(f"conv{_n}d", lambda f, x, k=_k: f(x, constant(C, 1, *k), bias=constant(C), groups=C), (B, C, *_size))
    row(f"conv{_n}d", lambda f, x, k=_k: f(x, constant(B, B, *k), constant(B)), (B, B, *_size))
    row(
        f"conv_transpose{_n}d",
        lambda f, x, k=_k: f(x, constant(C, 2, *k), constant(2), 2, 1) + f(x, constant(C, 2, *k), None, 2, 1),
        (B, C, *_size),
    )
    row(f"avg_pool{_n}d", lambda f, x: f(x, 2) + f(x, kernel_size=2, stride=2), (B, C, *_size))
    row(f"adaptive_avg_pool{_n}d", lambda f, x: f(x, 2) + f(x, output_size=2), (B, C, *_size))
row("interpolate", lambda f, x: f(x, scale_factor=2) + f(x, (6, 8), mode="bilinear") + f(x, size=(6, 8), mode="area"), (B, C, 3, 4))
row("pixel_shuffle", lambda f, x: f(x, 2), (B, 8, 3, 3))
row("pixel_unshuffle", lambda f, x: f(x, 2), (B, 2, 4, 6))
row("unfold", lambda f, x: f(x, (2, 3), stride=2) + f(x, (2, 3), 1, 0, 2), (B, 2, 4, 7), only=F)
row("unfold", lambda f, x: f(x, 1, 3, 1) + f(x, -2, 3, 2) + f(x, 2, 2, 1)[:, :1, :1, :1].mT, (B, N, C), only=Tensor)
row("fold", lambda f, x: f(x, (4, 4), 2, stride=2), (B, 8, 4))
row("pad", lambda f, x: f(x, (1, 2)) + f(x, (2, 1), "constant", 3.0) + f(x, [0, 3], value=1.0), (B, N, C))
row("pad", lambda f, x: f(x, (1, 1, 1, 0), mode="reflect") + f(x, (1, 1, 1, 0), "circular") + f(x, (2, 0, 0, 1)), (B, C, 3, 4))

row("reshape view", lambda f, x: f(f(x, (B * N, C)), (B, N, C)) + f(x, (B, -1, C)), (B, N, C))
row("reshape view", lambda f, x: f(x, (B * N, C)), (B, N, C))
row("reshape view", lambda f, x: f(F.layer_norm(f(x, (B * 2, N, C)), (C,)), (B, 2, N, C)), (B, 2, N, C))
row("reshape view", lambda f, x: f(x, (B * B, B)), (B, B, B))
row("reshape view", lambda f, x: f(f(x, (B * B, B)), (B, B * B)), (B, B, B))
row("reshape view", lambda f, x: f(x, (1, B, 1, N, 1, C)) + f(x, (B, 1, N, 1, C)), (B, N, C))
row("reshape view", lambda f, x: f(x, (3, B, 2, 2)) + f(x, (3, B * 2, 2)).unflatten(1, (B, 2)), (3, B, 4), at=(1,))
row("reshape", lambda f, x: f(x.permute(2, 0, 3, 1), (3, B * 2, 2)), (B, 2, 3, 2))
row("flatten", lambda f, x: f(x, 1) + f(x, 1, -1) + f(x, -2) + f(x, start_dim=1), (B, N, C))
row("flatten", lambda f, x: f(x, 0, 1), (B, N, C))
row("unflatten", lambda f, x: f(x, -1, (2, 2)) + f(x, 1, (1, -1)).mean(1)[..., :2, None], (B, 4, 4))
row("unflatten", lambda f, x: f(F.silu(x.flatten(0, 1)), 0, (B, N)) + f(x.flatten(0, 1), 0, (-1, N)), (B, N, C))
row("unsqueeze", lambda f, x: f(x, 0) + f(x, 1).transpose(0, 1) + f(x, -1).movedim(-1, 0), (B, C))
row("squeeze", lambda f, x: f(x, -1) + f(x, 3) + f(x) + f(x, 1).mean(-1) + f(x[:, None], (1, 4)), (B, N, C, 1))
row("view_as reshape_as", lambda f, x, y: f(x, y) + f(x, constant(B, N, 2, 2)), (B, N, C), (B, N, 2, 2))
row("view_as reshape_as expand_as", lambda f, x: f(constant(B, C), x) * x, (B, C))

row("permute", lambda f, x: f(x, (2, 0, 3, 1, 4)), (B, N, 3, 2, 2))
row("permute", lambda f, x: f(x, (2, 1, 0)) + f(x, dims=(-1, -2, 0)), (B, B, B))
row("permute", lambda f, x: f(x, 0, 2, 1), (B, N, C), only=Tensor)
row("transpose swapaxes swapdims", lambda f, x: f(x, 1, 2) + f(x, -1, -2), (B, N, C))
row("transpose swapaxes swapdims", lambda f, x: f(x, 0, 2), (B, B, B))
row("transpose", lambda f, x: f(x, dim0=0, dim1=1), (B, N, C))
row("movedim moveaxis", lambda f, x: f(x, 0, 1) + f(x, -2, 0), (B, B, B))
row("movedim moveaxis", lambda f, x: f(x, -1, 1), (B, N, C))
row("movedim moveaxis", lambda f, x: f(x, 0, -1), (B, N, C))
row("movedim moveaxis", lambda f, x: f(x, (1, 0), (0, 2)), (B, N, C))

row("chunk", lambda f, x: [p * (k + 1) for k, p in enumerate(f(x, 2, -1))], (B, N, C))
row("chunk", lambda f, x: f(x, 3, dim=1)[2], (B, B, B))
row("chunk", lambda f, x: f(x, chunks=2, dim=-1)[1], (B, C))
row("split", lambda f, x: [*f(x, 3, -1), *f(x, [1, 3], dim=2)], (B, N, C))
row("tensor_split", lambda f, x: [*f(x, 3, -1), *f(x, (1, 2), dim=1)], (B, N, C))
row("unbind", lambda f, x: [*f(x, 1), *f(x, -1)], (B, B, B))
row("unbind", lambda f, x: f(x), (3, B, C), at=(1,))
row("unbind", lambda f, x: f(x.unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4), 0), (B, N, 12))
row("narrow", lambda f, x: f(x, 1, 1, 2) + f(x, -2, 0, 2) + f(x, dim=1, start=0, length=2), (B, N, C))
row("select", lambda f, x: f(x, 1, 1) + f(x, -2, 0) + f(x, dim=1, index=-1), (B, B, B))
row("select", lambda f, x: f(x, 0, 1), (B, B, B), at=(2,))
row("__getitem__", lambda f, x: f(x, (slice(None), 0)) + f(x, (Ellipsis, -1, slice(None))), (B, B, B))
row("", lambda _, x: x[:, 0] + x[..., 0] + x[:, :, 1] + x[:, None, 2][:, 0], (B, B, B))
row("", lambda _, x: x[:, None] + x[:, None, :, :] + x[None].transpose(0, 1) + x[..., None].movedim(-1, 1), (B, N, C))
row("", lambda _, x: x[:, 1:, ::2] + x[..., 1:, :2] + x[:, -2:][..., 0::3], (B, N, C))
row("", lambda _, x: x[:, ..., 0] + x[:, 0, None, ..., 1, None][..., 0] + x[...][:][:, :1, 0], (B, N, C))
row("", lambda _, x: x[1] + x[-1, :] + x[0, ..., :], (B, B, C), at=(1,))
row("", lambda _, x: [p + 1 for p in x], (3, B, C), at=(1,))

row("cat concat concatenate", lambda f, x, y: f([x, y], 1) + f((constant(B, 1, C), x, y[:, :2]), dim=1), (B, N, C), (B, N, C))
row("cat concat concatenate", lambda f, x: f([x, constant(B, B, 1)], -1) + f([constant(B, B, 1, seed=1), x], 2), (B, B, B))
row("cat", lambda f, x: f([x, constant(2, B, C)], 0), (3, B, C), at=(1,))
row("stack", lambda f, x, y: f([x, y]), (B, B), (B, B))
row("stack", lambda f, x, y: f([x, y], 1) + f([constant(B, C), y], dim=-2), (B, C), (B, C))
row("stack", lambda f, x, y: f([x, y], -1) + f((x, constant(B, B)), 2), (B, B), (B, B))
row("expand", lambda f, x: f(x, B, 6, C) + f(x, (-1, 6, -1)) + f(x, (2, B, 6, C))[1], (B, 1, C))
row("expand_as", lambda f, x, y: f(x, y) * f(y[:, :1], constant(B, N, C)), (B, 1, C), (B, N, C))
row("broadcast_to", lambda f, x: f(x, (B, 6, C)) + f(x, (2, B, 6, C))[0], (B, 1, C))
row("repeat", lambda f, x: f(x, 1, 2, 1) + f(x, (2, 1, 2, 1))[0], (B, N, C))
HEAD = 2, weight(3 * C, C), constant(3 * C), None, None, False, 0.0, weight(C, C), constant(C)
row("multi_head_attention_forward", lambda f, x: f(x, x, x, C, *HEAD), (N, B, C), at=(1,))
row("multi_head_attention_forward", lambda f, x, y: f(x, y, y, C, *HEAD, need_weights=False)[0], (C, C, C), (N, C, C), at=(1, 1))
row("sum mean", lambda f, x: f(x, 1) + f(x, dim=1) + f(x, (1,)) + f(x, 2), (B, B, B))
row("sum mean", lambda f, x: f(x, -1, True) + f(x, (1, -1), keepdim=True) + f(x, dim=[1], keepdim=True), (B, B, B))
row("sum mean", lambda f, x: f(x, (1, 2)) + f(x, [1, 3]) + f(x, (-1, 1)), (B, B, B, B))
row("sum mean", lambda f, x: f(x, 1, dtype=torch.float32), (B, B, B))
row("sum mean", lambda f, x: f(x, 0) + f(x, (0,)), (B, B, B), at=(1,))
row("sum mean", lambda f, x: f(x, 2) + f(x, -1), (B, B, B), at=(1,))

row("new_zeros new_ones", lambda f, x: x * f(x, (C,)) + f(x, C), (B, C), only=Tensor)
row("new_empty", lambda f, x: x + 0 * f(x, (C,)).zero_(), (B, C), only=Tensor)
row("new_full", lambda f, x: x * f(x, (C,), 2.0), (B, C), only=Tensor)
row("zeros_like ones_like rand_like randn_like", lambda f, x: x * f(x) + x, (B, C))
row("empty_like", lambda f, x: x * f(x).fill_(2.0), (B, C))
row("full_like", lambda f, x: x * f(x, 3.0) + x * f(x, fill_value=2.0), (B, C))
row("eq ne lt le gt ge", lambda f, x, y: x * f(x, y) + y * f(x, 0.7) + y * f(x, constant(B, C)) + y * f(constant(C), x), (B, C), (B, C))

# Whole expressions of networks --------------------------------------------------------------------------------------------------------


def attention(x: Tensor) -> Tensor:
    """Heads merged with the batch and taken apart again, by hand."""
    b, n, c = x.shape
    q, k, v = F.linear(x, weight(3 * c, c)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).reshape(3, b * 2, n, c // 2).unbind(0)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(c)).softmax(-1)
    return (weights @ v).view(b, 2, n, c // 2).transpose(1, 2).reshape(b, n, c)


def modulated(x: Tensor, c: Tensor) -> Tensor:
    shift, scale, gate = F.linear(F.silu(c), weight(12, 4)).chunk(3, -1)
    return x + gate[:, None] * (F.layer_norm(x, (4,)) * (1 + scale[:, None]) + shift.unsqueeze(1))


def fourier(t: Tensor) -> Tensor:
    angles = torch.stack([t, 2 * t], -1)[..., None] * constant(B)
    return torch.cat([angles.sin().flatten(-2), angles.cos().flatten(-2)], -1)


row("", lambda _, x: attention(x), (B, N, C))
row("", lambda _, x: attention(x), (4, 4, 4))
row("", lambda _, x, c: modulated(x, c), (B, N, C), (B, C))
row("", lambda _, x, c: modulated(x, c), (4, 4, 4), (4, 4))
row("", lambda _, t: fourier(t), (B,))
row("", lambda _, t: fourier(t), (3, B), at=(1,))
row("", lambda _, x: x.reshape(-1, C, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), (B, C, 4, 6))

# The law ------------------------------------------------------------------------------------------------------------------------------


row("view_as_complex", lambda f, x: torch.view_as_real(f(x) * torch.polar(constant(N), constant(N))), (B, N, 2))
row("view_as_real", lambda f, x: f(torch.complex(x, constant(B, C))), (B, C))
row("complex", lambda f, x, y: torch.view_as_real(f(x, y) + f(constant(B, C), y)), (B, C), (B, C))


def recurrent(gates: int, layers: int, both: bool, states: int) -> Callable[..., Any]:
    """Two spellings of the batch's place; every gate away from its bounds."""

    def call(f: Callable[..., Any], x: Any, y: Any) -> Any:
        ways, hidden = 1 + both, 3
        fan = [C, *[hidden * ways] * (layers - 1)]
        params = [weight(gates * hidden, n) for k in range(layers) for _ in range(ways) for n in (fan[k], hidden)]
        biased = [
            p for pair in zip(params[::2], params[1::2], strict=True) for p in (*pair, weight(gates * hidden), weight(gates * hidden))
        ]
        start = [constant(layers * ways, B, hidden, seed=k) for k in range(states)]
        first = start if states > 1 else start[0]
        one = f(x, first, biased, True, layers, 0.0, False, both, True)
        two = f(y, first, params, False, layers, 0.0, False, both, False)
        return *one, *two

    return call


for name, gates, states in (("gru", 3, 1), ("lstm", 4, 2), ("rnn_tanh", 1, 1), ("rnn_relu", 1, 1)):
    row(name, recurrent(gates, 2, True, states), (B, N, C), (N, B, C), at=(0, 1))
    row(name, recurrent(gates, 1, False, states), (B, N, C), (N, B, C), at=(0, 1))


class Case(NamedTuple):
    """One spelling of one row."""

    label: str
    function: Any
    call: Callable[..., Any]
    row: Row


def method(name: str) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)


def cases() -> list[Case]:
    found = []
    for k, r in enumerate(ROWS):
        if not r.name:
            found.append(Case(f"{k}-expression", None, lambda: None, r))
        for place in (torch, F, Tensor):
            function = getattr(place, r.name, None) if r.name else None
            if (function in RULES or function in WHOLE) and r.only in (None, place) and r.other_than is not place:
                call = method(r.name) if place is Tensor else function
                found.append(Case(f"{k}-{place.__name__}.{r.name}", function, call, r))
    return found


CASES = cases()


def seeded(f: Callable[..., Any], *args: Any) -> tuple[Tensor | Dual, ...]:
    """The results, with dropout and noise the same in every call."""
    with torch.random.fork_rng(devices=[]), differentiable_kernels():
        torch.manual_seed(0)
        out = f(*args)
    return tuple(out) if isinstance(out, (list, tuple)) else (out,)


def agrees(
    f: Callable[..., Any], shapes: Sequence[tuple[int, ...]], at: Sequence[int], n: int, seed: int = 0, rounds: bool = False
) -> None:
    """`f` on `Dual`s whose first `n` rows have a tangent, against forward mode on all rows with a tangent of 0 on the others.

    `rounds`: the primal is computed in another order than torch's.
    """
    g = torch.Generator().manual_seed(seed)
    primals = [torch.rand(shape, generator=g, dtype=torch.float64) + 0.3 for shape in shapes]
    tangents = [torch.randn(shape, generator=g, dtype=torch.float64).narrow(k, 0, n) for shape, k in zip(shapes, at, strict=True)]
    padded = [torch.zeros_like(p) for p in primals]
    for whole, part, k in zip(padded, tangents, at, strict=True):
        whole.narrow(k, 0, n).copy_(part)
    batch = shapes[0][at[0]]
    found = seeded(f, *(Dual(p, d, k - p.ndim, True) for p, d, k in zip(primals, tangents, at, strict=True)))
    plain = seeded(f, *primals)
    wanted = seeded(lambda *p: torch.func.jvp(lambda *q: seeded(f, *q), p, tuple(padded))[1], *primals)
    for d, value, slope in zip(found, plain, wanted, strict=True):
        assert isinstance(d, Dual) and isinstance(value, Tensor) and isinstance(slope, Tensor)
        same = torch.allclose(d.primal, value, rtol=1e-12, atol=1e-14) if rounds else torch.equal(d.primal, value)
        assert same and d.dtype == value.dtype == d.tangent.dtype
        assert -d.dim() <= d.axis < 0 and value.shape[d.axis] % batch == 0
        rows = value.shape[d.axis] // batch * n
        assert d.tangent.shape[d.axis] == rows
        assert not slope.narrow(d.axis, rows, value.shape[d.axis] - rows).any(), f"the batch does not lie at axis {d.axis}"
        part = slope.narrow(d.axis, 0, rows)
        assert d.tangent.shape == part.shape
        close = 1e-12 if value.dtype == torch.float64 else 8 * torch.finfo(value.dtype).eps
        assert (d.tangent - part).double().norm() <= close * (part.double().norm() + value.double().norm())


@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_a_rule_equals_forward_mode(case: Case):
    """With a tangent on one row, on some and on all."""
    shapes, at = case.row.shapes, case.row.at or (0,) * len(case.row.shapes)
    for n in (1, 3, B):
        agrees(lambda *p: case.row.body(case.call, *p), shapes, at, min(n, shapes[0][at[0]]))


@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_a_recorded_tangent_has_forward_modes_gradient(case: Case):
    """The gradient of value and tangent together, in the inputs and in their tangents; half precision is left out."""
    shapes, at = case.row.shapes, case.row.at or (0,) * len(case.row.shapes)
    g = torch.Generator().manual_seed(0)
    leaves = [(torch.rand(shape, generator=g, dtype=torch.float64) + 0.3).requires_grad_() for shape in shapes]
    leaves += [torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes]
    primals, tangents = leaves[: len(shapes)], leaves[len(shapes) :]

    def f(*p: Any) -> Any:
        return case.row.body(case.call, *p)

    found = seeded(f, *(Dual(p, d, k - p.ndim, True, recorded=True) for p, d, k in zip(primals, tangents, at, strict=True)))
    with WrittenOut():
        wanted = seeded(lambda *p: torch.func.jvp(lambda *q: seeded(f, *q), p, tuple(tangents)), *primals)
    values, slopes = wanted
    ours = sum(weighed(x) for d in found for x in (d.primal, d.tangent))  # type: ignore[union-attr]
    theirs = sum(weighed(x) for x in (*values, *slopes))  # type: ignore[misc]
    if not theirs.requires_grad or any(d.primal.dtype not in (torch.float64, torch.complex128) for d in found):  # type: ignore[union-attr]
        return
    for a, b in zip(*(torch.autograd.grad(x, leaves, allow_unused=True, materialize_grads=True) for x in (ours, theirs)), strict=True):
        assert (a - b).norm() <= 1e-12 * (1 + b.norm())


def weighed(x: Tensor) -> Tensor:
    """A sum of all entries with weights that tell them apart."""
    x = torch.view_as_real(x) if x.is_complex() else x
    return (x * torch.linspace(1, 2, x.numel(), dtype=x.dtype).view(x.shape)).sum()


def test_every_spelling_of_every_rule_is_in_the_table():
    covered = {case.function for case in CASES} | {modulate, gated}
    ours = [f for f in (*RULES, *WHOLE) if getattr(f, "__module__", None) != has_rule.__module__]  # a user's, from the docs' example
    assert len(ours) > 100 and not [f for f in ours if f not in covered]


@pytest.mark.parametrize("n", [1, 3, B])
def test_modulation_and_gates_of_our_own(n: int):
    h, c, k = (B, N, C), (B, C), constant(B, C)
    for f, shapes in ((modulate, (h, c, c)), (gated, (h, c, h))):
        agrees(f, shapes, [0, 0, 0], n)
    agrees(lambda x: modulate(x, k, 2 * k), [h], [0], n)
    agrees(lambda s: modulate(constant(B, N, C), s, k), [c], [0], n)
    agrees(lambda g: gated(constant(B, N, C), g, constant(B, N, C)), [c], [0], n)


def test_forward_mode_itself_finds_a_batch_at_the_wrong_place():
    """The law has teeth: a rule that names the wrong axis of a square tensor is found out."""
    with pytest.raises(AssertionError, match="does not lie at"):
        agrees(lambda x: Dual(x.primal, x.tangent.mT, -1, True) if isinstance(x, Dual) else x, [(B, B)], [0], 3)


HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no weights": {"need_weights": False},
    "masked": {"need_weights": False, "attn_mask": torch.ones(N, N).triu(1).bool()},
    "causal": {"need_weights": False, "attn_mask": torch.ones(N, N).triu(1).bool(), "is_causal": True},
    "a mask each": {"attn_mask": constant(2 * B, N, N), "average_attn_weights": False},
    "padded": {"need_weights": False, "key_padding_mask": torch.arange(N) >= torch.tensor([3, 2, 1, 3, 2])[:, None]},
    "padded and masked": {"key_padding_mask": constant(B, N), "attn_mask": constant(N, N)},
}


@pytest.mark.parametrize(("bias", "dropout"), [(True, 0.0), (True, 0.3), (False, 0.0)])
@pytest.mark.parametrize("name", HEADS)
def test_multihead_attention_equals_forward_mode(name: str, bias: bool, dropout: float):
    """Self-attention, keys and values of another input, and three inputs; the weights too, where they are asked for."""
    rounds = bool(dropout) and not HEADS[name].get("need_weights", True)  # torch scales queries and keys each by a root
    layer = nn.MultiheadAttention(C, 2, dropout, bias, batch_first=True).double()
    for p in layer.parameters():
        p.requires_grad_(False).copy_(weight(*p.shape))

    def attended(*inputs: Any) -> Any:
        return [out for out in layer(*inputs, **HEADS[name]) if out is not None]

    agrees(lambda x: attended(x, x, x), [(B, N, C)], [0], 3, rounds=rounds)
    agrees(lambda x, c: attended(x, c, c), [(B, N, C)] * 2, [0, 0], 3, rounds=rounds)
    agrees(lambda x, c: attended(x, c, c.sin()), [(B, N, C)] * 2, [0, 0], 2, rounds=rounds)
    agrees(lambda x: attended(x, *[constant(B, N, C)] * 2), [(B, N, C)], [0], 1, rounds=rounds)


def test_multihead_attention_with_other_widths_and_the_batch_second():
    layer = nn.MultiheadAttention(C, 2, kdim=3, vdim=2).double().requires_grad_(False)
    agrees(lambda x, k: layer(x, k, k[..., :2]), [(N, B, C), (2, B, 3)], [1, 1], 3)


# Random networks ----------------------------------------------------------------------------------------------------------------------

LAYERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "attention": lambda x, c: attention(x),
    "modulate": modulated,
    "mlp": lambda x, c: F.linear(F.gelu(F.linear(x, weight(8, 4))), weight(4, 8)) - 1,
    "norm": lambda x, c: F.rms_norm(x, (4,), constant(4)),
    "group": lambda x, c: F.group_norm(x.mT, 2, weight(4)).mT,
    "conv": lambda x, c: F.conv1d(x.transpose(1, 2), weight(4, 4, 3), padding=1).transpose(1, 2) / 8,
    "merge": lambda x, c: F.layer_norm(x.reshape(-1, 4) @ weight(4, 4), (4,)).reshape(x.shape),
    "mix": lambda x, c: torch.einsum("bnc,nm->bmc", x, weight(x.shape[1], x.shape[1])) / 4,
    "outer": lambda x, c: x + torch.bmm(x, c[:, :, None]) * c.unsqueeze(1).softmax(-1),
    "gate": lambda x, c: torch.where(x > 0, x * c[:, None], 1 - x) / (1 + x * x),
    "rotate": lambda x, c: torch.cat([-x[..., 2:], x[..., :2]], -1) * weight(x.shape[1], 4) + x,
    "split": lambda x, c: torch.stack([p.tanh() for p in x.unbind(-1)], -1) + x.mean((1, 2), keepdim=True),
    "fused": lambda x, c: F.scaled_dot_product_attention(x, x.sin(), x * c[:, None]),
    "turn": lambda x, c: x.movedim(0, -1).permute(2, 0, 1).contiguous().lerp(x, 0.3),
}


@pytest.mark.parametrize("sizes", [(5, 3), (4, 4)], ids=["apart", "equal"])
@pytest.mark.parametrize("seed", range(25))
def test_six_random_layers_equal_forward_mode(seed: int, sizes: tuple[int, int]):
    order = torch.randint(len(LAYERS), (6,), generator=torch.Generator().manual_seed(seed)).tolist()

    def network(x: Tensor, c: Tensor) -> Tensor:
        for k in order:
            x = list(LAYERS.values())[k](x, c)
        return x

    agrees(network, [(sizes[0], sizes[1], 4), (sizes[0], 4)], [0, 0], 1 + seed % 4, seed)


# Refusals -----------------------------------------------------------------------------------------------------------------------------


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2


def silently(x: Any) -> Any:
    with torch.no_grad():
        return x * 2


MANY = constant(3 * C, C), None, None, None, False

REFUSED: dict[str, Callable[[Any], Any]] = {
    "softmax of rows": lambda x: x.softmax(0),
    "sum of rows": lambda x: x.sum(0),
    "mean of all": lambda x: x.mean(),
    "norm of rows": lambda x: F.layer_norm(x.movedim(0, -1), (B,)),
    "group norm of rows": lambda x: F.group_norm(x.movedim(0, 1), 1),
    "cat of rows": lambda x: torch.cat([x, x]),
    "linear over rows": lambda x: F.linear(x.movedim(0, -1), constant(2, B)),
    "matmul over rows": lambda x: constant(2, B) @ x[:, 0],
    "gram matrix of rows": lambda x: x[:, 0] @ x[:, 0].mT,
    "einsum over rows": lambda x: torch.einsum("bnc,bmc->nm", x, x),
    "einsum of dots": lambda x: torch.einsum("...c,c->...", x, constant(C)),
    "attention over rows": lambda x: F.scaled_dot_product_attention(*[x.transpose(0, 1)] * 3),
    "conv over rows": lambda x: F.conv1d(x.movedim(0, 1), constant(2, B, 1)),
    "pad of rows": lambda x: F.pad(x, (0, 0, 0, 0, 1, 0)),
    "repeat of rows": lambda x: x.repeat(2, 1, 1),
    "BatchNorm at work": lambda x: F.batch_norm(x.mT, constant(C), constant(C), training=True),
    "first row": lambda x: x[0],
    "some rows": lambda x: x[1:],
    "rows by number": lambda x: x.select(0, 1),
    "part of the rows": lambda x: x.narrow(0, 0, 2),
    "row after row": list,
    "two halves of the rows": lambda x: x.chunk(2),
    "unbound rows": lambda x: x.unbind(0),
    "shuffled tokens": lambda x: x[:, torch.tensor([2, 0, 1])],
    "masked tokens": lambda x: x[x > 0],
    "tokens by list": lambda x: x[:, [0, 1]],
    "torn batch": lambda x: x.transpose(0, 1).reshape(B * N, C),
    "batches at two places": lambda x: x[:, 0, :1] + x[:, 0, :1].mT,
    "in place": lambda x: F.silu(x, inplace=True),
    "relu in place": lambda x: F.relu(x, True),
    "dropout in place": lambda x: F.dropout(x, 0.1, True, True),
    "into a constant": lambda x: torch.zeros(B, N, C).add_(x),
    "no rule": lambda x: torch.cumsum(x, 1),
    "rounded": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "power of a power": lambda x: torch.pow(2, x),
    "bounds of inputs": lambda x: torch.clamp(x, x * 2),
    "weight of lerp": lambda x: torch.lerp(constant(B, N, C), x, x),
    "weights of inputs": lambda x: F.linear(constant(2, C), x[:, 0]),
    "mask of inputs": lambda x: F.scaled_dot_product_attention(x, x, x, x @ x.mT),
    "attention with dropout": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
    "heads over rows": lambda x: nn.MultiheadAttention(C, 2).double()(x, x, x),
    "heads without batch": lambda x: F.multi_head_attention_forward(*[x[:, 0]] * 3, C, 2, *MANY, 0.0, constant(C, C), None),
    "heads with more keys": lambda x: nn.MultiheadAttention(C, 2, add_zero_attn=True, batch_first=True).double()(x, x, x),
    "causal heads without a mask": lambda x: nn.MultiheadAttention(C, 2, batch_first=True).double()(x, x, x, is_causal=True),
    "heads' mask of inputs": lambda x: nn.MultiheadAttention(C, 2).double()(*[x.transpose(0, 1)] * 3, attn_mask=x[:, 0] @ constant(C, N)),
    "no gradient inside": silently,
    "custom function": Double.apply,
    "detached": torch.detach,
    "view of another type": lambda x: x.view(torch.int64),
}


def dual(*shape: int, n: int = 3) -> Dual:
    return Dual(constant(*shape).requires_grad_(), constant(*shape, seed=1)[:n], -len(shape), True)


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_covers_is_refused(name: str):
    with pytest.raises((Unsupported, RuntimeError) if name in ("relu in place", "in place") else Unsupported):
        REFUSED[name](dual(B, N, C))


UNKNOWN: dict[str, Callable[[Any], Any]] = {
    "number": lambda x: float(x.sum((1, 2))[0]),
    "item": lambda x: x.item(),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy()),
    "array": lambda x: torch.as_tensor(memoryview(x)),
    "data": lambda x: x.data,
    "detach": lambda x: x.detach(),
    "assignment": lambda x: x.__setitem__((slice(None), 0), 1.0),
    "into a constant": lambda x: torch.zeros(B, N, C).__setitem__(0, x),
    "x += 1": lambda x: x.add_(1),
    "hook": lambda x: x.register_hook(lambda g: 2 * g),
    "new tensor": torch.tensor,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_no_torch_function_cannot_lose_a_tangent(name: str):
    with pytest.raises((TypeError, AttributeError, ValueError, RuntimeError)):
        UNKNOWN[name](dual(B, N, C))


def test_augmented_assignment_adds_once():
    """A `Dual` cannot be written into a tensor: Python adds them instead, and torch must not have added before."""
    for start in (torch.ones(B, C), dual(B, C)):
        x, h = dual(B, C), start
        h += x
        h -= 2 * x
        h *= x
        h /= x
        assert isinstance(h, Dual)
        torch.testing.assert_close(h.primal, (start.primal if isinstance(start, Dual) else start) - x.primal)


class Last(nn.Module):
    def forward(self, z: Any, r: Any, t: Any, y: Any = None) -> Any:
        return (z * t[:, None]).transpose(0, 1)


def test_a_result_whose_batch_moved_is_refused():
    z, t = constant(B, B), constant(B)
    with pytest.raises(Unsupported, match="batch where it was"):
        carried(Last(), z, t, t, None, (z, None, t))


def test_gradients_of_primals_are_those_without_tangents():
    """The tangent is beside the graph: it carries no gradient and changes none."""
    x, c = dual(B, N, C), dual(B, C)
    out = LAYERS["attention"](LAYERS["modulate"](x, c), c)  # type: ignore[arg-type]
    assert not out.tangent.requires_grad and out.primal.requires_grad  # type: ignore[attr-defined]
    found = torch.autograd.grad(out.primal.square().sum(), [x.primal, c.primal])  # type: ignore[attr-defined]
    plain = LAYERS["attention"](LAYERS["modulate"](x.primal, c.primal), c.primal)
    for p, q in zip(found, torch.autograd.grad(plain.square().sum(), [x.primal, c.primal]), strict=True):
        assert torch.equal(p, q)
