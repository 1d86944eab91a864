"""Ranks as forks of one process, none of which outlives what it belongs to: a rank alone waits long for a group that nobody joins."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path


def forked(ranks: int) -> dict[str, str]:
    """Returns in processes that are the ranks, with their part of the environment; this one ends, and with a code if one of them did so.

    When a rank fails, or this process ends in whatever way, the others are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(ranks)}
    above, here = os.getppid(), os.getpid()
    started: set[int] = set()
    for rank in range(ranks):
        if not (process := os.fork()):
            _end_with(here)
            return where | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.add(process)
    _end_with(above)
    while started:
        process, status = os.wait()
        started.discard(process)
        if status:
            for other in started:
                os.kill(other, signal.SIGKILL)
            sys.exit(f"a rank ended with {os.waitstatus_to_exitcode(status)}")
    sys.exit()


def _end_with(parent: int) -> None:
    """From now on this process ends at most 0.2 s after its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def running(process: str) -> bool:
    """Whether a process of this number, found in /proc, runs: one that has ended and waits for its parent to ask does not."""
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
