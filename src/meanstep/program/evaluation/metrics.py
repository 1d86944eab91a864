"""Metrics by name: what is made of the features of samples and of a reference, and how a table shows it. Knows no models and no files.

A new one is a function here, `(found, against) -> values by name`, with its decorator.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from scipy.special import stdtrit
from torch import Tensor

from meanstep.catalogue import marked
from meanstep.metrics import density_coverage, frechet, inception_score, mmd, precision_recall
from meanstep.program.evaluation.measures import FEWEST, Gathered, Values
from meanstep.program.evaluation.references import Reference

F = TypeVar("F", bound=Callable[[Gathered, Reference], Values])
SPLITS = 10


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
    spread = torch.tensor([frechet(part, real) for part in found.parts], dtype=torch.float64).std().item()
    half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
    return {"frechet": value, "frechet_low": value - half, "frechet_high": value + half, "blocks": n}


@metric("kid", columns=[{"title": "kernel x 1000", "value": "kid", "error": "kid_error", "form": ".3g", "scale": 1000}])
def kernel_distance(found: Gathered, against: Reference) -> Values:
    """The unbiased kernel distance of at most 10000 samples and images, and its standard error."""
    value, error = mmd(found.features, against.features)
    return {"kid": value, "kid_error": error}


def _equal(found: Gathered, against: Reference) -> tuple[Tensor, Tensor]:
    """Equally many features of both, as neighbours need them."""
    fake, real = found.features, against.features
    n = min(len(fake), len(real))
    return fake[:n], real[:n]


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


@metric("inception-score", columns=[{"title": "Inception score", "value": "inception_score"}], needs=["logits"])
def score(found: Gathered, against: Reference) -> Values:
    """The Inception score over ten parts; it never sees the data."""
    logits = torch.cat(found.scores)
    value, spread = inception_score(logits, min(SPLITS, len(logits)))
    return {"inception_score": value, "inception_score_spread": spread}
