"""From batches of samples to numbers, against a reference. Knows neither models nor files."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from scipy.special import stdtrit
from torch import Tensor

from meanstep.metrics import Statistics, density_coverage, frechet, inception_score, mmd, precision_recall
from meanstep.program.console import UserError
from meanstep.program.evaluation.features import Extractor
from meanstep.program.evaluation.pictures import spaced
from meanstep.program.evaluation.references import KEPT, Reference

BLOCKS, FEWEST = 10, 3
"""Most blocks of samples whose spread gives an interval, and fewest."""
SPLITS = 10
Values = dict[str, float | int | None]


def blocks(count: int, dim: int) -> int:
    """Blocks that so many samples are cut into: each has more rows than dimensions, or there is one."""
    found = min(BLOCKS, count // (dim + 1))
    return found if found >= FEWEST else 1


@dataclass
class Gathered:
    """Features of `count` samples as they come: statistics by block, those kept for neighbours and kernel, logits if `logits`."""

    extractor: Extractor
    count: int
    logits: bool = False
    parts: list[Statistics] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    done: int = 0

    def add(self, images: Tensor) -> "Gathered":
        """Take in samples uint8 `[B, C, H, W]`."""
        features = self.extractor(images)
        number = blocks(self.count, features.shape[-1])
        self.parts = self.parts or [Statistics(features.shape[-1]) for _ in range(number)]
        places = torch.arange(self.done, self.done + len(features)) * number // self.count
        for k in places.unique().tolist():
            self.parts[min(k, number - 1)].update(features[places == k])
        self.kept.append(features[: max(0, KEPT - self.done)])
        if self.logits and self.extractor.logits is not None:
            self.scores.append(self.extractor.logits(features))
        self.done += len(features)
        return self

    @property
    def statistics(self) -> Statistics:
        """Of all samples."""
        return self.parts[0].merge(*self.parts[1:])

    @property
    def features(self) -> Tensor:
        """The first samples', at most 10000."""
        return torch.cat(self.kept)


def checked(metrics: Sequence[str], extractor: Extractor) -> None:
    """`UserError` for a metric that this extractor cannot give."""
    if "inception-score" in metrics and extractor.logits is None:
        raise UserError(f"the Inception score needs class logits, which {extractor.name} has not: take inception or efficientnet-lite0")


def measured(found: Gathered, against: Reference, metrics: Iterable[str] = ("frechet",)) -> Values:
    """The numbers of the samples gathered, by name; `frechet_low` and `frechet_high` bound the 95 percent interval where there is one."""
    values: Values = {"count": found.done, "reference_count": against.count}
    made = {"frechet": _frechet, "kid": _kid, "precision-recall": _neighbours, "density-coverage": _balls, "inception-score": _score}
    for metric in metrics:
        values |= made[metric](found, against)
    return values


def _frechet(found: Gathered, against: Reference) -> Values:
    """The interval is that of the mean of blocks: to first order all samples together vary as that does, though their bias is smaller."""
    real = against.statistics
    value, n = frechet(found.statistics, real), len(found.parts)
    if n < FEWEST:
        return {"frechet": value, "blocks": 1}
    spread = torch.tensor([frechet(part, real) for part in found.parts], dtype=torch.float64).std().item()
    half = float(stdtrit(n - 1, 0.975)) * spread / math.sqrt(n)
    return {"frechet": value, "frechet_low": value - half, "frechet_high": value + half, "blocks": n}


def _kid(found: Gathered, against: Reference) -> Values:
    value, error = mmd(found.features, against.features)
    return {"kid": value, "kid_error": error}


def _equal(found: Gathered, against: Reference) -> tuple[Tensor, Tensor]:
    """Equally many features of both, as neighbours need them."""
    fake, real = found.features, against.features
    n = min(len(fake), len(real))
    if n < 6:
        raise UserError(f"nearest neighbours need at least 6 samples and 6 images, got {len(fake)} and {len(real)}")
    return fake[:n], real[spaced(len(real), n)]


def _neighbours(found: Gathered, against: Reference) -> Values:
    fake, real = _equal(found, against)
    return {**precision_recall(fake, real)._asdict(), "neighbours_among": len(fake)}


def _balls(found: Gathered, against: Reference) -> Values:
    fake, real = _equal(found, against)
    return {**density_coverage(fake, real)._asdict(), "neighbours_among": len(fake)}


def _score(found: Gathered, against: Reference) -> Values:
    logits = torch.cat(found.scores)
    value, spread = inception_score(logits, min(SPLITS, len(logits)))
    return {"inception_score": value, "inception_score_spread": spread}
