"""How commands speak: one console, one-line errors, files that are written aside and renamed."""

import contextlib
import os
import tempfile
from pathlib import Path

from rich.console import Console


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(stderr=stderr, highlight=False, width=120)


out = _console(stderr=False)
err = _console(stderr=True)


class UserError(Exception):
    """A user's mistake: printed as one line, exit code 2."""


def write(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old one or the new one: aside, synced, renamed. `UserError` if that cannot be done."""
    path = path.expanduser()
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the name of a file")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    aside = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            aside.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
