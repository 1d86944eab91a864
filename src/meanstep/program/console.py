"""How commands speak: results, chatter and errors apart, stages, JSON, and work that outlives its terminal. Needs no torch."""

import contextlib
import json
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console

from meanstep.program.disk import put, writable
from meanstep.program.errors import Interrupted as Interrupted
from meanstep.program.errors import UserError as UserError
from meanstep.program.errors import first_line as first_line
from meanstep.program.errors import naming


class _Plain:
    """A file that no one looks at while it is written: tables lose the spaces that fill their last column."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(re.sub(r"[ \t]+(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


_kept, _lost, _told = [0], list[str](), list[str]()


class _Lasting(_Plain):
    """A file whose loss does not end the work: once a write to it fails, it and what lies under it go nowhere."""

    def __init__(self, file: IO[str], plain: bool) -> None:
        super().__init__(file)
        self._plain = plain

    def write(self, text: str) -> int:
        try:
            return super().write(text) if self._plain else self._file.write(text)
        except (OSError, ValueError):
            return self._gone(len(text))

    def flush(self) -> None:
        try:
            self._file.flush()
        except (OSError, ValueError):
            self._gone(0)

    def _gone(self, count: int) -> int:
        name = "standard error" if self._file is sys.stderr else "standard output"
        if name not in _lost:
            _lost.append(name)
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file.fileno())  # what is still held back is let go there
            os.close(nowhere)
        return count


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Within it `chat` and `err` fall silent where their terminal, file or reader is gone, and what was at work goes on."""
    _kept[0] += 1
    try:
        yield
    finally:
        _kept[0] -= 1


def newly_lost() -> str:
    """A stream that is gone, each once, which is said on standard error; empty if there is no other."""
    for name in _lost:
        if name not in _told:
            _told.append(name)
            err.print(f"{name} is gone: the work goes on, and its folder has the results", soft_wrap=True)
            return name
    return ""


_silent = ContextVar("silent", default=False)


class _Console(Console):
    lasts = False
    _quiet = False

    @property
    def quiet(self) -> bool:
        """Whether nothing is printed: of the whole process, or of what is done within `silence` in this thread."""
        return self._quiet or (self.lasts and _silent.get())

    @quiet.setter
    def quiet(self, wanted: bool) -> None:
        self._quiet = wanted

    @property
    def file(self) -> IO[str]:
        """Where it writes to; without trailing spaces unless that is a terminal."""
        file = super().file
        if self.lasts and _kept[0]:
            return cast(IO[str], _Lasting(file, not file.isatty()))
        return file if file.isatty() else cast(IO[str], _Plain(file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def on_broken_pipe(self) -> None:
        """rich's hook for a reader that went away: it would exit with 1, which here means that a claim fails, and print the rest later."""
        self._buffer.clear()
        raise BrokenPipeError


def _console(*, stderr: bool) -> _Console:
    console = _Console(stderr=stderr, highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else _Console(stderr=stderr, highlight=False, width=120)


out = _console(stderr=False)
"""Results that were asked for, on standard output."""
chat = _console(stderr=False)
"""What else a person likes to hear of a command that has done its work, on standard output."""
err = _console(stderr=True)
"""Progress and notices, on standard error."""
chat.lasts = err.lasts = True


def say(line: str, on: Console = chat) -> None:
    """A line as it is: not wrapped, and brackets are brackets."""
    on.print(line, highlight=False, soft_wrap=True, markup=False)


@contextlib.contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Within it only results are printed, if `wanted`; errors are printed outside of it."""
    before = chat._quiet, err._quiet
    chat.quiet, err.quiet = (wanted or was for was in before)
    try:
        with warnings.catch_warnings():
            if wanted:
                warnings.simplefilter("ignore")
            yield
    finally:
        chat.quiet, err.quiet = before


@contextlib.contextmanager
def silence(wanted: bool) -> Iterator[None]:
    """Within it this thread prints no progress and no notices, if `wanted`; the rest of the process is left alone."""
    token = _silent.set(wanted or _silent.get())
    try:
        yield
    finally:
        _silent.reset(token)


def watched(on: Console = err) -> bool:
    """Whether a bar may move: on a terminal that is not quiet, and in the main thread, as a terminal has one at a time."""
    return on.is_terminal and not on.quiet and threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def stage(words: str) -> Iterator[None]:
    """A line on the terminal's standard error while something takes its time; nothing where nobody watches, and of several ranks the
    first one speaks. What is done within shows no bar of its own."""
    if watched(err) and os.environ.get("RANK", "0") == "0":
        with err.status(f"{words} ..."):
            yield
    else:
        yield


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """Within it standard output is left to the JSON that goes there, if it does."""
    before = chat._quiet
    chat.quiet = before or str(path) == "-"
    try:
        yield
    finally:
        chat.quiet = before


def put_json(path: Path | None, record: Any) -> bool:
    """Write a result where --json says. Whether standard output has it, where then nothing else may go."""
    if path is None:
        return False
    text = json.dumps(record, indent=1) + "\n"
    if str(path) == "-":
        out.file.write(text)
        return True
    put(path, text)
    return False


def takes_json(path: Path | None) -> None:
    """Before the work: `UserError` if --json names no file that can be written."""
    if path is not None and str(path) != "-":
        with naming("--json"):
            writable(path)
