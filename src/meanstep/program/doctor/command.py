"""The command: loads a network, runs the checks with a progress bar, prints the table, writes JSON, and tells by its exit code."""

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from meanstep.program import flags
from meanstep.program.bar import shown
from meanstep.program.console import UserError, out, put_json, stage, takes_json
from meanstep.program.doctor.findings import CHECKS, FAIL, PASS, WARN, Finding, Report
from meanstep.program.flags import ORDER, Device, Json, Options, hinted
from meanstep.program.ranges import Ranged
from meanstep.program.tables import fitted

if TYPE_CHECKING:
    import torch

COLOURS = {PASS: "green", WARN: "yellow", FAIL: "bold red"}
OPTIONS = "The factory's arguments, e.g. '{width: 64}'."


@dataclass(frozen=True)
class Doctor(Ranged):
    """Examine a network for use as a MeanFlow field u(z, r, t, y): what would break, where, and what to do. Seconds; nothing is trained.

    The network comes from package.module:factory, found from the current folder: a function without arguments (or with those of
    --options) or a class, which returns a torch.nn.Module, or (module, example), where the example is a shape, a batch, or a dict of z, r,
    t, y. Nothing is changed in your files. The exit code is 0 if no check fails, 1 if one does, 2 if the network cannot be examined.
    docs/doctor.md explains every check.

    Examples: meanstep doctor mynets.unet:build --shape 3,32,32 --classes 10; meanstep doctor meanstep:MLP --options '{dim: 2}'; meanstep
    doctor mynets.audio:Net --shape 1,4000 --order z,t,r --json doctor.json; meanstep doctor mynets.dit:small --only forward-mode way
    """

    factory: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FACTORY")]
    """package.module:factory."""
    options: Annotated[Options, hinted(OPTIONS, "none", "YAML")] = field(default_factory=dict)
    shape: Annotated[
        str | None, hinted("Shape of one sample, e.g. 4,32,32.", "the factory's example, or read from the network", "N,N,...")
    ] = None
    chunk: Annotated[int, tyro.conf.arg(metavar="N from 2 to 65536")] = 8
    """Rows of one pass of the network: at least 2."""
    classes: Annotated[int, hinted("Number of labels y.", "0, no labels", "N from 0 to 1048576")] = 0
    order: Annotated[str | None, hinted(ORDER, "read from the names of its arguments", "ROLE,...")] = None
    device: Device = "auto"
    only: Annotated[tuple[str, ...], hinted(f"Only these: the checks {', '.join(CHECKS)}.", "all", "[CHECK ...]")] = ()
    json: Json = None

    def run(self) -> int:
        """0 if no check fails, 1 if one does. `UserError` if the network cannot be examined."""
        flags.factory(self.factory, "the network")
        flags.device(self.device)
        flags.among(self.only, CHECKS, "check", "--only")
        takes_json(self.json)
        shape = _shape(self.shape)
        with stage("importing PyTorch"):
            import torch

            from meanstep.program.factories import load
            from meanstep.program.machine import available
        place = available(self.device)
        torch.manual_seed(0)  # the same weights, so the same report, in every run
        with stage("building the network"):
            net, example = load(self.factory, self.options)
        report = self._examine(net, example if shape is None else _reshaped(example, shape), place)
        if not put_json(self.json, {"command": "doctor", "factory": self.factory, "torch": torch.__version__, **report.record()}):
            show(report)
        return int(report.failed > 0)

    def _examine(self, net: "torch.nn.Module", example: Any, place: "torch.device") -> Report:
        from meanstep.program.doctor.examination import doctor

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("checks"), TimeElapsedColumn())
        with shown(*columns) as progress:
            task = progress.add_task("doctor", total=len(self.only or CHECKS))
            done = count(-1)  # the network is read before the first check

            def told(check: str) -> None:
                progress.update(task, description=check, completed=max(0, next(done)))

            order = self.order or ""
            return doctor(net, example, batch=self.chunk, classes=self.classes, order=order, device=place, only=self.only, told=told)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
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
    out.print(fitted(table, out))
    warned, failed, made = report.count(WARN), report.failed, len(report.findings)
    verdict = f"[red]{failed} of {made} checks FAIL" if failed else "[green]no check fails"
    out.print(f"{verdict}[/]; {warned} warn. {report.seconds:.1f} s.")


def _cell(finding: Finding) -> Text:
    cell = Text(f"in {finding.module}: " if finding.module else "", style="bold")
    cell.append(finding.measured, style="not bold")
    if finding.remedy:
        cell.append(f"\n-> {finding.remedy}", style="not bold cyan")
    return cell
