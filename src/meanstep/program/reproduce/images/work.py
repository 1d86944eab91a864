"""One run of a study: trained as `meanstep train` does, and measured at every moment."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meanstep.program.console import UserError
from meanstep.program.data import Cache
from meanstep.program.disk import folder as subfolder
from meanstep.program.disk import write
from meanstep.program.reproduce.images.arms import Arm
from meanstep.program.reproduce.images.measure import Measurer
from meanstep.program.reproduce.images.records import MEASURES
from meanstep.program.reproduce.images.study import Study
from meanstep.program.runs.config import Config, checked
from meanstep.program.runs.records import Records, load
from meanstep.program.runs.saved import found
from meanstep.program.training import folder
from meanstep.program.training.events import Show
from meanstep.program.training.loop import Failure
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State
from meanstep.program.training.train import Shown, train

DONE, STOPPED, ELSEWHERE, FAILED, WRONG = "done", "stopped", "elsewhere", "failed", "wrong"
ENDLESS = 2**62


@dataclass(frozen=True)
class Job:
    """One arm with one seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, and of its grid of samples."""
        return f"{self.arm.name}-{self.seed}"


def seen(job: Job, here: Path) -> int:
    """How many samples it had seen when it was last measured; endless if its loss was not finite: it would be so again."""
    records = load(here / "runs" / job.name / MEASURES)
    return max((ENDLESS if r["kind"] == "failure" else r["seen"] for r in records), default=0)


def work(job: Job, study: Study, here: Path, cache: Cache, ranks: Ranks, shown: Shown) -> tuple[str, int]:
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
        measured = _Measured(job, study.moments * study.spacing, here, Measurer.of(config, cache, place, ranks, study.sizes), ranks)
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
        subfolder(place.parent)
        subfolder(place)
        claim.enter_context(folder.claimed(place))
        folder.begin(place, config, cache, str(ranks.device))
    except UserError as error:
        return error
    return None


class _Measured:
    """What a run does at its evaluations: measure, note it down, and answer with the distances of the chosen average."""

    def __init__(self, job: Job, last: int, here: Path, measurer: Measurer, ranks: Ranks) -> None:
        self.job, self.last, self.here, self.measurer, self.ranks = job, last, here, measurer, ranks
        self.place = here / "runs" / job.name
        self.clock = time.process_time if ranks.device.type == "cpu" else time.perf_counter
        there = found(self.place)
        self.at = int(there[-1].name) if there else 0  # what was measured beyond a checkpoint will be measured again
        self.records = Records(self.place, self.at, MEASURES) if ranks.first else None
        before = [r for r in load(self.place / MEASURES) if r["kind"] == "moment"]
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
                subfolder(self.here / "samples")
                write(self.here / "samples" / f"{self.job.name}.png", picture)
        self.spent += a_sample * (state.seen - self.reached)
        times = {"seconds": round(self.spent, 3), "measuring": round(time.perf_counter() - began, 3)}
        self.note("moment", state.seen, **times, clock="processor" if self.clock is time.process_time else "wall", **entries)
        self.reached = self.at = state.seen
        self.began = self.clock()
        distances = entries["distance"]["ema"] or entries["distance"]["raw"]
        return {name: value if value is not None else math.nan for name, value in distances.items()}

    def note(self, kind: str, at: int, **entries: object) -> None:
        """One record."""
        if self.records is not None:
            self.records.add(kind, at, arm=self.job.arm.name, seed=self.job.seed, **entries)


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
