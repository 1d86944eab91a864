"""What the page of a sweep says first: whether the coefficient made samples better, by how much and how surely. Knows no page."""

from collections.abc import Callable, Iterator, Sequence
from math import exp

import numpy as np

from meanstep.program.pages.forest import forest, state, states
from meanstep.program.pages.form import KNOWN, OPEN, Answer, Shown, Step, Tile
from meanstep.program.pages.statistics import Change, across, mean
from meanstep.program.pages.verdicts import Claim, number, shown
from meanstep.program.reproduce.points.quantities import changes_of, far, overall, trace_ratio
from meanstep.program.reproduce.points.rerun import commands
from meanstep.program.reproduce.points.results import ANCHORED, BASE, Results
from meanstep.program.reproduce.report.prose import counted, kind, percent, seeds_of

ALONE = "ema 1"
"""The averaged copy without the anchor: what a study compares that trained no model with it."""
Changes = dict[str, Change]


def answer(results: Results, claims: Sequence[Claim]) -> Answer:
    """Title, tiles, figure and what to do."""
    id = ANCHORED if changes_of(results, ANCHORED) or not changes_of(results, ALONE) else ALONE
    changes = {} if far(results) else changes_of(results, id)
    tiles = (_samples(results, changes), _signal(traces(results)), counted(claims))
    return Answer(
        _title(results, changes), tuple(_about(results, id)), tiles, _steps(results, changes), kind(results), _shown(results, changes, id)
    )


def traces(results: Results) -> Changes:
    """The variance of the gradient at beta 0 over that at 1, by set."""
    return {name: change for name in results.sets if (change := trace_ratio(results, name)).n}


def centre(changes: Changes) -> float:
    """Geometric mean over sets, each set once."""
    return exp(float(np.mean([np.mean(change.differences) for change in changes.values()])))


def sure(changes: Changes, show: Callable[[float], str]) -> str:
    """How sure the centre is."""
    several = across(changes.values())
    if several.interval:
        return f"95% interval {show(several.interval[0])} to {show(several.interval[1])} across {several.n} sets."
    (name, change), *rest = changes.items()
    if not rest and change.interval:
        return f"95% interval {show(change.interval[0])} to {show(change.interval[1])} over {change.n} seeds, {shown(name)} only."
    return "One seed: no interval." if change.n < 2 else "No interval across sets."


def _title(results: Results, changes: Changes) -> str:
    came = dict(zip(changes, states([*changes.values()]), strict=True))
    better, worse = ([name for name in changes if came[name] == found] for found in ("better", "worse"))
    signal = "A calmer training signal"
    if not results.runs:
        return "Nothing has been measured yet."
    if far(results):
        return "Nothing can be said about the methods: their samples are still too far from the data."
    if not changes:
        return "This study does not compare MeanFlow with a calmer training signal."
    if not better and not worse:
        return "This study cannot tell whether a calmer training signal changes one-step samples."
    if len(changes) == 1:
        return f"{signal} makes one-step samples {'better' if better else 'worse'} on {shown(next(iter(changes)))}."
    parts = [f"{words} on {len(names)}" for words, names in (("better", better), ("worse", worse)) if names]
    left = len(changes) - len(better) - len(worse)
    rest = f"; {'the other one' if left == 1 else f'the other {left}'} cannot be told apart" if left else ""
    return f"{signal} makes one-step samples {' and '.join(parts)} of {len(changes)} data sets{rest}."


def _about(results: Results, id: str) -> Iterator[str]:
    anchor = " and adds an anchor to the loss" if id == ANCHORED else ""
    yield "MeanFlow trains along the noisy velocity of a single pair of data and noise: β = 0."
    yield f"The calmer signal, β = 1, takes an averaged copy's estimate in its place{anchor}."
    sets = f"{len(results.sets)} data {'set' if len(results.sets) == 1 else 'sets'}"
    yield f"Both were trained from the same weights on the same rows: {len(results.runs)} models, {sets}, {seeds_of(results)}."


