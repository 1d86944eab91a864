"""The Diffusion Transformer for pictures, signals and video, in plain PyTorch; arXiv 2212.09748. Its tangents are carried by rules."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from meanstep.fields.adapt import towards
from meanstep.fields.given import Given, labels, sizes
from meanstep.modulation import gated, modulate
from meanstep.paths import linear
from meanstep.values import like


class TimeEmbedding(nn.Module):
    """A time in [0, 1], `[B]` -> `[B, width]`: cosines, then sines, of 128 frequencies from `scale` down to `scale / 10000`, two layers.

    Published code of diffusion multiplies times by 1000, which multiplies the derivative in time, too; SiT and MeanFlow do not.
    """

    frequencies: Tensor

    def __init__(self, width: int, features: int = 256, scale: float = 1.0) -> None:
        super().__init__()
        half = features // 2
        self.register_buffer("frequencies", scale * torch.exp(-math.log(10000) * torch.arange(half) / half), persistent=False)
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """The embedding `[B, width]`."""
        angles = t[:, None] * self.frequencies.to(t)
        return self.second(F.silu(self.first(torch.cat([angles.cos(), angles.sin()], -1))))


def _norm(width: int, rms: bool, affine: bool) -> nn.Module:
    return nn.RMSNorm(width, eps=1e-6, elementwise_affine=affine) if rms else nn.LayerNorm(width, eps=1e-6, elementwise_affine=affine)


class Attention(nn.Module):
    """Self-attention of tokens `[B, N, width]`; `qk_norm` normalises queries and keys head by head, arXiv 2302.05442."""

    def __init__(self, width: int, heads: int, qk_norm: bool, rms: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm: nn.Module = _norm(width // heads, rms, True) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = _norm(width // heads, rms, True) if qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `[B, N, width]`."""
        q, k, v = (part.transpose(1, 2) for part in self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2))
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """One block with adaLN-Zero: shift, scale and gate of both halves come from the condition."""

    def __init__(self, width: int, heads: int, ratio: float, qk_norm: bool, rms: bool) -> None:
        super().__init__()
        hidden = int(width * ratio)
        self.modulation = nn.Linear(width, 6 * width)
        self.norm1, self.norm2 = _norm(width, rms, False), _norm(width, rms, False)
        self.attention = Attention(width, heads, qk_norm, rms)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Tokens `[B, N, width]` under the condition `[B, width]`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c)).chunk(6, -1)
        h = gated(h, gate1, self.attention(modulate(self.norm1(h), shift1, scale1)))
        return gated(h, gate2, self.down(F.gelu(self.up(modulate(self.norm2(h), shift2, scale2)), approximate="tanh")))


class Final(nn.Module):
    """The last norm and projection of tokens to patches."""

    def __init__(self, width: int, features: int, rms: bool) -> None:
        super().__init__()
        self.norm, self.modulation, self.out = _norm(width, rms, False), nn.Linear(width, 2 * width), nn.Linear(width, features)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Patches `[B, N, features]`."""
        shift, scale = self.modulation(F.silu(c)).chunk(2, -1)
        return self.out(modulate(self.norm(h), shift, scale))


def _positions(width: int, counts: Sequence[int]) -> Tensor:
    """Fixed sines and cosines of a token's place along each axis, the last one first, `[tokens, width]`; what is left of a width is 0."""
    each = width // (2 * len(counts))
    rates = 10000 ** (-torch.arange(each, dtype=torch.float64) / each)
    places = torch.meshgrid(*map(torch.arange, counts), indexing="ij")
    angles = torch.stack(places[::-1], -1).flatten(0, -2)[..., None] * rates
    found = torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)
    return F.pad(found, (0, width - found.shape[-1])).to(torch.get_default_dtype())


SIZES = {
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "M": (1024, 16, 16),  # MeanFlow's, arXiv 2505.13447
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
    "Ti": (192, 12, 3),  # ViT's, arXiv 2012.12877
    "Mini": (128, 6, 4),  # ours, for studies on a CPU, as is the next
    "Nano": (64, 4, 2),
}
"""Width, depth, heads: DiT's four published sizes, MeanFlow's M, and smaller ones."""


