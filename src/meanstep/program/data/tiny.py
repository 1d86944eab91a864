"""The tiny autoencoders TAESD and TAEF2 (github.com/madebyollin/taesd) as plain modules that take the names of their files' tensors.

Knows no files. diffusers' AutoencoderTiny is TAESD under other names, and has no TAEF2: its blocks have a branch with a group norm.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

WIDTH, STAGES = 64, 3


class Block(nn.Module):
    """Three convolutions beside an identity; with `pooled`, first a branch whose group norm sees the whole picture."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        relu = nn.ReLU()
        self.conv = nn.Sequential(_conv(), relu, _conv(), relu, _conv())
        wide = 4 * WIDTH
        one = nn.Conv2d(WIDTH, wide, 1, bias=False), nn.Conv2d(wide, WIDTH, 1, bias=False)
        self.pool = nn.Sequential(one[0], nn.GroupNorm(4, wide), nn.ReLU(), one[1]) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 64, H, W]`."""
        x = x if self.pool is None else x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    """`3 tanh(z / 3)`."""

    def forward(self, z: Tensor) -> Tensor:
        """Any shape."""
        return 3 * torch.tanh(z / 3)


class Tiny(nn.Module):
    """Encoder and decoder between pictures `[B, 3, H, W]` in [0, 1] and latents `[B, channels, H/8, W/8]`."""

    def __init__(self, channels: int, pooled: bool) -> None:
        super().__init__()
        down = [layer for k in range(STAGES) for layer in (_conv(stride=2, bias=False), *_blocks(3, pooled and k == STAGES - 1))]
        up = [layer for k in range(STAGES) for layer in (*_blocks(3, pooled and k == 0), nn.Upsample(scale_factor=2), _conv(bias=False))]
        self.encoder = nn.Sequential(_conv(3), Block(False), *down, _conv(out=channels))
        self.decoder = nn.Sequential(Clamp(), _conv(channels), nn.ReLU(), *up, Block(False), _conv(out=3))

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Tiny":
        """Of a file's tensors, in float32 and frozen; `KeyError` or `RuntimeError` if they are not those of such an autoencoder."""
        channels = len(tensors["encoder.14.bias"])
        net = cls(channels, "encoder.11.pool.1.weight" in tensors)
        net.load_state_dict({name: t.float() for name, t in tensors.items()})
        return net.requires_grad_(False).eval()


def _conv(inputs: int = WIDTH, out: int = WIDTH, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, out, 3, stride, padding=1, bias=bias)


def _blocks(n: int, pooled: bool) -> list[nn.Module]:
    return [Block(pooled) for _ in range(n)]
