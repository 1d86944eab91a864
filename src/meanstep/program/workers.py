"""Work on several processes, whoever does it: they stop and save when asked, when interrupted, and when their parent is gone."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

GRACE = 60.0
"""Seconds that a worker has to save its state after its parent was killed."""


def hired(devices: Sequence[str]) -> tuple[ProcessPoolExecutor, Any, Any]:
    """A pool with one process a device, the queue of their messages, and the event that stops them."""
    context = multiprocessing.get_context("spawn")
    messages, stop, given = context.Queue(), context.Event(), context.Queue()
    for name in devices:
        given.put(name)
    return ProcessPoolExecutor(len(devices), mp_context=context, initializer=_start, initargs=(messages, stop, given)), messages, stop


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [""])[0][:200]


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C, which they inherit as blocked; the parent hears it, a moment later, and stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def killed_like_interrupted() -> Iterator[list[int]]:
    """SIGTERM, a closed terminal and Slurm's SIGUSR1 stop the work as Ctrl-C does; the list gets the signal's number."""
    got: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        got.append(number)
        raise KeyboardInterrupt

    before = {kind: signal.signal(kind, interrupt) for kind in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)}
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
    messages.cancel_join_thread()  # progress that nobody reads any more must not keep a worker from ending
    if _device == "cpu":
        torch.set_num_threads(1)  # one worker a core: more threads only wait for each other
    else:
        torch.cuda.set_device(_device)
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
