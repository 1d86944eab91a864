"""Whether models have learnt their data, by one rule at any scale, and what is not said where they have not. Knows no records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from meanstep.program.pages.verdicts import OPEN, Claim

FAR, LEFT = 8.0, 0.75
"""Above so many times the floor, or with more than so much of the way from noise to the data left, nothing follows from models."""


@dataclass(frozen=True)
class Way:
    """How far samples have come, as means over sets: `times` their distance's floor, 0 if unknown; `left` of the way from noise.

    Distances grow like lengths (the root of a squared one); the floor is that of data to data, the start that of noise taken for samples.
    """

    times: float = 0.0
    left: float = 0.0

    @property
    def far(self) -> bool:
        """Whether nothing follows."""
        return self.times > FAR or self.left > LEFT


def way(ends: Sequence[float | None], floors: Sequence[float | None], starts: Sequence[float | None]) -> Way:
    """The way of several sets, one entry each; what is unknown is left out. Data as near to noise as to themselves leave all of it."""
    rows = list(zip(ends, floors, starts, strict=True))
    times = [end / floor for end, floor, _ in rows if end and floor]
    left = [(end - floor) / (start - floor) if start > floor else 1.0 for end, floor, start in rows if end and floor and start]
    return Way(*(float(np.mean(found)) if found else 0.0 for found in (times, left)))


def covered(found: Way) -> str:
    """The share of the way that is left in words, to go on after "one-step samples"."""
    if found.left >= 1:
        return "are no nearer to the data than the noise that they are made of"
    return f"have come {1 - found.left:.0%} of the way from noise to the data, less than {1 - LEFT:.0%}"


def undecided(claim: Claim, said: str) -> Claim:
    """The claim without verdict, findings and what they would say; that it has no data stays."""
    if not any(row.claimed is not None for row in claim.rows):
        return replace(claim, verdict=OPEN, sentence=f"{claim.sentence.partition('. ')[0].rstrip('.')}.")
    rows = tuple(row if row.claimed is None else replace(row, finding="open", note="") for row in claim.rows)
    return replace(claim, verdict=OPEN, rows=rows, sentence=said)
