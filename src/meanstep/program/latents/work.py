"""One run of a study: trained as `meanstep train` does, and measured at every moment."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meanstep.program.console import UserError, write
from meanstep.program.data import Cache
from meanstep.program.latents.arms import Arm
from meanstep.program.latents.measure import Measurer
from meanstep.program.latents.study import Study
from meanstep.program.runs.config import Config, checked
from meanstep.program.runs.records import Records, load
from meanstep.program.runs.saved import found
from meanstep.program.training import folder
from meanstep.program.training.loop import Failure
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State
from meanstep.program.training.train import Shown, train

MEASURES = "measures.jsonl"
DONE, STOPPED, ELSEWHERE, FAILED = "done", "stopped", "elsewhere", "failed"


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
    return max((2**62 if r["kind"] == "failure" else r["seen"] for r in records), default=0)


def work(job: Job, study: Study, here: Path, cache: Cache, ranks: Ranks, shown: Shown) -> tuple[str, int]:
    """Train and measure a run to its end, or until a signal; what became of it, the signal or 0. All ranks must ask together."""
    config, place = checked(study.run(job.arm, job.seed)), here / "runs" / job.name
    with ExitStack() as claim:
        error = _begun(config, place, cache, ranks, claim) if ranks.first else None
        if ranks.told(None if error is None else str(error)) is not None:
            if error is not None and not isinstance(error, folder.Busy):
                raise error
            return ELSEWHERE, 0
        measured = _Measured(job, study.moments * study.spacing, here, Measurer.of(config, cache, place, ranks, study.sizes), ranks)
        try:
            _, stopped = train(config, place, cache, ranks, measured, shown)
        except Failure as failure:
            measured.note("failure", max(measured.reached, 0), error=str(failure))
            return FAILED, 0
    return (STOPPED, stopped) if stopped else (DONE, 0)


def _begun(config: Config, place: Path, cache: Cache, ranks: Ranks, claim: ExitStack) -> UserError | None:
    try:
        place.parent.mkdir(exist_ok=True)
        claim.enter_context(folder.claimed(place))
        folder.begin(place, config, cache, str(ranks.device))
    except UserError as error:
        return error
    return None


@dataclass
class _Measured:
    """What a run does at its evaluations: measure, note it down, and answer with the distances of the chosen average."""

    job: Job
    last: int
    here: Path
    measurer: Measurer
    ranks: Ranks
    reached: int = -1
    spent: float = 0.0
    clock: Callable[[], float] = field(default=time.process_time)
    records: Records | None = None

    def __post_init__(self) -> None:
        self.clock = time.process_time if self.ranks.device.type == "cpu" else time.perf_counter
        self.began, there = self.clock(), found(self.here / "runs" / self.job.name)
        self.at = int(there[-1].name) if there else 0

    def __call__(self, state: State) -> dict[str, float]:
        a_sample, began = (self.clock() - self.began) / max(1, state.seen - self.at), time.perf_counter()
        self._open(state)
        entries = self.measurer(state)
        if state.seen == self.last and self.ranks.first:
            (self.here / "samples").mkdir(exist_ok=True)
            write(self.here / "samples" / f"{self.job.name}.png", self.measurer.picture(state))
        elif state.seen == self.last:
            self.measurer.picture(state)
        self.spent += a_sample * (state.seen - max(self.reached, 0))
        self.note("moment", state.seen, seconds=round(self.spent, 3), measuring=round(time.perf_counter() - began, 3), **entries)
        self.reached = self.at = state.seen
        self.began = self.clock()
        return {name: value if value is not None else math.nan for name, value in entries["distance"]["ema"].items()}

    def _open(self, state: State) -> None:
        """The file, without what a run that was killed had measured beyond the checkpoint at which it goes on."""
        if self.records is not None or not self.ranks.first:
            return
        path = self.here / "runs" / self.job.name
        self.records = Records(path, state.seen - 1, MEASURES)
        before = [r for r in load(path / MEASURES) if r["kind"] == "moment"]
        self.spent, self.reached = (before[-1]["seconds"], before[-1]["seen"]) if before else (0.0, 0)

    def note(self, kind: str, at: int, **entries: object) -> None:
        """One record."""
        if self.ranks.first:
            self.records = self.records or Records(self.here / "runs" / self.job.name, at, MEASURES)
            self.records.add(kind, at, arm=self.job.arm.name, seed=self.job.seed, **entries)


@contextmanager
def stopped_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Within it, once it is so, one signal tells this process's training to save and stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if asked():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
