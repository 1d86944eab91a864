"""How far work on several processes is: a bar with the time that is left, or a line now and then. Knows nothing of the work."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from meanstep.program.console import err, watched


def shown(*columns: ProgressColumn) -> Progress:
    """A bar on the terminal's standard error that goes when the work is done; nothing where nobody watches."""
    return Progress(*columns, console=err, transient=True, disable=not watched(err))


def counting(noun: str = "") -> Progress:
    """Such a bar that counts, so many of so many, with the time that is left; `noun`: what is counted."""
    return shown(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(noun), TimeRemainingColumn())


def clock(seconds: float) -> str:
    """A duration, rounded: `3 h 5 min`, `2 min 40 s`."""
    hours, rest = divmod(int(seconds + 0.5), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


EVERY = 30.0
"""Seconds between two lines where nobody watches."""
KNOWN, SHARE = 2.0, 0.01
"""Seconds and share of the work after which its rate is known."""
listeners: list[Callable[[str], None]] = []
"""What shows the phases of the work, the innermost last."""


@contextmanager
def phase(words: str) -> Iterator[None]:
    """Within it the bar says that the work does something else than go forward."""
    heard = listeners[-1:] if threading.current_thread() is threading.main_thread() else []
    for listener in heard:
        listener(words)
    try:
        yield
    finally:
        for listener in heard:
            listener("")


class Pace:
    """How long work goes on, by its mean rate since its first progress: what comes before, starting and compiling, happens once.

    The rate of the last minute would jump between training and measuring.
    """

    def __init__(self, total: float, done: float = 0.0) -> None:
        self.total, self.begun, self.first = total, done, (0.0, done)

    def skip(self, done: float) -> None:
        """So much more was there before."""
        self.begun, self.first = self.begun + done, (self.first[0], self.first[1] + done)

    def left(self, done: float) -> str:
        """`about 3 min 0 s left`, empty until it is known; `done` of the total."""
        now, (since, before) = time.monotonic(), self.first
        if before <= self.begun < done:
            self.first = (now, done)
            return ""
        gained, spent = done - before, now - since
        if before <= self.begun or spent < KNOWN or gained < SHARE * (self.total - before) or done >= self.total:
            return ""
        return f"about {clock(spent * (self.total - done) / gained)} left"


class Bar:
    """`progress` is for a live display; `done` of `total` was there before."""

    def __init__(self, words: str, total: float, done: float = 0.0) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[left]}"), console=err)
        self.task = self.progress.add_task(words, total=total, left="")
        self.progress.update(self.task, completed=done)
        self.pace, self.spoken = Pace(total, done), time.monotonic()

    def reach(self, done: float) -> None:
        """Show that so much is done."""
        left = self.pace.left(done)
        self.progress.update(self.task, completed=done, left=left)
        if not err.is_terminal and time.monotonic() - self.spoken > EVERY:
            self.spoken = time.monotonic()
            task = self.progress.tasks[0]
            err.print(f"{task.percentage:.0f}% of {', '.join(filter(None, (task.description, left)))}", soft_wrap=True)


def waiting(messages: Any) -> Iterator[tuple[Any, ...]]:
    """What is in the queue now."""
    while True:
        try:
            yield messages.get_nowait()
        except queue.Empty:
            return
