"""Samples of a run while it trains, and how far they are from its data. All ranks must ask together: the network may be sharded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from meanstep.metrics import Statistics, frechet
from meanstep.program.data import Autoencoder, Cache, open_autoencoder
from meanstep.program.evaluation.extractors import open_extractor
from meanstep.program.evaluation.pictures import of_cache
from meanstep.program.evaluation.references import Reference, reference
from meanstep.program.runs.config import Config
from meanstep.program.runs.saved import place
from meanstep.program.sampling import draw
from meanstep.program.sampling.model import decoded, sampler_of
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State, classes

STEPS = {"average": (1, 2, 4), "euler": (1, 4, 32)}
"""Steps of an evaluation, by sampler."""
BATCH = 64
REFERENCE = 10_000
"""Most images that the distances of a run are taken to, evenly spaced."""
Judge = Callable[[State], dict[str, float]]


@dataclass(frozen=True)
class Samples:
    """Draws from a state's chosen average, and decodes."""

    config: Config
    cache: Cache
    autoencoder: Autoencoder
    ranks: Ranks

    @staticmethod
    def of(config: Config, cache: Cache, here: Path, ranks: Ranks) -> "Samples":
        """Those of the run in the folder `here`."""
        return Samples(config, cache, open_autoencoder(place(here, cache.manifest), ranks.device), ranks)

    @property
    def count(self) -> int:
        """Samples of an evaluation: as many on every rank."""
        return max(1, self.config.run.evaluate_count // self.ranks.size) * self.ranks.size

    @property
    def sampler(self) -> str:
        """As the recipe needs it."""
        return sampler_of(self.config)

    @torch.no_grad()
    def images(self, state: State, seeds: range, steps: int) -> Tensor:
        """Pictures uint8 `[len(seeds), C, H, W]`; labels follow the seeds, one class after the other."""
        count = classes(self.config, self.cache)
        labels = torch.tensor([seed % count for seed in seeds]) if count else None
        net, shape, device = state.sampled, self.cache.shape, self.ranks.device
        was = net.training
        z = draw.latents(net.eval(), shape, seeds, steps=steps, labels=labels, null=count, batch=BATCH, device=device, sampler=self.sampler)
        net.train(was)
        return decoded(z, self.cache.manifest, self.autoencoder, BATCH)


def judge(samples: Samples) -> Judge | None:
    """A function from a state to the Frechet distances by steps, or None if the run is never evaluated.

    Equal shares of the samples are made on every rank; the distance is that of all of them to the cache's images.
    """
    run, ranks = samples.config.run, samples.ranks
    if not run.evaluate_every:
        return None
    against = _reference(samples) if ranks.first else None  # made once, then read by the others
    ranks.wait()
    against = against or _reference(samples)
    share = samples.count // ranks.size
    seeds = range(ranks.rank * share, (ranks.rank + 1) * share)
    return lambda state: {str(steps): _distance(samples, state, against, seeds, steps) for steps in STEPS[samples.sampler]}


def _reference(samples: Samples) -> Reference:
    extractor = open_extractor(samples.config.run.extractor, samples.ranks.device)
    return reference(of_cache(samples.cache, samples.autoencoder), extractor, limit=REFERENCE)


def _distance(samples: Samples, state: State, against: Reference, seeds: range, steps: int) -> float:
    found = Statistics(against.extractor.dim)
    for start in range(0, len(seeds), BATCH):
        found.update(against.extractor(samples.images(state, seeds[start : start + BATCH], steps)))
    whole = found.reduce(lambda x: _total(x, samples.ranks))
    distance: float = samples.ranks.told(frechet(whole, against.statistics) if samples.ranks.first else None)  # one number, one decision
    return distance


def _total(x: Tensor, ranks: Ranks) -> Tensor:
    if ranks.size == 1:
        return x
    moved = x.to(ranks.device)
    dist.all_reduce(moved)
    return moved.to(x.device)
