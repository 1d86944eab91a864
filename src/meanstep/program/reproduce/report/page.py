"""From a study's folder to figures, summary.csv and one page that works offline, by the workload that it is of. Trains nothing.

A report is a function of what the folder holds; whatever is missing there is missing in the report, which says so. What a workload's page
has beyond any study's is the constant `REPORT` of its module `report`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from meanstep.program.disk import write
from meanstep.program.pages import form, page
from meanstep.program.pages.form import Answer
from meanstep.program.pages.strips import strip
from meanstep.program.pages.verdicts import RULE, Claim, number, readable_p, shown, with_interval
from meanstep.program.reproduce.records import alone
from meanstep.program.reproduce.report import prose, summary
from meanstep.program.reproduce.report.claims import Stated, judged
from meanstep.program.reproduce.report.results import Results
from meanstep.program.reproduce.report.summary import Quantity
from meanstep.program.reproduce.study import read

APART = re.compile(r'(<(?:(?:style|script|pre|code)\b|table id="table").*?</(?:style|script|pre|code|table)>|<[^>]*>)', re.DOTALL)
"""Markup, and what is not prose within it."""
FILTERS: dict[str, Any] = {"number": number, "p": readable_p, "measured": with_interval, "shown": shown}


def _nothing(*found: Any) -> Any:
    return ()


@dataclass(frozen=True)
class Report:
    """What a workload measures, claims and draws; every function takes the `results` of a folder.

    `quantities`: its numbers, which `columns` of summary.csv show; `figures`: modules of its package with a table `FIGURES`; `far`: why
    nothing follows from its models, if so; `answer`: what its page says first, and `headline`: sentences of its details, are given the
    decided claims too; `content`: what its own template needs; `template`: the package that has it, the plain one where it has none.
    """

    quantities: Callable[[Any], Iterable[Quantity]]
    results: type[Results] = Results
    columns: Mapping[str, str] = field(default_factory=lambda: summary.COLUMNS)
    claims: tuple[Stated, ...] = ()
    figures: tuple[str, ...] = ()
    far: Callable[[Any], str] = _nothing
    answer: Callable[[Any, Sequence[Claim]], Answer] = prose.answer
    headline: Callable[[Any, Sequence[Claim]], Iterable[str]] = _nothing
    gaps: Callable[[Any], Iterable[str]] = prose.gaps
    settings: Callable[[Any], Iterable[tuple[str, ...]]] = prose.settings
    commands: Callable[[Any], Iterable[str]] = prose.command
    content: Callable[[Any], Mapping[str, Any]] = _nothing
    template: str = __package__ or ""


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Report, str, Any]]:
    """How a folder is reported, the package of its workload, and what it holds; nobody else writes a report there meanwhile."""
    kind = read(folder).kind
    report: Report = import_module(f"{kind.package}.report").REPORT
    with alone(folder) if kind.shared else nullcontext():
        yield report, kind.package, report.results.read(folder)


def build(folder: Path) -> Path:
    """Write figures/*.png, summary.csv and report.html into the study's folder and return the page's path.

    `UserError` if matplotlib or jinja2 is missing, or if a file of the study is missing, damaged or cannot be written.
    """
    page.require()
    with opened(folder) as (report, package, results):
        tables = (import_module(f"{package}.{name}").FIGURES for name in report.figures)
        drawings = {name: partial(draw, results) for table in tables for name, draw in table.items()}
        drawn = form.drawn(drawings)
        page.kept(folder / "figures", drawings, {name: each.image for name, each in drawn.items()})
        rows = summary.rows(report.quantities(results), report.columns)
        write(folder / "summary.csv", page.as_csv(report.columns, rows))
        found = _claims(report, results)
        content = _content(report, results, found) | {"columns": [*report.columns], "rows": rows}
        details = form.Details(report.template, content, drawn, FILTERS, {__package__ or "": ("study.html.j2",)})
        return page.published(form.rendered(_answer(report, results, found), details, _set), folder)


def spoken(folder: Path) -> list[str]:
    """The headline of a study's folder, a line each, and what is missing."""
    with opened(folder) as (report, _, results):
        found = _claims(report, results)
        lines = [*_answer(report, results, found).spoken, *report.headline(results, found)]
    return [signed(line) for line in lines]


def measured(folder: Path) -> list[Quantity]:
    """Every number that a study's folder holds."""
    with opened(folder) as (report, _, results):
        return [each for each in report.quantities(results) if each.seeds]


def claims(folder: Path) -> dict[str, Claim]:
    """What a study says of each claim, by its key."""
    with opened(folder) as (report, _, results):
        return {claim.key: claim for claim in _claims(report, results)}


def _claims(report: Report, results: Any) -> list[Claim]:
    return judged(report.claims, results, report.far(results) or "")


def _answer(report: Report, results: Any, found: Sequence[Claim]) -> Answer:
    return replace(report.answer(results, found), notes=(*report.gaps(results), *prose.mixed(results)))


def _content(report: Report, results: Any, found: Sequence[Claim]) -> dict[str, Any]:
    return {
        "results": results,
        "headline": [*report.headline(results, found)],
        "claims": [(claim, strip(claim)) for claim in found],
        "tests": sum(claim.tests for claim in found),
        "rule": RULE,
        "settings": [*report.settings(results)],
        "environment": prose.environment(results),
        "commands": [*report.commands(results)],
    } | dict(report.content(results))


def _set(text: str) -> str:
    """With true minus signs in prose, and no line ends where they would part a symbol."""
    text = "".join(part if k % 2 else signed(part) for k, part in enumerate(APART.split(text)))
    return text.replace("β = ", "β\u00a0=\u00a0").replace("|κ|", "|\u2060κ\u2060|")


def signed(text: str) -> str:
    """With true minus signs before numbers; what joins words, dates or powers of ten stays."""
    return re.sub(r"(?<![\w.@\u2212-])-(?=\d)", "\u2212", text)
