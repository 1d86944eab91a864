"""Runs a sweep's jobs on several processes: progress with the remaining time, Ctrl-C that loses nothing, records as they come."""

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from meanstep.program.console import UserError, err
from meanstep.program.sweep import jobs
from meanstep.program.sweep.jobs import MEASURING, Job, Stopped, cost
from meanstep.program.sweep.records import Record, save
from meanstep.program.sweep.settings import Settings

SET_COST = 2000
"""What a set's own record costs, in plain training steps."""


def plan(settings: Settings, found: list[Record]) -> list[Job]:
    """What is left to do: sets without their own record, then pairs of set and seed without all their models."""
    described = {r["set"] for r in found if r["kind"] == "set"}
    done = {(r["set"], r["seed"], r["id"]) for r in found if r["kind"] == "model"}
    ids = {spec.id for spec in settings.specs()}
    pairs = [(data, seed) for seed in settings.seeds for data in settings.sets]
    left = [pair for pair in pairs if not all((*pair, name) in done for name in ids)]
    sets = [Job(((data, 0),), models=False) for data in settings.sets if data not in described]
    if not settings.ensemble:
        return sets + [Job((pair,)) for pair in left]
    alike: dict[int, list[tuple[str, int]]] = {}
    for pair in left:
        alike.setdefault(jobs.law_of(pair[0], settings).dim, []).append(pair)
    return sets + [Job(tuple(some)) for some in alike.values()]


def run(settings: Settings, folder: Path, found: list[Record], workers: int, device: str) -> list[Record]:
    """Do what is left and return all records, saved after each job. `UserError` after Ctrl-C, or if a job fails."""
    todo = plan(settings, found)
    if not todo:
        return found
    context = multiprocessing.get_context("spawn")
    messages, stop = context.Queue(), context.Event()
    board = _Board(settings, todo)
    with _pool(workers, messages, stop, context) as pool, board.shown():
        futures = [pool.submit(_work, job, settings, folder, device) for job in todo]
        try:
            for records in _results(futures, messages, board):
                new = {_identity(r) for r in records}
                found = [r for r in found if _identity(r) not in new] + records
                save(folder, found)
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise UserError(f"stopped, nothing is lost: the same command goes on in {folder}") from None
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for job in todo:
        (folder / "state" / f"{job.name}.safetensors").unlink(missing_ok=True)
    return found


def _identity(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in ("kind", "set", "seed", "id"))


def _results(futures: list["Future[list[Record]]"], messages: Any, board: "_Board") -> Iterator[list[Record]]:
    left = set(futures)
    while left:
        done, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
        board.read(messages)
        for future in done:
            yield future.result()


@contextmanager
def _pool(workers: int, messages: Any, stop: Any, context: Any) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(messages, stop, os.getpid()))
    with pool:
        yield pool


# In the workers ---------------------------------------------------------------------------------------------------------------------

_messages: Any = None
_stop: Any = None
_parent = 0


def _start(messages: Any, stop: Any, parent: int) -> None:
    global _messages, _stop, _parent  # what a worker process is given once
    _messages, _stop, _parent = messages, stop, parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and says when to stop
    torch.set_num_threads(1)  # one worker a core: more threads only wait for each other


def _tell(what: str, *values: Any) -> bool:
    if what == "stop?":
        return bool(_stop.is_set()) or os.getppid() != _parent
    _messages.put((what, *values))
    return False


def _work(job: Job, settings: Settings, folder: Path, device: str) -> list[Record]:
    if _tell("stop?"):
        return []
    if not job.models:
        record = jobs.describe(job.pairs[0][0], settings)
        _tell("steps", SET_COST)
        return [record]
    try:
        return jobs.train(job, settings, folder, _tell, device)
    except Stopped:
        return []


# What the user sees -----------------------------------------------------------------------------------------------------------------


class _Board:
    """A progress bar for the whole sweep and, for each set, the best model so far."""

    def __init__(self, settings: Settings, todo: list[Job]) -> None:
        specs = settings.specs()
        pair = sum(settings.steps * cost(spec) + MEASURING for spec in specs)
        total = sum(pair * len(job.pairs) if job.models else SET_COST for job in todo)
        columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[left]}"), console=err)
        trained = sum(len(job.pairs) for job in todo if job.models) * len(specs)
        self.task = self.progress.add_task(f"{trained} models", total=total, left="")
        self.resumed = 0.0
        self.latest: dict[tuple[str, str], float] = {}
        self.spoken = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Live on a terminal; elsewhere one line every half minute."""
        if err.is_terminal:
            with Live(get_renderable=lambda: Group(self.progress, self._lines()), console=err, refresh_per_second=4, transient=True):
                yield
        else:
            yield

    def read(self, messages: Any) -> None:
        """Take in what the workers said."""
        while True:
            try:
                what, *values = messages.get_nowait()
            except queue.Empty:
                break
            if what == "steps":
                self.progress.advance(self.task, values[0])
            elif what == "resumed":
                self.resumed += values[0]
                self.progress.advance(self.task, values[0])
            else:
                self.latest[values[0], values[1]] = values[2]
        self.progress.update(self.task, left=self._left())
        if not err.is_terminal and time.monotonic() - self.spoken > 30:
            self.spoken = time.monotonic()
            task = self.progress.tasks[0]
            err.print(f"{task.percentage:.0f}% of {task.description}, {task.fields['left']}")

    def _left(self) -> str:
        """By the mean rate so far: the rate of the last minute jumps between sets and measuring."""
        task = self.progress.tasks[0]
        done = task.completed - self.resumed
        if not task.total or done < 0.01 * task.total:
            return "estimating the time left"
        seconds = (task.elapsed or 0) * (task.total - task.completed) / done
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"

    def _lines(self) -> Text:
        sets: dict[str, list[tuple[float, str]]] = {}
        for (data, name), value in self.latest.items():
            sets.setdefault(data, []).append((value, name))
        lines = [f"  {data:<16} sliced W1 {min(values)[0]:.4f}  {min(values)[1]}" for data, values in sets.items()]
        return Text("\n".join(lines), style="dim")
