"""The command: runs the groups with a progress bar, prints the table, writes JSON, and tells by its exit code."""

import time
from dataclasses import dataclass
from typing import Annotated, Any

from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from meanstep.program import flags
from meanstep.program.bar import shown
from meanstep.program.console import out, put_json, stage, takes_json
from meanstep.program.flags import Json, hinted
from meanstep.program.ranges import Ranged, Seed
from meanstep.program.tables import fitted
from meanstep.program.verify.groups import GROUPS, measure
from meanstep.program.verify.rows import Row


@dataclass(frozen=True)
class Verify(Ranged):
    """Measure the theory: each claim with what was found, what was expected, and a verdict. About half a minute on two cores.

    The exit code is 0 if every claim holds and 1 if one fails. A verdict such as "only for kappa >= 0" marks a published form that was
    measured to fail under that condition; docs/theory.md explains each equation.

    Examples: meanstep verify --only coefficient table; meanstep verify --seed 3 --json claims.json
    """

    only: Annotated[tuple[str, ...], hinted(f"Only these: the groups {', '.join(GROUPS)}.", "all", "[GROUP ...]")] = ()
    seed: Seed = 0
    """Seed of every draw: of samples and of networks."""
    json: Json = None

    def run(self) -> int:
        """0 if every claim holds, 1 if one fails. `UserError` for a group that does not exist or a file that cannot be written."""
        flags.among(self.only, GROUPS, "group", "--only")
        takes_json(self.json)
        with stage("importing PyTorch"):
            import torch
        torch.set_num_threads(1)  # the tensors are small: two threads only wait for each other
        started = time.perf_counter()
        found = self._measure([name for name in GROUPS if not self.only or name in self.only])
        seconds = time.perf_counter() - started
        failed = sum(not row.holds for rows in found.values() for row in rows)
        if not put_json(self.json, self._record(found, seconds)):
            self._show(found, seconds, failed)
        return int(failed > 0)

    def _measure(self, names: list[str]) -> dict[str, list[Row]]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("groups"), TimeElapsedColumn())
        found: dict[str, list[Row]] = {}
        with shown(*columns) as progress:
            task = progress.add_task("verify", total=len(names))
            for name in names:
                progress.update(task, description=GROUPS[name][0])
                found[name] = list(measure(name)(self.seed))
                progress.advance(task)
        return found

    def _record(self, found: dict[str, list[Row]], seconds: float) -> dict[str, Any]:
        import torch

        versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        return {
            "command": "verify",
            "seed": self.seed,
            "seconds": round(seconds, 1),
            **versions,
            "claims": [{"group": name, **row.record()} for name, rows in found.items() for row in rows],
        }

    def _show(self, found: dict[str, list[Row]], seconds: float, failed: int) -> None:
        for name, rows in found.items():
            table = Table(title=f"{GROUPS[name][0]} ({name})", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
            for header, justify in (("claim", "left"), ("eq.", "right"), ("measured", "right"), ("expected", "left"), ("verdict", "left")):
                table.add_column(header, justify=justify, no_wrap=header != "claim")  # type: ignore[arg-type]
            for row in rows:
                colour = "red" if not row.holds else "yellow" if row.unless else "green"
                cells = (row.claim, row.equation, f"{row.measured:.4g}", _expectation(row))
                table.add_row(*map(Text, cells), Text(row.verdict, style=colour))
            out.print(fitted(table, out))
        total = sum(map(len, found.values()))
        under = sum(bool(row.unless) and row.holds for rows in found.values() for row in rows)
        verdict = f"[red]{failed} of {total} claims FAIL" if failed else f"[green]all {total} claims hold as stated"
        marks = f"; {under} of them mark a published form that fails under a condition" if under else ""
        out.print(f"{verdict}[/]{marks}. {seconds:.0f} s, seed {self.seed}.")


def _expectation(row: Row) -> str:
    if row.relation != "=":
        return f"{row.relation} {row.expected:.4g}"
    return f"{row.expected:.4g} ± {row.tolerance:.0f}" if row.tolerance >= 1 else f"{row.expected:.4g} ± {row.tolerance:.1g}"
