"""Many pictures as one. Knows no networks."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from meanstep.program.console import UserError, write


def grid(images: Tensor, columns: int | None = None, pad: int = 2, enlarge: int | None = None) -> Image.Image:
    """The pictures uint8 `[N, 1 or 3, H, W]` row by row on white.

    `columns`: by default as many as rows; `enlarge`: how often a pixel is repeated, by default so that a picture has some 64.
    """
    n, channels, height, width = images.shape
    columns = columns or max(1, math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    whole = torch.full((channels, rows * (height + pad) + pad, columns * (width + pad) + pad), 255, dtype=torch.uint8)
    scale = enlarge or max(1, 64 // max(height, width))
    for k, image in enumerate(images):
        top, left = pad + k // columns * (height + pad), pad + k % columns * (width + pad)
        whole[:, top : top + height, left : left + width] = image
    return picture(whole.repeat_interleave(scale, 1).repeat_interleave(scale, 2))


def picture(image: Tensor) -> Image.Image:
    """One picture uint8 `[1 or 3, H, W]`."""
    array: np.ndarray = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save(path: Path, image: Image.Image) -> None:
    """Write a PNG (or what the name's end says) so that a crash leaves the old file or the new one."""
    box = io.BytesIO()
    try:
        image.save(box, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    write(path, box.getvalue())
