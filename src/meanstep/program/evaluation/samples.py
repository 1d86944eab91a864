"""The cells of a table, checkpoints x averages x samplers x steps x guidance, and what one of them is worth. Knows no tables."""

import operator
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meanstep.keys import key
from meanstep.program.data.manifest import sha256
from meanstep.program.evaluation.measures import gathering, measured
from meanstep.program.evaluation.references import Reference
from meanstep.program.evaluation.rows import Row
from meanstep.program.runs.saved import Saved, averages
from meanstep.program.sampling.model import Model
from meanstep.shapes import tree_map

Told = Callable[[int], None]


@dataclass(frozen=True)
class Weights:
    """One file of weights: a checkpoint's, or an average's."""

    saved: Saved
    average: str

    @property
    def seen(self) -> int:
        """Samples that the checkpoint had seen."""
        return int(self.saved.about["seen"])

    @property
    def file(self) -> Path:
        """Where they are."""
        return self.saved.file("model.safetensors" if self.average == "raw" else f"ema_{self.average}.safetensors")

    @cached_property
    def digest(self) -> str:
        """sha256 of that file."""
        return sha256(self.file)


def weights(saved: Sequence[Saved], names: Sequence[str]) -> list[Weights]:
    """The weights meant: of these checkpoints the averages of these names, as `averages` reads them."""
    pairs = [Weights(one, name) for one in saved for name in averages(one, names)]
    return sorted({(w.seen, w.average): w for w in pairs}.values(), key=lambda w: w.seen)


def labels_of_data(seeds: Sequence[int], labels: Any) -> Any:
    """A label for each seed, drawn from those of the data `[N]`, always the same for that seed; of conditions by name those of one row."""
    count = len(next(iter(labels.values())) if isinstance(labels, dict) else labels)
    at = torch.tensor([int(torch.randint(count, (), generator=key(int(seed), "label of data"))) for seed in seeds], dtype=torch.int64)
    return tree_map(operator.itemgetter(at), labels)


@dataclass(frozen=True, eq=False)
class Sampled:
    """A model asked for the samples of a cell: `count` of the seeds from `seed` on, `batch` at a time, for these metrics."""

    model: Model
    labels: Any
    steps: int
    guidance: float
    count: int
    seed: int
    batch: int
    metrics: tuple[str, ...]

    def batches(self) -> Iterator[Tensor]:
        """Rows in units of the data by batches of seeds; `FloatingPointError` if the network's numbers are not finite."""
        end, batch = self.seed + self.count, self.batch
        for start in range(self.seed, end, batch):
            seeds = range(start, min(start + batch, end))
            y = None if self.labels is None else labels_of_data(seeds, self.labels)
            z = self.model.latents(seeds, self.steps, y, self.guidance, batch)
            if not z.isfinite().all():
                bad = int((~z.isfinite()).flatten(1).any(1).sum())
                raise FloatingPointError(f"{bad} of the {len(z)} samples from seed {start} on are not finite")
            yield self.model.decode(z, batch)


def evaluated(sampled: Sampled, against: Reference, told: Told) -> Row:
    """`values`, or why there are none, and `seconds`; `told` hears how many samples are done."""
    began = time.perf_counter()
    taken = gathering(against.extractor, sampled.count, sampled.metrics)
    row: Row = {"values": None, "failed": None}
    try:
        for made in sampled.batches():
            told(taken.add(made).done)
        row["values"] = measured(taken, against, sampled.metrics)
    except FloatingPointError as error:
        row["failed"] = str(error)
    return row | {"seconds": round(time.perf_counter() - began, 3)}
