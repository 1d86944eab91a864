"""What happens beside the steps, by samples seen: records, pictures, evaluations, checkpoints, and the line that shows progress."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from meanstep.coefficients import Climber
from meanstep.program import console, disk
from meanstep.program.bar import Pace, listeners, phase
from meanstep.program.console import err, say, watched
from meanstep.program.runs.config import Config
from meanstep.program.runs.records import Records, load
from meanstep.program.training import checkpoints
from meanstep.program.training.caller import Callback, Moment
from meanstep.program.training.loggers import Logger
from meanstep.program.training.loop import Window
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.samples import PICTURED, Judge, OfRows, Samples
from meanstep.program.training.state import State

Show = Callable[[State, dict[str, float]], None]


@dataclass
class Events:
    """`judge`: distances by number of steps, None for a run that is never evaluated; `moments`: what the callback has yet to hear."""

    config: Config
    folder: Path
    ranks: Ranks
    samples: Samples
    judge: Judge | None
    records: Records | None
    loggers: list[Logger]
    callback: Callback | None = None
    moments: list[Moment] = field(default_factory=list)
    window: Window = field(default_factory=Window)
    seconds: float = 0.0
    saved: int = -1

    def after(self, state: State, show: Show, *, last: bool) -> None:
        """All that is due after a step; `last`: the run ends or stops here."""
        run, seen = self.config.run, state.seen
        ended = seen >= run.samples
        if self._due(run.log_every, seen) or last:
            show(state, self.log(state))
        began = time.perf_counter()
        better = bool(self.judge) and (self._due(run.evaluate_every, seen) or ended) and self.evaluate(state)
        if self._due(run.sample_every, seen) or ended:
            self.picture(state)
        if self._due(run.save_every, seen) or last or better:
            self.save(state)  # last of all: what a run goes on from has everything of its moment
        self._heard(seen)
        self.window.began += time.perf_counter() - began  # the steps' own speed

    def _due(self, every: int, seen: int) -> bool:
        return bool(every) and seen // every > (seen - self.config.run.batch) // every

    def log(self, state: State) -> dict[str, float]:
        """One record of the steps since the last one."""
        means, seconds, steps = self.window.close(self.ranks)
        self.seconds += seconds
        if not steps:
            return means
        speed = steps * self.config.run.batch / max(seconds, 1e-9)
        self._note("train", state.seen, seconds=round(self.seconds, 3), samples_per_second=round(speed, 2), **means)
        self._tell("train", state.seen, {k: v for k, v in means.items() if v == v} | {"samples_per_second": speed})
        return means | {"samples_per_second": speed}

    def _tell(self, kind: str, seen: int, values: dict[str, float]) -> None:
        """Trackers at once, the callback after the step."""
        for logger in self.loggers:
            logger.log(seen, values)
        if self.callback is not None:
            self.moments.append(Moment(kind, seen, self.config.run.samples, values, self.folder))

    def answered(self, state: State) -> bool:
        """Tell the callback what is new: whether it ends the run, which is then saved here, and what it raises is raised.

        All ranks must ask together; the first one calls.
        """
        if self.callback is None or not self.moments:
            return False
        raised, moments = None, self.moments
        self.moments = []
        try:
            for moment in moments if self.ranks.first else []:
                self.callback(moment)
        except BaseException as error:  # whatever it is: others wait, and the run is to be whole
            raised = error
        wanted = self.ranks.largest(raised is not None or any(moment.stopping for moment in moments))
        if wanted and state.seen < self.config.run.samples:
            self.log(state)
            self.save(state)
            self._note("stop", state.seen, by="callback", folder=str(self.folder))
        if raised is not None:
            raise raised
        return bool(wanted)

    @phase("making pictures")
    def picture(self, state: State) -> None:
        """A preview of samples of the same seeds, and labels, each time: in one step where the field knows the average velocity."""
        made = self.samples.preview(state)
        if self.ranks.first:
            name = f"samples/{state.seen:012d}"
            files = {"file": (f"{name}.png", made.image), "sound": (f"{name}.wav", made.sound), "data": ("samples/data.wav", made.data)}
            there = {kind: file for kind, file in files.items() if file[1]}
            disk.folder(self.folder / "samples")
            for file, content in there.values():
                disk.write(self.folder / file, content)
            self._note("picture", state.seen, **{kind: file for kind, (file, _) in there.items()})

    @phase("evaluating")
    def evaluate(self, state: State) -> bool:
        """Distances of samples to data, and whether they are the best: the least at the steps that are pictured."""
        assert self.judge is not None
        began = time.perf_counter()
        found = self.judge(state)
        by = steps if (steps := str(PICTURED[state.learns])) in found else "1"  # a study measures all of its arms at the same steps
        if isinstance(state.owner.learner, Climber):
            state.owner.learner.report(found[by])
        better = found[by] < state.best
        if better:
            state.best, state.best_seen = found[by], state.seen
        spent = time.perf_counter() - began
        run = self.config.run
        details = {"average": state.chosen, "extractor": run.extractor, "count": self.samples.count, "seconds": round(spent, 3)}
        if isinstance(self.judge, OfRows):
            details |= self.judge.about
            if self.ranks.first:
                parts = [f"{value:.3g} in {steps} step{'s' * (steps != '1')}" for steps, value in found.items()]
                say(f"{state.seen:,} samples: sliced W1 {', '.join(parts)}; floor {self.judge.floor:.3g}", on=err)
        self._note("evaluation", state.seen, **details, steps=found, by=by, best=better)
        self._tell("evaluation", state.seen, {f"distance/{steps}": value for steps, value in found.items()})
        return better

    @phase("saving")
    def save(self, state: State) -> None:
        """A checkpoint, unless this moment has one; older ones go."""
        if self.saved == state.seen:
            return
        self.saved = state.seen
        path = checkpoints.save_state(self.folder, state, self.ranks)
        if self.ranks.first:
            self._noted(state, path)

    def complete(self, state: State) -> None:
        """What a kill kept from being done after the checkpoint that the run goes on from; all ranks must ask together."""
        run, seen = self.config.run, state.seen
        known = {record["kind"] for record in load(self.folder / "records.jsonl") if record["seen"] == seen} if self.records else set()
        self.saved = seen
        if self.ranks.told("picture" not in known) and (self._due(run.sample_every, seen) or seen >= run.samples):
            self.picture(state)
        if self.ranks.first and "checkpoint" not in known:
            self._noted(state, self.folder / "checkpoints" / f"{seen:012d}")
        elif self.ranks.first:
            checkpoints.prune(self.folder, run.keep, state.best_seen)

    def _noted(self, state: State, path: Path) -> None:
        self._note("checkpoint", state.seen, folder=f"{path.parent.name}/{path.name}")
        checkpoints.prune(self.folder, self.config.run.keep, state.best_seen)

    def stopped(self, state: State, signal: int) -> None:
        """A signal stopped the run here."""
        self._note("stop", state.seen, signal=signal, folder=str(self.folder))

    def _heard(self, seen: int) -> None:
        """Note what is gone of the terminal, once."""
        while self.ranks.first and (gone := console.newly_lost()):
            self._note("output", seen, lost=gone)

    def _note(self, kind: str, seen: int, **values: object) -> None:
        if self.records is not None:
            self.records.add(kind, seen, **values)


@contextmanager
def progress(config: Config, state: State, ranks: Ranks) -> Iterator[Show]:
    """A function that shows where the run is: a bar in a terminal, else a line now and then."""
    if not ranks.first:
        yield lambda state, means: None
        return
    if not watched(err):
        yield _lines(config)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    pace, said = Pace(config.run.samples, state.seen), ["compiling" if config.run.compile else _words({})]
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(said[0], total=config.run.samples, completed=state.seen, left="")

        def show(state: State, means: dict[str, float]) -> None:
            said[0] = _words(means) if means else said[0]
            bar.update(task, completed=state.seen, description=said[0], left=pace.left(state.seen))

        listeners.append(lambda words: bar.update(task, description=words or said[0], refresh=True))
        try:
            yield show
        finally:
            listeners.pop()


def _words(means: dict[str, float]) -> str:
    speed = f"{means['samples_per_second']:,.0f}/s" if "samples_per_second" in means else "starting"
    parts = [f"{short} {means[name]:.3g}" for name, short in NAMES.items() if name in means]
    return ", ".join([speed, *parts])


NAMES = {"residual_diagonal": "residual r = t", "residual_gap": "r < t", "loss": "loss"}


def _lines(config: Config) -> Show:
    pace = Pace(config.run.samples)

    def show(state: State, means: dict[str, float]) -> None:
        words = ", ".join(filter(None, (_words(means), pace.left(state.seen))))
        say(f"{state.seen:,} of {config.run.samples:,} samples: {words}")

    return show
