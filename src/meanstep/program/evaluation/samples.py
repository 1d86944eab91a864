"""The cells of a table, checkpoints x averages x samplers x steps x guidance, and what one of them is worth. Knows no tables."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from meanstep.keys import key
from meanstep.program.console import UserError
from meanstep.program.data.cache import sha256
from meanstep.program.evaluation.measures import gathering, measured
from meanstep.program.evaluation.references import Reference
from meanstep.program.evaluation.rows import Row
from meanstep.program.runs.saved import CHECKPOINTS, Saved, found
from meanstep.program.sampling.model import Model, chosen, located

Told = Callable[[int], None]


@dataclass(frozen=True)
class Settings:
    """What all cells share: `count` samples of the seeds from `seed` on, `batch` at a time."""

    count: int
    seed: int
    batch: int
    metrics: tuple[str, ...]


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
        return self.saved.path / ("model.safetensors" if self.average == "raw" else f"ema_{self.average}.safetensors")

    @cached_property
    def digest(self) -> str:
        """sha256 of that file."""
        return sha256(self.file)


def weights(run: Path, checkpoints: Sequence[str], averages: Sequence[str]) -> list[Weights]:
    """The weights meant: `last`, `best`, `all` or samples seen; names of averages, `raw`, `all`, or none for the run's own choice."""
    saved = [one for word in checkpoints for one in _checkpoints(run, word)]
    pairs = [Weights(one, name) for one in saved for name in _averages(one, averages)]
    return sorted({(w.seen, w.average): w for w in pairs}.values(), key=lambda w: w.seen)


def _checkpoints(run: Path, word: str) -> list[Saved]:
    if word == "last":
        return [located(run)[1]]
    if (run / "state.json").exists():
        raise UserError(f"{run} is one checkpoint: leave out --checkpoints, or give the folder of the run")
    located(run)  # complains if there is none
    if word == "all":
        return [Saved.open(path) for path in found(run)]
    if word == "best":
        best = int(Saved.open(found(run)[-1]).about.get("best_seen", -1))
        if best < 0:
            raise UserError(f"{run} was not evaluated while it trained: there is no best checkpoint, give its samples seen")
        word = str(best)
    if not word.isdecimal():
        raise UserError(f"--checkpoints: last, best, all, or numbers of samples seen, got {word!r}")
    return [located(run, int(word))[1]]


def _averages(saved: Saved, names: Sequence[str]) -> list[str]:
    if "all" in names:
        return ["raw", *saved.averages]
    return [chosen(saved, name) for name in names] or [chosen(saved, None)]


def run_folder(path: Path) -> Path:
    """The folder of a run, of which this may be a checkpoint."""
    return path.parent.parent if path.parent.name == CHECKPOINTS and (path / "state.json").exists() else path


def labels_of_data(seeds: Sequence[int], labels: Tensor) -> Tensor:
    """A label for each seed, drawn from those of the data, always the same for that seed, int64."""
    at = [int(torch.randint(len(labels), (), generator=key(int(seed), "label of data"))) for seed in seeds]
    return labels[torch.tensor(at, dtype=torch.int64)]


@dataclass(frozen=True, eq=False)
class Sampled:
    """A model asked for the samples of a cell."""

    model: Model
    settings: Settings
    labels: Tensor | None
    steps: int
    guidance: float

    def batches(self) -> Iterator[Tensor]:
        """Pictures uint8 by batches of seeds; `FloatingPointError` if the network's numbers are not finite."""
        first, batch = self.settings.seed, self.settings.batch
        for start in range(first, first + self.settings.count, batch):
            seeds = range(start, min(start + batch, first + self.settings.count))
            y = None if self.labels is None else labels_of_data(seeds, self.labels)
            z = self.model.latents(seeds, self.steps, y, self.guidance, batch)
            if not z.isfinite().all():
                bad = int((~z.isfinite()).flatten(1).any(1).sum())
                raise FloatingPointError(f"{bad} of the {len(z)} samples from seed {start} on are not finite")
            yield self.model.decode(z, batch)


def evaluated(sampled: Sampled, against: Reference, told: Told) -> Row:
    """`values`, or why there are none, and `seconds`; `told` hears how many samples are done."""
    settings, began = sampled.settings, time.perf_counter()
    taken = gathering(against.extractor, settings.count, settings.metrics)
    row: Row = {"values": None, "failed": None}
    try:
        for images in sampled.batches():
            told(taken.add(images).done)
        row["values"] = measured(taken, against, settings.metrics)
    except FloatingPointError as error:
        row["failed"] = str(error)
    return row | {"seconds": round(time.perf_counter() - began, 3)}
