"""What a sample of training costs: counted passes, and seconds by the clock they were taken with. Knows no figures and no page."""

from collections.abc import Sequence
from math import inf, log

from meanstep.program.pages.statistics import Change, mean, ratio
from meanstep.program.pages.verdicts import Row, number, with_interval
from meanstep.program.reproduce.images.quantities import PROCESSOR, WALL, seconds
from meanstep.program.reproduce.images.results import Arm, Results

WORDS = {PROCESSOR: "processor seconds", WALL: "wall time"}


def table(results: Results) -> list[tuple[Arm, str, str, str]]:
    """Of each arm: counted passes over those of the constant 0, seconds of 1,000 samples, and these over the constant 0's, by clock."""
    base = results.base
    return [(arm, number(arm.cost / base.cost) if base else "", *_seconds(results, arm)) for arm in results.arms]


def clocks(results: Results) -> list[str]:
    """In words, those that seconds were taken with."""
    return [words for clock, words in WORDS.items() if any(seconds(results, arm, clock) for arm in results.arms)]


def _seconds(results: Results, arm: Arm) -> tuple[str, str]:
    spent = {clock: mean(seconds(results, arm, clock).values()) for clock in WORDS}
    measured = [f"{number(1000 * m.mean / results.end)}{_by(clock)}" for clock, m in spent.items() if m and results.end]
    over = {} if arm is results.base else _over(results, arm)
    return "; ".join(measured), "; ".join(f"{with_interval(change)}{_by(clock)}" for clock, change in over.items())


def _by(clock: str) -> str:
    return " (wall time)" if clock == WALL else ""


def _over(results: Results, arm: Arm) -> dict[str, Change]:
    """Seconds over those of the constant 0 by the same clock."""
    found = {clock: ratio(seconds(results, arm, clock), seconds(results, results.base, clock)) for clock in WORDS}
    return {clock: change for clock, change in found.items() if change.n}


def rows(results: Results, arms: Sequence[Arm], times: float) -> list[Row]:
    """Processor seconds over those at 0, judged against a published ratio; wall time and counted passes for information."""
    claimed, base, paper = (times - 0.05, times + 0.05), results.base, f"{times:.2f}"
    over, none = {arm.name: _over(results, arm) for arm in arms}, Change(())
    found = [Row(f"{arm}, {WORDS[PROCESSOR]}", by.get(PROCESSOR, none), paper, claimed, (1.0, inf)) for arm, by in over.items()]
    found += [Row(f"{arm}, {WORDS[WALL]}", by[WALL], paper) for arm, by in over.items() if WALL in by]
    return found + [Row(f"{arm.name}, counted passes", Change((log(arm.cost / base.cost),)), paper) for arm in arms if base]


def needs(found: Sequence[Row]) -> str:
    """Why such rows decide nothing."""
    if any(row.where.endswith(WORDS[WALL]) for row in found) and not any(row.claimed and row.change.n for row in found):
        return "wall time was taken, which whatever else the machine does makes longer, so it is here for information"
    return "it needs constants and anchored arms (--arms constants anchors)"
