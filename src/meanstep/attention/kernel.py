"""Attention with a tangent as one Triton kernel: a program for each block of queries of each head, one pass over its keys.

Imports triton: import this module only where it is installed.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from meanstep.attention.chunked import LOG2E, batched, results

# Head size up to -> (queries, keys, warps, stages): large blocks whose sums [queries, head] and scores [queries, keys] stay in registers
# and whose k, v, dk, dv and mask stay in shared memory (163 KiB at compute capability 8.0, 227 at 9.0, 99 elsewhere). Chosen by the
# compiler's report for 8.0, 9.0 and 12.0, not timed on a device. Larger heads in float32 spill thousands of bytes.
HALF = {96: (128, 32, 8, 2), 128: (64, 32, 8, 2), 256: (32, 16, 4, 2)}
FULL = {80: (64, 16, 8, 1), 96: (32, 16, 4, 1)}


def attention(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """`(o, do)` `[*B, N, Dv]`, eq. (42), for queries `[*B, N, D]`, keys `[*B, M, D]` and values `[*B, M, Dv]` with any strides."""
    n, m = q.shape[-2], k.shape[-2]
    o, do = results(q, k, v)
    if not (o.numel() and m):
        return o, do
    inputs = [batched(x) for x in (q, k, v, dq, dk, dv)]
    seen = inputs[0] if mask is None else batched(mask.expand(*q.shape[:-1], m))
    kind = 0 if mask is None else 1 if mask.dtype == torch.bool else 2
    n_heads, n_pairs = inputs[0].shape[1], math.prod(q.shape[:-2])
    sizes = split(q.shape[-1]) + split(v.shape[-1])
    unit = math.gcd(16 // q.element_size(), *(step for x in inputs for step in steps(x, 1)[:3]))
    queries, keys, warps, stages = blocks(max(q.shape[-1], v.shape[-1]), n, q.dtype)
    with torch.cuda.device_of(q):
        _kernel[(triton.cdiv(n, queries) * n_pairs,)](
            *inputs, seen.view(torch.uint8) if kind == 1 else seen, o, do, *(steps(x, unit) for x in inputs), seen.stride(),
            n_heads, n, m, scale * (LOG2E if kind < 2 else 1.0), scale,
            q.shape[-1], *sizes[:2], v.shape[-1], *sizes[2:], queries, keys, unit, kind, causal, m % keys != 0, precision(q.dtype),
            num_warps=warps, num_stages=stages, enable_fp_fusion=True,
        )  # fmt: skip
    return o, do


def split(size: int) -> tuple[int, int]:
    """A head size as two powers of two that cover it, the second 0 where one will do: products take powers of two from 16 on."""
    whole = max(16, triton.next_power_of_2(size))
    if size == whole or size <= 16:
        return whole, 0
    rest = max(16, triton.next_power_of_2(size - whole // 2))
    return (whole, 0) if rest >= whole // 2 else (whole // 2, rest)


def steps(x: Tensor, unit: int) -> tuple[int, ...]:
    """Strides of `[B, H, N, D]`, the first three in multiples of `unit`: that they are lets the compiler load 16 bytes at a time."""
    strides = [0 if size == 1 else stride for size, stride in zip(x.shape, x.stride(), strict=True)]
    return (*(stride // unit for stride in strides[:3]), strides[3])


def blocks(head: int, n: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Queries and keys of a block, warps and stages; half the queries where all `n` fit there."""
    table = FULL if dtype == torch.float32 else HALF
    queries, keys, warps, stages = next(row for size, row in table.items() if head <= size)
    return queries // 2 if n <= queries // 2 else queries, keys, warps, stages


