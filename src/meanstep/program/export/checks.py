"""An export against PyTorch, on draws that it never saw: how far apart they are, and whether that is within the bound."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from meanstep.program.console import UserError
from meanstep.program.export.subject import Subject
from meanstep.program.export.targets import HALF

FIRST = 7_000_003
"""The first seed of the draws that exports are compared on; the examples that graphs are traced with have others."""
BATCHES = (1, 3, 8)
"""Rows at a time, where the batch is free."""


@dataclass(frozen=True)
class Difference:
    """`largest`: of all entries, over the `spread` (standard deviation) of PyTorch's; `levels`: of bytes; `draws`: how many rows."""

    largest: float
    bound: float
    spread: float
    draws: int
    levels: int | None = None
    bytes_that_differ: int | None = None

    def record(self) -> dict[str, Any]:
        """For a card."""
        return {name: value for name, value in asdict(self).items() if value is not None}


Made = Callable[..., Sequence[Any]]
"""An export at work: from noise, and what `Subject.given` has, to the outputs of `Subject.decode`, as arrays or tensors."""


def compared(subject: Subject, made: Made, bound: float, what: str) -> Difference:
    """How far the export is from PyTorch; `UserError` above `bound`, or for bytes that differ by more than one level."""
    pairs = [_outputs(subject, made, seeds) for seeds in batches(subject)]
    theirs, ours = (np.concatenate([pair[k][0].ravel() for pair in pairs]) for k in (0, 1))
    spread = float(ours.std()) or 1.0
    largest = float(np.abs(theirs - ours).max()) / spread if np.isfinite(theirs).all() else float("inf")
    levels = [np.abs(a[1].astype(int) - b[1].astype(int)) for a, b in pairs if len(b) > 1 and largest <= bound]
    if not largest <= bound or any(part.max() > 1 for part in levels):
        found = f"{largest:.3g} of the spread (the bound is {bound:g})"
        raise UserError(f"{what} differs from PyTorch by {found} on {_draws(pairs)} draws that it never saw: nothing was written")
    counted = (max(int(part.max()) for part in levels), sum(int((part > 0).sum()) for part in levels)) if levels else (None, None)
    return Difference(largest, bound, spread, _draws(pairs), *counted)


def batches(subject: Subject) -> list[list[int]]:
    """The seeds of the draws, so many at a time."""
    sizes = (subject.choice.batch,) * 2 if subject.choice.batch else BATCHES
    starts = [FIRST + sum(sizes[:k]) for k in range(len(sizes))]
    return [list(range(start, start + n)) for start, n in zip(starts, sizes, strict=True)]


def halved(subject: Subject, rounded: Subject) -> float:
    """How far rounding the weights to half precision moves PyTorch's own samples, over their spread; `UserError` above the bound."""
    (seeds,) = (batches(subject)[-1],)
    full, half = subject.reference(seeds)[0], rounded.reference(seeds)[0]
    found = float((full - half).abs().max()) / (float(full.std(correction=0)) or 1.0)
    if not found <= HALF:
        raise UserError(f"--half moves samples by {found:.3g} of their spread, and at most {HALF:g} is allowed: leave it out")
    return found


@torch.no_grad()
def _outputs(subject: Subject, made: Made, seeds: list[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    theirs = [np.asarray(part) for part in made(subject.noise(seeds), *subject.given(seeds).values())]
    ours = [part.numpy() for part in subject.reference(seeds)]
    if [part.shape for part in theirs] != [part.shape for part in ours]:
        raise UserError(f"the export makes {theirs[0].shape} of {len(seeds)} draws, and PyTorch {ours[0].shape}: nothing was written")
    return theirs, ours


def _draws(pairs: Sequence[Any]) -> int:
    return sum(len(pair[0][0]) for pair in pairs)
