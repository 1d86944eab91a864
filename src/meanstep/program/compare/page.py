"""From a comparison to one page that works offline. Measures nothing."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from meanstep.program.compare import answer as answers
from meanstep.program.compare import figures, runs, studies
from meanstep.program.compare.runs import Distances, Side
from meanstep.program.pages import form, page
from meanstep.program.pages.forest import Forest
from meanstep.program.pages.form import Answer, Shown
from meanstep.program.pages.verdicts import number
from meanstep.program.runs.report.prose import clock

Table = tuple[list[str], list[list[str]]]
"""Heads, and rows of cells."""


@dataclass(frozen=True)
class Pictures:
    """Samples of the same noise: a PNG for each run, or none and why; `words` say of what; `options`: of the command, to draw them."""

    images: Sequence[bytes] = ()
    why: str = ""
    words: str = ""
    options: Sequence[str] = ()


def build(found: Sequence[Side], measured: Distances, pictures: Pictures, folder: Path) -> tuple[Path, Answer]:
    """Write report.html of runs into a folder; its path, and what it says. `UserError` if it cannot be written."""
    drawings = {
        "distances": partial(figures.distances, found, measured),
        "residuals": partial(figures.residuals, found),
    }
    drawn = form.drawn(drawings)
    notes = [f"Samples are not shown side by side: {pictures.why}."] if pictures.why else []
    rows = answers.rows(found, measured)
    said = answers.answer(found, measured, notes, _shown(drawn, rows))
    content = {
        "pictures": [(side.name, page.embedded(image)) for side, image in zip(found, pictures.images, strict=False)],
        "words": pictures.words,
        "rows": rows,
        "table": table(found, measured),
        "about": measured.about,
        "entries": runs.differences(found),
        "names": [side.name for side in found],
        "command": _command([side.path for side in found], folder, pictures.options),
        "unlike": "Every entry of their configurations is the same.",
    }
    text = form.rendered(said, form.Details(__package__ or "", content, drawn))
    return page.published(text, folder), said


def build_studies(found: studies.Meeting, folder: Path) -> tuple[Path, Answer]:
    """The same of two studies."""
    said = studies.answer(found)
    rows = [[pair.name, number(pair.change.value), _interval(pair.change.interval), str(pair.change.n)] for pair in found.pairs]
    content: dict[str, object] = {
        "pictures": [],
        "words": "",
        "rows": None,
        "table": (["arm", f"{found.names[1]} over {found.names[0]}", "95% interval", "seeds"], rows),
        "about": "",
        "entries": found.settings,
        "names": found.names,
        "command": _command(found.folders, folder),
        "unlike": "Every setting is the same.",
    }
    return page.published(form.rendered(said, form.Details(__package__ or "", content)), folder), said


def _command(paths: Sequence[Path], folder: Path, options: Sequence[str] = ()) -> str:
    return shlex.join(["meanstep", "compare", *map(str, paths), "--out", str(folder), *options])


def table(found: Sequence[Side], measured: Distances) -> Table:
    """A line for each run, on the page and in the terminal."""
    rows = []
    for k, side in enumerate(found):
        run, d = side.history, measured.found[k] if measured.found else None
        told = (
            [number(d.value), _interval(d.interval), "unknown" if d.floor is None else number(d.floor)] if d else ["not compared", "", ""]
        )
        rows.append([side.name, run.config.method.recipe, f"{run.seen:,}", clock(run.seconds), *told])
    return ["run", "recipe", "samples seen", "time", measured.measure or "distance", "95% interval", "floor"], rows


def _interval(ends: tuple[float, float] | None) -> str:
    return f"{number(ends[0])} to {number(ends[1])}" if ends else "none"


def _shown(drawn: dict[str, form.Drawn], rows: Forest | None) -> Shown | None:
    if "distances" in drawn:
        words = "Distance of samples to the data over training, a line for each run. Lower is better. A dashed line is the floor."
        return Shown(words, name="distances")
    if rows:
        line = " The dashed line is the floor, what real rows score." if rows.none is not None else ""
        return Shown(f"Each row is a run: its distance to the data and the 95% interval. Lower is better.{line}", rows=rows)
    words = "Mean squared residual over training, a line for each run. It ends at the noise of the data, not at 0."
    return Shown(words, name="residuals") if "residuals" in drawn else None
