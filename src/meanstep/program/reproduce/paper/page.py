"""The table of all published numbers as one page and one CSV: `meanstep reproduce paper`'s report. Trains nothing."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from meanstep.program.disk import folder as subfolder
from meanstep.program.disk import write
from meanstep.program.pages import form, page
from meanstep.program.reproduce.paper import history, measured
from meanstep.program.reproduce.paper.compared import NOT, OUT, UNTOLD
from meanstep.program.reproduce.paper.published import PARTS, TRAINED, numbers
from meanstep.program.reproduce.paper.rows import Row, shown, table
from meanstep.program.reproduce.report.commands import put

BADGES = {OUT: "holds", NOT: "fails", UNTOLD: "open"}
TITLES = {
    "toy": "Sets in the plane",
    "mixtures": "Dense mixtures",
    "latents": "The latent Diffusion Transformer",
    "history": "The published histories",
}


@dataclass(frozen=True)
class Line:
    """A row of table.csv."""

    part: str
    quantity: str
    where: str
    arm: str
    beta: float | None
    published: str
    deviation: float | None
    published_seeds: int
    measured: float | None
    low: float | None
    high: float | None
    seeds: int
    ours: float | None
    verdict: str
    detectable: float | None
    why: str
    also: str
    cause: str
    source: str
    note: str


def build(folder: Path, parts: Sequence[str] = PARTS, options: Sequence[str] = ()) -> Path:
    """Write report.html, table.csv and figures of the studies in a folder and of the committed ones; the page's path.

    `options`: further words of the command that made the studies.
    """
    page.require()
    from meanstep.program.reproduce.paper.figures import FIGURES

    found, rows = _measured(folder, parts)
    subfolder(folder)
    write(folder / "table.csv", page.as_csv([each.name for each in fields(Line)], [asdict(_line(row)) for row in rows]))
    drawn = form.drawn({name: partial(draw, found) for name, draw in FIGURES.items()})
    page.kept(folder / "figures", FIGURES, {name: each.image for name, each in drawn.items()})
    words = ["meanstep", "reproduce", "paper", *(("--parts", *parts) if set(parts) != set(PARTS) else ()), "--out", str(folder)]
    own = shlex.join([*words, *options])
    content = _content(rows) | {"command": own}
    more = put(own, "--scale", "paper") if set(parts) & {*TRAINED} else ""
    return page.published(form.rendered(_answer(rows, more), form.Details(__package__ or "", content, drawn)), folder)


def spoken(folder: Path, parts: Sequence[str] = PARTS) -> list[str]:
    """What the table says, a line a part."""
    _, rows = _measured(folder, parts)
    return [f"{TITLES[part]}: {_counts([row for row in rows if row.published.part == part])}" for part in parts]


def _measured(folder: Path, parts: Sequence[str]) -> tuple[list[measured.Model], list[Row]]:
    """The models of points that there are, and the rows of the table."""
    studies = _studies(folder)
    found = [*measured.held(), *(model for there in studies for model in measured.models(there))]
    estimates = [each for there in studies for each in measured.estimates(there)]
    return found, [row for row in table(numbers(), found, estimates) if row.published.part in parts]


def _studies(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _counts(rows: Sequence[Row]) -> str:
    found = Counter(row.verdict.word for row in rows)
    return f"of {len(rows)} published numbers {found[OUT]} come out, {found[NOT]} do not, {found[UNTOLD]} cannot be told"


def _line(row: Row) -> Line:
    number, theirs = row.published, row.theirs
    return Line(
        number.part,
        number.quantity,
        number.where,
        number.arm,
        number.beta,
        number.value,
        number.deviation,
        number.seeds,
        theirs.mean if theirs else None,
        theirs.low if theirs else None,
        theirs.high if theirs else None,
        theirs.n if theirs else 0,
        row.ours.mean if row.ours else None,
        row.verdict.word,
        row.verdict.detectable,
        row.verdict.why,
        row.also,
        row.cause,
        number.source,
        number.note,
    )


def _content(rows: Sequence[Row]) -> dict[str, Any]:
    parts = {part: [row for row in rows if row.published.part == part] for part in PARTS}
    return {
        "parts": [(TITLES[part], part, _counts(some), some) for part, some in parts.items() if some],
        "badges": BADGES,
        "shown": shown,
        "said": _said,
        "summary": history.summary(history.histories()),
    }


def _said(row: Row) -> str:
    """What led to a verdict and what else is known, a sentence each."""
    found = dict.fromkeys((*row.verdict.why.split("; "), row.also, row.cause, *row.published.note.split("; ")))
    return " ".join(f"{said[0].upper()}{said[1:].rstrip('.')}." for said in found if said)


def _answer(rows: Sequence[Row], more: str) -> form.Answer:
    """`more`: the command that trains more, where one does."""
    found = Counter(row.verdict.word for row in rows)
    told = found[OUT] + found[NOT]
    title = f"Of {len(rows)} published numbers {found[OUT]} come out here, {found[NOT]} do not, and {found[UNTOLD]} cannot be told."
    about = (
        "Every number that the authors of arXiv 2605.09235 printed in their public drafts stands beside what comes out here.",
        "Ours were trained under the authors' own protocol.",
    )
    steps = [form.Step("Do not rely on a number that does not come out: its row says why.")]
    steps += [form.Step("Train more where nothing can be told.", more)] if more else []
    title = title if told else "None of the published numbers can be told from what was trained here."
    shown = form.Shown("FID of each coefficient less the mean of the two published runs at β = 0.", name="histories")
    tiles = (_tile(OUT, found), _tile(NOT, found), _tile(UNTOLD, found))
    return form.Answer(title, about, tiles, tuple(steps), "meanstep reproduce paper", shown, tab="The paper's numbers")


def _tile(word: str, found: Counter[str]) -> form.Tile:
    heads = {OUT: f"{found[OUT]} come out", NOT: f"{found[NOT]} do not", UNTOLD: "The others cannot be told"}
    told = {
        OUT: ("The published number lies within our interval.", "The interval is narrow enough to tell.", form.BETTER),
        NOT: ("The published number is better or worse than ours.", "The interval of the difference excludes 0.", form.WORSE),
        UNTOLD: (f"That is {found[UNTOLD]}, with too few seeds, or another length of training.", "Nothing follows from these.", form.OPEN),
    }
    words, sure, state = told[word]
    return form.Tile(heads[word], words, sure, state if found[word] else form.KNOWN if word != UNTOLD else form.OPEN)
