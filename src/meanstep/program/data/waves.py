"""Sound as bytes of a .wav file that anything plays: PCM of 16 bits. Draws nothing."""

import io
import wave

import torch
from torch import Tensor

FULL = 32768
PAUSE = 0.25
"""Seconds between two sounds of one file."""


def encoded(sound: Tensor, rate: int) -> bytes:
    """A .wav of numbers in [-1, 1], `[channels, samples]` or `[samples]`; what is louder is cut.

    Sound that was read from 16 bits comes back exactly.
    """
    x = sound.detach().float().cpu()
    x = x if x.ndim > 1 else x[None]
    levels = (x.nan_to_num(0.0) * FULL).round().clamp(-FULL, FULL - 1).to(torch.int16)
    box = io.BytesIO()
    with wave.open(box, "wb") as file:
        file.setnchannels(len(levels))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(levels.mT.contiguous().numpy().astype("<i2").tobytes())
    return box.getvalue()


def in_turn(rows: Tensor, rate: int, seconds: float = float("inf")) -> Tensor:
    """Sounds `[N, *E]` one after the other with a pause between them, `[channels, samples]`; at least one, and no more than fit."""
    rows = (rows if rows.ndim > 2 else rows[:, None]).detach().float().cpu()
    pause = rows.new_zeros(rows.shape[1], int(PAUSE * rate))
    fits = max(1, min(len(rows), int((seconds + PAUSE) / (rows.shape[-1] / rate + PAUSE)) if seconds < float("inf") else len(rows)))
    return torch.cat([part for row in rows[:fits] for part in (row, pause)][:-1], -1)


def loud(rows: Tensor) -> int:
    """How many rows have numbers beyond [-1, 1], which a .wav cuts."""
    return int((rows.abs() > 1).flatten(1).any(1).sum())
