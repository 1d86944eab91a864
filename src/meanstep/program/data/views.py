"""Rows of numbers as pictures: points as dots, signals and sound as lines, tables as histograms and cells. Draws with pillow alone.

A new way to look is an entry of `VIEWS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from meanstep.program.data.look import Look
from meanstep.program.data.previews import grid, tiled

MARGIN = 6
CLOUD, POINTS = 480, 1024
"""Width and height of a scatter of points, and how many of them are worth one."""
PANEL, WAVE = (192, 112), (384, 96)
"""Width and height of one signal's lines, and of one sound's."""
HISTOGRAM, BINS, HISTOGRAMS, ROWS, CELLS = (232, 132), 32, 24, 8, 8
"""Of a table: width and height of a column's histogram, its bars, and how many histograms, rows and columns of cells are shown."""
COLOURS = ("#1f5fa8", "#c4521b", "#2a8a57", "#8a4fa3", "#a8871f", "#4a4a4a")
INK, SOFT, BACK, DATA = "#1f2933", "#68737f", "#f4f4f2", "#b9c0c8"
Columns = Mapping[str, np.ndarray]
"""A table: numbers or words by the name of a column, `[N]` each."""


@dataclass(frozen=True)
class View:
    """`draw(rows, look, columns, real)`: rows `[N, *E]`, and rows of the data beside them if `real` is not None, as one image.

    `count`: how many rows are worth one image of so many `columns`, the default of which is `columns`; `ends`: of files that hold such
    rows better than an archive of arrays does.
    """

    draw: Callable[[Tensor, Look, int | None, Tensor | None], Image.Image]
    count: Callable[[int], int]
    columns: int = 8
    ends: tuple[str, ...] = ()


def shown(rows: Tensor, look: Look, columns: int | None = None, real: Tensor | None = None) -> Image.Image:
    """Rows of numbers `[N, *E]` as the look says, by default as their shape suggests; beside them `real` rows, on the same scale."""
    found = look.of(rows.shape[1:])
    plain = [None if x is None else x.detach().float().cpu() for x in (rows, real)]
    assert plain[0] is not None
    return VIEWS[found.kind].draw(plain[0], found, columns, plain[1])


