"""The diagnosis as one page in the terminal. Knows no files."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from meanstep.program.console import out
from meanstep.program.diagnose.diagnosis import Diagnosis
from meanstep.program.diagnose.measures import COARSE, maps, number
from meanstep.program.diagnose.rules import CLEAR, MISSING, OPEN, QUIET_IS_NOT_GOOD, WARN, Verdict
from meanstep.program.tables import fits

MAPS = (("noise_0", "noise at beta = 0"), ("best", "quietest beta"), ("change", "|(t - r) du/dt| / |u|"))


def show(d: Diagnosis) -> None:
    """Verdicts first, then the facts, three maps, and what it cost."""
    warned = any(v.rule.level == WARN for v in d.fired)
    out.print(Text(d.probed, style="bold"))
    out.print(Text(f"read as {d.case.method.line}; {d.headline}", style="yellow" if warned else "green"))
    for verdict in d.fired:
        out.print()
        out.print(_verdict(verdict))
    out.print(_others(d.verdicts))
    out.print(_facts(d))
    if not d.case.method.still:
        out.print(_maps(d))
        out.print(Text(QUIET_IS_NOT_GOOD, style="dim"))
    out.print(Text(f"{d.why}; {d.cost}", style="dim"))


def _verdict(v: Verdict) -> Table:
    """A rule that fires: what is measured, what it means, what to change."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=8)
    table.add_column()
    name = Text(v.rule.level, style="bold yellow" if v.rule.level == WARN else "bold cyan")
    table.add_row(name, Text(f"{v.rule.name}: ", style="bold").append(v.sentence, style="not bold"))
    table.add_row("means", Text(v.means))
    table.add_row("change", Text(v.change, style="cyan"))
    return table


def _others(found: list[Verdict]) -> Text:
    """The rules that do not fire, with their values, in one paragraph."""
    text = Text("\n")
    for status, words in ((CLEAR, "clear: "), (OPEN, "left open by the interval: "), (MISSING, "not measured: ")):
        rules = [v for v in found if v.status == status]
        if rules:
            parts = [v.rule.name + (f" {v.measured} ({_opposite(v)})" if v.measured else "") for v in rules]
            text.append(words, style="bold")
            text.append("; ".join(parts) + "\n")
    return text


def _opposite(v: Verdict) -> str:
    return f"{'warns' if v.rule.level == WARN else 'notes'} {v.rule.condition}"


def _facts(d: Diagnosis) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in d.facts:
        table.add_row(name, Text(text))
    return table


def _maps(d: Diagnosis) -> RenderableType:
    """Three coarse maps, t downwards from 1: side by side, or one below the other on a narrow terminal."""
    whole = _grid(d, MAPS)
    return whole if fits(whole, out) else Group(*(_grid(d, (one,)) for one in MAPS))


def _grid(d: Diagnosis, chosen: tuple[tuple[str, str], ...]) -> Table:
    grids = maps(d.found, COARSE)
    edges = COARSE.tolist()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="over r (to the right) and t (upwards)", title_justify="left")
    table.padding = (0, 1) if len(chosen) > 1 else (0, 0)
    table.add_column("t", style="dim", no_wrap=True)
    for _, words in chosen:
        table.add_column(words, no_wrap=True)
    for i in reversed(range(len(edges) - 1)):
        table.add_row(
            f"{edges[i]:g}-{edges[i + 1]:g}",
            *("".join(f"{_cell(grids[name], i, j):>7}" for j in range(len(edges) - 1)) for name, _ in chosen),
        )
    table.add_row("r from", *("".join(f"{low:>7g}" for low in edges[:-1]) for _ in chosen), style="dim")
    return table


def _cell(grid: Tensor, i: int, j: int) -> str:
    value = float(grid[i, j])
    return "" if j > i else "-" if value != value else "0" if abs(value) < 1e-4 else number(float(f"{value:.2g}"))
