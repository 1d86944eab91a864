"""The command: loads a network and data, probes within a budget, prints one page, writes one report."""

import json
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from meanstep.program import methods
from meanstep.program.console import Interrupted, UserError, err, first_line, out, writable, write
from meanstep.program.diagnose import arrays, reading
from meanstep.program.diagnose.case import Case
from meanstep.program.diagnose.diagnosis import Diagnosis, diagnosed
from meanstep.program.diagnose.gradient import SMALL
from meanstep.program.diagnose.networks import Probed, admit, find
from meanstep.program.diagnose.page import build
from meanstep.program.diagnose.probe import Measured, measure
from meanstep.program.diagnose.runs import Trained, trained
from meanstep.program.diagnose.terminal import show
from meanstep.program.machine import available
from meanstep.program.pages.page import require
from meanstep.program.registry import PATHS, check_path

UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


def _hint(text: str, default: str, metavar: str) -> Any:
    return tyro.conf.arg(help=text, help_behavior_hint=f"(default: {default})", metavar=metavar)


CENTER_HELP = (
    "What stands for the mean velocity E[v | z] when noise is told from signal: the posterior over the data, the EMA copy, or the "
    "network's own u(z, t, t). The error of an imperfect one counts as noise; the report says how much that can matter."
)
CENTER_DEFAULT = f"posterior up to {reading.LOW} numbers a row and from {reading.ENOUGH} rows on, else ema if given, else own"


