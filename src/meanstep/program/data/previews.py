"""What a person looks at: many pictures in a grid, and what becomes of an image; `views` has what is no picture. Drawn with pillow."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.disk import put


def grid(images: Tensor, columns: int | None = None, pad: int = 2, enlarge: int | None = None) -> Image.Image:
    """The pictures uint8 `[N, 1 or 3, H, W]` row by row on white.

    `columns`: by default as many as rows; `enlarge`: how many times larger each is drawn, bicubic, by default to some 64 pixels.
    """
    height, width = images.shape[-2:]
    scale = enlarge or max(1, 64 // max(height, width))
    size = (width * scale, height * scale)
    return tiled([picture(image).resize(size, Image.Resampling.BICUBIC) for image in images], columns, pad)


def tiled(parts: Sequence[Image.Image], columns: int | None = None, pad: int = 2) -> Image.Image:
    """Images of one size and mode row by row on white."""
    columns = columns or max(1, math.ceil(math.sqrt(len(parts))))
    wide, high = parts[0].width + pad, parts[0].height + pad
    whole = Image.new(parts[0].mode, (columns * wide + pad, math.ceil(len(parts) / columns) * high + pad), "white")
    for k, part in enumerate(parts):
        whole.paste(part, (pad + k % columns * wide, pad + k // columns * high))
    return whole


def picture(image: Tensor) -> Image.Image:
    """One picture uint8 `[1 or 3, H, W]`."""
    array: np.ndarray = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def save(path: Path, image: Image.Image) -> None:
    """Write a PNG (or what the name's end says) where the user says, so that a crash leaves the old file or the new one."""
    try:
        data = encoded(image, Image.registered_extensions().get(path.suffix.lower(), "PNG"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    put(path, data)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The bytes of a picture's file."""
    box = io.BytesIO()
    image.save(box, format=kind)
    return box.getvalue()
