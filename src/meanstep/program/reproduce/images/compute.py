"""What a step costs, counted: rows that pass through networks without and with gradient, and tangents. Measures no time."""

import dataclasses

import torch
from torch import Tensor

from meanstep.coefficients import Running
from meanstep.keys import key
from meanstep.probes.counting import counting
from meanstep.program.data.cache import Cache
from meanstep.program.reproduce.images.settings import Compute
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config
from meanstep.program.training.loop import OBSERVE_EVERY
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State, fresh
from meanstep.velocities import of, own

ROWS, MOMENTS = 64, 8
"""Rows of the step that is counted, and moments of the training, evenly spaced: a method may change with progress."""


def counted(config: Config, cache: Cache) -> Compute:
    """Of the configuration's method, from steps that change nothing; a small network is asked, which costs as many rows."""
    network = networks.small(config.network, cache.shape[-1])
    state = fresh(dataclasses.replace(config, network=network), cache, Ranks(0, 1, torch.device("cpu")))
    x, y = cache.rows(torch.arange(ROWS) % len(cache))
    x, labels = x.to(networks.dtype(state.owner.net)), y if state.description["options"].get("classes") else None
    with counting([state.owner.net, *(a.module for a in state.averages)]) as counts:
        for k in range(MOMENTS):
            out = state.owner(x, labels, (k + 0.5) / MOMENTS, key(config.run.seed, "count", k))
            out.loss.backward()
    with counting([state.owner.net, *(a.module for a in state.averages)]) as observed:
        _observe(state, x, labels, config)
    a_row = ROWS * MOMENTS, OBSERVE_EVERY * config.run.batch
    return Compute(*(counts[name] / a_row[0] + observed[name] / a_row[1] for name in ("forwards", "backwards", "tangents")))


def _observe(state: State, x: Tensor, labels: Tensor | None, config: Config) -> None:
    """What a coefficient that learns from the noise looks at, now and then."""
    learner = state.owner.learner
    if isinstance(learner, Running):
        proxy = of(state.proxy.module) if state.proxy else own
        learner.observe(
            state.owner.net, state.owner.loss.draw(x, labels, progress=0.5, generator=key(config.run.seed, "count"))[0][1], proxy
        )
