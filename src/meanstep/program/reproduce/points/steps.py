"""What to do after a sweep, by what its samples said. Knows no page."""

from collections.abc import Iterator

from meanstep.program.pages.form import OPEN, Step
from meanstep.program.pages.verdicts import shown
from meanstep.program.reproduce.points.quantities import far
from meanstep.program.reproduce.points.rerun import commands
from meanstep.program.reproduce.points.results import Results
from meanstep.program.reproduce.report.compared import Pooled
from meanstep.program.reproduce.report.prose import some


def steps(results: Results, told: Pooled) -> tuple[Step, ...]:
    """Sentences with their commands."""
    name = str(results.about["study"])
    if not results.runs or far(results):
        return (Step("Train longer, then read this page again.", f"meanstep reproduce {name} --scale quick"),)
    if not told.each.changes:
        return (Step("Train both coefficients.", f"meanstep reproduce {name} --betas 0 1 --arms paper"),)
    more = max(results.seeds, default=0) + 3
    seeds = f"meanstep reproduce {name} --seeds 0:{more} --out {results.folder}"
    last = {
        True: Step("Add seeds: the intervals are too wide to decide.", seeds),
        False: Step("Make the study again, or go on with it, by its own command.", next(iter(commands(results)), "")),
    }
    return (*map(Step, _advice(told)), last[told.state == OPEN])


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
