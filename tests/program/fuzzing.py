"""A command run in this process under watch, and the law that it keeps whatever it is given.

The law: no exception escapes and none is printed; it ends within `SECONDS`; a mistake is one short line that starts with `meanstep: `
and another exit code than 0; nothing is written outside the folder; what is certainly wrong does not end with exit code 0.
"""

import contextlib
import io
import os
import re
import resource
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanstep.cli import main

SECONDS = 20.0
"""A case that takes longer hangs, on a machine that does nothing else."""
LONGEST = 2000
"""Characters of a complaint, at most."""
MEMORY = 4 << 30
"""What a case may ask the system for beyond what the process holds."""
COMPLAINT = "meanstep: "
WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.mkfifo"}
FREE = ("/dev/", "/proc/self/")
"""Where anything may be opened for writing."""
QUIET = ("/__pycache__/", "/.cache/", "/.config/matplotlib", "/matplotlib-")


class Hang(BaseException):
    """Raised in a case whose time is over."""


class Outside(BaseException):
    """Raised where a case is about to write outside its folder."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case. `escaped`: the exception that left it and where it was raised; `outside`: what it wanted to write elsewhere."""

    code: int | None
    out: str
    err: str
    seconds: float
    limit: float
    escaped: str
    outside: str

    def broken(self, wrong: bool = False, named: Sequence[str] = ()) -> str:
        """The article of the law that it breaks, empty if it keeps it. `wrong`: its input cannot be right; `named`: one of these words
        is in the complaint."""
        complaints = [line for line in self.err.splitlines() if line.startswith(COMPLAINT)]
        text = complaints[-1] if complaints else ""
        articles = {
            f"writes outside its folder: {self.outside}": bool(self.outside),
            f"hangs for more than {self.limit:.0f} s {self.escaped.partition(' in ')[2]}": self.seconds > self.limit,
            f"escapes: {self.escaped}": bool(self.escaped),
            "prints a traceback": "Traceback" in self.err or "Traceback" in self.out,
            "exit code 0 on what is certainly wrong": self.code == 0 and wrong,
            f"exit code {self.code} without a complaint": self.code not in (0, 1) and not complaints,
            "complains twice": len(complaints) > 1,
            "the complaint is not the last line": bool(complaints) and not self.err.rstrip("\n").endswith(text),
            f"standard error of {len(self.err)} characters": len(self.err) > LONGEST,
            "a control character in the complaint": re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) is not None,
            f"does not name {' or '.join(named)}": bool(text and named) and not any(word in text for word in named),
        }
        return next((article for article, holds in articles.items() if holds), "")


# Watching ----------------------------------------------------------------------------------------------------------------------------

_watched: list[Path] = []
_seen: list[str] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watched or (event != "open" and event not in WRITES):
        return
    if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
        return
    for path in args[:2] if event in ("os.rename", "os.link") else args[:1]:
        if isinstance(path, (str, bytes, os.PathLike)) and _elsewhere(event, os.fsdecode(path)):
            _seen.append(f"{event} {os.fsdecode(path)[:100]}")
            raise Outside(_seen[-1])


def _elsewhere(event: str, path: str) -> bool:
    place = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
    free = place.startswith(FREE) and event == "open"
    return not free and not any(word in place for word in QUIET) and not place.startswith(str(_watched[-1]))


sys.addaudithook(_audit)


@contextlib.contextmanager
def _limits(folder: Path, seconds: float) -> Iterator[None]:
    """Time, memory and the place where something is written; none of them holds afterwards."""

    def over(*_: Any) -> None:
        raise Hang

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # and again, if the first one was caught
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    _seen.clear()
    _watched.append(folder.resolve())
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a package may be imported for the first time
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        _watched.pop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def patience() -> float:
    """`SECONDS` as long as they are on this machine now: processes that wait for a processor share it."""
    return SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def ran(act: Callable[[], Any], folder: Path, seconds: float = 0) -> Outcome:
    """A case under watch; it starts in the current folder, and may write into `folder` only. `SystemExit` is its exit code."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors, write_through=True) for errors in ("strict", "backslashreplace"))
    code, escaped, started, limit = None, "", time.monotonic(), seconds or patience()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        warnings.simplefilter("ignore")
        try:
            with _limits(folder, limit):
                act()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            escaped = _where(error)
    texts = [stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err)]  # type: ignore[attr-defined]
    return Outcome(code, texts[0], texts[1], time.monotonic() - started, limit, escaped, next(iter(_seen), ""))


def called(words: Sequence[str], folder: Path, seconds: float = 0) -> Outcome:
    """A command line under watch."""
    return ran(lambda: main(list(words)), folder, seconds)


def _where(error: BaseException) -> str:
    """An exception's name, its first words, and the innermost place of ours that it went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if f"{os.sep}meanstep{os.sep}" in frame.filename]
    place = f"{frames[-1].filename.rpartition(f'{os.sep}meanstep{os.sep}')[2]}, {frames[-1].name}" if frames else "?"
    words = " ".join(str(error)[:200].split())[:100]
    return f"{type(error).__name__} in {place}: {words}"


# Telling -----------------------------------------------------------------------------------------------------------------------------


def shown(words: Sequence[str]) -> str:
    """A command line to repeat; long words are told by their length."""
    return " ".join(shlex.quote(word) if len(word) < 200 else f"<{word[:20]!r} ... {len(word)} characters>" for word in words)


def shortest(words: Sequence[str], kept: Sequence[str], article: Callable[[Sequence[str]], str]) -> list[str]:
    """The words without the options that the broken article does not need. `kept` are never left out."""
    kind, best, at = article(words).partition(":")[0], list(words), 1
    while at < len(best):
        end = at + 1
        while end < len(best) and not best[end].startswith("--"):
            end += 1
        less = best[:at] + best[end:]
        if best[at].startswith("--") and best[at] not in kept and article(less).partition(":")[0] == kind:
            best = less
        else:
            at = end
    return best