def _range(rows: Tensor) -> tuple[float, float]:
    """The least and the largest number that is finite, apart."""
    finite = rows[rows.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _written(draw: ImageDraw.ImageDraw, at: tuple[float, float], words: str, size: int = 12, fill: str = SOFT, anchor: str = "la") -> None:
    draw.text(at, words, fill=fill, font=ImageFont.load_default(size), anchor=anchor)


def _titled(image: Image.Image, words: str) -> Image.Image:
    """The image below a line of words."""
    whole = Image.new("RGB", (image.width, image.height + 24), "white")
    whole.paste(image, (0, 24))
    _written(ImageDraw.Draw(whole), (MARGIN, 5), words, 14, INK)
    return whole


def _joined(parts: Sequence[Image.Image], across: bool = False, gap: int = 8) -> Image.Image:
    """Images below each other, or beside."""
    wide, high = [part.width for part in parts], [part.height for part in parts]
    space = gap * (len(parts) - 1)
    whole = Image.new("RGB", (sum(wide) + space, max(high)) if across else (max(wide), sum(high) + space), "white")
    at = 0
    for part in parts:
        whole.paste(part, (at, 0) if across else (0, at))
        at += (part.width if across else part.height) + gap
    return whole


def _both(draw: Callable[[Tensor], Image.Image], rows: Tensor, real: Tensor | None, across: bool = False) -> Image.Image:
    """The rows, or the rows and those of the data with a title each."""
    if real is None:
        return draw(rows)
    return _joined([_titled(draw(rows), "samples"), _titled(draw(real), "data")], across)


# Points ------------------------------------------------------------------------------------------------------------------------------


def _points(rows: Tensor, look: Look, columns: int | None, real: Tensor | None) -> Image.Image:
    """Dots on equal scales that hold the data and, beside data, most of the samples; three coordinates by pairs."""
    low, high = _range(rows if real is None else real)
    if real is not None:
        low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    pairs = [(0, 1)] if rows.shape[1] == 2 else [(0, 1), (0, 2), (1, 2)]

    def draw(x: Tensor) -> Image.Image:
        parts = [
            _scatter(x[:, list(pair)], low, high, f"{pair[0] + 1} across, {pair[1] + 1} up" if len(pairs) > 1 else "") for pair in pairs
        ]
        return parts[0] if len(parts) == 1 else _joined(parts, across=True)

    return _both(draw, rows, real, across=len(pairs) == 1)


def _scatter(rows: Tensor, low: float, high: float, words: str) -> Image.Image:
    """Points `[N, 2]` in a frame with its bounds; how many lie outside is written."""
    whole = Image.new("RGB", (CLOUD, CLOUD), "white")
    draw = ImageDraw.Draw(whole)
    inside = rows[((rows >= low) & (rows <= high)).all(1)]
    inner = CLOUD - 2 * MARGIN
    for x, y in ((inside - low) / (high - low) * inner).tolist():
        at, up = MARGIN + x, CLOUD - MARGIN - y
        draw.ellipse((at - 1.5, up - 1.5, at + 1.5, up + 1.5), fill=COLOURS[0])
    draw.rectangle((0, 0, CLOUD - 1, CLOUD - 1), outline="#9a9a96")
    _written(draw, (MARGIN, CLOUD - MARGIN), f"{low:.3g}", anchor="ld")
    _written(draw, (CLOUD - MARGIN, MARGIN), f"{high:.3g}", anchor="ra")
    if words:
        _written(draw, (MARGIN, MARGIN), words)
    if away := len(rows) - len(inside):
        _written(draw, (CLOUD - MARGIN, CLOUD - MARGIN), f"{away} outside", anchor="rd")
    return whole


# Lines -------------------------------------------------------------------------------------------------------------------------------


def _signals(rows: Tensor, look: Look, columns: int | None, real: Tensor | None) -> Image.Image:
    """A panel for each row, a line for each of its first axis if it has two; all on the scale of the data."""
    scale = _range(rows if real is None else real)
    return _both(lambda x: tiled([_lines(row, PANEL, *scale) for row in x.reshape(len(x), -1, x.shape[-1])], columns), rows, real)


def _sound(rows: Tensor, look: Look, columns: int | None, real: Tensor | None) -> Image.Image:
    """A wave for each row about its zero, with its length in seconds."""
    low, high = _range(rows if real is None else real)
    most = max(abs(low), abs(high))
    seconds = f"{rows.shape[-1] / look.rate:.3g} s" if look.rate else ""

    def draw(x: Tensor) -> Image.Image:
        return tiled([_lines(row, WAVE, -most, most, seconds) for row in x.reshape(len(x), -1, x.shape[-1])], columns or min(2, len(x)))

    return _both(draw, rows, real)


def _lines(row: Tensor, size: tuple[int, int], low: float, high: float, words: str = "") -> Image.Image:
    """`[lines, length]` as lines; of long ones the least and the largest of every pixel's numbers."""
    panel = Image.new("RGB", size, BACK)
    draw = ImageDraw.Draw(panel)
    width, inner = size[0] - 2 * MARGIN, size[1] - 2 * MARGIN
    if low < 0 < high:
        zero = size[1] - MARGIN + low / (high - low) * inner
        draw.line((MARGIN, zero, size[0] - MARGIN, zero), fill="#dcdcd8")
    row = row.nan_to_num(low).clamp(low, high)
    for k, line in enumerate(_thinned(row, width)):
        x = torch.linspace(MARGIN, size[0] - MARGIN, len(line))
        y = size[1] - MARGIN - (line - low) / (high - low) * inner
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=COLOURS[k % len(COLOURS)], width=1)
    if words:
        _written(draw, (size[0] - MARGIN, size[1] - 2), words, 10, anchor="rd")
    return panel


def _thinned(row: Tensor, width: int) -> Tensor:
    """Lines `[lines, length]` that a panel so wide can show: longer ones as least and largest in turn."""
    step = row.shape[-1] // width
    if step < 2:
        return row
    parts = row[:, : row.shape[-1] // step * step].unflatten(-1, (-1, step))
    return torch.stack([parts.amin(-1), parts.amax(-1)], -1).flatten(1)


def _grids(rows: Tensor, look: Look, columns: int | None, real: Tensor | None) -> Image.Image:
    """The last two axes of the first entry of the others in grey, all on the scale of the data."""
    low, high = _range(rows if real is None else real)

    def draw(x: Tensor) -> Image.Image:
        grey = ((x.flatten(1, -3)[:, :1] if x.ndim > 3 else x[:, None]) - low) / (high - low) * 255
        return grid(grey.nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8), columns)

    return _both(draw, rows, real)


# Tables ------------------------------------------------------------------------------------------------------------------------------


def _table(rows: Tensor, look: Look, columns: int | None, real: Tensor | None) -> Image.Image:
    made, held = (None if x is None else named(x, look) for x in (rows, real))
    return table(made or {}, held)


def named(rows: Tensor, look: Look) -> dict[str, np.ndarray]:
    """Rows `[N, D]` as columns by name."""
    return {name: rows[:, k].numpy() for k, name in enumerate(look.of(rows.shape[1:]).columns or map(str, range(1, rows.shape[1] + 1)))}


def table(columns: Columns, real: Columns | None = None) -> Image.Image:
    """A histogram of each column, over that of the data in grey if there are some, and the first rows as cells."""
    shown = list(columns)[:HISTOGRAMS]
    parts = [_key(real is not None, len(columns) - len(shown))]
    parts.append(tiled([_histogram(name, columns[name], None if real is None else real[name]) for name in shown], min(4, len(shown))))
    parts.append(_cells(columns, "samples" if real is not None else ""))
    return _joined([*parts, *([_cells(real, "data")] if real is not None else [])])


