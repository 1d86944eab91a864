"""How rows of numbers are shown: as points, signals, a table, sound or grids. What a source says, a shape suggests, or a user asks for.

Draws nothing, and needs no torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meanstep.program.errors import UserError, shown

KINDS = ("points", "signals", "table", "sound", "grids")
ASKED = "points, signals, table, sound:RATE (samples a second) or grids"
PREVIEW = f"How rows of numbers are shown: {ASKED}."
FASTEST = 10_000_000
"""Most samples a second."""


@dataclass(frozen=True)
class Look:
    """`kind`: one of `KINDS`, empty where the shape decides; `rate`: samples a second of sound; `columns`: names of those of a table."""

    kind: str = ""
    rate: int = 0
    columns: tuple[str, ...] = ()

    def of(self, shape: Sequence[int]) -> "Look":
        """The same with a kind that rows of this shape can be shown as."""
        kind = self.kind if self.kind and not _misfit(self, shape) else usual(shape)
        names = self.columns if len(self.columns) == math.prod(shape) else tuple(str(k + 1) for k in range(math.prod(shape)))
        return Look(kind, self.rate, names if kind == "table" else ())


def usual(shape: Sequence[int]) -> str:
    """What rows of a shape are where nobody says: one number a table, two or three points, one or two axes signals, more grids."""
    if math.prod(shape) == 1:
        return "table"
    if len(shape) == 1 and 2 <= shape[0] <= 3:
        return "points"
    return "signals" if len(shape) <= 2 else "grids"


def asked(words: str, look: Look, shape: Sequence[int], flag: str) -> Look:
    """What a user asks for, `KIND` or `sound:RATE`, on top of what the source says; `UserError` for what rows of this shape are not."""
    if not words:
        return look
    kind, colon, rate = words.partition(":")
    if kind not in KINDS or (colon and (kind != "sound" or not rate.isascii() or not rate.isdigit() or not 0 < int(rate) <= FASTEST)):
        raise UserError(f"{flag}: {ASKED}, got {shown(words)}")
    found = Look(kind, int(rate) if colon else look.rate, look.columns)
    if why := _misfit(found, shape):
        raise UserError(f"{flag} {words}: {why}, and a row is {' x '.join(map(str, shape))}")
    return found


def _misfit(look: Look, shape: Sequence[int]) -> str:
    """Why rows of a shape are not shown so; empty if they are."""
    if look.kind == "points" and (len(shape) != 1 or not 2 <= shape[0] <= 3):
        return "points have two or three numbers"
    if look.kind == "table" and len(shape) != 1:
        return "a table has one number a column"
    if look.kind in ("signals", "sound") and len(shape) > 2:
        return "a signal has at most two axes, channels and length"
    if look.kind == "sound" and not look.rate:
        return "sound needs its samples a second, as sound:16000"
    return "grids have two axes or more" if look.kind == "grids" and len(shape) < 2 else ""


def read(entry: Any) -> Look:
    """From a manifest; `ValueError` for what is none."""
    found = Look(str(entry["kind"]), entry["rate"], tuple(entry["columns"]))
    fits = isinstance(found.rate, int) and 0 <= found.rate <= FASTEST and all(isinstance(name, str) for name in found.columns)
    if not fits or found.kind not in ("", *KINDS):
        raise ValueError(f"rows are not shown as {found.kind!r:.40}")
    return found
