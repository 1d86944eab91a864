"""Metrics by name: what is made of the features of samples and of a reference, and how a table shows it. Knows no models and no files.

A new one is a function here, `(found, against) -> values by name`, with its decorator.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from meanstep.catalogue import marked
from meanstep.keys import key
from meanstep.metrics import (
    density_coverage,
    directions,
    energy,
    frechet,
    inception_score,
    mmd,
    nearest,
    precision_recall,
    sliced_wasserstein,
)
from meanstep.program.evaluation.measures import FEWEST, Gathered, Values
from meanstep.program.evaluation.references import Reference

F = TypeVar("F", bound=Callable[[Gathered, Reference], Values])
SPLITS = 10
DIRECTIONS, PLANE = 512, 128
"""Directions of the sliced distance, drawn once and for all, and in the plane, where they are even."""
SPLIT = 20
"""Fewest rows of a part of both sets, of at most ten, whose spread gives an interval."""


def metric(name: str, *, columns: Sequence[Mapping[str, str | float]], needs: Sequence[str] = (), least: int = 2) -> Callable[[F], F]:
    """Declares a metric by `name`; `needs`: of the extractor, `logits`; `least`: samples, and images of the reference.

    `columns` of the table, an entry each: `value` names the number; `title`, in which `{distance}` stands for what a Frechet distance is
    called with this extractor; `error`: the number after a plus-minus sign, or `high`: the upper end of an interval; `form` and `scale`
    of the number, `.3f` and 1 by default.
    """
    return marked(name=name, columns=columns, needs=needs, least=least)


@metric("frechet", columns=[{"title": "{distance}", "value": "frechet", "high": "frechet_high", "form": ".4g"}])
def frechet_distance(found: Gathered, against: Reference) -> Values:
    """The Frechet distance, with Inception's features the FID, and its 95 percent interval.

    The interval is that of the mean of blocks: to first order all samples together vary as that does, though their bias is smaller.
    """
    real = against.statistics
    value, n = frechet(found.statistics, real), len(found.parts)
    if n < FEWEST:
        return {"frechet": value, "blocks": 1}
    half = _half([frechet(part, real) for part in found.parts])
    return {"frechet": value, "frechet_low": value - half, "frechet_high": value + half, "blocks": n}


def _half(values: Sequence[float]) -> float:
    """Half the 95 percent interval of a mean of such values, by Student's t."""
    from scipy.special import stdtrit  # takes a tenth of a second

    n = len(values)
    return float(stdtrit(n - 1, 0.975)) * torch.tensor(values, dtype=torch.float64).std().item() / math.sqrt(n)


@metric("kid", columns=[{"title": "kernel x 1000", "value": "kid", "error": "kid_error", "form": ".3g", "scale": 1000}])
def kernel_distance(found: Gathered, against: Reference) -> Values:
    """The unbiased kernel distance of at most 10000 samples and images, and its standard error."""
    value, error = mmd(found.features, against.features)
    return {"kid": value, "kid_error": error}


def _equal(found: Gathered, against: Reference) -> tuple[Tensor, Tensor]:
    """Equally many features of both, scaled, as neighbours need them."""
    fake, real = against.scaled(found.features), against.compared
    n = min(len(fake), len(real))
    return fake[:n], real[:n]


@metric("sliced", columns=[{"title": "sliced W1", "value": "sliced", "high": "sliced_high", "form": ".3g"}], least=6)
def sliced_distance(found: Gathered, against: Reference) -> Values:
    """The sliced Wasserstein-1 distance of equally many rows, and its 95 percent interval.

    The interval is that of the mean over parts, each of a part of the samples to a part of the reference: both draws are in it.
    """
    fake, real = _equal(found, against)
    value, n = sliced(fake, real), len(fake)
    parts = min(10, n // SPLIT)
    if parts < FEWEST:
        return {"sliced": value, "neighbours_among": n}
    half = _half([sliced(a, b) for a, b in zip(*(x[: n - n % parts].chunk(parts) for x in (fake, real)), strict=True)])
    return {"sliced": value, "sliced_low": value - half, "sliced_high": value + half, "neighbours_among": n}


def sliced(x: Tensor, y: Tensor) -> float:
    """The sliced Wasserstein-1 distance of equally many features, always along the same directions."""
    dim = x.shape[-1]
    return sliced_wasserstein(x, y, directions(dim, {1: 1, 2: PLANE}.get(dim, DIRECTIONS), key(0, "directions", dim)))


@metric("energy", columns=[{"title": "energy", "value": "energy", "error": "energy_half", "form": ".3g"}])
def energy_of_rows(found: Gathered, against: Reference) -> Values:
    """The energy distance of equally many rows, which is 0 in the mean for rows of the same law, and half its 95 percent interval."""
    fake, real = _equal(found, against)
    value, error = energy(fake, real)
    return {"energy": value, "energy_half": 1.96 * error, "neighbours_among": len(fake)}


@metric("precision-recall", columns=[{"title": "precision", "value": "precision"}, {"title": "recall", "value": "recall"}], least=6)
def neighbours(found: Gathered, against: Reference) -> Values:
    """Improved precision and recall."""
    fake, real = _equal(found, against)
    return {**precision_recall(fake, real)._asdict(), "neighbours_among": len(fake)}


@metric("density-coverage", columns=[{"title": "density", "value": "density"}, {"title": "coverage", "value": "coverage"}], least=6)
def balls(found: Gathered, against: Reference) -> Values:
    """Density and coverage."""
    fake, real = _equal(found, against)
    return {**density_coverage(fake, real)._asdict(), "neighbours_among": len(fake)}


@metric(
    "nearest",
    columns=[
        {"title": "nearest", "value": "nearest", "error": "nearest_half", "form": ".3g"},
        {"title": "copies %", "value": "copies", "error": "copies_half", "form": ".3g", "scale": 100},
    ],
)
def nearest_rows(found: Gathered, against: Reference) -> Values:
    """The distance to the nearest row of the reference over that of its own rows to each other, and the share that may be copies."""
    near = nearest(against.scaled(found.features), against.rows, against.apart)
    ratio = {"nearest": near.ratio, "nearest_half": 1.96 * near.error} if math.isfinite(near.ratio) else {}
    shares: Values = {"copies": near.copies, "copies_half": 1.96 * near.copies_error, "copies_floor": near.floor}
    return {**ratio, **(shares if math.isfinite(near.copies) else {})}


@metric("inception-score", columns=[{"title": "Inception score", "value": "inception_score"}], needs=["logits"])
def score(found: Gathered, against: Reference) -> Values:
    """The Inception score over ten parts; it never sees the data."""
    logits = torch.cat(found.scores)
    value, spread = inception_score(logits, min(SPLITS, len(logits)))
    return {"inception_score": value, "inception_score_spread": spread}
