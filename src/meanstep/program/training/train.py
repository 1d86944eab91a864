"""A run from its configuration to its last checkpoint."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from meanstep.program import disk
from meanstep.program.console import UserError, err, say, stage
from meanstep.program.data import Cache, Loader
from meanstep.program.runs import facts
from meanstep.program.runs.config import Config, chunk
from meanstep.program.runs.integrity import STATE
from meanstep.program.runs.records import Records
from meanstep.program.runs.saved import Saved, found, numbered
from meanstep.program.training import checkpoints, loggers
from meanstep.program.training.caller import COMMAND, Caller
from meanstep.program.training.cautions import cautions
from meanstep.program.training.events import Events, Show, progress
from meanstep.program.training.loop import Failure, Step, batches, stopping
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.samples import Judge, Samples, judge
from meanstep.program.training.state import State, fresh
from meanstep.terms import Term

Shown = Callable[[Config, State, Ranks], AbstractContextManager[Show]]


def opened(config: Config, cache: Cache, here: Path, ranks: Ranks, net: torch.nn.Module | None = None) -> State:
    """The state of the folder's last checkpoint, or a fresh one; `net`: see `fresh`."""
    there, folders = found(here), numbered(here)
    if folders and not there:
        raise UserError(f"{folders[-1]} has no {STATE}, so there is nothing to go on from: choose another --out, or remove the checkpoints")
    state = fresh(config, cache, ranks, start=not there, net=net)
    if there:
        checkpoints.restore(state, Saved.open(there[-1], whole=True))
    return state


def train(
    config: Config,
    here: Path,
    cache: Cache,
    ranks: Ranks,
    judged: Judge | None = None,
    shown: Shown = progress,
    caller: Caller = COMMAND,
) -> tuple[State, int | None]:
    """Train to the end, or until a signal or the caller's callback; the state, and the signal that stopped it.

    `judged`: what is done at an evaluation instead of the configuration's distances; `shown`: how progress is shown. What the callback
    raises is raised when the run is saved.
    """
    size = chunk(config.run, ranks.size)
    with stage("building the network"):
        state = opened(config, cache, here, ranks, caller.net)
    if state.seen >= config.run.samples:
        _completed(config, here, cache, ranks, state)
        return state, None
    loader = Loader(cache, config.run.seed, mirrored(config, cache), pin=ranks.device.type == "cuda")
    step = Step(config, state, ranks, wrapped(config, state, ranks), size)
    stopped = 0
    work = closing(batches(step, loader, config.run.samples))
    heard = stopping() if caller.signals else nullcontext(list[int]())
    shows = shown(config, state, ranks)
    with _events(config, here, cache, ranks, state, judged, caller) as events, work as steps, heard as signals, shows as show:
        for first, chunks in enumerate(steps):
            if not first:
                step.rehearse(chunks)
            events.window.add(step(chunks))
            step.observe(chunks)
            stopped = ranks.largest(signals[0] if signals else 0)
            events.after(state, show, last=bool(stopped) or state.seen >= config.run.samples)
            if stopped:
                events.stopped(state, stopped)
            if stopped or events.answered(state):
                break
    ranks.wait()  # a launcher ends all when one is gone: none goes before the first has written
    return state, stopped or None


def mirrored(config: Config, cache: Cache) -> bool:
    """Whether rows are mirrored: if the configuration says so, or if mirror images belong to the cache."""
    return config.data.flips or cache.manifest.flips != "none"


def wrapped(config: Config, state: State, ranks: Ranks) -> torch.nn.Module:
    """The owner as the ranks see it, compiled if asked; `UserError` for a recipe that torch does not compile on this network."""
    if config.run.compile:
        norms = any(isinstance(module, torch.nn.LayerNorm | torch.nn.GroupNorm) for module in state.owner.net.modules())
        if norms and any(_recorded(term) for term in state.owner.loss.recipe):
            what = f"--compile: torch {torch.__version__} compiles no recorded derivative through LayerNorm or GroupNorm"
            raise UserError(f"{what}, which {config.method.recipe} needs: leave it out, or choose another recipe")
        state.owner.compile()
    return ranks.wrap(state.owner, config.run.parallel)


def _recorded(term: Term) -> bool:
    """Whether its gradient flows through a derivative."""
    objective: Any = term.objective
    share = getattr(objective, "through", getattr(getattr(objective, "rate", None), "through", 0.0))
    return callable(share) or float(share) != 0.0


def _completed(config: Config, here: Path, cache: Cache, ranks: Ranks, state: State) -> None:
    """A run at its end, without what a kill kept from being done after its last checkpoint."""
    records = Records(here, state.seen) if ranks.first else None
    Events(config, here, ranks, Samples.of(config, cache, here, ranks), None, records, []).complete(state)


@contextmanager
def _events(config: Config, here: Path, cache: Cache, ranks: Ranks, state: State, judged: Judge | None, caller: Caller) -> Iterator[Events]:
    disk.made(here)
    samples = Samples.of(config, cache, here, ranks)
    judged = judged or judge(samples)
    place = loggers.Place(here, dataclasses.asdict(config), config.run.project, config.run.tags)
    followed = loggers.opened(config.run.loggers, place) if ranks.first else []
    records = Records(here, state.seen) if ranks.first else None
    if records is not None:
        facts.keep(here, config, state.learns)
        records.add("start", state.seen, time=time.time(), ranks=ranks.size, device=str(ranks.device))
        for words in () if state.seen else cautions(config, cache, state):
            say(f"caution: {words}", on=err)
            records.add("caution", state.seen, words=words)
    events = Events(config, here, ranks, samples, judged, records, followed, caller.callback)
    if state.seen:
        events.complete(state)
    try:
        yield events
    except Failure as failure:
        events.log(state)  # the steps that led there
        if records is not None:
            records.add("failure", state.seen, error=str(failure))
        raise
    finally:
        for logger in followed:
            logger.close()
