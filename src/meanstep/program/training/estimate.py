"""What a run would need: parameters, memory and time per step, from a few real steps that change nothing on disk."""

import statistics
import time
from collections.abc import Iterator

import torch

from meanstep.program.data import Cache, Loader
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config
from meanstep.program.training.loop import Step, batches
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State, fresh
from meanstep.program.training.train import chunk, mirrored, wrapped

STEPS = 4


def lines(config: Config, cache: Cache, ranks: Ranks) -> Iterator[str]:
    """The dry run's answer, a line at a time; all ranks must ask together."""
    state = fresh(config, cache, ranks)
    shape = " x ".join(map(str, cache.shape))
    yield f"data: {len(cache):,} rows of {shape}, {len(cache.classes)} labels, cache {cache.path}"
    yield f"network: {networks.parameters(state.owner.net):,} parameters"
    held = _bytes(state)
    yield f"weights, gradient, moments and {len(state.averages)} average(s): {held / 2**20:,.0f} MiB a rank, activations come on top"
    seconds = a_step(config, cache, ranks, state)
    total = seconds * config.run.samples / config.run.batch
    speed = f"{config.run.batch / seconds:,.0f} samples/s; {config.run.samples:,} samples: {clock(total)}"
    yield f"step: {seconds * 1e3:,.0f} ms (median of {STEPS}), {speed}"
    if ranks.device.type == "cuda":
        yield f"peak of memory: {torch.cuda.max_memory_allocated(ranks.device) / 2**20:,.0f} MiB"


def a_step(config: Config, cache: Cache, ranks: Ranks, state: State) -> float:
    """Seconds of a step, the median of a few, which the state is used up for."""
    step = Step(config, state, ranks, wrapped(config, state, ranks), chunk(config, ranks))
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


def clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds + 0.5), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
