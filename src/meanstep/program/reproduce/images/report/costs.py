"""What a sample of training costs: counted passes, and seconds by the clock they were taken with. Knows no figures and no page."""

from collections.abc import Iterator, Sequence
from math import inf, log

from meanstep.program.pages.statistics import Change, mean, ratio
from meanstep.program.pages.verdicts import Claim, Row, claim, number, with_interval
from meanstep.program.reproduce.images.arms import ANCHORED
from meanstep.program.reproduce.images.report import quantities as q
from meanstep.program.reproduce.images.report.results import Arm, Results

WORDS = {q.PROCESSOR: "processor seconds", q.WALL: "wall time"}
NEEDS = "it needs constants and anchored arms (--arms constants anchors)"
ONLY_WALL = "wall time was taken, which whatever else the machine does makes longer, so it is here for information"


def interior(results: Results, source: str) -> Claim:
    """What a coefficient between the ends costs."""
    arms = [arm for arm in results.constants if arm.beta and arm.beta < 1]
    return _claim(results, arms, "costs-interior", "A coefficient between 0 and 1 costs 10 percent more time than β = 0.", source, 1.1)


def anchored(results: Results, source: str) -> Claim:
    """What the anchor at 1 costs."""
    arm = results.constant(1.0, ANCHORED)
    text = "β = 1 with the anchor costs 20 percent more time than β = 0."
    return _claim(results, [arm] if arm else [], "costs-anchor", text, source, 1.2)


def table(results: Results) -> list[tuple[Arm, str, str, str]]:
    """Of each arm: counted passes over those of the constant 0, seconds of 1,000 samples, and these over the constant 0's, by clock."""
    base = results.base
    return [(arm, number(arm.cost / base.cost) if base else "", *_seconds(results, arm)) for arm in results.arms]


def clocks(results: Results) -> list[str]:
    """In words, those that seconds were taken with."""
    return [words for clock, words in WORDS.items() if any(q.seconds(results, arm, clock) for arm in results.arms)]


def _seconds(results: Results, arm: Arm) -> tuple[str, str]:
    spent = {clock: mean(q.seconds(results, arm, clock).values()) for clock in WORDS}
    over = {clock: change for clock, change in _over(results, arm) if arm is not results.base}
    measured = [f"{number(1000 * m.mean / results.end)}{_by(clock)}" for clock, m in spent.items() if m and results.end]
    return "; ".join(measured), "; ".join(f"{with_interval(change)}{_by(clock)}" for clock, change in over.items())


def _by(clock: str) -> str:
    return " (wall time)" if clock == q.WALL else ""


def _over(results: Results, arm: Arm) -> Iterator[tuple[str, Change]]:
    """Seconds over those of the constant 0 by the same clock."""
    for clock in WORDS:
        if (change := ratio(q.seconds(results, arm, clock), q.seconds(results, results.base, clock))).n:
            yield clock, change


def _claim(results: Results, arms: Sequence[Arm], key: str, text: str, source: str, times: float) -> Claim:
    claimed, base, paper = (times - 0.05, times + 0.05), results.base, f"{times:.2f}"
    spent = [(arm, clock, change) for arm in arms for clock, change in _over(results, arm)]
    rows = [Row(f"{arm.name}, {WORDS[clock]}", change, paper, claimed, (1.0, inf)) for arm, clock, change in spent if clock == q.PROCESSOR]
    wall = [Row(f"{arm.name}, {WORDS[clock]}", change, paper) for arm, clock, change in spent if clock == q.WALL]
    counted = [Row(f"{arm.name}, counted passes", Change((log(arm.cost / base.cost),)), paper) for arm in arms if base]
    return claim(
        key,
        text,
        source,
        f"Processor seconds of training over those at β = 0, paired by seed: contradicted outside {claimed[0]:g} to {claimed[1]:g}. "
        "Wall time decides nothing.",
        "Time over that at β = 0",
        [*rows, *wall, *counted],
        ONLY_WALL if wall and not rows else NEEDS,
    )
