"""How far work on several processes is: a bar with the time that is left, or a line now and then. Knows nothing of the work."""

import queue
import time
from collections.abc import Iterator
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from meanstep.program.console import err


def shown(*columns: ProgressColumn) -> Progress:
    """A bar on the terminal's standard error that goes when the work is done; nothing where nobody watches."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def counting(noun: str = "") -> Progress:
    """Such a bar that counts, so many of so many, with the time that is left; `noun`: what is counted."""
    return shown(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(noun), TimeRemainingColumn())


def clock(seconds: float) -> str:
    """A duration, rounded: `3 h 5 min`, `2 min 40 s`."""
    hours, rest = divmod(int(seconds + 0.5), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


EVERY = 30.0
"""Seconds between two lines where nobody watches."""


class Bar:
    """`progress` is for a live display; `done` of `total` was there before."""

    def __init__(self, words: str, total: float, done: float = 0.0) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[left]}"), console=err)
        self.task = self.progress.add_task(words, total=total, left="")
        self.progress.update(self.task, completed=done)
        self.total, self.before = total, done
        self.began = self.spoken = time.monotonic()

    def reach(self, done: float) -> None:
        """Show that so much is done."""
        left = self._left(done)
        self.progress.update(self.task, completed=done, left=left)
        if not err.is_terminal and time.monotonic() - self.spoken > EVERY:
            self.spoken = time.monotonic()
            task = self.progress.tasks[0]
            err.print(f"{task.percentage:.0f}% of {task.description}, {left}", soft_wrap=True)

    def _left(self, done: float) -> str:
        """By the mean rate so far: the rate of the last minute jumps between training and measuring."""
        if not self.total or done - self.before < 0.01 * self.total:
            return "estimating the time left"
        seconds = (time.monotonic() - self.began) * (self.total - done) / (done - self.before)
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"


def waiting(messages: Any) -> Iterator[tuple[Any, ...]]:
    """What is in the queue now."""
    while True:
        try:
            yield messages.get_nowait()
        except queue.Empty:
            return
