"""What to do after a sweep, by what its samples said. Knows no page."""

from collections.abc import Iterator

from meanstep.program.pages.form import OPEN, Step
from meanstep.program.pages.verdicts import shown
from meanstep.program.reproduce.points.quantities import far
from meanstep.program.reproduce.points.rerun import commands
from meanstep.program.reproduce.points.results import ALONE, ANCHORED, BASE, Results
from meanstep.program.reproduce.report.commands import beside, put, seeded
from meanstep.program.reproduce.report.compared import Pooled
from meanstep.program.reproduce.report.prose import some

MORE, TIMES = 3, 4
"""So many seeds are added; so many times longer a training is that did not come near the data."""


def steps(results: Results, told: Pooled) -> tuple[Step, ...]:
    """Sentences with their commands, each the study's own with an option replaced; in a folder of its own where settings change."""
    (own,), held = commands(results), results.settings
    if not results.runs:
        return (Step("Train it, then read this page again.", own),)
    if far(results):
        longer = put(own, "--updates", TIMES * int(held.get("steps") or 1))
        return (Step("Train longer, then read the page of that.", _beside(results, longer, "longer")),)
    if not told.each.changes:
        if BASE in results.ids and {ANCHORED, ALONE} & {*results.ids}:
            return (Step("Go on until both coefficients are measured at one seed.", own),)
        arms = "plain" if held.get("protocol") == "authors" else "paper"
        both = put(put(own, "--betas", 0, 1), "--arms", arms)
        return (Step("Train both coefficients.", _beside(results, both, "both")),)
    seeds = tuple(held.get("seeds") or results.seeds)
    last = {
        True: Step("Add seeds: the intervals are too wide to decide.", seeded(own, seeds, MORE)),
        False: Step("Make the study again, or go on with it, by its own command.", own),
    }
    return (*map(Step, _advice(told)), last[told.state == OPEN and not told.change.over + told.change.under])


def _beside(results: Results, command: str, word: str) -> str:
    """The command in a folder of its own."""
    return put(command, "--out", beside(results.folder, word))


def _advice(told: Pooled) -> Iterator[str]:
    """For data like all sets where they decide together, and like single ones that decide otherwise."""
    if told.state != OPEN:
        yield ADVICE[told.state].format("these")
    for found, words in ADVICE.items():
        names = told.each.named(found)
        if names and found != told.state:
            yield words.format(some([shown(name) for name in names], 6))


ADVICE = {
    "better": "Train with β = 1 on data like {}, and compare samples of both coefficients on your own.",
    "worse": "Stay at β = 0, the original MeanFlow, on data like {}.",
}
