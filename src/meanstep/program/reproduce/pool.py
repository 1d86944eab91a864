"""A study's jobs on several processes: progress with the time that is left, Ctrl-C that loses nothing, records as they come."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from meanstep.program import workers
from meanstep.program.bar import Bar, waiting
from meanstep.program.console import Interrupted, err
from meanstep.program.disk import remove
from meanstep.program.reproduce import records
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.study import DONE, STOPPED, Job, Stopped, Study


def run(study: Study, todo: Sequence[Job], here: Path, devices: Sequence[str]) -> dict[str, str]:
    """Do the jobs, one a device at a time; what became of each. `UserError` after Ctrl-C, a kill, or where one fails by mistake."""
    found: dict[str, str] = {}

    def keep(job: Job, result: tuple[str, list[Record]]) -> None:
        found[job.name], made = result
        if made:
            records.add(here, made, study.kind)
        if found[job.name] == DONE:
            _clear(here, lambda name: name == job.name)

    if not study.kind.shared:
        names = {job.name for job in todo}
        _clear(here, lambda name: name not in names)  # a kill came between the records and this
    if todo:
        workers.do(here, devices[: len(todo)], todo, _work, (study, here), Board(study, todo), keep)
    if STOPPED in found.values():  # somebody stopped a worker and not us
        raise Interrupted(workers.AGAIN.format(here))
    return found


def _clear(here: Path, which: Callable[[str], bool]) -> None:
    for path in (here / "state").glob("*"):
        if which(path.stem):
            remove(path)


def _work(job: Job, study: Study, here: Path) -> tuple[str, list[Record]]:
    if workers.stopped():
        return STOPPED, []
    with workers.busy():
        try:
            return study.do(job, here, _tell, workers.device())
        except Stopped:
            return STOPPED, []


def _tell(what: str, *values: Any) -> bool:
    if what == "stop?":
        return workers.stopped()
    workers.tell(what, *values)
    return False


class Board:
    """A bar for the whole study, by what its jobs cost; below it, of each set, the best variant so far."""

    def __init__(self, study: Study, todo: Sequence[Job]) -> None:
        total = study.cost(None)
        self.done = total - sum(map(study.cost, todo))  # what earlier starts finished counts, or a study would begin again at nothing
        self.bar = Bar(study.title, total, self.done)
        self.latest: dict[str, dict[str, float]] = {}
        self.said: set[str] = set()

    def shown(self) -> AbstractContextManager[Any]:
        """Live on a terminal; elsewhere one line every half minute."""
        if not err.is_terminal:
            return nullcontext()
        return Live(get_renderable=lambda: Group(self.bar.progress, self._best()), console=err, refresh_per_second=4, transient=True)

    def read(self, messages: Any) -> None:
        """Take in what the workers said."""
        for what, *values in waiting(messages):
            if what == "best":
                self.latest.setdefault(values[0], {})[values[1]] = values[2]
            elif what == "said":
                self._say(values[0])
            else:
                self.done += values[0]
                self.bar.pace.skip(values[0] if what == "resumed" else 0.0)
        self.bar.reach(self.done)

    def _say(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            err.print(line, soft_wrap=True, highlight=False, markup=False)

    def _best(self) -> Text:
        finite = {of: [(x, name) for name, x in found.items() if math.isfinite(x)] for of, found in self.latest.items()}
        lines = [f"  {of:<28} {min(found)[0]:.4f}  {min(found)[1]}" for of, found in finite.items() if found]
        return Text("\n".join(lines), style="dim")
