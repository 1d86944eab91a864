"""A U-Net of signals, pictures and video, in plain PyTorch; arXiv 2006.11239, 2105.05233. Knows no derivatives and no files.

Its tangents are carried by the rules of `meanstep.tangents`, like those of any other network.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from meanstep.fields.dit import Attention, TimeEmbedding
from meanstep.fields.given import Given, labels, sizes
from meanstep.shapes import over
from meanstep.values import like

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _conv(axes: int, channels: int, out: int, side: int = 3, stride: int = 1) -> nn.Module:
    return CONVOLUTIONS[axes - 1](channels, out, side, stride, side // 2)


def _norm(channels: int) -> nn.GroupNorm:
    """In groups of at least four channels, 32 of them at most."""
    return nn.GroupNorm(math.gcd(channels // 4, 32), channels, eps=1e-6)


class Residual(nn.Module):
    """Two convolutions; the condition scales and shifts what the second one sees, whose weights start at zero."""

    def __init__(self, axes: int, channels: int, out: int, embedded: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.modulation = _norm(channels), _norm(out), nn.Linear(embedded, 2 * out)
        self.first, self.second = _conv(axes, channels, out), _conv(axes, out, out)
        self.past = nn.Identity() if channels == out else _conv(axes, channels, out, 1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Features `[B, out, *grid]` of `[B, channels, *grid]` under the condition `[B, embedded]`."""
        h = self.norm2(self.first(F.silu(self.norm1(x))))
        scale, shift = self.modulation(F.silu(c)).chunk(2, -1)
        return self.past(x) + self.second(F.silu(h * (1 + over(scale, h)) + over(shift, h)))