def precision(dtype: torch.dtype) -> str:
    """Of products: TF32 where `torch.matmul` uses it, else three TF32 products, which are exact to about float32's rounding.

    Read in the way that answers however it was set: the older names raise an error where it was set by the newer one.
    Not "ieee" for float32: LLVM in triton 3.9 fails an assertion on it at compute capability 9.0. Half precision takes no notice.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "tf32x3"


@triton.jit
def _load(base, strides, count, rows, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, UNIT: tl.constexpr):
    """Columns START .. START + WIDTH of `rows` of a matrix `[count, SIZE]`, zeros outside it."""
    columns = START + tl.arange(0, WIDTH)
    inside = (rows[:, None] < count) & (columns[None, :] < SIZE)
    return tl.load(base + rows[:, None] * (strides[2] * UNIT) + columns[None, :] * strides[3], mask=inside, other=0.0)


@triton.jit
def _products(a, a_rest, b, b_rest, sums, REST: tl.constexpr, PRECISION: tl.constexpr):
    """`sums + a b^T` over a head size in two parts."""
    sums = tl.dot(a, tl.trans(b), sums, input_precision=PRECISION)
    if REST:
        sums = tl.dot(a_rest, tl.trans(b_rest), sums, input_precision=PRECISION)
    return sums


@triton.jit
def _hidden(s, base, strides, rows, keys, N, M, MASK: tl.constexpr, CAUSAL: tl.constexpr, RAGGED: tl.constexpr):
    """Scores under the mask; those that do not count are minus infinity."""
    if MASK:
        inside = (rows[:, None] < N) & (keys[None, :] < M)
        found = tl.load(base + rows[:, None].to(tl.int64) * strides[2] + keys[None, :] * strides[3], mask=inside, other=0)
        s = s + found.to(tl.float32) if MASK == 2 else tl.where(found != 0, s, float("-inf"))
    if RAGGED:
        s = tl.where(keys[None, :] < M, s, float("-inf"))
    if CAUSAL:
        s = tl.where(keys[None, :] <= rows[:, None], s, float("-inf"))
    return s


@triton.jit
def _store(base, x, rows, count, START: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr):
    """Write columns START .. START + WIDTH of `rows` of a dense matrix `[count, SIZE]`."""
    columns = START + tl.arange(0, WIDTH)
    inside = (rows[:, None] < count) & (columns[None, :] < SIZE)
    tl.store(base + rows[:, None] * SIZE + columns[None, :], x.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _kernel(
    q_base, k_base, v_base, dq_base, dk_base, dv_base, mask_base, o_base, do_base,
    q_strides, k_strides, v_strides, dq_strides, dk_strides, dv_strides, mask_strides,
    H, N, M, unit_scale, scale,
    D: tl.constexpr, MAIN: tl.constexpr, REST: tl.constexpr, DV: tl.constexpr, MAIN_V: tl.constexpr, REST_V: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, UNIT: tl.constexpr, MASK: tl.constexpr, CAUSAL: tl.constexpr, RAGGED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs of one block of queries. Scores are in units of the binary logarithm, natural ones under an additive mask (its
    entries may be the lowest number). Names ending in _rest hold the second part of a split head size, unused where there is none.
    """
    n_blocks = tl.cdiv(N, QUERIES)
    pair = (tl.program_id(0) // n_blocks).to(tl.int64)
    first = (tl.program_id(0) % n_blocks) * QUERIES
    b, h, shift = pair // H, pair % H, first.to(tl.int64)
    rows, columns = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    q_base += (b * q_strides[0] + h * q_strides[1] + shift * q_strides[2]) * UNIT
    dq_base += (b * dq_strides[0] + h * dq_strides[1] + shift * dq_strides[2]) * UNIT
    k_base += (b * k_strides[0] + h * k_strides[1]) * UNIT
    v_base += (b * v_strides[0] + h * v_strides[1]) * UNIT
    dk_base += (b * dk_strides[0] + h * dk_strides[1]) * UNIT
    dv_base += (b * dv_strides[0] + h * dv_strides[1]) * UNIT
    mask_base += b * mask_strides[0] + h * mask_strides[1]
    q = _load(q_base, q_strides, N - first, rows, 0, MAIN, D, UNIT)
    dq = _load(dq_base, dq_strides, N - first, rows, 0, MAIN, D, UNIT)
    q_rest, dq_rest = q, dq
    if REST:
        q_rest = _load(q_base, q_strides, N - first, rows, MAIN, REST, D, UNIT)
        dq_rest = _load(dq_base, dq_strides, N - first, rows, MAIN, REST, D, UNIT)
    top = tl.full([QUERIES], -3.4028234663852886e38, tl.float32)  # the lowest: where a row sees no key, its sums stay 0
    total = tl.zeros([QUERIES], tl.float32)
    slope = tl.zeros([QUERIES], tl.float32)
    o = tl.zeros([QUERIES, MAIN_V], tl.float32)
    do = tl.zeros([QUERIES, MAIN_V], tl.float32)
    o_rest = tl.zeros([QUERIES, REST_V if REST_V else 16], tl.float32)
    do_rest = tl.zeros([QUERIES, REST_V if REST_V else 16], tl.float32)
    last = tl.minimum(M, first + QUERIES) if CAUSAL else M
    for start in range(0, last, KEYS):
        k = _load(k_base, k_strides, M - start, columns, 0, MAIN, D, UNIT)
        dk = _load(dk_base, dk_strides, M - start, columns, 0, MAIN, D, UNIT)
        k_rest, dk_rest = k, dk
        if REST:
            k_rest = _load(k_base, k_strides, M - start, columns, MAIN, REST, D, UNIT)
            dk_rest = _load(dk_base, dk_strides, M - start, columns, MAIN, REST, D, UNIT)
        zero = tl.zeros([QUERIES, KEYS], tl.float32)
        s = _products(q, q_rest, k, k_rest, zero, REST, PRECISION)
        ds = _products(dq, dq_rest, k, k_rest, zero, REST, PRECISION)
        ds = _products(q, q_rest, dk, dk_rest, ds, REST, PRECISION)
        s = _hidden(s * unit_scale, mask_base, mask_strides, first + rows, start + columns, N, M, MASK, CAUSAL, RAGGED)
        higher = tl.maximum(top, tl.max(s, 1))
        p, fade = s - higher[:, None], top - higher
        if MASK == 2:
            p, fade = p * 1.4426950408889634, fade * 1.4426950408889634
        p, fade, top = tl.exp2(p), tl.exp2(fade), higher
        ds = (p * (ds * scale)).to(v_base.dtype.element_ty)
        p = p.to(v_base.dtype.element_ty)
        total = total * fade + tl.sum(p.to(tl.float32), 1)  # of the rounded weights: then their errors meet v - o, not v
        slope = slope * fade + tl.sum(ds.to(tl.float32), 1)
        v = _load(v_base, v_strides, M - start, columns, 0, MAIN_V, DV, UNIT)
        dv = _load(dv_base, dv_strides, M - start, columns, 0, MAIN_V, DV, UNIT)
        o = tl.dot(p, v, o * fade[:, None], input_precision=PRECISION)
        do = tl.dot(p, dv, do * fade[:, None], input_precision=PRECISION)
        do = tl.dot(ds, v, do, input_precision=PRECISION)
        if REST_V:
            v = _load(v_base, v_strides, M - start, columns, MAIN_V, REST_V, DV, UNIT)
            dv = _load(dv_base, dv_strides, M - start, columns, MAIN_V, REST_V, DV, UNIT)
            o_rest = tl.dot(p, v, o_rest * fade[:, None], input_precision=PRECISION)
            do_rest = tl.dot(p, dv, do_rest * fade[:, None], input_precision=PRECISION)
            do_rest = tl.dot(ds, v, do_rest, input_precision=PRECISION)
        k_base += KEYS * UNIT * k_strides[2]
        v_base += KEYS * UNIT * v_strides[2]
        dk_base += KEYS * UNIT * dk_strides[2]
        dv_base += KEYS * UNIT * dv_strides[2]
    weight = (1 / tl.where(total == 0, 1, total))[:, None]
    o, o_rest, slope = o * weight, o_rest * weight, slope[:, None]
    start_of_rows = (pair * N + shift) * DV
    _store(o_base + start_of_rows, o, rows, N - first, 0, MAIN_V, DV)
    _store(do_base + start_of_rows, (do - slope * o) * weight, rows, N - first, 0, MAIN_V, DV)
    if REST_V:
        _store(o_base + start_of_rows, o_rest, rows, N - first, MAIN_V, REST_V, DV)
        _store(do_base + start_of_rows, (do_rest - slope * o_rest) * weight, rows, N - first, MAIN_V, REST_V, DV)