@dataclass(frozen=True)
class Diagnose:
    """Where the noise of a network's training signal is, and what to change: one page here, one HTML report that works offline.

    The target is a run of meanstep train, package.module:factory, found from the current folder, or a folder or file of weights with
    --factory. It is asked as a field u(z, r, t, y); nothing is trained or changed. Of a run, everything is read as it was trained.
    Interrupt it at any moment: the report is of the rows drawn so far.

    Examples: meanstep diagnose runs/digits; meanstep diagnose runs/digits --recipe coefficient --beta 0.5 --budget 5m; meanstep diagnose
    mynets:build --data train.npy --weights model.safetensors; meanstep diagnose weights/7 --factory mynets:build --data latents.safetensors
    """

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TARGET")]
    """A run's folder or one of its checkpoints, package.module:callable, or a folder with model.safetensors, or such a file."""
    data: Annotated[
        Path | None,
        _hint(f"Rows [N, ...]: {arrays.KINDS}; .npz and .safetensors may hold labels y.", "what the run was trained on", "FILE"),
    ] = None
    labels: Annotated[Path | None, _hint("Labels [N], or conditions [N, ...], in a file of their own.", "those in --data", "FILE")] = None
    factory: Annotated[
        str, _hint("What builds the network, if the target is a folder or a file of weights.", "the run's", "MODULE:NAME")
    ] = ""
    network: Annotated[str, _hint("Of a run: the function that may be called to make a network not ours.", "none", "MODULE:FACTORY")] = ""
    kwargs: Annotated[str, _hint("The factory's arguments as JSON.", "none", "JSON")] = ""
    order: Annotated[str, _hint('How it is called, if not as (z, r, t, y): "z,t,r".', "read from the names", "ROLE,...")] = ""
    weights: Annotated[Path | None, _hint("Weights, .safetensors.", "as the factory made them", "FILE")] = None
    ema: Annotated[Path | None, _hint("A second copy's weights: the proxy.", "the run's proxy, or first copy", "FILE")] = None
    center: Annotated[Literal["own", "ema", "posterior"] | None, _hint(CENTER_HELP, CENTER_DEFAULT, "{own,ema,posterior}")] = None
    recipe: Annotated[str, _hint(f"What trains it: {', '.join(reading.READ)}.", "the run's, or meanflow", "NAME")] = ""
    path: Annotated[str, _hint(f"Its path: {', '.join(PATHS)}, or package.module:name.", "the run's, or linear", "NAME")] = ""
    times: Annotated[
        Literal["uniform", "logit-normal"] | None, _hint("How its (r, t) are drawn.", "the recipe's", "{uniform,logit-normal}")
    ] = None
    diagonal_share: Annotated[float | None, _hint("Its share of r = t rows.", "the recipe's", "SHARE")] = None
    power: Annotated[float | None, _hint("Its adaptive weight's power; 0: squared error.", "the recipe's", "P")] = None
    beta: Annotated[float | None, _hint("The coefficient of --recipe coefficient.", "the recipe's, or 1", "BETA")] = None
    progress: Annotated[
        float | None, _hint("The share of the training that is done, for recipes with a schedule.", "the run's, or 1", "SHARE")
    ] = None
    batch: Annotated[
        int | None, _hint("The batch that it trains with: for the signal to noise of a batch's gradient.", "the run's, or 256", "N")
    ] = None
    budget: Annotated[str, tyro.conf.arg(metavar="TIME")] = "60s"
    """Time for all measurements: 60, 60s, 2m."""
    precision: float = 0.03
    """Stop earlier, when the noise at beta = 0 (relatively) and the quietest beta are known so well."""
    rows: Annotated[int, _hint("Draw at most so many rows.", "no limit", "N")] = 1 << 40
    chunk: Annotated[int, _hint("Rows in one call of the network: bounds the memory.", "by the size of a row", "N")] = 0
    device: str = "cpu"
    """Where to measure: cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of every draw, and of torch's global generator while the factory runs."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("diagnosis")
    """Folder for report.html; it is made if it does not exist."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: no file)")] = None
    """Write every number here too."""

    def run(self) -> int:
        """0 when the report is written, 130 when it is of an interrupted probe. `UserError` if there is nothing to measure."""
        budget = seconds(self.budget)
        self._check()
        require()
        if self.json is not None:
            writable(self.json)
        folder = _folder(self.out)
        case = self._case()
        with threads(case):
            found = self._measure(case, budget)
        diagnosis = diagnosed(case, found, budget, self.precision, shlex.join(["meanstep", *sys.argv[1:]]))
        page = build(diagnosis, folder)
        if self.json is not None:
            write(self.json, json.dumps(diagnosis.record(), indent=1) + "\n")
        show(diagnosis)
        out.print(f"report: {page}", soft_wrap=True)
        return 130 if diagnosis.interrupted else 0

    def _check(self) -> None:
        wrong = [
            (self.beta is not None and not 0 <= self.beta <= 1, f"--beta lies in [0, 1], got {self.beta}"),
            (self.progress is not None and not 0 <= self.progress <= 1, f"--progress lies in [0, 1], got {self.progress}"),
            (not 0 < self.precision < 1, f"--precision lies inside (0, 1), got {self.precision:g}"),
            (self.rows < 8, f"--rows: at least 8, got {self.rows}"),
            (self.batch is not None and self.batch < 1, f"--batch: at least 1, got {self.batch}"),
            (self.chunk < 0, f"--chunk: at least 1, got {self.chunk}"),
            (self.seed < 0, f"--seed: at least 0, got {self.seed}"),
            (
                self.diagonal_share is not None and not 0 <= self.diagonal_share <= 1,
                f"--diagonal-share lies in [0, 1], got {self.diagonal_share}",
            ),
        ]
        for bad, message in wrong:
            if bad:
                raise UserError(message)

    def _case(self) -> Case:
        device = available(self.device)
        run = None if self.factory else trained(self.target)
        found = (
            run.found(self.weights, self.ema, self.network) if run else find(self.target, self.factory, self.kwargs, self.weights, self.ema)
        )
        data = self._data(run)
        probed = admit(found, data, self.order, device, self.seed)
        dtype = next((p.dtype for p in probed.field.parameters() if p.is_floating_point()), torch.float32)
        method = self._method(run, probed, data)
        center = reading.center(self.center or "", probed, data, self.seed, dtype, device)
        chunk = self.chunk or max(1, min(1024, (1 << 18) // math.prod(data.event)))
        progress = self.progress if self.progress is not None else run.progress if run else 1.0
        batch = self.batch or (run.config.run.batch if run else 256)
        return Case(probed, data, method, center, dtype, device, self.seed, progress, chunk, batch)

    def _data(self, run: Trained | None) -> arrays.Dataset:
        if self.data is not None:
            return arrays.load(self.data.expanduser(), self.labels)
        if run is None:
            raise UserError(f"give the rows that it is trained on, --data FILE: {arrays.KINDS}")
        return run.data(self.labels)

    def _method(self, run: Trained | None, probed: Probed, data: arrays.Dataset) -> reading.Reading:
        name = self.recipe or (run.config.method.recipe if run else "meanflow")
        check_path(self.path or "linear", "--path")
        changed = reading.changes(name, times=self.times, power=self.power, diagonal_share=self.diagonal_share, beta=self.beta)
        if run and self.recipe in ("", run.config.method.recipe) and self.path in ("", run.config.method.path):
            return run.method(probed, data, changed, (self.recipe, self.path))
        return reading.method(name, probed, changed, methods.path(self.path or (run.config.method.path if run else "linear"), "--path"))

    def _measure(self, case: Case, budget: float) -> Measured:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rows]:,} rows, of the budget"),
            TimeRemainingColumn(),
        )
        started = time.perf_counter()
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task("diagnose", total=budget, rows=0)

            def told(what: str, share: float, rows: int) -> None:
                bar.update(task, description=what, completed=min(time.perf_counter() - started, budget), rows=rows)

            try:
                return measure(case, budget, self.precision, self.rows, told)
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


def seconds(text: str) -> float:
    """`60`, `60s`, `2m`, `1h` in seconds; `UserError` for what is no time."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-z]*)\s*", text.lower())
    if found is None or found.group(2) not in UNITS or not float(found.group(1)) > 0:
        raise UserError(f"--budget is a time such as 60, 60s or 2m, got {text!r}")
    return float(found.group(1)) * UNITS[found.group(2)]


def _folder(path: Path) -> Path:
    """The folder to write into; it is made with the report, so that nothing is left of a probe that measured nothing."""
    here = path.expanduser()
    there = next(p for p in (here, *here.parents) if p.exists())
    if not there.is_dir():
        raise UserError(f"--out: {there} is a file: give the name of a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--out: cannot write into {there}: permission denied")
    if here.is_dir():
        writable(here / "report.html")
    return here


__all__ = ["Diagnose", "Diagnosis", "seconds"]
