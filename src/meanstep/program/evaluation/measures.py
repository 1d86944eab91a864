"""From batches of samples to numbers, against a reference. Knows neither models nor files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meanstep.metrics import Statistics
from meanstep.program.console import UserError
from meanstep.program.evaluation.features import Extractor
from meanstep.program.evaluation.references import KEPT, Reference
from meanstep.program.registry import METRICS, unknown

LOGITS = "logits"
"""What a metric may need of an extractor beside features."""
BLOCKS, FEWEST = 10, 3
"""Most blocks of samples whose spread gives an interval, and fewest."""
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

    def add(self, rows: Tensor) -> "Gathered":
        """Take in samples `[B, *E]`, as the extractor takes them."""
        features = self.extractor(rows)
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

    @classmethod
    def of(cls, extractor: Extractor, features: Tensor) -> "Gathered":
        """Rows whose features are there already."""
        return cls(extractor, len(features), False, [Statistics(features.shape[-1]).update(features)], [features], [], len(features))

    @property
    def statistics(self) -> Statistics:
        """Of all samples."""
        return self.parts[0].merge(*self.parts[1:])

    @property
    def features(self) -> Tensor:
        """The first samples', at most 10000."""
        return torch.cat(self.kept)


def gathering(extractor: Extractor, count: int, metrics: Iterable[str]) -> Gathered:
    """What takes in `count` samples for these metrics."""
    return Gathered(extractor, count, any(_needs_logits(metric) for metric in metrics))


def checked(metrics: Sequence[str], extractor: Extractor, count: int) -> None:
    """`UserError` for a metric that there is not, or that this extractor or so few samples cannot give."""
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"--metrics: {unknown('metric', metric, METRICS)}")
        if _needs_logits(metric) and extractor.logits is None:
            raise UserError(f"--metrics {metric} needs class logits, which {extractor.name} has not: take inception or efficientnet-lite0")
        if count < (least := fewest((metric,))):
            raise UserError(f"--count: at least {least} for {metric}, got {count}")


def measured(found: Gathered, against: Reference, metrics: Iterable[str] = ("frechet",)) -> Values:
    """The numbers of the samples gathered, by name; `frechet_low` and `frechet_high` bound the 95 percent interval where there is one."""
    values: Values = {"count": found.done, "reference_count": against.count}
    for metric in metrics:
        there = against.among or against.count
        if min(found.done, there) < (least := fewest((metric,))):
            noun = f"rows of the reference to compare with: it has {against.count}" if against.among else "images"
            raise UserError(f"{metric} needs at least {least} samples and {least} {noun}, got {found.done} and {there}")
        values |= METRICS[metric].load()(found, against)
    return values


def _needs_logits(metric: str) -> bool:
    return LOGITS in METRICS[metric].facts.get("needs", ())


def fewest(metrics: Iterable[str]) -> int:
    """Rows that each of these metrics needs of samples and of the reference."""
    return max(int(METRICS[metric].facts.get("least", 2)) for metric in metrics)
