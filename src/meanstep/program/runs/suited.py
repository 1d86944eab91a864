"""Which network suits rows of a shape, where none is named. Builds none, and knows no files."""

import math
from collections.abc import Sequence
from typing import Any

from meanstep.program.runs.config import NetworkConfig
from meanstep.program.runs.options import resolved

PLACES, TOKENS, LARGEST = 8, 64, 16
"""A grid of fewer places is a point; a transformer has so many tokens at most, and patches of such a side."""


def suited(network: NetworkConfig, shape: Sequence[int]) -> NetworkConfig:
    """The network itself if it is a transformer for square rows such as these; else one by the shape of a row.

    Points, tables and rows on a grid of fewer than 8 places get the perceptron. Signals `[C, L]`, pictures `[C, H, W]` and rows of more axes
    get the transformer, with the smallest patches that make at most 64 tokens, and where no patches of up to 16 do so the U-Net, which
    takes any length; a perceptron where that takes no rows of so many axes.
    """
    grid = shape[1:]
    if len(grid) == 2 and grid[0] == grid[1] and _divides(network, grid[0]):
        return network
    if math.prod(grid) < PLACES:
        return NetworkConfig("mlp")
    if (sides := patches(grid)) is not None:
        return NetworkConfig("dit", {"patch": sides[0]} if len({*sides}) == 1 else {"patches": sides})
    return NetworkConfig("unet" if len(grid) < 4 else "mlp")


def _divides(network: NetworkConfig, side: int) -> bool:
    options: dict[str, Any] = resolved(network).options
    patch = str(options.get("model", "")).partition("/")[2] or options.get("patch", 0)
    return int(patch) > 0 and side % int(patch) == 0


def patches(grid: Sequence[int]) -> tuple[int, ...] | None:
    """Sides of a patch that divide the grid into at most 64 tokens, the axis of most tokens first; None if there are none up to 16."""
    sides = [1] * len(grid)
    while math.prod(n // p for n, p in zip(grid, sides, strict=True)) > TOKENS:
        larger = [next((q for q in range(p + 1, LARGEST + 1) if n % q == 0), 0) for n, p in zip(grid, sides, strict=True)]
        axes = [k for k, q in enumerate(larger) if q]
        if not axes:
            return None
        axis = max(axes, key=lambda k: grid[k] // sides[k])
        sides[axis] = larger[axis]
    return tuple(sides)
