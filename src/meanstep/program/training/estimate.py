"""What a run would need: parameters, memory and time per step, from a few real steps that change nothing on disk."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from meanstep.program.bar import clock as clock
from meanstep.program.data import Cache, Loader
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, chunk
from meanstep.program.training.cautions import cautions
from meanstep.program.training.loop import Step, batches
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State, fresh
from meanstep.program.training.train import mirrored, wrapped

STEPS = 4


def estimated(config: Config, cache: Cache, ranks: Ranks) -> dict[str, Any]:
    """The dry run's answer; all ranks must ask together. Bytes are of weights, gradient, moments and averages, of a rank."""
    state = fresh(config, cache, ranks)
    said = list(cautions(config, cache, state))  # before the steps use the state up
    seconds = a_step(config, cache, ranks, state)
    cuda = ranks.device.type == "cuda"
    return {
        "rows": len(cache),
        "shape": list(cache.shape),
        "classes": len(cache.classes),
        "conditions": cache.manifest.given,
        "cache": str(cache.path),
        "parameters": networks.parameters(state.owner.net),
        "averages": len(state.averages),
        "bytes": _bytes(state),
        "peak_bytes": torch.cuda.max_memory_allocated(ranks.device) if cuda else None,
        "seconds_a_step": seconds,
        "samples_a_second": config.run.batch / seconds,
        "samples": config.run.samples,
        "seconds": seconds * config.run.samples / config.run.batch,
        "cautions": said,
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The same in words, a line at a time."""
    known = f"conditions {', '.join(found['conditions'])}" if found["conditions"] else f"{found['classes']} labels"
    yield f"data: {found['rows']:,} rows of {' x '.join(map(str, found['shape']))}, {known}, cache {found['cache']}"
    yield f"network: {found['parameters']:,} parameters"
    held = f"{found['bytes'] / 2**20:,.0f} MiB a rank, activations come on top"
    yield f"weights, gradient, moments and {found['averages']} average(s): {held}"
    speed = f"{found['samples_a_second']:,.0f} samples/s; {found['samples']:,} samples: {clock(found['seconds'])}"
    yield f"step: {found['seconds_a_step'] * 1e3:,.0f} ms (median of {STEPS}), {speed}"
    if found["peak_bytes"] is not None:
        yield f"peak of memory: {found['peak_bytes'] / 2**20:,.0f} MiB"


def a_step(config: Config, cache: Cache, ranks: Ranks, state: State) -> float:
    """Seconds of a step, the median of a few, which the state is used up for."""
    step = Step(config, state, ranks, wrapped(config, state, ranks), chunk(config.run, ranks.size))
    return _seconds(step, Loader(cache, config.run.seed, mirrored(config, cache)))


def _bytes(state: State) -> int:
    own = sum(p.numel() * p.element_size() for p in state.owner.parameters())
    copies = sum(p.numel() * p.element_size() for a in state.averages for p in a.parameters())
    return 4 * own + copies


def _seconds(step: Step, loader: Loader) -> float:
    times = []
    for k, chunks in enumerate(batches(step, loader, (STEPS + 1) * step.config.run.batch)):
        if not k:
            step.rehearse(chunks)
        began = time.perf_counter()
        float(step(chunks)["loss"])
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