def _grid(size: int | Sequence[int], patch: int | Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The grid and a patch's sides along its axes; `ValueError` if there are others."""
    grid = (size, size) if isinstance(size, int) else tuple(size)
    sides = (patch,) * len(grid) if isinstance(patch, int) else tuple(patch)
    if not grid or len(sides) != len(grid):
        raise ValueError(f"patch is a number, or one for each axis of the grid, got {size=}, {patch=}")
    if any(p > 0 and n % p for n, p in zip(grid, sides, strict=True)):
        common = math.gcd(*grid)
        fitting = ", ".join(str(k) for k in range(1, common + 1) if common % k == 0)
        raise ValueError(f"patch divides every axis of the grid, which is {' x '.join(map(str, grid))}, got {patch}: give {fitting}")
    return grid, sides


def _in_range(depth: int, split: int | None, data_floor: float | None, time_scale: float) -> None:
    if split is not None and not 0 <= split <= depth:
        raise ValueError(f"split is a number of blocks in [0, {depth}], got {split}")
    if data_floor is not None and not 0 < data_floor <= 1:
        raise ValueError(f"data_floor is a time in (0, 1], got {data_floor:g}")
    if not 0 < time_scale < math.inf:
        raise ValueError(f"time_scale is a positive number, got {time_scale:g}")


class DiT(nn.Module):
    """The Diffusion Transformer as an average velocity of rows `[B, channels, *grid]`; arXiv 2212.09748, 2505.13447.

    It is conditioned on `t`, `t - r`, and a class or other conditions.

    - `size`: the grid, such as `(64,)` of signals, `(16, 24)` of pictures, `(8, 16, 16)` of video; a number is the side of a square.
    - `patch`: side of a token, one for all axes or one for each; it divides the grid's.
    - `width`: of a token, a multiple of `heads` and of 4; `depth`: number of blocks; `heads`: of the attention. 384, 12 and 6, which is S.
      `ratio`: width of a block's hidden layer to its own; 4, as published.
    - `classes`: number of labels `y` (int64 `[B]`); label `classes` means none. 0 is unconditional.
    - `conditions`: instead of labels, parts of `y` by name, each a number of categories (int64 `[B]`, one more means none) or the shape of
      its numbers. Arrays `(k, *grid)`, or on a coarser grid of two or more axes that divide, are channels beside the row's; others are
      embedded as a class is.
    - `generator`: draws the weights. `checkpointing`: compute the blocks again in the backward pass instead of storing them.
    - `qk_norm`: queries and keys are normalised, arXiv 2302.05442; `rms`: RMSNorm for LayerNorm, arXiv 1910.07467, as in 2511.19797;
    - `head`: a second output, the auxiliary velocity of iMF, arXiv 2512.02012;
    - `split`: the first `split` blocks see `t`, the others and the last layer `r`, and no gap is embedded: decoupled MeanFlow, eq. (33),
      arXiv 2510.24474, whose split is 20 of 28 blocks;
    - `data_floor`: the network predicts data `X`, and its velocity (its head's, too) is `(z - X) / max(t, data_floor)`, eq. (32);
      arXiv 2601.22158, whose floor is 0.05. None: it predicts the velocity;
    - `time_scale` multiplies `t` (and a split's `r`), and the derivative in `t` with it: 1000 for the weights of DiT.
    Raises `ValueError` for sizes that do not divide, and for options out of their range.
    """

    positions: Tensor
    carries_tangents = True

    def __init__(
        self,
        size: int | Sequence[int] = 32,
        channels: int = 4,
        patch: int | Sequence[int] = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        *,
        classes: int = 0,
        conditions: Mapping[str, int | Sequence[int]] | None = None,
        ratio: float = 4.0,
        qk_norm: bool = False,
        rms: bool = False,
        head: bool = False,
        split: int | None = None,
        data_floor: float | None = None,
        time_scale: float = 1.0,
        checkpointing: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.patch = _grid(size, patch)
        if min(*self.grid, channels, *self.patch, width, depth, heads) < 1:
            raise ValueError(f"sizes are at least 1, got {size=}, {channels=}, {patch=}, {width=}, {depth=}, {heads=}")
        if width % heads or width % 4 or width < 2 * len(self.grid):
            raise ValueError(f"width is a multiple of heads and of 4, and at least twice the axes, got {width=}, {heads=}")
        _in_range(depth, split, data_floor, time_scale)
        self.channels, self.classes = channels, classes
        self.heads, self.two, self.checkpointing, self.qk_norm, self.rms = heads, head, checkpointing, qk_norm, rms
        self.split, self.data_floor, self.time_scale = split, data_floor, time_scale
        self.path = None if data_floor is None else linear
        self.given = Given(known, width, self.grid, "DiT") if (known := sizes(conditions, classes)) else None
        entries = math.prod(self.patch)
        self.patches = nn.Linear((channels + (self.given.channels if self.given else 0)) * entries, width)
        self.register_buffer("positions", _positions(width, self._counts()), persistent=False)
        self.time, self.gap = TimeEmbedding(width, scale=time_scale), TimeEmbedding(width) if split is None else None
        self.labels = nn.Embedding(classes + 1, width) if classes else None
        self.blocks = nn.ModuleList(Block(width, heads, ratio, qk_norm, rms) for _ in range(depth))
        self.last = Final(width, channels * entries * (2 if head else 1), rms)
        self._initialise(generator)

    @classmethod
    def named(cls, name: str, size: int | Sequence[int] = 32, channels: int = 4, **options: Any) -> "DiT":
        """A size of `SIZES` and a patch, such as `"B/4"`; `options` as of the class. `ValueError` for another name."""
        letter, _, patch = name.partition("/")
        if letter not in SIZES or not patch.isdecimal():
            raise ValueError(f"a size is one of {', '.join(SIZES)} and a patch, such as B/4, got {name!r}")
        return cls(size, channels, int(patch), *SIZES[letter], **options)

    @torch.no_grad()
    def _initialise(self, generator: Generator | None) -> None:
        """DiT's: Xavier for linear layers, normal for embeddings, zero for every gate and for the output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
        for embedding in filter(None, (self.time, self.gap)):
            nn.init.normal_(embedding.first.weight, std=0.02, generator=generator)
            nn.init.normal_(embedding.second.weight, std=0.02, generator=generator)
        for table in (module for module in self.modules() if isinstance(module, nn.Embedding)):
            nn.init.normal_(table.weight, std=0.02, generator=generator)
        for module in self.modules():
            if isinstance(module, (Block, Final)):
                nn.init.zeros_(module.modulation.weight)
        nn.init.zeros_(self.last.out.weight)

    def conditions(self, r: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the blocks below the split see of times and labels, and what the others see, `[B, width]` each; the same without a split."""
        early = self.time(t) if self.gap is None else self.time(t) + self.gap(t - r)
        late = self.time(r) if self.gap is None else early
        if self.labels is not None:
            known = self.labels(torch.full(t.shape, self.classes, device=t.device) if y is None else labels(y))
        elif self.given is None or (known := self.given.vector(y)) is None:
            return early, late
        return early + known, late + known

    def stem(self, z: Tensor, y: Any = None) -> Tensor:
        """Tokens `[B, N, width]` of a row, and of the conditions `y` that are channels beside it."""
        if tuple(z.shape[1:]) != (self.channels, *self.grid):
            wanted = ", ".join(map(str, (self.channels, *self.grid)))
            raise ValueError(f"this DiT takes rows [B, {wanted}], got {tuple(z.shape)}")
        z = self.given.beside(z, y) if self.given else z
        sides = [n for pair in zip(self._counts(), self.patch, strict=True) for n in pair]
        counts, patches = range(2, len(sides) + 2, 2), range(3, len(sides) + 3, 2)
        tokens = z.reshape(-1, z.shape[1], *sides).permute(0, *counts, 1, *patches)
        return self.patches(tokens.flatten(len(self.grid) + 1).flatten(1, -2)) + self.positions.to(z)

    def final(self, h: Tensor, c: Tensor) -> Tensor:
        """The row (or two, channels first one's, then the other's) of tokens `h` `[B, N, width]` under the condition `c` `[B, width]`."""
        n = len(self.grid)
        patches = self.last(h, c).unflatten(1, self._counts()).unflatten(-1, (-1, *self.patch))
        row = patches.permute(0, n + 1, *(axis for k in range(n) for axis in (k + 1, n + 2 + k)))
        for axis in range(n, 0, -1):
            row = row.flatten(2 * axis, 2 * axis + 1)
        return row

    def _counts(self) -> tuple[int, ...]:
        """Tokens along each axis of the grid."""
        return tuple(n // p for n, p in zip(self.grid, self.patch, strict=True))

    def _run(self, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
        if y is not None and self.labels is None and self.given is None:
            raise ValueError("this DiT was built without classes and was given labels: DiT(..., classes=N)")
        h, (early, late) = self.stem(z, y), self.conditions(r, t, y)
        for k, block in enumerate(self.blocks):
            c = early if self.split is None or k < self.split else late
            h = checkpoint(block, h, c, use_reentrant=False) if self.checkpointing and torch.is_grad_enabled() else block(h, c)
        return self.final(h, late)

    def _velocities(self, z: Tensor, r: Tensor, t: Tensor, y: Any) -> tuple[Tensor, ...]:
        """The average velocity, and with a head the auxiliary one."""
        out = self._run(z, r, t, y)
        parts = out.chunk(2, 1) if self.two else (out,)
        return parts if self.data_floor is None else tuple(towards(x, z, t, self.data_floor) for x in parts)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity: `[B, C, *grid], [B], [B], [B] -> [B, C, *grid]`; `ValueError` for other rows, or labels without classes."""
        return self._velocities(z, r, t, y)[0]

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def with_head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> tuple[Tensor, Tensor]:
        """The average and the auxiliary velocity in one pass, both `[B, C, *grid]`."""
        u, v = self._velocities(z, r, t, y)
        return u, v

    @property
    def head(self) -> Any:
        """The auxiliary velocity `(z, r, t, y) -> [B, C, *grid]`, or None if the network was built without it."""
        return (lambda z, r, t, y=None: self.with_head(z, r, t, y)[1]) if self.two else None