class Mixed(nn.Module):
    """Self-attention of all places of a grid, added to the features; it starts at zero."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = _norm(channels), Attention(channels, heads, False, False)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[B, channels, *grid]`."""
        mixed = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + mixed.transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    """A residual block, and attention after it where it is asked for."""

    def __init__(self, axes: int, channels: int, out: int, embedded: int, heads: int) -> None:
        super().__init__()
        self.residual, self.mixed = Residual(axes, channels, out, embedded), Mixed(out, heads) if heads else None

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Features `[B, out, *grid]`."""
        x = self.residual(x, c)
        return x if self.mixed is None else self.mixed(x)


class UNet(nn.Module):
    """A U-Net as an average velocity of rows `[B, *shape]`, `shape = (channels, *grid)` with a grid of one to three axes of any length.

    Levels halve the grid; each has `blocks` residual blocks on the way down and as many on the way up, which see those of the way down
    beside. GroupNorm, SiLU; scale and shift come from `t`, `t - r` and the condition. It starts as zero, as do all blocks as the identity.

    - `width`: channels of the first level, a multiple of 4; `multipliers`: how many times as many each level has;
    - `attention`: the levels, from 0, whose blocks have self-attention, with `heads` heads; the middle has it if one does.
    - `classes`: number of labels `y` (int64 `[B]`); label `classes` means none. 0 is unconditional.
    - `conditions`: instead of labels, parts of `y` by name, as of `DiT`: arrays on the row's grid are channels beside its own.
    - `head`: a second output, the auxiliary velocity. `generator` draws the weights.
    Raises `ValueError` for sizes that cannot be.
    """

    carries_tangents = True

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (2,),
        heads: int = 4,
        *,
        classes: int = 0,
        conditions: Mapping[str, int | Sequence[int]] | None = None,
        head: bool = False,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.classes, self.two = tuple(shape), classes, head
        _check(self.shape, width, tuple(multipliers), blocks, tuple(attention), heads)
        axes, embedded, wide = len(shape) - 1, 4 * width, [width * m for m in multipliers]
        self.given = Given(known, embedded, self.shape[1:], "UNet") if (known := sizes(conditions, classes)) else None
        self.time, self.gap = TimeEmbedding(embedded), TimeEmbedding(embedded)
        self.labels = nn.Embedding(classes + 1, embedded) if classes else None
        self.stem = _conv(axes, shape[0] + (self.given.channels if self.given else 0), width)
        inside = [heads if k in attention else 0 for k in range(len(wide))]
        down = [[b if j == 0 else a for j in range(blocks)] for a, b in zip(wide, [width, *wide[:-1]], strict=True)]
        up = [[(wide[k + 1] if k + 1 < len(wide) and j == 0 else n) + n for j in range(blocks)] for k, n in enumerate(wide)]

        def levels(into: list[list[int]]) -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(Block(axes, n, wide[k], embedded, inside[k]) for n in channels) for k, channels in enumerate(into)
            )

        self.down, self.up = levels(down), levels(up)
        self.smaller = nn.ModuleList(_conv(axes, n, n, stride=2) for n in wide[:-1])
        self.larger = nn.ModuleList(_conv(axes, n, n) for n in wide[1:])
        self.middle = nn.ModuleList(Block(axes, wide[-1], wide[-1], embedded, heads if k == 0 and any(inside) else 0) for k in range(2))
        self.norm, self.out = _norm(wide[0]), _conv(axes, wide[0], shape[0] * (2 if head else 1))
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: Generator | None) -> None:
        """Uniform with variance one over three times the inputs, normal for embeddings; zero for biases and what is added last."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, *CONVOLUTIONS)):
                bound = module.weight[0].numel() ** -0.5
                module.weight.uniform_(-bound, bound, generator=generator)
                module.bias.zero_()  # type: ignore[union-attr]
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(std=0.02, generator=generator)
        for module in self.modules():
            last = module.second if isinstance(module, Residual) else module.attention.out if isinstance(module, Mixed) else None
            if last is not None:
                last.weight.zero_()  # type: ignore[operator]
        self.out.weight.zero_()  # type: ignore[operator]

    def _condition(self, r: Tensor, t: Tensor, y: Any) -> Tensor:
        """The embedding `[B, 4 width]` of times and of what is no channel."""
        c = self.time(t) + self.gap(t - r)
        if self.labels is not None:
            return c + self.labels(torch.full(t.shape, self.classes, device=t.device) if y is None else labels(y))
        known = self.given.vector(y) if self.given is not None else None
        return c if known is None else c + known

    def _run(self, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
        if tuple(z.shape[1:]) != self.shape:
            raise ValueError(f"z has shape {tuple(z.shape)}, and this UNet takes rows of shape {self.shape}")
        if y is not None and self.labels is None and self.given is None:
            raise ValueError("this UNet was built without classes and was given labels: UNet(..., classes=N)")
        c, h = self._condition(r, t, y), self.stem(z if self.given is None else self.given.beside(z, y))
        seen: list[list[Tensor]] = []
        for k, level in enumerate(self.down):
            h = self.smaller[k - 1](h) if k else h
            seen.append([])
            for block in level:  # type: ignore[attr-defined]
                h = block(h, c)
                seen[-1].append(h)
        for block in self.middle:
            h = block(h, c)
        for k in range(len(self.up) - 1, -1, -1):
            if k + 1 < len(self.up):
                h = self.larger[k](F.interpolate(h, size=seen[k][0].shape[2:], mode="nearest"))
            for block, past in zip(self.up[k], reversed(seen[k]), strict=True):  # type: ignore[call-overload]
                h = block(torch.cat([h, past], 1), c)
        return self.out(F.silu(self.norm(h)))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity: `[B, *shape], [B], [B] -> [B, *shape]`; `ValueError` for other rows, or labels without classes."""
        out = self._run(z, r, t, y)
        return out.chunk(2, 1)[0] if self.two else out

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def with_head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> tuple[Tensor, Tensor]:
        """The average and the auxiliary velocity in one pass, both `[B, *shape]`."""
        u, v = self._run(z, r, t, y).chunk(2, 1)
        return u, v

    @property
    def head(self) -> Any:
        """The auxiliary velocity `(z, r, t, y) -> [B, *shape]`, or None if the network was built without it."""
        return (lambda z, r, t, y=None: self.with_head(z, r, t, y)[1]) if self.two else None


def _check(shape: Sequence[int], width: int, multipliers: Sequence[int], blocks: int, attention: Sequence[int], heads: int) -> None:
    """`ValueError` for sizes that cannot be."""
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise ValueError(f"shape is channels and one to three axes, each at least 1, got {tuple(shape)}")
    if width < 4 or width % 4:
        raise ValueError(f"width is a multiple of 4, got {width}")
    if not multipliers or min(*multipliers, blocks, heads) < 1:
        raise ValueError(f"multipliers, blocks and heads are at least 1, got {multipliers=}, {blocks=}, {heads=}")
    if any(not 0 <= k < len(multipliers) for k in attention):
        raise ValueError(f"attention names levels from 0 to {len(multipliers) - 1}, one for each of the multipliers, got {attention}")
    if any(width * multipliers[k] % heads for k in {*attention, len(multipliers) - 1} if attention):
        raise ValueError(
            f"heads divide the width of every level that has attention and of the last, got {heads=}, {width=}, {multipliers=}"
        )
    if max(shape[1:]) < 2 ** (len(multipliers) - 1):
        raise ValueError(f"multipliers: {len(multipliers)} levels halve {tuple(shape[1:])} below one place: give fewer")
