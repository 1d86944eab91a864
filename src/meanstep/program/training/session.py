"""`meanstep train` at work: its data, its folder, its ranks, and what is said of it."""

import dataclasses
import shlex
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meanstep.program.console import Interrupted, UserError, err, lasting, out, put_json, say, stage
from meanstep.program.data.cache import Cache
from meanstep.program.data.ensured import ensure
from meanstep.program.runs import cached, networks, saved, weighting
from meanstep.program.runs.config import Config, to_yaml
from meanstep.program.training import estimate, folder
from meanstep.program.training.caller import COMMAND, Caller
from meanstep.program.training.loop import Failure
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State
from meanstep.program.training.train import train


def data_cache(config: Config) -> Cache:
    """The cache that the configuration names, made first if it names a source."""
    return ensure(config.data.source, cached.request(config.data))


def dry(config: Config, here: Ranks, json: Path | None) -> int:
    """Say what a run would need, and begin none."""
    cache = data_cache(config) if here.first else None  # made once, then read by the others
    here.wait()
    cache = cache or data_cache(config)
    config = weighting.plain(config, cache.manifest)
    with stage("building the network, timing a few steps"):
        found = estimate.estimated(config, cache, here)
    if here.first and not put_json(json, {"command": "train", "config": dataclasses.asdict(config), **found}):
        say(to_yaml(config), on=out)
        for line in estimate.lines(found):
            say(line, on=out)
        for words in found["cautions"]:
            say(f"caution: {words}", on=err)
    return 0


@dataclass(frozen=True)
class End:
    """Where and how a training ended: `signal`: that stopped it, None for none; `seconds`: that it took here."""

    folder: Path
    state: State
    signal: int | None
    seconds: float


def run(config: Config, where: Path, here: Ranks, json: Path | None) -> int:
    """Train in a folder and say so: 0, or the code of the signal that stopped it. It outlives the terminal that it was started in."""
    with lasting():
        if (end := trained(config, where, here)) is None:
            return 2
        if end.signal is not None:
            again = f"saved at {end.state.seen:,} samples in {end.folder}; the same command goes on"
            raise Interrupted(again, end.signal) if here.first else SystemExit(128 + end.signal)
        if here.first:
            _summary(end, json)
        return 0


def trained(config: Config, where: Path, here: Ranks, caller: Caller = COMMAND) -> End | None:
    """Train in a folder, of which this process has the only claim meanwhile; None on a rank whose first one could not begin.

    `UserError` for what cannot be, and what the caller's callback raises, from a run that is saved.
    """
    if not here.first:
        told = here.told(None)
        if told is None:
            return None
        return _trained(weighting.kept(config, saved.held(Path(told))), Path(told), data_cache(config), here, caller)
    with ExitStack() as claim:
        try:
            cache = data_cache(config)
            place = claim.enter_context(folder.claimed(where))
            if saved.held(place) is None and (found := weighting.plain(config, cache.manifest)) != config:
                say(f"rows of few numbers: {config.method.recipe} with the squared error, options {{power: 0}} (docs/choosing.md)", on=err)
                config = found
            folder.begin(place, config, cache, str(here.device), "" if caller is COMMAND else folder.PYTHON)
        except UserError:
            here.told(None)  # the others wait for it
            raise
        here.told(str(place))
        return _trained(config, place, cache, here, caller)


def _trained(config: Config, place: Path, cache: Cache, here: Ranks, caller: Caller) -> End:
    began, there = time.perf_counter(), saved.found(place)
    if here.first:
        _announce(config, place, cache, there)
    try:
        state, stopped = train(config, place, cache, here, caller=caller)
    except Failure:  # a run that broke off is the one that is looked at
        _report(place, here)
        raise
    except UserError:
        if here.first:
            folder.withdraw(place)
        raise
    except torch.OutOfMemoryError as error:
        if here.first:
            folder.withdraw(place)
        free = (
            "" if saved.held(place) else "--network.options '{checkpointing: true}', --precision bf16, "
        )  # a run that has begun keeps those
        remedy = f"{free}a smaller --chunk or --parallel fsdp"
        raise UserError(f"out of memory on {here.device}: {str(error).splitlines()[0]}; try {remedy}") from error
    _report(place, here)
    return End(place, state, stopped, time.perf_counter() - began)


def _report(place: Path, here: Ranks) -> None:
    if here.first:
        from meanstep.program.runs.report.page import wanted

        with stage("writing the report"):
            said = wanted(place)
        say(said)
    here.wait()  # a launcher ends all when one has failed: none goes before the first has written


def _announce(config: Config, place: Path, cache: Cache, there: list[Path]) -> None:
    begun = f"goes on at {int(there[-1].name):,} samples" if there else "begins"
    say(f"{place}: {config.method.recipe} on {len(cache):,} x {' x '.join(map(str, cache.shape))}, {begun}", on=err)


def _next(state: Any, place: Path) -> str:
    name = networks.foreign(state.description)
    return shlex.join(["meanstep", "sample", str(place), *(["--network", name] if name else [])])


def _summary(end: End, json: Path | None) -> None:
    state, place, seconds = end.state, end.folder, end.seconds
    best = (state.best, state.best_seen) if state.best_seen >= 0 else (None, None)
    record = {"command": "train", "folder": str(place), "seen": state.seen, "seconds": round(seconds, 3)}
    if put_json(json, record | {"best_distance": best[0], "best_seen": best[1]}):
        return
    last = [p for p in sorted((place / "samples").glob("*.png"))][-1:]
    found = f", best distance {state.best:.4g} at {state.best_seen:,} samples" if state.best_seen >= 0 else ""
    lines = [f"{state.seen:,} samples in {seconds:.0f} s{found}", *(f"samples: {p}" for p in last), f"go on: {_next(state, place)}"]
    for line in lines:
        say(line)
