"""Sounds in .wav as numbers from -1 to 1: one regular file, at most so many bytes. Knows no lengths that anybody wants."""

import io
import warnings
from pathlib import Path

import numpy as np

from meanstep.program.errors import UserError, first_line
from meanstep.program.reading import files

BYTES = 1 << 31
"""Most bytes of a file."""


def wav(path: Path) -> tuple[int, np.ndarray]:
    """Samples a second, and float32 `[channels, samples]`; whole numbers become numbers in [-1, 1], floats stay. `UserError` for others."""
    from scipy.io import wavfile  # takes a fifth of a second

    data = files.content(path, BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks that hold no sound
            rate, found = wavfile.read(io.BytesIO(data))
    except Exception as error:  # scipy's reader raises many kinds
        raise UserError(f"cannot read {path}: {first_line(error)}; it is damaged or no .wav: save it anew as PCM or float") from None
    sound = np.asarray(found)
    if not sound.size:
        raise UserError(f"{path} holds no samples: remove it")
    if sound.dtype.kind not in "iuf":
        raise UserError(f"{path} holds samples of type {sound.dtype}: save it anew as PCM or float")
    return int(rate), np.ascontiguousarray(_unit(sound).reshape(len(sound), -1).T)


def _unit(sound: np.ndarray) -> np.ndarray:
    if sound.dtype.kind == "f":
        return sound.astype(np.float32)
    half = float(2 ** (8 * sound.dtype.itemsize - 1))
    low = half if sound.dtype.kind == "u" else 0.0
    return ((sound.astype(np.float64) - low) / half).astype(np.float32)
