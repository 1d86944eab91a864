"""One run of a study: trained as `meanstep train` does, and measured at every moment."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache as cache_once
from functools import partial
from pathlib import Path

import torch

from meanstep.program import disk
from meanstep.program.console import UserError
from meanstep.program.data import Cache
from meanstep.program.reproduce import records
from meanstep.program.reproduce.images import KIND, MEASURES
from meanstep.program.reproduce.images.measure import Measurer
from meanstep.program.reproduce.images.settings import Job, Plan
from meanstep.program.reproduce.study import DONE, ELSEWHERE, FAILED, STOPPED, Tell
from meanstep.program.runs.config import Config, checked
from meanstep.program.runs.saved import found
from meanstep.program.training import folder
from meanstep.program.training.events import Show
from meanstep.program.training.loop import Failure
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State
from meanstep.program.training.train import Shown, train

WRONG, ENDLESS = "wrong", 2**62


def seen(job: Job, here: Path) -> int:
    """How many samples it had seen when it was last measured; endless if its loss was not finite: it would be so again."""
    there = records.read(here / "runs" / job.name / MEASURES, KIND)
    return max((ENDLESS if r["kind"] == "failure" else r["seen"] for r in there), default=0)


@cache_once
def opened(data: Path) -> Cache:
    """Opened by each worker: rows that were sent to it would be copied into shared memory."""
    return Cache.open(data, verify=False)


def told(job: Job, study: Plan, here: Path, tell: Tell, device: str) -> str:
    """Work on a run alone, progress told to the parent; what became of it."""
    cost = study.compute[job.arm.name].passes

    @contextmanager
    def shown(config: Config, state: State, ranks: Ranks) -> Iterator[Show]:
        at = state.seen
        tell("resumed", cost * at)

        def show(state: State, means: dict[str, float]) -> None:
            nonlocal at
            tell("steps", cost * (state.seen - at))
            at = state.seen

        yield show

    with stopped_when(lambda: tell("stop?")):
        return work(job, study, here, opened(study.rows), Ranks(0, 1, torch.device(device)), shown, tell)[0]


def work(job: Job, study: Plan, here: Path, cache: Cache, ranks: Ranks, shown: Shown, tell: Tell | None = None) -> tuple[str, int]:
    """Train and measure a run to its end, or until a signal; what became of it, the signal or 0. All ranks must ask together."""
    config, place = checked(study.run(job.arm, job.seed)), here / "runs" / job.name
    with ExitStack() as claim:
        error = _begun(config, place, cache, ranks, claim) if ranks.first else None
        outcome = ELSEWHERE if isinstance(error, folder.Busy) else WRONG if error else FAILED if seen(job, here) == ENDLESS else ""
        outcome = ranks.told(outcome)
        if outcome == WRONG:
            raise error or SystemExit(2)
        if outcome:
            return outcome, 0
        measured = _Measured(job, study, here, Measurer.of(config, cache, place, ranks, study.sizes), ranks, tell)
        try:
            state, stopped = train(config, place, cache, ranks, measured, partial(measured.timed, shown))
        except Failure as failure:
            measured.note("failure", measured.reached, error=str(failure))
            return FAILED, 0
        if not stopped and measured.reached < state.seen:  # its last record was lost, or never written
            measured(state)
    return (STOPPED, stopped) if stopped else (DONE, 0)


def _begun(config: Config, place: Path, cache: Cache, ranks: Ranks, claim: ExitStack) -> UserError | None:
    try:
        disk.folder(place.parent)
        disk.folder(place)
        claim.enter_context(folder.claimed(place))
        folder.begin(place, config, cache, str(ranks.device))
    except UserError as error:
        return error
    return None


class _Measured:
    """What a run does at its evaluations: measure, note it down, and answer with the distances of the chosen average."""

    def __init__(self, job: Job, study: Plan, here: Path, measurer: Measurer, ranks: Ranks, tell: Tell | None) -> None:
        self.job, self.here, self.measurer, self.ranks, self.tell = job, here, measurer, ranks, tell
        self.last = study.moments * study.spacing
        self.clock = time.process_time if ranks.device.type == "cpu" else time.perf_counter
        there, path = found(here / "runs" / job.name), here / "runs" / job.name / MEASURES
        self.at = at = int(there[-1].name) if there else 0  # what was measured beyond a checkpoint will be measured again
        before = [r for r in records.read(path, KIND) if r["seen"] <= at and r["kind"] == "moment"]
        self.part = records.Part(path, KIND, lambda record: bool(record["seen"] <= at)) if ranks.first else None
        self.reached: int = before[-1]["seen"] if before else 0
        self.spent: float = before[-1]["seconds"] if before else 0.0
        self.began = self.clock()

    @contextmanager
    def timed(self, shown: Shown, config: Config, state: State, ranks: Ranks) -> Iterator[Show]:
        """Progress as `shown`, and the clock from the first step on."""
        with shown(config, state, ranks) as show:
            self.at, self.began = state.seen, self.clock()
            yield show

    def __call__(self, state: State) -> dict[str, float]:
        a_sample, began = (self.clock() - self.began) / max(1, state.seen - self.at), time.perf_counter()
        entries = self.measurer(state)
        if state.seen == self.last:
            picture = self.measurer.picture(state)
            if self.ranks.first:
                disk.folder(self.here / "samples")
                disk.write(self.here / "samples" / f"{self.job.name}.png", picture)
        self.spent += a_sample * (state.seen - self.reached)
        times = {"seconds": round(self.spent, 3), "measuring": round(time.perf_counter() - began, 3)}
        self.note("moment", state.seen, **times, clock="processor" if self.clock is time.process_time else "wall", **entries)
        self.reached = self.at = state.seen
        self.began = self.clock()
        distances = {n: math.nan if x is None else x for n, x in (entries["distance"]["ema"] or entries["distance"]["raw"]).items()}
        if self.tell:
            self.tell("best", "distance in one step", self.job.name, distances["1"])
        return distances

    def note(self, kind: str, at: int, **entries: object) -> None:
        """One record."""
        if self.part is not None:
            self.part.add({"kind": kind, "seen": at, "arm": self.job.arm.name, "seed": self.job.seed, **entries})


@contextmanager
def stopped_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Within it, once it is so, one signal tells this process's training to save and stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if asked():
                os.kill(os.getpid(), signal.SIGUSR2)  # no other sends this one, and a second of a kind would stop at once
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