def _samples(results: Results, changes: Changes) -> Tile:
    if not changes:
        why = far(results)
        words = f"{why[0].upper()}{why[1:]}." if why else "No model at β = 1 has a distance beside one at β = 0."
        return Tile("Samples: not compared", words, "Nothing follows.")
    one, found = centre(changes), overall(changes)[1]
    came = state(found)
    words = f"Sliced distance SW1 of one-step samples at β = 1 over that at β = 0: {percent(one)}{_over(changes)}."
    heads = {
        "better": f"Samples: {abs(100 * (one - 1)):.0f}% nearer to the data",
        "worse": f"Samples: {abs(100 * (one - 1)):.0f}% farther from the data",
        OPEN: "Samples: no difference can be told",
    }
    return Tile(heads[came], f"{words} {_floor(results, changes)}", sure(changes, percent), came)


def _over(changes: Changes) -> str:
    return "" if len(changes) == 1 else f" in the mean over {len(changes)} data sets"


def _floor(results: Results, changes: Changes) -> str:
    """The distances behind a ratio, beside their floor."""
    base = [m.mean for name in changes if (m := mean(results.score(name, BASE).values()))]
    floors = [m.mean for name in changes if (m := mean(results.floor(name)))]
    said = f"At β = 0 it is {number(float(np.mean(base)))}" if base else ""
    return (
        f"{said}; fresh data score {number(float(np.mean(floors)))}, the floor."
        if floors and said
        else f"{said}; the floor was not measured."
    )


def _signal(changes: Changes) -> Tile:
    if not changes:
        return Tile("Training signal: not measured", "No model has a probe of its gradient at both coefficients.", "Nothing follows.")
    one, came = centre(changes), state(overall(changes)[1], less=False)
    words = f"Variance of the gradient on the same weights, β = 0 over β = 1: {one:.2g} times. A quiet signal need not make better samples."
    heads = {
        "better": f"Training signal: {one:.2g} times quieter",
        "worse": f"Training signal: {1 / one:.2g} times noisier",
        OPEN: "Training signal: no difference can be told",
    }
    return Tile(heads[came], words, sure(changes, "{:.2g}×".format), KNOWN if came == "better" else came)


def _shown(results: Results, changes: Changes, id: str) -> Shown:
    if changes:
        rows = [(shown(name), change, _distances(results, name, id)) for name, change in changes.items()]
        where, every = overall(changes)
        rows += [("all sets", every, where)] if len(changes) > 1 else []
        words = "Each row is a data set: its distance at β = 1 over that at β = 0, with the 95% interval. Grey rows decide nothing."
        return Shown(words, rows=forest(rows, "← better at β = 1", "worse →"))
    return Shown("Distance of one-step samples and residual over training, where they were recorded.", name="training")


def _distances(results: Results, name: str, id: str) -> str:
    found = [mean(results.score(name, each).values()) for each in (BASE, id)]
    floor = mean(results.floor(name))
    values = " → ".join(number(m.mean) for m in found if m)
    return f"SW1 {values}, floor {number(floor.mean)}" if floor else f"SW1 {values}, floor unknown"


def _steps(results: Results, changes: Changes) -> tuple[Step, ...]:
    name = str(results.about["study"])
    if not results.runs or far(results):
        return (Step("Train longer, then read this page again.", f"meanstep reproduce {name} --scale quick"),)
    if not changes:
        return (Step("Train both coefficients.", f"meanstep reproduce {name} --betas 0 1 --arms paper"),)
    came = state(overall(changes)[1])
    if came == OPEN:
        more = max(results.seeds, default=0) + 3
        return (
            Step("Add seeds: the intervals are too wide to decide.", f"meanstep reproduce {name} --seeds 0:{more} --out {results.folder}"),
        )
    advice = {
        "better": "Train with β = 1 on data like these, and compare samples of both coefficients on your own.",
        "worse": "Stay at β = 0, the original MeanFlow, on data like these.",
    }
    return (Step(advice[came]), Step("Make the study again, or go on with it, by its own command.", next(iter(commands(results)), "")))
