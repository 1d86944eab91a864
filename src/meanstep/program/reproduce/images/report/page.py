"""From a study's folder to figures, summary.csv and one page that works offline. Knows no networks and trains nothing.

A report is a function of what the folder holds; whatever is missing there is missing in the report, which says so.
"""

import io
import re
from functools import partial
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.disk import write
from meanstep.program.pages import page
from meanstep.program.pages.statistics import mean
from meanstep.program.pages.strips import strip
from meanstep.program.pages.verdicts import RULE, Claim, number, readable_p, shown, with_interval
from meanstep.program.reading.images import picture
from meanstep.program.registry import INSTANTANEOUS, METHODS
from meanstep.program.reproduce.images import published, records
from meanstep.program.reproduce.images.report import costs, prose, quantities, rerun, summary
from meanstep.program.reproduce.images.report.beats import BEATS, with_p
from meanstep.program.reproduce.images.report.caveats import caveats, uncounted
from meanstep.program.reproduce.images.report.claims import claims
from meanstep.program.reproduce.images.report.contests import TERMS, Contest, contests, together, unmatched
from meanstep.program.reproduce.images.report.results import BIAS_NORMS, WEIGHTS, Arm, Results, read

WIDEST = 640
"""Pixels of an embedded grid of samples."""
APART = re.compile(r"(<(?:style|script|pre|code)\b.*?</(?:style|script|pre|code)>|<[^>]*>)", re.DOTALL)
"""Markup, and what is not prose within it."""


def build(folder: Path) -> Path:
    """Write figures/*.png, summary.csv and report.html into the study's folder and return the page's path; one process at a time.

    `UserError` if matplotlib or jinja2 is missing, or if a file of the study is missing, damaged or cannot be written.
    """
    page.require()
    records.study(folder)
    with records.alone(folder):
        return _build(folder)


def _build(folder: Path) -> Path:
    from meanstep.program.reproduce.images.report import figures, probes

    results = read(folder)
    drawings = {**figures.FIGURES, **probes.FIGURES}
    drawn = page.drawn(folder / "figures", {name: partial(draw, results) for name, draw in drawings.items()})
    write(folder / "summary.csv", page.as_csv(summary.Number, summary.numbers(results)))
    filters: dict[str, Any] = {"number": number, "p": readable_p, "measured": with_interval, "shown": shown}
    text = page.rendered(__package__ or "", _content(results, claims(results), page.figures(drawn)), filters)
    text = published.added(text, results)
    text = "".join(part if k % 2 else signed(part) for k, part in enumerate(APART.split(text)))
    return page.published(text.replace("β = ", "β\u00a0=\u00a0"), folder)  # no line ends inside


def signed(text: str) -> str:
    """With true minus signs before numbers; what joins words, dates or powers of ten stays."""
    return re.sub(r"(?<![\w.@\u2212-])-(?=\d)", "\u2212", text)


def spoken(folder: Path) -> list[str]:
    """The headline of a study's folder, a line each, and what is missing."""
    records.study(folder)
    with records.alone(folder):
        results = read(folder)
    found = [f"{value:>12}  {words} ({sure})" for value, words, sure in prose.tiles(results, claims(results))]
    return [signed(line) for line in [*found, *prose.headline(results), *prose.gaps(results)]]


def _content(results: Results, found: list[Claim], drawn: dict[str, tuple[str, int]]) -> dict[str, Any]:
    held = {terms: contests(results, terms) for terms in TERMS}
    return {
        "results": results,
        "tiles": prose.tiles(results, found),
        "headline": prose.headline(results),
        "gaps": prose.gaps(results),
        "claims": [(with_p(claim, held[BEATS[claim.key]]) if claim.key in BEATS else claim, strip(claim)) for claim in found],
        "tests": sum(claim.tests for claim in found),
        "rule": RULE,
        "drawn": drawn,
        "pictures": [(arm, *_numbered(results.pictures[arm.name], arm.name)) for arm in results.arms if arm.name in results.pictures],
        **_tables(results, held),
        "kinds": quantities.kinds(results),
        "norms": BIAS_NORMS,
        "settings": prose.settings(results),
        "paper": prose.PAPERS,
        "environment": prose.environment(results),
        "commands": rerun.commands(results),
        "own": (rerun.FILE, rerun.own(results)),
        "many": [entry["name"] for entry in results.about["arms"] if _still(entry["recipe"])],
    }


def _still(recipe: str) -> bool:
    """Whether a recipe of ours teaches the instantaneous velocity only, so that its samples take many steps."""
    return recipe in METHODS and METHODS[recipe].learns == INSTANTANEOUS


def _tables(results: Results, held: dict[str, list[Contest]]) -> dict[str, Any]:
    return {
        "distances": _distances(results),
        "contests": held,
        "unmatched": {terms: together(unmatched(results, terms)) for terms in held},
        "caveats": {terms: caveats(results, terms) for terms in held},
        "uncounted": uncounted(results),
        "costs": costs.table(results),
        "clocks": " and ".join(costs.clocks(results)) or "none were taken",
    }


def _distances(results: Results) -> list[tuple[Arm, int, list[str]]]:
    """Of each arm: number of seeds, mean and 95% interval at the end, by weights and steps."""
    made = []
    for arm in results.arms:
        found = [results.distance(arm, results.end, weights, steps) for weights in WEIGHTS for steps in results.steps]
        if seeds := {seed for each in found for seed in each}:
            made.append((arm, len(seeds), [_words(each) for each in found]))
    return made


def _words(found: dict[int, float]) -> str:
    m = mean(found.values())
    return "" if m is None else number(m.mean) + (f" ± {number(m.high - m.mean)}" if m.high is not None else "")


def _numbered(path: Path, name: str) -> tuple[str, str]:
    """The seed of an arm's grid of samples, and the grid."""
    return path.stem.removeprefix(f"{name}-"), _picture(path)


def _picture(path: Path) -> str:
    """A grid of samples in a URL, made smaller where it is wide."""
    try:
        with picture(path) as image:
            if image.width <= WIDEST:
                return page.embedded(path.read_bytes())
            small = image.convert("RGB")
    except UserError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, the report can do without") from None
    small.thumbnail((WIDEST, 4 * WIDEST))
    held = io.BytesIO()
    small.save(held, "JPEG", quality=85)
    return page.embedded(held.getvalue(), "jpeg")
