"""`meanstep diagnose` at work: loads a network and data, probes within a budget, prints one page, writes one report."""

import copy
import math
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from torch import nn

from meanstep.program import methods
from meanstep.program.bar import shown
from meanstep.program.console import Interrupted, UserError, chat, first_line, put_json, stage
from meanstep.program.diagnose import arrays, reading
from meanstep.program.diagnose.case import Case
from meanstep.program.diagnose.diagnosis import Diagnosis, diagnosed
from meanstep.program.diagnose.gradient import SMALL
from meanstep.program.diagnose.networks import Found, Probed, admit, find
from meanstep.program.diagnose.page import build
from meanstep.program.diagnose.probe import Measured, measure
from meanstep.program.diagnose.runs import Trained, trained
from meanstep.program.diagnose.target import KINDS
from meanstep.program.diagnose.terminal import show
from meanstep.program.machine import available
from meanstep.program.pages.page import NAME

if TYPE_CHECKING:
    from meanstep.program.diagnose.command import Diagnose

MOST = 1 << 40
"""Rows that no budget is enough for."""


@dataclass(frozen=True)
class Objects:
    """What a program in Python gives in place of names and files: the network, its averaged copy, rows."""

    net: nn.Module | None = None
    average: nn.Module | None = None
    data: arrays.Dataset | None = None


def diagnose(asked: "Diagnose", budget: float, folder: Path) -> int:
    """Measure and report: 0, or 130 for a probe that was interrupted."""
    case = _case(asked)
    with threads(case):
        found = measured(asked, case, budget, shlex.join(["meanstep", *sys.argv[1:]]))
    replaced = " (it replaces the one that was there)" if (folder / NAME).exists() else ""
    page = build(found, folder)
    if not put_json(asked.json, found.record() | {"report": str(page)}):
        show(found)
        chat.print(f"report: {page}{replaced}", soft_wrap=True)
    return 130 if found.interrupted else 0


def measured(asked: "Diagnose", case: Case, budget: float, command: str) -> Diagnosis:
    """Measures and verdicts, in so many seconds; `command`: what made them."""
    return diagnosed(case, _measure(asked, case, budget), budget, asked.tolerance, command)


def _case(asked: "Diagnose", given: Objects = Objects()) -> Case:
    device = available(asked.device)
    run = trained(asked.target, asked.recipe, asked.path) if asked.target else None
    files = (asked.weights, asked.average)
    if asked.options and (run is not None or given.net is not None):
        what = "the network of a run has those of its training" if run is not None else "the network is there already"
        raise UserError(f"--options: the arguments of a factory, and {what}: leave them out")
    if asked.network and given.net is not None:
        raise UserError("--network: the network is given as an object: leave it out")
    if run is not None:
        found = run.found(*files, asked.network or "", given.net, asked.guidance)
    elif asked.guidance is not None:
        raise UserError("--guidance: the scale of a run of --method.scales: leave it out, and put guidance into the network")
    elif given.net is not None:
        net = given.net
        found = Found(type(net).__name__, lambda seed: copy.deepcopy(net), asked.weights, asked.average)
    else:
        found = find(asked.target, asked.network, asked.options, *files)
    if given.average is not None:
        found = replace(found, ema=given.average)
    data = _data(asked, run, given.data)
    with stage("building the network"):
        probed = admit(found, data, asked.order or "", device, asked.seed)
    dtype = next((p.dtype for p in probed.field.parameters() if p.is_floating_point()), torch.float32)
    method = _method(asked, run, probed, data)
    center = reading.center(asked.center or "", probed, data, asked.seed, dtype, device)
    chunk = asked.chunk or max(1, min(1024, (1 << 18) // math.prod(data.event)))
    progress = asked.progress if asked.progress is not None else run.progress if run else 1.0
    batch = asked.batch or (run.config.run.batch if run else 256)
    own = asked.weights is None and given.net is None
    told = run.history() if run is not None and own else {}
    return Case(probed, data, method, center, dtype, device, asked.seed, progress, chunk, batch, told)


def _data(asked: "Diagnose", run: Trained | None, given: arrays.Dataset | None) -> arrays.Dataset:
    if given is not None:
        return given
    if run is not None and asked.data is None:
        return run.data(asked.labels_file)
    if asked.data is None:
        raise UserError(f"give the rows that it is trained on, --data FILE: {KINDS}")
    return arrays.load(asked.data.expanduser(), asked.labels_file)


def _method(asked: "Diagnose", run: Trained | None, probed: Probed, data: arrays.Dataset) -> reading.Reading:
    name = asked.recipe or (run.config.method.recipe if run else "meanflow")
    path = asked.path or (run.config.method.path if run else "linear")
    changed = reading.changes(name, times=asked.times, power=asked.power, diagonal_share=asked.diagonal_share, beta=asked.beta)
    if run and name == run.config.method.recipe and path == run.config.method.path:
        return run.method(probed, data, changed)
    return reading.method(name, probed, changed, methods.path(path, "--path"))


def _measure(asked: "Diagnose", case: Case, budget: float) -> Measured:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows, of the budget"),
        TimeRemainingColumn(),
    )
    started = time.perf_counter()
    with shown(*columns) as bar:
        task = bar.add_task("diagnose", total=budget, rows=0)

        def told(what: str, share: float, rows: int) -> None:
            bar.update(task, description=what, completed=min(time.perf_counter() - started, budget), rows=rows)

        try:
            return measure(case, budget, asked.tolerance, asked.rows or MOST, told)
        except KeyboardInterrupt:
            raise Interrupted("stopped before the first rows were measured: nothing was written") from None
        except torch.OutOfMemoryError:
            raise UserError(f"the device's memory is too small for {case.chunk} rows in one call: give a smaller --chunk") from None
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:  # a network that runs, but not with a derivative
            raise UserError(f"the network cannot be probed: {first_line(error)}. `meanstep doctor` examines it") from error


@contextmanager
def threads(case: Case) -> Iterator[None]:
    """One thread for a small network on a processor: many only wait for each other."""
    before = torch.get_num_threads()
    if case.device.type == "cpu" and case.probed.parameters < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
