"""The command: loads a network, runs the checks with a progress bar, prints the table, writes JSON, and tells by its exit code."""

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from meanstep.program.console import UserError, err, out, writable, write
from meanstep.program.doctor import CHECKS, FAIL, PASS, WARN, Report, doctor
from meanstep.program.doctor.findings import Finding
from meanstep.program.factories import load
from meanstep.program.machine import available

COLOURS = {PASS: "green", WARN: "yellow", FAIL: "bold red"}
ORDER_HELP = 'How it is called, if not as (z, r, t, y): "z,t,r", or with keywords "z,timestep=t,delta=gap". Read from its names by default.'


def _hint(text: str, default: str, metavar: str = "") -> Any:
    return tyro.conf.arg(help=text, help_behavior_hint=f"(default: {default})", metavar=metavar or None)


@dataclass(frozen=True)
class Doctor:
    """Examine a network for use as a MeanFlow field u(z, r, t, y): what would break, where, and what to do. Seconds; nothing is trained.

    The network comes from package.module:factory, found from the current folder: a function without arguments (or with those of
    --kwargs) or a class, which returns a torch.nn.Module, or (module, example), where the example is a shape, a batch, or a dict of z, r,
    t, y. Nothing is changed in your files. The exit code is 0 if no check fails, 1 if one does, 2 if the network cannot be examined.

    Examples: meanstep doctor mynets.unet:build --shape 3,32,32 --classes 10; meanstep doctor meanstep:MLP --kwargs '{"dim": 2}'; meanstep
    doctor mynets.audio:Net --shape 1,4000 --order z,t,r --json doctor.json; meanstep doctor mynets.dit:small --only forward-mode way
    """

    factory: tyro.conf.Positional[str]
    """package.module:callable."""
    kwargs: Annotated[str, _hint("The factory's arguments as JSON, e.g. '{\"width\": 64}'.", "none", "JSON")] = ""
    shape: Annotated[str, _hint("Shape of one sample, e.g. 4,32,32.", "the factory's example, or read from the network", "N,N,...")] = ""
    batch: int = 8
    """Rows to call it with, at least 2."""
    classes: Annotated[int, _hint("Number of labels y; 0: none.", "0")] = 0
    order: Annotated[str, _hint(ORDER_HELP, "read from the names", "ROLE,...")] = ""
    device: str = "cpu"
    """Where to examine it: cpu, cuda, cuda:1, mps."""
    only: Annotated[tuple[str, ...], _hint(f"Run these checks only: {', '.join(CHECKS)}.", "all", "[CHECK ...]")] = ()
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: no file)")] = None
    """Write the findings here too ("-" for standard output instead of the table)."""

    def run(self) -> int:
        """0 if no check fails, 1 if one does. `UserError` if the network cannot be examined."""
        if self.json is not None and str(self.json) != "-":
            writable(self.json)
        place = available(self.device)
        shape = _shape(self.shape)
        torch.manual_seed(0)  # the same weights, so the same report, in every run
        net, example = load(self.factory, self.kwargs)
        report = self._examine(net, example if shape is None else _reshaped(example, shape), place)
        text = json.dumps({"command": "doctor", "factory": self.factory, "torch": torch.__version__, **report.record()}, indent=1)
        if str(self.json) == "-":
            out.file.write(text + "\n")
            return int(report.failed > 0)
        if self.json is not None:
            write(self.json, text + "\n")
        show(report)
        return int(report.failed > 0)

    def _examine(self, net: torch.nn.Module, example: Any, place: torch.device) -> Report:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("checks"), TimeElapsedColumn())
        with Progress(*columns, console=err, transient=True) as progress:
            task = progress.add_task("doctor", total=len(self.only or CHECKS))
            done = count(-1)  # the network is read before the first check

            def told(check: str) -> None:
                progress.update(task, description=check, completed=max(0, next(done)))

            return doctor(net, example, batch=self.batch, classes=self.classes, order=self.order, device=place, only=self.only, told=told)


def _shape(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        shape = tuple(int(n) for n in text.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UserError(f"--shape is the shape of one sample in whole numbers, such as 4,32,32 or 2; got {text!r}")
    return shape


def _reshaped(example: Any, shape: tuple[int, ...]) -> Any:
    """The factory's example with the user's shape."""
    return {**{k: v for k, v in example.items() if k != "z"}, "shape": shape} if isinstance(example, dict) else shape


def show(report: Report) -> None:
    """The table: one line what was measured, one what to do."""
    title = Text(f"{report.network}, as {report.call}", style="bold")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for header in ("check", "", "measured, and what to do"):
        table.add_column(header, no_wrap=header != "measured, and what to do")
    for finding in report.findings:
        table.add_row(finding.check, Text(finding.status, style=COLOURS.get(finding.status, "dim")), _cell(finding))
    out.print(table)
    warned, failed, made = report.count(WARN), report.failed, len(report.findings)
    verdict = f"[red]{failed} of {made} checks FAIL" if failed else "[green]no check fails"
    out.print(f"{verdict}[/]; {warned} warn. {report.seconds:.1f} s.")


def _cell(finding: Finding) -> Text:
    cell = Text(f"in {finding.module}: " if finding.module else "", style="bold")
    cell.append(finding.measured, style="not bold")
    if finding.remedy:
        cell.append(f"\n-> {finding.remedy}", style="not bold cyan")
    return cell
