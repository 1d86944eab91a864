"""What the page of a sweep has beyond any study's: headline and gaps in words, settings and whose they are, pictures to move through."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from math import exp, inf
from typing import Any

import numpy as np

from meanstep.program.pages.page import embedded
from meanstep.program.pages.statistics import Change, across, mean
from meanstep.program.pages.verdicts import FAILS, HOLDS, OPEN, Claim, number, shown
from meanstep.program.reproduce.points import KIND
from meanstep.program.reproduce.points.claims import CLAIMS
from meanstep.program.reproduce.points.quantities import changes_of, far, quantities, trace_ratio
from meanstep.program.reproduce.points.results import ANCHORED, BASE, Results
from meanstep.program.reproduce.points.settings import PUBLISHED
from meanstep.program.reproduce.report.page import Report
from meanstep.program.reproduce.report.prose import Tile, alone, percent, some
from meanstep.program.reproduce.report.summary import COLUMNS

OF_PAPER: dict[str, Any] = {"steps": 200_000, "width": 128, "depth": 3, "anchor": 0.5, "delta": [1e-4, 1e-2]}
OF_AUTHORS = PUBLISHED | {
    "steps": 200_000,
    "width": 128,
    "depth": 3,
    "largest_gap": 0.5,
    "seeds": [42, 0, 1],
    "centres": "redrawn",
    "protocol": "authors",
}
UNASKED = ("anchor", "delta", "reference", "probe", "c")
"""Settings that nothing under the authors' protocol reads."""
COMMAND = ("sets", "betas", "seeds", "arms", "steps", "points", "protocol", "largest_gap", "centres")
Changes = dict[str, Change]


def tiles(results: Results) -> Iterator[Tile]:
    """The numbers that matter: (number, what it is, how sure)."""
    sw1 = {} if far(results) else changes_of(results, ANCHORED)
    if sw1:
        yield percent(_centre(sw1)), "SW1 of one-step samples, β = 1 against β = 0", _sure(sw1, percent)
    if trace := _traces(results):
        words = "variance of the gradient, β = 0 over β = 1, on the same weights"
        yield f"{_centre(trace):.2g}×", words, _sure(trace, "{:.2g}×".format)


def headline(results: Results, claims: Sequence[Claim]) -> list[str]:
    """Sentences, most important first."""
    if why := far(results):
        return [f"Which β is best and what it gains is not said: {why}.", *_variance(results)]
    return [*_quality(changes_of(results, ANCHORED)), *_variance(results), *_best(results), *_price(claims)]


def _traces(results: Results) -> Changes:
    return {name: change for name in results.sets if (change := trace_ratio(results, name)).n}


def _centre(changes: Changes) -> float:
    """Geometric mean over sets, each set once."""
    return exp(float(np.mean([np.mean(change.differences) for change in changes.values()])))


def _sure(changes: Changes, show: Callable[[float], str]) -> str:
    several = across(changes.values())
    if several.interval:
        return f"95% interval {show(several.interval[0])} to {show(several.interval[1])} across {several.n} sets"
    (name, change), *rest = changes.items()
    if not rest and change.interval:
        return f"95% interval {show(change.interval[0])} to {show(change.interval[1])} over {change.n} seeds, {shown(name)} only"
    return "one seed: no interval" if change.n < 2 else ""


def _quality(changes: Changes) -> Iterator[str]:
    if changes and all(change.n < 2 for change in changes.values()):
        listed = ", ".join(f"{shown(n)} {percent(c.value)}" for n, c in changes.items())
        yield f"From β = 0 to the paper's β = 1, SW1 of one-step samples changed by: {listed}. One seed: no interval, nothing is claimed."
    elif changes:
        told = {"better": [n for n, c in changes.items() if c.inside(0, 1)], "worse": [n for n, c in changes.items() if c.inside(1, inf)]}
        told["not told apart"] = [name for name in changes if name not in (*told["better"], *told["worse"])]
        ordered = {words: sorted(names, key=lambda name: changes[name].value) for words, names in told.items() if names}
        parts = (f"{w} on {', '.join(f'{shown(n)} ({percent(changes[n].value)})' for n in names)}" for w, names in ordered.items())
        yield f"At the paper's β = 1 one-step samples are, by SW1 against β = 0, {'; '.join(parts)}."


def _variance(results: Results) -> Iterator[str]:
    if changes := _traces(results):
        low, high = (pick(changes, key=lambda name: changes[name].value) for pick in (min, max))
        span = " to ".join(f"{number(changes[name].value)} ({shown(name)})" for name in dict.fromkeys((low, high)))
        quieter = sum(change.inside(1, inf) for change in changes.values())
        told = f": β = 1 is quieter on {quieter} of {len(changes)} sets" if any(change.n > 1 for change in changes.values()) else ""
        yield f"On the same weights, trained at β = 0, the gradient's variance at β = 0 over that at β = 1 is {span}{told}."


def _best(results: Results) -> Iterator[str]:
    every = {id: changes_of(results, id) for id in results.ids if id != BASE}
    most = max((len(found) for found in every.values()), default=0)
    gains = {id: _centre(found) for id, found in every.items() if found and len(found) == most}
    if gains:
        best, where = min(gains, key=lambda id: gains[id]), "set" if most == 1 else f"{most} sets"
        lowest = f"Of {len(gains) + 1} models, “{best}” has the lowest SW1 over the {where}: {percent(gains[best])} against β = 0."
        yield lowest if gains[best] < 1 else f"No model has a lower SW1 over the {where} than β = 0."


