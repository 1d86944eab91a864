"""Work on several processes, whoever does it: they stop and save when asked, when interrupted, and when their parent is gone."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from meanstep.program.console import Interrupted, UserError, first_line, lasting

AGAIN = "stopped, nothing is lost: the same command goes on in {}"
GRACE = 60.0
"""Seconds that a worker has to save its state after its parent was killed."""


class Job(Protocol):
    """What is done by one worker."""

    @property
    def name(self) -> str:
        """What a user calls it."""


class Board(Protocol):
    """What the user sees meanwhile."""

    def shown(self) -> AbstractContextManager[None]:
        """While it is to be seen."""

    def read(self, messages: Any) -> None:
        """Take in what the workers said."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")


def _hired(devices: Sequence[str]) -> tuple[ProcessPoolExecutor, Any, Any]:
    """A pool with one process a device, the queue of their messages, and the event that stops them."""
    context = multiprocessing.get_context("spawn")
    messages, stop, given = context.Queue(), context.Event(), context.Queue()
    for name in devices:
        given.put(name)
    return ProcessPoolExecutor(len(devices), mp_context=context, initializer=_start, initargs=(messages, stop, given)), messages, stop


def do(
    folder: Path,
    devices: Sequence[str],
    jobs: Sequence[J],
    work: Callable[..., R],
    given: Sequence[Any],
    board: Board,
    keep: Callable[[J, R], None],
) -> None:
    """`keep(job, work(job, *given))` for all jobs, one a device at a time, what is finished also after a stop or a failure.

    `UserError` after Ctrl-C or another signal, and for a job that fails. Jobs have a `name`.
    """
    pool, messages, stop = _hired(devices)
    futures: dict[Future[R], J] = {}
    kept: set[Future[R]] = set()
    got: list[int] = []

    def take() -> None:
        for future in [f for f in futures if f.done() and f not in kept and not f.cancelled() and not f.exception()]:
            kept.add(future)
            keep(futures[future], future.result())

    try:
        with lasting(), board.shown(), _killed_like_interrupted() as got:
            with _deaf_children():
                futures = {pool.submit(work, job, *given): job for job in jobs}
            left = set(futures)
            while left:
                done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
                board.read(messages)
                take()
                for future in done:
                    future.result()
    except KeyboardInterrupt:
        raise Interrupted(AGAIN.format(folder), *got) from None
    except (BrokenProcessPool, OSError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        failed = next((job.name for f, job in futures.items() if f.done() and not f.cancelled() and f.exception()), "?")
        raise UserError(f"{failed} failed ({first_line(error, 200)}); what is finished is in {folder}") from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        take()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C, which they inherit as blocked; the parent hears it, a moment later, and stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _killed_like_interrupted() -> Iterator[list[int]]:
    """SIGTERM, a closed terminal and Slurm's SIGUSR1 stop the work as Ctrl-C does; the list gets the signal's number."""
    got: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        got.append(number)
        raise KeyboardInterrupt

    kinds = [k for k in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1) if k != signal.SIGHUP or signal.getsignal(k) != signal.SIG_IGN]
    before = {kind: signal.signal(kind, interrupt) for kind in kinds}
    try:
        yield got
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


# In the workers ---------------------------------------------------------------------------------------------------------------------

_messages: Any = None
_stop: Any = None
_device = "cpu"
_orphaned, _idle = threading.Event(), threading.Event()
_idle.set()


def _start(messages: Any, stop: Any, devices: Any) -> None:
    """A worker's first call: where to send messages, the event that stops it, a queue that holds a device for each worker."""
    global _messages, _stop, _device  # what a worker process is given once
    _messages, _stop, _device = messages, stop, devices.get()
    os.setsid()  # a signal to the whole group reaches the parent alone, which decides
    messages.cancel_join_thread()  # progress that nobody reads any more must not keep a worker from ending
    if _device.startswith("cuda"):
        torch.cuda.set_device(_device)
    else:
        torch.set_num_threads(1)  # one worker a core: more threads only wait for each other
    threading.Thread(target=_follow_the_parent, daemon=True).start()


def _follow_the_parent() -> None:
    """When the parent is gone, save and end: nobody would read the results, and the queue to read from never closes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _orphaned.set()
        _idle.wait(GRACE)
        os._exit(1)


def device() -> str:
    """This worker's."""
    return _device


def stopped() -> bool:
    """Whether this worker was asked to stop, or has lost its parent."""
    return bool(_stop.is_set()) or _orphaned.is_set()


def tell(*message: Any) -> None:
    """Send a message to the parent."""
    _messages.put(message)


@contextmanager
def busy() -> Iterator[None]:
    """While something has to be saved before this process may end."""
    _idle.clear()
    try:
        yield
    finally:
        _idle.set()
