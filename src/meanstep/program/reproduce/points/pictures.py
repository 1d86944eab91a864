"""Samples as small density images, alike for data and models. Knows arrays of points, no records and no page."""

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image
from scipy.ndimage import gaussian_filter

SIDE = 240
MAP = LinearSegmentedColormap.from_list("density", ["#ffffff", "#d3e4f6", "#7fb2e3", "#2f74bd", "#16448a", "#081d45"])
PALETTE = (np.array([MAP(i)[:3] for i in range(256)]) * 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Frame:
    """The same window and the same density scale for every picture of a set; `axes` are the two directions shown."""

    centre: np.ndarray
    half: float
    peak: float
    axes: np.ndarray


def frame(data: np.ndarray) -> Frame:
    """From the data: all of it with a margin; beyond two dimensions its first two principal axes."""
    finite = data[np.isfinite(data).all(axis=1)]
    axes = np.eye(2) if data.shape[1] == 2 else np.linalg.svd(finite - finite.mean(axis=0), full_matrices=False)[2][:2].T
    seen = finite @ axes
    low, high = np.quantile(seen, 0.002, axis=0), np.quantile(seen, 0.998, axis=0)
    centre, half = (low + high) / 2, max(float((high - low).max()) * 0.62, 1e-6)
    unscaled = Frame(centre, half, 1.0, axes)
    density = _density(data, unscaled)
    return Frame(centre, half, float(np.quantile(density[density > 1e-4], 0.98)) if (density > 1e-4).any() else 1.0, axes)


def picture(points: np.ndarray, of: Frame) -> np.ndarray:
    """Indices into `PALETTE`, `[SIDE, SIDE]`: the square root of the density, so that strays show; 32 levels halve the file."""
    return (255 * np.sqrt(np.clip(_density(points, of) / of.peak, 0, 1))).astype(np.uint8) // 8 * 8


def outside(points: np.ndarray, of: Frame) -> float:
    """The share of points that the window does not show, those that are not finite among them."""
    away = np.abs(_project(points, of) - of.centre).max(axis=1)
    return float(1 - (away <= of.half).mean()) if len(points) else 0.0


def png(indices: np.ndarray) -> bytes:
    """A picture as PNG bytes, its palette with it."""
    image = Image.fromarray(indices)
    image.putpalette(PALETTE.tobytes())
    held = io.BytesIO()
    image.save(held, format="png", optimize=True)
    return held.getvalue()


def _project(points: np.ndarray, of: Frame) -> np.ndarray:
    finite = np.isfinite(points).all(axis=1, keepdims=True)
    return np.where(finite, np.where(finite, points, 0) @ of.axes, np.inf)


def _density(points: np.ndarray, of: Frame) -> np.ndarray:
    seen = _project(points, of)
    edges = [np.linspace(c - of.half, c + of.half, SIDE + 1) for c in of.centre]
    counts = np.histogram2d(seen[:, 0], seen[:, 1], bins=edges)[0] / max(len(points), 1)
    return gaussian_filter(counts.T[::-1] * SIDE**2, 1.4)
