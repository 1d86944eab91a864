"""What a step costs, counted: rows that pass through networks without and with gradient, and tangents. Measures no time."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as fwad
from torch import Tensor, nn

from meanstep.coefficients import Running
from meanstep.keys import key
from meanstep.program.data.cache import Cache
from meanstep.program.reproduce.images.study import Compute
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config
from meanstep.program.training.loop import OBSERVE_EVERY
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State, fresh
from meanstep.tangents.dual import Dual
from meanstep.velocities import of, own

ROWS, MOMENTS = 64, 8
"""Rows of the step that is counted, and moments of the training, evenly spaced: a method may change with progress."""


def counted(config: Config, cache: Cache) -> Compute:
    """Of the configuration's method, from steps that change nothing; a small network is asked, which costs as many rows."""
    network = networks.small(config.network, cache.shape[-1])
    state = fresh(dataclasses.replace(config, network=network), cache, Ranks(0, 1, torch.device("cpu")))
    x, y = cache.rows(torch.arange(ROWS) % len(cache))
    x, labels = x.to(networks.dtype(state.owner.net)), y if state.description["options"].get("classes") else None
    with _counting(state) as counts:
        for k in range(MOMENTS):
            out = state.owner(x, labels, (k + 0.5) / MOMENTS, key(config.run.seed, "count", k))
            out.loss.backward()
    with _counting(state) as observed:
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


@contextmanager
def _counting(state: State) -> Iterator[dict[str, int]]:
    """Counts the rows that networks are asked for within it, by any of their methods."""
    counts = {"forwards": 0, "backwards": 0, "tangents": 0}
    asked: list[nn.Module] = []

    def watched(net: nn.Module, name: str) -> None:
        call = getattr(net, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            if not asked:  # one method may call another
                _note([p for p in (*args, *kwargs.values()) if isinstance(p, Tensor | Dual)], counts)
            asked.append(net)
            try:
                return call(*args, **kwargs)
            finally:
                asked.pop()

        setattr(net, name, counting)

    nets = {id(net): net for net in (state.owner.net, *(a.module for a in state.averages))}.values()
    methods = [(net, name) for net in nets for name in ("forward", "head", "with_head") if callable(getattr(type(net), name, None))]
    for net, name in methods:
        watched(net, name)
    try:
        yield counts
    finally:
        for net, name in methods:
            delattr(net, name)


def _note(parts: list[Any], counts: dict[str, int]) -> None:
    rows, carried = len(_primal(parts[0])), max(map(_carried, parts))
    counts["forwards"] += rows
    counts["tangents"] += carried
    if torch.is_grad_enabled():  # through a derivative in torch's forward mode as well, ours never carries a gradient
        counts["backwards"] += rows + (0 if isinstance(parts[0], Dual) else carried)


def _primal(p: Any) -> Tensor:
    return p.primal if isinstance(p, Dual) else p


def _carried(p: Any) -> int:
    """Rows of an input that carry a tangent: by our rules, or by torch's forward mode."""
    if isinstance(p, Dual):
        return int(p.tangent.shape[0])
    there = fwad._current_level >= 0 and fwad.unpack_dual(p).tangent is not None
    return len(p) if there else 0
