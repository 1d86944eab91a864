"""What the page of a sweep says first: whether the coefficient made samples better, by how much and how surely. Knows no page."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from meanstep.program.pages.forest import forest
from meanstep.program.pages.form import KNOWN, OPEN, Answer, Shown, Tile
from meanstep.program.pages.statistics import mean
from meanstep.program.pages.verdicts import Claim, number, shown
from meanstep.program.reproduce.points.quantities import changes_of, far, in_training, trace_ratio
from meanstep.program.reproduce.points.results import ALONE, ANCHORED, BASE, Results
from meanstep.program.reproduce.points.steps import steps
from meanstep.program.reproduce.report.compared import Changes, Pooled
from meanstep.program.reproduce.report.prose import aside, counted, kind, percent, seeds_of

WAYS = {"nearer": "better", "farther": "worse"}


def answer(results: Results, claims: Sequence[Claim]) -> Answer:
    """Title, tiles, figure and what to do."""
    id, told = calmer(results), compared(results)
    tiles = (_samples(results, told), _signal(Pooled.of(quieter(results), less=False), in_training(results)), counted(claims))
    return Answer(_title(results, told), tuple(_about(results, id)), tiles, steps(results, told), kind(results), _shown(results, told, id))


def calmer(results: Results) -> str:
    """The model at beta 1 that is compared with that at 0: with the anchor, or alone where only that was measured."""
    return ANCHORED if changes_of(results, ANCHORED) or not changes_of(results, ALONE) else ALONE


def compared(results: Results) -> Pooled:
    """One-step samples at beta 1 over those at beta 0; without a set where nothing can be said."""
    return Pooled.of({} if far(results) else changes_of(results, calmer(results)))


def quieter(results: Results) -> Changes:
    """The variance of the gradient at beta 0 over that at 1, by set."""
    return {name: change for name in results.sets if (change := trace_ratio(results, name)).known}


def sure(told: Pooled, show: Callable[[float], str]) -> str:
    """How sure the value of all sets is."""
    said = "No interval across sets." if any(change.n > 1 for change in told.counted.values()) else "One seed: no interval."
    if found := told.change.interval:
        n, (name, *others) = told.change.n, told.each.changes
        over = f"across {n} sets" if others else f"over {n} seeds, {shown(name)} only"
        said = f"95% interval {show(found[0])} to {show(found[1])} {over}."
    return " ".join([said, *aside(told.change)])


def _title(results: Results, told: Pooled) -> str:
    if not results.runs:
        return "Nothing has been measured yet."
    if far(results):
        return "Nothing can be said about the methods: their samples are still too far from the data."
    if not told.each.changes:
        return "This study does not compare MeanFlow with a calmer training signal."
    if told.found == OPEN:
        return "This study cannot tell whether a calmer training signal changes one-step samples."
    return f"A calmer training signal makes one-step samples {_where(told)}."


def _where(told: Pooled) -> str:
    """All sets first, where they decide, then how many decide alone."""
    n, better, worse = len(told.each.changes), told.each.named("better"), told.each.named("worse")
    if n == 1:
        return f"{told.found} on {shown(next(iter(told.each.changes)))}"
    alone = {words: len(names) for words, names in (("better", better), ("worse", worse)) if names}
    if told.state == OPEN or n in alone.values():
        parts = " and ".join(f"{words} on {k}" for words, k in alone.items())
        rest = "the rest and the mean stay open" if sum(alone.values()) < n else "the mean stays open"
        return f"{parts} of {n} data sets" + (f"; {rest}" if told.state == OPEN else "")
    same, other = alone.pop(told.state, 0), next(iter(alone.items()), None)
    tail = f" and on {same} of them alone" if same else ""
    return f"{told.state}{_over(told)}{tail}" + (f", but {other[0]} on {other[1]}" if other else "")


def _about(results: Results, id: str) -> Iterator[str]:
    anchor = " and adds an anchor to the loss" if id == ANCHORED else ""
    yield "MeanFlow trains along the noisy velocity of a single pair of data and noise: β = 0."
    yield f"The calmer signal, β = 1, takes an averaged copy's estimate in its place{anchor}."
    sets = f"{len(results.sets)} data {'set' if len(results.sets) == 1 else 'sets'}"
    yield f"Both were trained from the same weights on the same rows: {len(results.runs)} models, {sets}, {seeds_of(results)}."


def _samples(results: Results, told: Pooled) -> Tile:
    changes = told.each.changes
    if not changes:
        why = far(results)
        words = f"{why[0].upper()}{why[1:]}." if why else "No model at β = 1 has a distance beside one at β = 0."
        return Tile("Samples: not compared", words, "Nothing follows.")
    one, alone = told.value, ", ".join(f"{words} on {len(names)}" for words in WAYS if (names := told.each.named(WAYS[words])))
    words = f"Sliced distance SW1 of one-step samples at β = 1 over that at β = 0: {percent(one)}{_over(told)}."
    heads = {
        "better": f"Samples: {abs(100 * (one - 1)):.0f}% nearer to the data",
        "worse": f"Samples: {abs(100 * (one - 1)):.0f}% farther from the data",
        OPEN: f"Samples: {alone} of {len(changes)} data sets" if alone else "Samples: no difference can be told",
    }
    mean_of = "No difference can be told in the mean: " if alone and told.state == OPEN else ""
    return Tile(heads[told.state], f"{words} {_floor(results, told.counted)}", f"{mean_of}{sure(told, percent)}", told.found)


def _over(told: Pooled) -> str:
    """Of how many sets a value is; none is named where there is no other."""
    first, *rest = told.counted
    return f" in the mean over {1 + len(rest)} data sets" if rest else f" on {shown(first)}" if len(told.each.changes) > 1 else ""


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


def _signal(told: Pooled, training: bool) -> Tile:
    if not told.each.changes:
        return Tile("Training signal: not measured", "No gradient was measured at both coefficients.", "Nothing follows.")
    one, came = told.value, told.state
    where = "of a batch's gradient in training, each on its own weights" if training else "of the gradient on the same weights"
    words = f"Variance {where}, β = 0 over β = 1: {one:.2g} times. A quiet signal need not make better samples."
    heads = {
        "better": f"Training signal: {one:.2g} times quieter",
        "worse": f"Training signal: {1 / one:.2g} times noisier",
        OPEN: "Training signal: no difference can be told",
    }
    return Tile(heads[came], words, sure(told, "{:.2g}×".format), KNOWN if came == "better" else came)


def _shown(results: Results, told: Pooled, id: str) -> Shown:
    if changes := told.each.changes:
        rows = [(shown(name), change, _distances(results, name, id)) for name, change in changes.items()]
        rows += [("all sets", told.change, f"{told.change.n} sets as units")] if len(changes) > 1 else []
        words = "Each row is a data set: its distance at β = 1 over that at β = 0, with the 95% interval. Grey rows decide nothing."
        known = {shown(name): found for name, found in told.each.states.items()} | {"all sets": told.state}
        return Shown(words, rows=forest(rows, "← better at β = 1", "worse →", known=known))
    return Shown("Distance of one-step samples and residual over training, where they were recorded.", name="training")


def _distances(results: Results, name: str, id: str) -> str:
    found = [mean(results.score(name, each).values()) for each in (BASE, id)]
    floor = mean(results.floor(name))
    values = " → ".join(number(m.mean) for m in found if m)
    return f"SW1 {values}, floor {number(floor.mean)}" if floor else f"SW1 {values}, floor unknown"
