"""From a sweep's folder to figures, summary.csv and one page that works offline. Knows no networks and trains nothing.

A report is a function of what the folder holds; whatever is missing there is missing in the report, which says so.
"""

from functools import partial
from pathlib import Path
from typing import Any

from meanstep.program.disk import write
from meanstep.program.pages import page
from meanstep.program.pages.statistics import mean
from meanstep.program.pages.strips import strip
from meanstep.program.pages.verdicts import RULE, Claim, number, readable_p, shown, with_interval
from meanstep.program.reproduce.points.report import prose, summary
from meanstep.program.reproduce.points.report.claims import claims
from meanstep.program.reproduce.points.report.results import Results, read


def build(folder: Path) -> Path:
    """Write figures/*.png, summary.csv and report.html into the sweep's folder and return the page's path.

    `UserError` if matplotlib or jinja2 is missing, or if a file of the sweep is missing, damaged or cannot be written.
    """
    page.require()
    from meanstep.program.reproduce.points.report.diagnoses import DIAGNOSES
    from meanstep.program.reproduce.points.report.figures import FIGURES

    results = read(folder)
    drawn = page.drawn(folder / "figures", {name: partial(draw, results) for name, draw in {**FIGURES, **DIAGNOSES}.items()})
    rows = summary.numbers(results)
    write(folder / "summary.csv", page.as_csv(summary.Number, rows))
    filters: dict[str, Any] = {"number": number, "p": readable_p, "measured": with_interval, "shown": shown}
    text = page.rendered(__package__ or "", _content(results, claims(results), rows, page.figures(drawn)), filters)
    text = text.replace("β = ", "β\u00a0=\u00a0").replace("|κ|", "|\u2060κ\u2060|")  # no line ends inside these
    return page.published(text, folder)


def _content(results: Results, found: list[Claim], rows: list[summary.Number], drawn: dict[str, tuple[str, int]]) -> dict[str, Any]:
    return {
        "title": f"meanstep reproduce {results.study}: {len(results.sets)} sets, {len(results.ids)} models, {len(results.seeds)} seeds",
        "results": results,
        "tiles": prose.tiles(results, found),
        "headline": prose.headline(results, found),
        "gaps": prose.gaps(results),
        "settings": prose.settings(results),
        "environment": prose.environment(results),
        "duration": prose.duration(results),
        "command": prose.command(results),
        "cards": _cards(results),
        "choices": _choices(results),
        "drawn": drawn,
        "claims": [(claim, strip(claim)) for claim in found],
        "tests": sum(claim.tests for claim in found),
        "rule": RULE,
        "rows": rows,
    }


def _choices(results: Results) -> list[dict[str, Any]]:
    """What the slider moves over: an arm's coefficients, or the one model of an arm."""
    pictured = {id for arrays in results.samples.values() for id in arrays}
    found = []
    for arm, lines in results.swept().items():
        steps = [{"label": f"β = {line.beta:g}", "id": line.id} for line in lines if line.id in pictured]
        if steps:
            found.append({"label": "the paper's arm" if arm == "paper" else arm, "steps": steps})
    return found + [{"label": x.id, "steps": [{"label": x.id, "id": x.id}]} for x in results.singles() if x.id in pictured]


def _cards(results: Results) -> list[dict[str, Any]]:
    from meanstep.program.reproduce.points.report import pictures

    cards = []
    for name, arrays in results.samples.items():
        if "data" not in arrays:
            continue
        window = pictures.frame(arrays["data"])
        images = {id: page.embedded(pictures.png(pictures.picture(points, window))) for id, points in arrays.items()}
        lost = {id: pictures.outside(points, window) for id, points in arrays.items()}
        notes = {id: _note(results, name, id, lost[id]) for id in arrays if id != "data"}
        cards.append({"name": name, "data": images.pop("data"), "images": images, "notes": notes, "dim": arrays["data"].shape[1]})
    return cards


def _note(results: Results, name: str, id: str, lost: float) -> str:
    found = mean(results.score(name, id).values())
    score = f"SW1 {number(found.mean)}" + (f" ± {found.sd:.1g}" if found.sd is not None else "") if found else "no score"
    return score + (f", {100 * lost:.0f}% outside the window" if lost > 0.01 else "")


def spoken(folder: Path) -> list[str]:
    """The headline numbers of a sweep's folder, a line each, and what is missing."""
    results = read(folder)
    found = [f"{number:>8}  {words} ({sure})" for number, words, sure in prose.tiles(results, claims(results))]
    return [*found, *prose.gaps(results)]
