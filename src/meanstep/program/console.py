"""How commands speak: results, chatter and errors apart, stages, JSON, files that are written aside and renamed. Needs no torch."""

import contextlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console


class _Plain:
    """A file that no one looks at while it is written: tables lose the spaces that fill their last column."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(re.sub(r"[ \t]+(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Console(Console):
    @property
    def file(self) -> IO[str]:
        """Where it writes to; without trailing spaces unless that is a terminal."""
        file = super().file
        return file if file.isatty() else cast(IO[str], _Plain(file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def on_broken_pipe(self) -> None:
        """rich's hook for a reader that went away: it would exit with 1, which here means that a claim fails."""
        raise BrokenPipeError


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else _Console(stderr=stderr, highlight=False, width=120)


out = _console(stderr=False)
"""Results that were asked for, on standard output."""
chat = _console(stderr=False)
"""What else a person likes to hear of a command that has done its work, on standard output."""
err = _console(stderr=True)
"""Progress and notices, on standard error."""


@contextlib.contextmanager
def quiet(wanted: bool) -> Iterator[None]:
    """Within it only results are printed, if `wanted`; errors are printed outside of it."""
    before = chat.quiet, err.quiet
    chat.quiet, err.quiet = (wanted or was for was in before)
    try:
        with warnings.catch_warnings():
            if wanted:
                warnings.simplefilter("ignore")
            yield
    finally:
        chat.quiet, err.quiet = before


@contextlib.contextmanager
def stage(words: str) -> Iterator[None]:
    """A line on the terminal's standard error while something takes its time; nothing where nobody watches, and of several ranks the
    first one speaks. What is done within shows no bar of its own."""
    if err.is_terminal and not err.quiet and os.environ.get("RANK", "0") == "0":
        with err.status(f"{words} ..."):
            yield
    else:
        yield


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """Within it standard output is left to the JSON that goes there, if it does."""
    before = chat.quiet
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
    write(path, text)
    return False


def takes_json(path: Path | None) -> None:
    """Before the work: `UserError` if --json names no file that can be written."""
    if path is not None and str(path) != "-":
        writable(path)


class UserError(Exception):
    """A user's mistake: printed as one line, exit code 2."""

    code = 2


class Interrupted(UserError):
    """The user's own Ctrl-C, or another signal's number, with what to do next: printed as one line, exit code 128 plus the signal's."""

    def __init__(self, message: str, number: int = 2) -> None:
        super().__init__(message)
        self.code = 128 + number


def first_line(error: BaseException, width: int = 160) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= width else f"{text[: width - 3]}..."


def write(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one: aside, synced, renamed. `UserError` if that cannot be done.

    Text becomes UTF-8. A link is followed, and what is no regular file (a device, a pipe) is written to as it is.
    """
    path = writable(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(path, data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def writable(path: Path) -> Path:
    """The path with links followed, or `UserError` if no file can be written there; nothing is touched."""
    try:
        path = path.expanduser()
        if path.exists() and not path.is_file() and not path.is_dir():
            return path
        path = path.resolve()
        folder = path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    if folder:
        raise UserError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"cannot write {path}: permission denied")
    return path


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        aside.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
