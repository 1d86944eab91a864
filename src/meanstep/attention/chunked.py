"""Attention with a tangent in plain PyTorch, tile by tile: the form for the CPU, and for what the Triton kernel does not cover."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# The scores and score tangents of one tile are 1 MiB in float32, what a core's second-level cache holds. Tried on one core of an EPYC:
# tiles of 2^13 to 2^19 scores, 64 to 1024 keys wide. Smaller ones pay for the calls, larger ones for memory, both up to a third.
SCORES = 2**17
KEYS = 256
ELSEWHERE = 2**23  # scores of a tile on an accelerator, where a call must be long to be worth its launch

LOG2E = 1 / math.log(2)


@torch.no_grad()
def attention(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """`(o, do)` `[*B, N, Dv]`, eq. (42), for queries `[*B, N, D]`, keys `[*B, M, D]` and values `[*B, M, Dv]`."""
    n, m = q.shape[-2], k.shape[-2]
    o, do = results(q, k, v)
    if not (o.numel() and m):
        return o, do
    inputs = [batched(x) for x in (q, k, v, dq, dk, dv)]
    outputs = [batched(x) for x in (o, do)]
    seen = None if mask is None else batched(mask.expand(*q.shape[:-1], m))
    batch, n_heads = inputs[0].shape[:2]
    most = SCORES if q.device.type == "cpu" else ELSEWHERE
    rows = min(n, max(1, most // min(m, KEYS)))
    with torch.autocast(q.device.type, enabled=False):
        for part in parts(batch, n_heads, most // (rows * min(m, KEYS))):
            visible = None if seen is None else seen[part]
            heads([flat(x[part]) for x in inputs], [x[part].flatten(0, 1) for x in outputs], visible, causal, scale, rows)
    return o, do


@torch.no_grad()
def derivative(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, scale: float) -> Tensor:
    """`do` `[*B, N, Dv]` alone, without a mask: no product for `o`, and no sums to rescale, as all keys are in one tile (`fits`)."""
    return _whole(scale, q, k, v, dq, dk, dv)[0]


@torch.no_grad()
def together(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """`o` and `do`, otherwise as `derivative`."""
    do, o = _whole(scale, q, k, v, dq, dk, dv, values=True)
    return o, do


def _whole(scale: float, *given: Tensor, values: bool = False) -> list[Tensor]:
    """`do`, and with `values` `o` after it, `[*B, N, Dv]`."""
    q, v = given[0], given[2]
    n, m = q.shape[-2], v.shape[-2]
    inputs = [batched(x).to(torch.promote_types(x.dtype, torch.float32)) for x in given]
    batch, n_heads = inputs[0].shape[:2]
    size = max(1, SCORES // (4 * n * m))
    with torch.autocast(q.device.type, enabled=False):
        if batch * n_heads <= size:  # few enough that calls cost more than copies
            found = _in_one(scale, [x.flatten(0, 1) for x in inputs], values)
            return [x.view(*q.shape[:-1], v.shape[-1]).to(q.dtype) for x in found]
        # tokens of a row lie together, as the next layer takes them
        outs = [q.new_empty(batch, n, n_heads, v.shape[-1]).transpose(1, 2) for _ in range(1 + values)]
        for *parts, outs_here in zip(*(x.unbind(1) for x in inputs), zip(*(x.unbind(1) for x in outs), strict=True), strict=True):
            for b in range(0, batch, size):  # products take a head's rows as they lie
                for out, x in zip(outs_here, _in_one(scale, [x[b : b + size] for x in parts], values), strict=True):
                    out[b : b + size] = x
    return [x.reshape(*q.shape[:-1], v.shape[-1]) for x in outs]


def _in_one(scale: float, inputs: list[Tensor], values: bool) -> list[Tensor]:
    """`do` `[G, N, Dv]` of inputs `[G, N, D]`, and with `values` `o`."""
    q, k, v, dq, dk, dv = inputs
    none = q.new_empty(1)
    p = torch.softmax(torch.baddbmm(none, q, k.mT, beta=0, alpha=scale), -1)
    ds = torch.baddbmm(torch.baddbmm(none, dq, k.mT, beta=0, alpha=scale), q, dk.mT, alpha=scale)
    do = torch.bmm(p, dv).baddbmm_(torch._softmax_backward_data(ds, p, -1, p.dtype), v)
    return [do, torch.bmm(p, v)] if values else [do]


def fits(q: Tensor, k: Tensor) -> bool:
    """Whether all keys of a query are few enough for `derivative`, and there are some of both."""
    n, m = q.shape[-2], k.shape[-2]
    return q.device.type == "cpu" and q.numel() > 0 and 0 < m <= KEYS and n * m <= SCORES


def results(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """`o` and `do` `[*B, N, Dv]` to be filled; of no keys they are 0."""
    shape, make = (*q.shape[:-1], v.shape[-1]), q.new_empty if k.shape[-2] else q.new_zeros
    return make(shape), make(shape)


def batched(x: Tensor) -> Tensor:
    """`[*B, N, D]` as `[B, H, N, D]`."""
    return x.flatten(0, -4) if x.ndim > 4 else x[(None,) * (4 - x.ndim)]


def parts(batch: int, n_heads: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Slices of `[B, H]` with about `size` pairs: whole rows where they fit, else heads of one row."""
    rows, width = max(1, size // n_heads), max(1, min(size, n_heads))
    for b in range(0, batch, rows):
        for h in range(0, n_heads, width):
            yield slice(b, b + rows), slice(h, h + width)


def flat(x: Tensor) -> Tensor:
    """`[b, h, N, D]` as `[b h, N, D]` in the dtype that sums; a view where it can be one that products take as it is."""
    x = x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32))
    return x if x.stride(-1) == 1 else x.contiguous()


