"""Under which protocol a sweep is made: ours, or that of the toy code of arXiv 2605.09235's authors, METHODS of both side by side.

A protocol decides the network's inputs and first weights, the sets, the times, the learning rate and the averages; everything else is a
setting. The authors' is that of their public code (PurdueDigitalTwin/research, run_toy.py at e73b108), written from its description.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from meanstep import times as samplers
from meanstep.fields.flat import Shape
from meanstep.keys import key
from meanstep.metrics.distances import directions
from meanstep.program.reproduce.points import sets
from meanstep.program.reproduce.points.settings import BLOCK, Settings
from meanstep.types import Times

TIMES: dict[str, Times] = {"logit-normal": samplers.logit_normal(-0.4, 1.0), "uniform": samplers.uniform}
Pairs = tuple[Tensor, Tensor, Tensor, Tensor, list[int]]
"""Data, noise `[BLOCK, B, D]`, times `[BLOCK, B]`, rows that move first, and how many of them a step has."""
EDGE, LOWEST = 1e-4, 0.01
"""Of the authors' times from 0 and 1; of their learning rate at the end, as a share of the first."""


# The authors' ------------------------------------------------------------------------------------------------------------------------


class SwappedShape(Shape):
    """The network that the authors train: inputs `z`, then sines and cosines of `r`, then those less the ones of `t`.

    Their network takes `(t, t - r)` and is handed `(r, r - t)`'s parts, in training and in sampling alike. Sixteen frequencies
    `10000^(-k / 16)` of times in [0, 1]; weights uniform within Glorot's bound, the last layer's times 1e-5, biases 0.
    """

    def __init__(self, dim: int, width: int = 128, depth: int = 3) -> None:
        super().__init__(dim, width, depth)
        self.frequencies = torch.exp(-math.log(10_000.0) * torch.arange(16, dtype=torch.float64) / 16)
        self.sizes = list(pairwise([dim + 64, *[width] * depth, dim]))
        self.size = sum(fan_in * fan_out + fan_out for fan_in, fan_out in self.sizes)

    def initial(self, generator: Generator | None = None) -> Tensor:
        """Fresh parameters, `[size]`: uniforms on [-1, 1) a layer, in order."""
        weights, biases = [], []
        for k, (fan_in, fan_out) in enumerate(self.sizes):
            bound = (6 / (fan_in + fan_out)) ** 0.5 * (1e-5 if k == len(self.sizes) - 1 else 1.0)
            weights.append(bound * torch.empty(1, fan_in, fan_out).uniform_(-1, 1, generator=generator))
            biases.append(torch.zeros(1, 1, fan_out))
        return self.flatten(weights, biases)[0]

    def inputs(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """The first layer's input, `[*B, D + 64]`."""
        r, t = (p[..., None] * self.frequencies.to(p) for p in (r, t))
        late = torch.cat([t.sin(), t.cos()], -1)
        early = torch.cat([r.sin(), r.cos()], -1)
        return torch.cat([z, early, early - late], -1)

    def input_tangents(self, t: Tensor, gap: Tensor) -> Tensor:
        """The derivative of the inputs' time part along `dt = 1, dr = 0`, `[*B, 64]`."""
        f = self.frequencies.to(t)
        angle = t[..., None] * f
        return torch.cat([torch.zeros_like(angle), torch.zeros_like(angle), -f * angle.cos(), f * angle.sin()], -1)


def _mixed_pairs(law: Any, settings: Settings, train: Generator) -> Pairs:
    """A batch of the set at a time; sorted uniforms, the gap capped, then `r = t` for a row by its own coin."""
    shape = (BLOCK, settings.batch)
    x = torch.stack([law.sample(settings.batch, train) for _ in range(BLOCK)])
    e = torch.randn(x.shape, generator=train)
    first, second, coin = torch.rand(3, *shape, generator=train).unbind()
    a, b = (EDGE + u * (1 - 2 * EDGE) for u in (first, second))
    t, r = torch.maximum(a, b), torch.minimum(a, b)
    if settings.largest_gap is not None:
        r = torch.maximum(r, t - settings.largest_gap)
    still = coin < settings.diagonal_share
    order = still.to(torch.uint8).sort(dim=-1, stable=True).indices
    r, t = (p.gather(1, order) for p in (torch.where(still, t, r), t))
    x, e = (p.gather(1, order[..., None].expand_as(p)) for p in (x, e))
    return x, e, r, t, (~still).sum(-1).tolist()


def _falling(step: int, settings: Settings) -> float:
    """A cosine from the first learning rate to a hundredth of it, over all steps."""
    fallen = 0.5 * (1 + math.cos(math.pi * min(step, settings.steps) / settings.steps))
    return settings.lr * ((1 - LOWEST) * fallen + LOWEST)


def _random_directions(dim: int, settings: Settings, path: tuple[Any, ...]) -> Tensor:
    drawn = torch.randn(settings.directions, dim, generator=key(*path, "directions"), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


def times(settings: Settings) -> Times:
    """The sweep's times, with the gap that it caps."""
    found = TIMES[settings.times]
    return found if settings.largest_gap is None else samplers.capped(found, settings.largest_gap)


# Ours --------------------------------------------------------------------------------------------------------------------------------


def _apart_pairs(law: Any, settings: Settings, train: Generator) -> Pairs:
    """All data of a block at once; a fixed number of rows moves."""
    n, shape = settings.moving, (BLOCK, settings.batch)
    x = law.sample(BLOCK * settings.batch, train).view(*shape, -1)
    e = torch.randn(x.shape, generator=train)
    r, t = times(settings)(shape, train)
    return x, e, torch.cat([r[:, :n], t[:, n:]], 1), t, [n] * BLOCK


def _even_directions(dim: int, settings: Settings, path: tuple[Any, ...]) -> Tensor:
    return directions(dim, settings.directions, key(0, "directions"))


# Both --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """What is not a number.

    `shape`: the network; `law`: of a set by name; `pairs`: a block's draws; `counted`: whether every step has as many moving rows;
    `rate`: the learning rate of an update, from 0; `falls`: whether it changes; `young`: whether the averages forget the first weights
    sooner; `directions`: of the sliced distance; `replicates`: batches at the same weights of which the gradient's variance is measured
    in training, 0 where it is measured at the end by the exact law.
    """

    shape: Callable[[int, int, int], Shape]
    law: Callable[[str, Settings], Any]
    pairs: Callable[[Any, Settings, Generator], Pairs]
    counted: bool
    rate: Callable[[int, Settings], float]
    falls: bool
    young: bool
    directions: Callable[[int, Settings, tuple[Any, ...]], Tensor]
    replicates: int


PROTOCOLS = {
    "ours": Protocol(Shape, sets.law_of, _apart_pairs, True, lambda step, settings: settings.lr, False, True, _even_directions, 0),
    "authors": Protocol(SwappedShape, sets.published_law, _mixed_pairs, False, _falling, True, False, _random_directions, 8),
}


def protocol(settings: Settings) -> Protocol:
    """The one that a sweep is made under."""
    return PROTOCOLS[settings.protocol]
