"""Many pictures as one. Knows no networks."""

import io
import math
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
    n, channels, height, width = images.shape
    columns = columns or max(1, math.ceil(math.sqrt(n)))
    rows, scale = math.ceil(n / columns), enlarge or max(1, 64 // max(height, width))
    high, wide = height * scale + pad, width * scale + pad
    whole = Image.new("L" if channels == 1 else "RGB", (columns * wide + pad, rows * high + pad), "white")
    for k, image in enumerate(images):
        one = picture(image).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
        whole.paste(one, (pad + k % columns * wide, pad + k // columns * high))
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