def heads(inputs: list[Tensor], outputs: list[Tensor], mask: Tensor | None, causal: bool, scale: float, rows: int) -> None:
    """Fill `outputs`, `o` and `do` `[G, N, Dv]`, `rows` queries at a time; inputs `[G, N, D]`, mask `[b, h, N, M]` with `b h = G`."""
    q, k, v, dq, dk, dv = inputs
    m = k.shape[1]
    space = q.new_empty(2, len(q) * rows * min(m, KEYS))
    for i in range(0, q.shape[1], rows):
        block = slice(i, i + rows)
        here = [x[:, block] for x in outputs]
        sums = Sums(*(x if x.dtype == q.dtype else torch.empty_like(x, dtype=q.dtype) for x in here))
        additive = mask is not None and mask.dtype != torch.bool
        for j in range(0, min(m, i + rows) if causal else m, KEYS):
            keys = slice(j, j + KEYS)
            s, ds = scores(q[:, block], dq[:, block], k[:, keys], dk[:, keys], scale, 1.0 if additive else LOG2E, space)
            if mask is not None:
                hide(s, mask[:, :, block, keys])
            if causal and j + s.shape[2] > i + 1:
                s.masked_fill_(torch.ones_like(s[0], dtype=torch.bool).triu_(i - j + 1), -torch.inf)
            sums.add(s, ds, v[:, keys], dv[:, keys], LOG2E if additive else 1.0)
        for result, x in zip(here, sums.finish(), strict=True):
            if result is not x:
                result.copy_(x)


def scores(q: Tensor, dq: Tensor, k: Tensor, dk: Tensor, scale: float, unit: float, space: Tensor) -> tuple[Tensor, Tensor]:
    """`unit scale q k^T` and `scale (dq k^T + q dk^T)`, both `[G, n, m]` in `space`."""
    g, n, m = len(q), q.shape[1], k.shape[1]
    s, ds = space[:, : g * n * m].view(2, g, n, m)
    torch.baddbmm(s, q, k.mT, beta=0, alpha=scale * unit, out=s)
    torch.baddbmm(ds, dq, k.mT, beta=0, alpha=scale, out=ds)
    torch.baddbmm(ds, q, dk.mT, alpha=scale, out=ds)
    return s, ds


def hide(s: Tensor, mask: Tensor) -> None:
    """Apply a mask `[b, h, n, m]` to scores `[b h, n, m]`."""
    s = s.view(mask.shape)
    if mask.dtype == torch.bool:
        s.masked_fill_(~mask, -torch.inf)
    else:
        s.add_(mask)


class Sums:
    """The sums of a softmax in one pass over the keys, for a block of queries: each new key block rescales what is there."""

    def __init__(self, o: Tensor, do: Tensor) -> None:
        self.o, self.do = o, do
        self.top = self.total = self.slope = o.new_empty(0)

    def add(self, s: Tensor, ds: Tensor, v: Tensor, dv: Tensor, unit: float) -> None:
        """A block of scores `s` in units `unit` of the binary logarithm and their tangents `ds`, both overwritten."""
        first = not self.top.numel()
        top = s.amax(-1, keepdim=True).clamp_(min=torch.finfo(s.dtype).min)  # finite where a row sees no key: its sums stay 0
        if not first:
            torch.maximum(top, self.top, out=top)
            fade = (self.top - top).mul_(unit).exp2_()
            for x in (self.total, self.slope, self.o, self.do):
                x.mul_(fade)
        p = s.sub_(top)
        p = (p if unit == 1 else p.mul_(unit)).exp2_()
        ds.mul_(p)
        total, slope = p.sum(-1, keepdim=True), ds.sum(-1, keepdim=True)
        self.top, self.total, self.slope = top, (total if first else self.total.add_(total)), (slope if first else self.slope.add_(slope))
        for out, weights, values in ((self.o, p, v), (self.do, p, dv)):
            torch.baddbmm(out, weights, values, beta=0 if first else 1, out=out)
        torch.baddbmm(self.do, ds, v, out=self.do)

    def finish(self) -> tuple[Tensor, Tensor]:
        """`o` and `do` `[G, n, Dv]`. A row that saw a key has a total of at least 1, the largest weight."""
        total = self.total.clamp_(min=1)
        self.o.div_(total)
        return self.o, self.do.addcmul_(self.o, self.slope, value=-1).div_(total)
