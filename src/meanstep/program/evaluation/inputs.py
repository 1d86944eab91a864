"""What an extractor sees of an image, channels, size, range, or of a row of numbers. Part of its digest."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meanstep.program.console import UserError


@dataclass(frozen=True)
class Input:
    """Images uint8 `[B, 1 or 3, H, W]` to `(resized - mean) / std` float32, mean and std in units of 0 to 255, one or one a channel.

    The whole image is resized to `size` x `size` with antialiasing (0, `none`: as it is), nothing is cut away; bicubic overshoots are
    clamped to 0 to 255. `channels` 3: one channel is repeated; 0: any number.
    """

    size: int
    resample: Literal["none", "bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3

    def __call__(self, images: Tensor) -> Tensor:
        """`UserError` for images that are not uint8 or have other channels."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            what = f"an extractor takes images uint8 [B, 1 or 3, H, W], got {images.dtype} {tuple(images.shape)}"
            raise UserError(f"{what}: for rows of numbers give --extractor rows")
        x = images.float()
        if self.channels == 3:
            x = x.expand(-1, 3, -1, -1)
        if self.resample != "none":
            x = F.interpolate(x, (self.size, self.size), mode=self.resample, align_corners=False, antialias=True).clamp(0, 255)
        mean, std = (x.new_tensor(m)[:, None, None] for m in (self.mean, self.std))
        return (x - mean) / std

    def repeats(self, channels: int) -> bool:
        """Whether images of so many channels get theirs repeated."""
        return self.channels == 3 and channels == 1


@dataclass(frozen=True)
class Entries:
    """Rows `[B, *E]` of any shape as vectors of their entries, float32 `[B, D]`."""

    size: int = 0

    def __call__(self, rows: Tensor) -> Tensor:
        """Pictures too are rows of numbers."""
        return rows.flatten(1).float()

    def repeats(self, channels: int) -> bool:
        """Nothing is repeated."""
        return False
