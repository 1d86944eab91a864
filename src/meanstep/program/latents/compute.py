"""What a step costs, counted: rows that pass through networks without and with gradient, and tangents. Measures no time."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as fwad
from torch import Tensor, nn

from meanstep.keys import key
from meanstep.program.data import Cache
from meanstep.program.runs.config import Config
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State, fresh
from meanstep.tangents.dual import Dual

ROWS, MOMENTS = 64, 8
"""Rows of the step that is counted, and moments of the training, evenly spaced: a method may change with progress."""


@dataclass(frozen=True)
class Compute:
    """Rows through a network for one row of training: passes forward, passes backward, tangents."""

    forwards: float
    backwards: float
    tangents: float

    @property
    def passes(self) -> float:
        """In passes forward: a pass backward counts two, a tangent one."""
        return self.forwards + 2 * self.backwards + self.tangents


def counted(config: Config, cache: Cache) -> Compute:
    """Of the configuration's method, from steps that change nothing."""
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, start=""))
    state = fresh(config, cache, Ranks(0, 1, torch.device("cpu")))
    x, y = cache.rows(torch.arange(ROWS) % len(cache))
    labels = y if state.description["options"].get("classes") else None
    with _counting(state) as counts:
        for k in range(MOMENTS):
            out = state.owner(x, labels, (k + 0.5) / MOMENTS, key(config.run.seed, "count", k))
            out.loss.backward()
    total = ROWS * MOMENTS
    return Compute(*(counts[name] / total for name in ("forwards", "backwards", "tangents")))


@contextmanager
def _counting(state: State) -> Iterator[dict[str, int]]:
    counts = {"forwards": 0, "backwards": 0, "tangents": 0}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parts = [p for p in (*args, *kwargs.values()) if isinstance(p, Tensor | Dual)]
        rows = len(_primal(parts[0]))
        counts["forwards"] += rows
        carried = max(map(_carried, parts))
        counts["tangents"] += carried
        if torch.is_grad_enabled():  # through a derivative in torch's forward mode as well, ours never carries a gradient
            counts["backwards"] += rows + (0 if isinstance(parts[0], Dual) else carried)

    nets = {id(net): net for net in (state.owner.net, *(a.module for a in state.averages))}
    hooks = [net.register_forward_pre_hook(look, with_kwargs=True) for net in nets.values()]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def _primal(p: Any) -> Tensor:
    return p.primal if isinstance(p, Dual) else p


def _carried(p: Any) -> int:
    """Rows of an input that carry a tangent: by our rules, or by torch's forward mode."""
    if isinstance(p, Dual):
        return int(p.tangent.shape[0])
    there = fwad._current_level >= 0 and fwad.unpack_dual(p).tangent is not None
    return len(p) if there else 0
