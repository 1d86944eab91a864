"""What a person looks at: many pictures in a grid, signals as lines, points as dots. Draws with pillow alone."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.disk import put

PANEL = (144, 96)
"""Width and height of one signal's lines."""
CLOUD, POINTS = 480, 1024
"""Width and height of a scatter of points, and how many of them are worth one."""
COLOURS = ("#1f5fa8", "#c4521b", "#2a8a57", "#8a4fa3", "#a8871f", "#4a4a4a")
MARGIN = 6


def count(shape: Sequence[int], columns: int = 8) -> int:
    """How many rows of a shape one preview shows: eight rows of `columns`, or many points."""
    return POINTS if len(shape) == 1 and shape[0] <= 2 else 8 * columns


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


def numbers(rows: Tensor, columns: int | None = None) -> Image.Image:
    """Rows of numbers `[N, *E]`, all on one scale.

    `[2]`: a scatter; `[1]`: their sorted values as a line; `[D]`: a line each; `[channels, length]`: a line a channel; more axes: the last
    two of the first entry of the others in grey.
    """
    rows = rows.detach().float().cpu()
    if rows[0].numel() == 1:
        return _signals(rows.flatten().sort().values[None, None], 1)
    if rows.ndim == 2 and rows.shape[1] == 2:
        return _scatter(rows)
    if rows.ndim <= 3:
        return _signals(rows[:, None] if rows.ndim == 2 else rows, columns)
    low, high = _range(rows)
    grey = ((rows.flatten(1, -3)[:, :1] - low) / (high - low) * 255).round().clamp(0, 255)
    return grid(grey.to(torch.uint8), columns)


def _range(rows: Tensor) -> tuple[float, float]:
    """The least and the largest number that is finite, apart."""
    finite = rows[rows.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _signals(rows: Tensor, columns: int | None) -> Image.Image:
    """A panel for each row `[channels, length]`."""
    low, high = _range(rows)
    width, height = PANEL
    x = torch.linspace(MARGIN, width - MARGIN, rows.shape[-1])
    y = height - MARGIN - (rows.nan_to_num(low).clamp(low, high) - low) / (high - low) * (height - 2 * MARGIN)
    return tiled([_lines([list(zip(x.tolist(), line.tolist(), strict=True)) for line in row]) for row in y], columns)


def _lines(lines: Sequence[list[tuple[float, float]]]) -> Image.Image:
    panel = Image.new("RGB", PANEL, "#f4f4f2")
    draw = ImageDraw.Draw(panel)
    for k, line in enumerate(lines):
        draw.line(line, fill=COLOURS[k % len(COLOURS)], width=1)
    return panel


def _scatter(rows: Tensor) -> Image.Image:
    """Points `[N, 2]` in a frame with its bounds, equal scales."""
    whole = Image.new("RGB", (CLOUD, CLOUD), "white")
    draw = ImageDraw.Draw(whole)
    rows = rows[rows.isfinite().all(1)]
    low, high = _range(rows)
    inner = CLOUD - 2 * MARGIN
    for x, y in ((rows - low) / (high - low) * inner).tolist():
        at, up = MARGIN + x, CLOUD - MARGIN - y
        draw.ellipse((at - 1.5, up - 1.5, at + 1.5, up + 1.5), fill=COLOURS[0])
    draw.rectangle((0, 0, CLOUD - 1, CLOUD - 1), outline="#9a9a96")
    draw.text((MARGIN, CLOUD - 18), f"{low:.3g}", fill="#4a4a4a")
    draw.text((CLOUD - MARGIN - 8 * len(f"{high:.3g}"), MARGIN), f"{high:.3g}", fill="#4a4a4a")
    return whole


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