def _key(beside: bool, left: int) -> Image.Image:
    """What the colours mean, and how many columns are not shown."""
    strip = Image.new("RGB", (HISTOGRAM[0] + 2 * MARGIN if not beside else 2 * HISTOGRAM[0], 22), "white")
    draw = ImageDraw.Draw(strip)
    _written(draw, (MARGIN, 4), "samples", 13, COLOURS[0])
    if beside:
        _written(draw, (MARGIN + 64, 4), "data", 13, SOFT)
    if left:
        _written(draw, (MARGIN + 110, 4), f"{left} more columns", 12)
    return strip


def _histogram(name: str, values: np.ndarray, real: np.ndarray | None) -> Image.Image:
    """Shares of bins between the bounds of the data, or of the most frequent words."""
    width, height = HISTOGRAM
    panel = Image.new("RGB", HISTOGRAM, BACK)
    draw = ImageDraw.Draw(panel)
    _written(draw, (MARGIN, 4), _short(name, 26), 12, INK)
    sets, below, words = _shares(values, values if real is None else real)
    top, floor, inner = 24, height - 20, width - 2 * MARGIN
    most = max(float(share.max()) for share in sets) or 1.0
    step = inner / len(sets[0])
    for share, colour, filled in [(sets[1], DATA, True)] * (real is not None) + [(sets[0], COLOURS[0], real is None)]:
        heights = [floor - (floor - top) * float(s) / most for s in share]
        for k, up in enumerate(heights):
            x = MARGIN + k * step
            if filled:
                draw.rectangle((x, up, x + step - (len(heights) < BINS), floor), fill=colour)
            else:
                before = heights[k - 1] if k else floor
                draw.line(
                    [(x, before), (x, up), (x + step, up), *([(x + step, floor)] if k == len(heights) - 1 else [])], fill=colour, width=2
                )
    draw.line((MARGIN, floor, width - MARGIN, floor), fill="#9a9a96")
    for k, word in enumerate(below):
        x, anchor = (MARGIN + step * (k + 0.5), "md") if words else (MARGIN + inner * k, ("ld", "rd")[k])
        _written(draw, (x, height - 4), word, 10, anchor=anchor)
    return panel


def _shares(values: np.ndarray, real: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], list[str], bool]:
    """Shares of both in the same bins, what is written below, and whether that is a word for each bin, or both ends."""
    if values.dtype.kind in "US" or real.dtype.kind in "US":
        words, counts = np.unique(real.astype(str), return_counts=True)
        kept = words[np.argsort(-counts, kind="stable")][:CELLS]
        found = [np.array([(x.astype(str) == word).mean() for word in kept]) for x in (values, real)]
        return (found[0], found[1]), [_short(str(word), max(2, 34 // len(kept))) for word in kept], True
    low, high = _range(torch.from_numpy(np.asarray(real, dtype=np.float64)))
    edges = np.linspace(low, high, BINS + 1)
    finite = [np.clip(x[np.isfinite(x)].astype(np.float64), low, high) for x in (values, real)]
    found = [np.histogram(x, edges)[0] / max(1, len(x)) for x in finite]
    return (found[0], found[1]), [f"{low:.4g}", f"{high:.4g}"], False


def _cells(columns: Columns, words: str) -> Image.Image:
    """The first rows of the first columns, names above."""
    names = list(columns)[:CELLS]
    wide, high, n = 116, 19, min(ROWS, len(columns[names[0]]) if names else 0)
    start = 24 if words else 2
    panel = Image.new("RGB", (wide * len(names) + 2 * MARGIN, start + high * (n + 1) + 4), "white")
    draw = ImageDraw.Draw(panel)
    if words:
        _written(draw, (MARGIN, 5), words, 14, INK)
    for k, name in enumerate(names):
        right = MARGIN + wide * (k + 1) - 10
        _written(draw, (right, start + 3), _short(name, 15), 12, SOFT, "ra")
        for i, cell in enumerate(columns[name][:n].tolist()):
            text = f"{cell:.5g}" if isinstance(cell, float) else str(cell)
            _written(draw, (right, start + high * (i + 1) + 3), _short(text, 15), 12, INK, "ra")
    for i in range(n + 1):
        y = start + high * (i + 1)
        draw.line((MARGIN, y, panel.width - MARGIN, y), fill="#dde3ea")
    return panel


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


VIEWS: Mapping[str, View] = {
    "points": View(_points, lambda columns: POINTS),
    "signals": View(_signals, lambda columns: 4 * columns, 4),
    "table": View(_table, lambda columns: POINTS, ends=(".csv",)),
    "sound": View(_sound, lambda columns: 3 * columns, 2, ends=(".wav",)),
    "grids": View(_grids, lambda columns: 4 * columns),
}
"""By the kind of a look."""
