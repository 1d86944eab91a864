"""Samples of a run while it trains, and how far they are from its data. All ranks must ask together: the network may be sharded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from meanstep.metrics import Statistics, frechet
from meanstep.program.data import CODECS, Autoencoder, Cache, decoded, previews, views, waves
from meanstep.program.data.codecs import padded, pictured
from meanstep.program.data.order import subset
from meanstep.program.evaluation.examples import of_cache
from meanstep.program.evaluation.extractors import open_extractor
from meanstep.program.evaluation.metrics import sliced
from meanstep.program.evaluation.references import Reference, reference
from meanstep.program.registry import AVERAGE, INSTANTANEOUS
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config
from meanstep.program.runs.decoder import while_training
from meanstep.program.sampling import draw
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State
from meanstep.times import fewest_jumps
from meanstep.velocities import at_scale

STEPS = {AVERAGE: (1, 2, 4), INSTANTANEOUS: (1, 4, 32)}
"""Steps of an evaluation, by the velocity that the field knows."""
PICTURED = {AVERAGE: 1, INSTANTANEOUS: 32}
"""Steps of the samples that are shown, and by which the best checkpoint is told."""
BATCH = 64
SECONDS = 6.0
"""Most seconds of sound of a preview; one sample is always whole."""
MOST = 12
"""Most classes that have a column each in a preview of eight rows."""
REFERENCE = 10_000
"""Most rows that the distances of a run are taken to, drawn at random, always the same."""
Judge = Callable[[State], dict[str, float]]


@dataclass(frozen=True)
class Preview:
    """A PNG, and of sound a .wav of a few samples and one of a few rows of the data, empty for others."""

    image: bytes
    sound: bytes = b""
    data: bytes = b""


@dataclass(frozen=True)
class Samples:
    """Draws from a network, and decodes."""

    config: Config
    cache: Cache
    autoencoder: Autoencoder
    ranks: Ranks

    @staticmethod
    def of(config: Config, cache: Cache, here: Path, ranks: Ranks) -> "Samples":
        """Those of the run in the folder `here`."""
        return Samples(config, cache, while_training(here, cache.manifest, ranks.device), ranks)

    @cached_property
    def shown(self) -> list[int]:
        """The labels of which the data hold rows; empty: there are no labels."""
        found: list[int] = self.cache.labels.unique().tolist() if self.cache.classes else []
        return found

    @property
    def count(self) -> int:
        """Samples of an evaluation: as many on every rank."""
        return max(1, self.config.run.evaluate_count // self.ranks.size) * self.ranks.size

    def shared(self, count: int) -> range:
        """This rank's seeds, of `count` or as many as all ranks have equal shares of."""
        share = max(1, count // self.ranks.size)
        return range(self.ranks.rank * share, (self.ranks.rank + 1) * share)

    def preview(self, state: State) -> Preview:
        """Samples of the state's chosen average, always of the same seeds and labels: a column for each of a few classes.

        Rows that are no pictures have rows of the data beside them, with labels in the same order.
        """
        manifest, view = self.cache.manifest, self._view
        columns = len(self.shown) if 2 <= len(self.shown) <= MOST else view.columns if view else 8
        count = view.count(columns) if view else 8 * columns
        rows = self.made(state.sampled, range(count), PICTURED[state.learns], state.sampler)
        real = self.of_data(count) if view else None
        image = previews.encoded(pictured(rows, manifest, columns, real))
        rate = manifest.seen_as.rate if view and manifest.seen_as.kind == "sound" else 0
        heard = [waves.encoded(waves.in_turn(x, rate, SECONDS), rate) if rate and x is not None else b"" for x in (rows, real)]
        return Preview(image, heard[0], heard[1])

    @property
    def _view(self) -> views.View | None:
        """How rows that are no pictures are shown."""
        manifest = self.cache.manifest
        return None if CODECS[manifest.codec].pictures else views.VIEWS[manifest.seen_as.kind]

    def of_data(self, count: int) -> Tensor:
        """Rows of the data in their units `[at most count, *E]`, always the same, of the labels that samples have in turn."""
        order = subset(len(self.cache))
        labels = self.conditions(range(count))
        if self.cache.classes and isinstance(labels, Tensor):
            places = {k: order[self.cache.labels[order] == k].tolist() for k in self.shown}
            turns = [places[k].pop(0) for k in labels.tolist() if places[k]]
            order = torch.tensor(turns, dtype=torch.int64)
        return decoded(self.cache.rows(order[:count])[0], self.cache.manifest, self.autoencoder, BATCH)

    def conditions(self, seeds: range) -> Any:
        """What the samples of these seeds are given: one class that has rows after the other, or other conditions of rows of the data."""
        if not self.config.data.conditional:
            return None
        if self.cache.manifest.given:
            return self.cache.condition(self.like(seeds))
        return torch.tensor([self.shown[seed % len(self.shown)] for seed in seeds]) if self.cache.classes else None

    def like(self, seeds: range) -> Tensor:
        """The rows of the data whose conditions, lengths and partners the samples of these seeds are given."""
        order = subset(len(self.cache))
        return order[torch.tensor(seeds) % len(order)]

    @torch.no_grad()
    def made(self, net: nn.Module, seeds: range, steps: int, sampler: str) -> Tensor:
        """Rows in units of the data `[len(seeds), *E]`, with the seeds' `conditions`."""
        shape, device = self.cache.shape, self.ranks.device
        was = net.training
        how: dict[str, Any] = {"labels": self.conditions(seeds), "sampler": draw.named(sampler)}
        if self.cache.manifest.needed:
            how |= {"start": self.cache.start(at := self.like(seeds)), "mask": self.cache.mask(at)}
        if (scales := self.config.method.scales) and how["labels"] is not None:
            how["labels"] = at_scale(how["labels"], min(max(1.0, scales[0]), scales[1]), trained=(scales[0], scales[1]))
        z = draw.latents(net.eval(), shape, seeds, steps=steps, batch=BATCH, device=device, dtype=networks.dtype(net), **how)
        net.train(was)
        z = z if (mask := how.get("mask")) is None else padded(z, mask, self.cache.manifest)
        return decoded(z, self.cache.manifest, self.autoencoder, BATCH)


class Nothing(nn.Module):
    """The field that is 0 everywhere, whose samples are the noise itself: a network that has learnt nothing."""

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """`0` `[*B, *E]`."""
        return torch.zeros_like(z)


def judge(samples: Samples) -> Judge | None:
    """A function from a state to distances by steps, or None if the run is never evaluated: of pictures Frechet's, of others sliced W1.

    Equal shares of the samples are made on every rank; the distance is that of all of them to the cache's rows.
    """
    if not samples.config.run.evaluate_every:
        return None
    against, seeds = against_data(samples), samples.shared(samples.count)
    trained = fewest_jumps(samples.config.method.largest_gap)
    if not CODECS[samples.cache.manifest.codec].pictures:
        return of_rows(samples, against, trained)
    return lambda state: {
        str(steps): distance(samples, state.sampled, against, seeds, steps, state.sampler)
        for steps in sorted({*STEPS[state.learns], trained})
    }


@dataclass(frozen=True)
class OfRows:
    """Sliced W1 of samples of a state to as many rows of the data, by steps; `floor`: that of as many other rows of the data to these."""

    samples: Samples
    against: Reference
    trained: int
    floor: float

    def __call__(self, state: State) -> dict[str, float]:
        """One number for each of the usual steps, the same on all ranks."""
        return {str(steps): self._far(state, steps) for steps in sorted({*STEPS[state.learns], self.trained})}

    @property
    def about(self) -> dict[str, Any]:
        """What a record says beside the numbers."""
        return {"measure": "sliced W1", "floor": self.floor, "among": self.against.among}

    def _far(self, state: State, steps: int) -> float:
        own, samples = self.samples.shared(self.samples.count), self.samples
        parts = [own[start : start + BATCH] for start in range(0, len(own), BATCH)]
        made = torch.cat([self.against.extractor(samples.made(state.sampled, part, steps, state.sampler)) for part in parts])
        whole = made.new_zeros(samples.count, made.shape[1])
        whole[own.start : own.stop] = made
        whole = _total(whole, samples.ranks)[: self.against.among]
        told: float = samples.ranks.told(sliced(self.against.scaled(whole), self.against.compared) if samples.ranks.first else None)
        return told


def of_rows(samples: Samples, against: Reference, trained: int) -> OfRows:
    """Against half of the rows that are kept, at most; the other half is the floor's."""
    n = max(1, min(samples.count, len(against.features) // 2))
    return OfRows(samples, replace(against, among=n), trained, sliced(against.rows[n : 2 * n], against.rows[:n]))


def against_data(samples: Samples) -> Reference:
    """The rows of the data that distances are taken to."""
    against = _reference(samples) if samples.ranks.first else None  # made once, then read by the others
    samples.ranks.wait()
    return against or _reference(samples)


def _reference(samples: Samples) -> Reference:
    extractor = open_extractor(samples.config.run.extractor, samples.ranks.device)
    return reference(of_cache(samples.cache, samples.autoencoder), extractor, limit=REFERENCE)


def distance(samples: Samples, net: nn.Module, against: Reference, seeds: range, steps: int, sampler: str) -> float:
    """The Frechet distance of what a network makes of all ranks' seeds, of which `seeds` are this one's."""
    found = Statistics(against.extractor.dim)
    for start in range(0, len(seeds), BATCH):
        found.update(against.extractor(samples.made(net, seeds[start : start + BATCH], steps, sampler)))
    whole = found.reduce(lambda x: _total(x, samples.ranks))
    told: float = samples.ranks.told(frechet(whole, against.statistics) if samples.ranks.first else None)  # one number, one decision
    return told


def _total(x: Tensor, ranks: Ranks) -> Tensor:
    if ranks.size == 1:
        return x
    moved = x.to(ranks.device)
    dist.all_reduce(moved)
    return moved.to(x.device)