def _price(claims: Sequence[Claim]) -> Iterator[str]:
    for claim in claims:
        if claim.key == "mismatch" and claim.rows:
            words = {HOLDS: "costs quality", FAILS: "costs no quality", OPEN: "may or may not cost quality"}[claim.verdict]
            yield f"Choosing β by the gradient's error {words}: {claim.sentence}"


def gaps(results: Results) -> Iterator[str]:
    """What is missing, so that nobody takes it for measured."""
    left_out = {"have no record yet": results.missing, "did not end with finite scores": results.diverged}
    for words, keys in left_out.items():
        if keys:
            named = some([f"{id} on {shown(name)} with seed {seed}" for name, id, seed in keys])
            yield f"{len(keys)} models {words} and are left out: {named}."
    yield from alone(results)
    if why := far(results):
        yield (
            f"One-step samples are still far from the data ({why}): no claim is decided, and the numbers below say little about the "
            "methods. Train longer, e.g. --scale quick."
        )
    if not results.runs:
        yield "No model has been trained yet."


def settings(results: Results) -> Iterator[tuple[str, str, str]]:
    """(name, value, whose): the authors' under their protocol, the paper's where it states one, or ours."""
    authors = results.settings.get("protocol") == "authors"
    whose, known = ("the authors'", OF_AUTHORS) if authors else ("the paper's", OF_PAPER)
    for key, value in results.settings.items():
        if value is not None and value is not False and not (authors and key in UNASKED):
            same = key in known and value == known[key]
            ours = f"ours ({whose}: {_value(known[key])})" if key in known else "ours"
            yield key.replace("_", " "), _value(value), whose if same else ours


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else f"{value:g}" if isinstance(value, float) else str(value)


def commands(results: Results) -> list[str]:
    """The command that makes this sweep."""
    known = [each["command"] for each in results.environments if isinstance(each.get("command"), str)]
    if known:
        return known
    words = ["meanstep", "reproduce", results.about["study"]]
    for key in COMMAND:
        value = results.settings.get(key)
        value = [x for x in value if x != "points"] if key == "sets" and value else value
        if value not in (None, []):
            listed = value if isinstance(value, list) else [value]
            words += [KIND.option(key), *(shlex.quote(f"{x:g}" if isinstance(x, float) else str(x)) for x in listed)]
    return [" ".join(words)]


def content(results: Results) -> dict[str, Any]:
    """For the template."""
    many = {"sets": len(results.sets), "models": len(results.ids), "seeds": len(results.seeds)}
    return {
        "title": f"meanstep reproduce {results.about['study']}: {', '.join(f'{n} {what}' for what, n in many.items())}",
        "duration": _duration(sum(run[0].get("seconds") or 0 for run in results.runs.values())),
        "cards": _cards(results),
        "choices": _choices(results),
    }


def _duration(seconds: float) -> str:
    hours, minutes = f"{seconds / 3600:.1f} hours", f"{seconds / 60:.0f} minutes"
    return hours if seconds >= 5400 else minutes if seconds >= 90 else f"{seconds:.0f} seconds"


def _choices(results: Results) -> list[dict[str, Any]]:
    """What the slider moves over: an arm's coefficients, or the one model of an arm."""
    groups = {arm: [(f"β = {line.beta:g}", line.id) for line in lines] for arm, lines in results.swept().items()}
    groups |= {line.id: [(line.id, line.id)] for line in results.singles()}
    pictured = {id for arrays in results.samples.values() for id in arrays}
    steps = {arm: [{"label": label, "id": id} for label, id in pairs if id in pictured] for arm, pairs in groups.items()}
    return [{"label": "the paper's arm" if arm == "paper" else arm, "steps": found} for arm, found in steps.items() if found]


def _cards(results: Results) -> list[dict[str, Any]]:
    from meanstep.program.reproduce.points import pictures

    cards = []
    for name, arrays in results.samples.items():
        if "data" in arrays:
            window = pictures.frame(arrays["data"])
            images = {id: embedded(pictures.png(pictures.picture(points, window))) for id, points in arrays.items()}
            notes = {id: _note(results, name, id, pictures.outside(points, window)) for id, points in arrays.items() if id != "data"}
            cards.append({"name": name, "data": images.pop("data"), "images": images, "notes": notes, "dim": arrays["data"].shape[1]})
    return cards


def _note(results: Results, name: str, id: str, lost: float) -> str:
    found = mean(results.score(name, id).values())
    score = f"SW1 {number(found.mean)}" + (f" ± {found.sd:.1g}" if found.sd is not None else "") if found else "no score"
    return score + (f", {100 * lost:.0f}% outside the window" if lost > 0.01 else "")


REPORT = Report(
    quantities=quantities,
    results=Results,
    columns={name: name for name in COLUMNS if name != "seen"},
    claims=CLAIMS,
    figures=("figures", "optima"),
    far=far,
    tiles=tiles,
    headline=headline,
    gaps=gaps,
    settings=settings,
    commands=commands,
    content=content,
    template=__package__ or "",
)
