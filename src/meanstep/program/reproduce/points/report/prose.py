"""What a report says in words, from the numbers: headline, settings and whose they are, gaps, command. Knows no figures and no page."""

import shlex
from collections.abc import Iterator
from math import exp
from typing import Any

import numpy as np

from meanstep.program.pages.page import flat
from meanstep.program.pages.statistics import Change, across
from meanstep.program.pages.verdicts import FAILS, HOLDS, OPEN, Claim, number, shown
from meanstep.program.reproduce.points.report.comparisons import far, sw1_ratio, trace_ratio
from meanstep.program.reproduce.points.report.results import ANCHORED, BASE, Results

OF_PAPER: dict[str, Any] = {"steps": 200_000, "width": 128, "depth": 3, "anchor": 0.5, "delta": [1e-4, 1e-2]}
COMMAND = ("sets", "betas", "seeds", "arms", "steps", "points")


def tiles(results: Results, claims: list[Claim]) -> list[tuple[str, str, str]]:
    """The numbers that matter: (number, what it is, how sure)."""
    sw1 = {name: change for name in results.sets if (change := sw1_ratio(results, name, ANCHORED)).n}
    trace = {name: change for name in results.sets if (change := trace_ratio(results, name)).n}
    found = []
    for changes, words, show in (
        ({} if far(results) else sw1, "SW1 of one-step samples, β = 1 against β = 0", percent),
        (trace, "variance of the gradient, β = 0 over β = 1, on the same weights", lambda x: f"{x:.2g}×"),
    ):
        if changes:
            found.append((show(centre(changes)), words, _sure(changes, show)))
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in (HOLDS, FAILS, OPEN)}
    found.append(
        (f"{counts[HOLDS]} of {len(claims)}", "claims hold", f"{counts[FAILS]} do not, {counts[OPEN]} cannot be told from this sweep")
    )
    return found


def headline(results: Results, claims: list[Claim]) -> list[str]:
    """Sentences, most important first."""
    if why := far(results):
        return [f"Which β is best and what it gains is not said: {why}.", *_variance(results)]
    return [*_quality(results), *_variance(results), *_best(results), *_price(claims)]


def centre(changes: dict[str, Change]) -> float:
    """Geometric mean over sets, each set once."""
    return exp(float(np.mean([np.mean(change.differences) for change in changes.values()])))


def percent(ratio: float) -> str:
    """A ratio as a change, such as +9%, with a true minus sign."""
    return f"{100 * (ratio - 1):+.0f}%".replace("-", "\u2212")


def _sure(changes: dict[str, Change], show: Any) -> str:
    several = across(changes.values())
    if several.interval:
        return f"95% interval {show(several.interval[0])} to {show(several.interval[1])} across {several.n} sets"
    (name, change), *rest = changes.items()
    if not rest and change.interval:
        return f"95% interval {show(change.interval[0])} to {show(change.interval[1])} over {change.n} seeds, {shown(name)} only"
    return "one seed: no interval" if change.n < 2 else ""


def _quality(results: Results) -> Iterator[str]:
    changes = {name: change for name in results.sets if (change := sw1_ratio(results, name, ANCHORED)).n}
    if not changes:
        return
    better, worse = [n for n, c in changes.items() if c.inside(0, 1)], [n for n, c in changes.items() if c.inside(1, float("inf"))]
    if all(change.n < 2 for change in changes.values()):
        some = ", ".join(f"{shown(n)} {percent(c.value)}" for n, c in changes.items())
        yield f"From β = 0 to the paper's β = 1, SW1 of one-step samples changed by: {some}. One seed: no interval, so nothing is claimed."
        return
    parts = [f"better on {_list(changes, better)}"] if better else []
    parts += [f"worse on {_list(changes, worse)}"] if worse else []
    rest = [name for name in changes if name not in (*better, *worse)]
    parts += [f"not told apart on {_list(changes, rest)}"] if rest else []
    yield f"At the paper's β = 1 one-step samples are, by SW1 against β = 0, {'; '.join(parts)}."


def _list(changes: dict[str, Change], names: list[str]) -> str:
    ordered = sorted(names, key=lambda name: changes[name].value)
    return ", ".join(f"{shown(name)} ({percent(changes[name].value)})" for name in ordered)


def _variance(results: Results) -> Iterator[str]:
    changes = {name: change for name in results.sets if (change := trace_ratio(results, name)).n}
    if changes:
        low, high = (pick(changes, key=lambda name: changes[name].value) for pick in (min, max))
        span = f"{number(changes[low].value)} ({shown(low)})"
        span += f" to {number(changes[high].value)} ({shown(high)})" if high != low else ""
        quieter = sum(change.inside(1, float("inf")) for change in changes.values())
        told = f": β = 1 is quieter on {quieter} of {len(changes)} sets" if any(change.n > 1 for change in changes.values()) else ""
        yield f"On the same weights, trained at β = 0, the gradient's variance at β = 0 over that at β = 1 is {span}{told}."


def _best(results: Results) -> Iterator[str]:
    ratios = {id: {name: sw1_ratio(results, name, id) for name in results.sets} for id in results.ids if id != BASE}
    known = {id: {name: change for name, change in found.items() if change.n} for id, found in ratios.items()}
    most = max((len(found) for found in known.values()), default=0)
    known = {id: found for id, found in known.items() if found and len(found) == most}
    if known:
        best = min(known, key=lambda id: centre(known[id]))
        where = "set" if most == 1 else f"{most} sets"
        gain = centre(known[best])
        lowest = f"Of {len(known) + 1} models, “{best}” has the lowest SW1 over the {where}: {percent(gain)} against β = 0."
        yield lowest if gain < 1 else f"No model has a lower SW1 over the {where} than β = 0."


def _price(claims: list[Claim]) -> Iterator[str]:
    for claim in claims:
        if claim.key == "mismatch" and claim.rows:
            words = {HOLDS: "costs quality", FAILS: "costs no quality", OPEN: "may or may not cost quality"}[claim.verdict]
            yield f"Choosing β by the gradient's error {words}: {claim.sentence}"


def settings(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, whose): the paper's where it states one."""
    rows = []
    for key, value in results.settings.items():
        if value is None or value is False:
            continue
        whose = "ours"
        if key in OF_PAPER:
            same = list(value) == OF_PAPER[key] if isinstance(value, list) else value == OF_PAPER[key]
            whose = "the paper's" if same else f"ours (the paper's: {_value(OF_PAPER[key])})"
        rows.append((key.replace("_", " "), _value(value), whose))
    return rows


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return (
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def environment(results: Results) -> list[tuple[str, str]]:
    """Whatever env.json tells, flat."""
    return [(name, value) for name, value in flat(results.environment) if name != "command" and value]


def duration(results: Results) -> str:
    """Training time of all models together."""
    seconds = sum(record.get("seconds") or 0 for record in results.models.values())
    return (
        f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    )


def gaps(results: Results) -> list[str]:
    """What is missing, so that nobody takes it for measured."""
    found = []
    for keys, words in (
        (results.missing, "have no record yet and are left out"),
        (results.diverged, "did not end with finite scores and are left out"),
    ):
        if keys:
            some = ", ".join(f"{id} on {shown(name)} with seed {seed}" for name, seed, id in keys[:4])
            found.append(f"{len(keys)} models {words}: {some}{' and others' if len(keys) > 4 else ''}.")
    if len(results.seeds) == 1:
        found.append("There is one seed, so there are no intervals and no tests.")
    if why := far(results):
        found.append(
            f"One-step samples are still far from the data ({why}): no claim is decided, and the numbers below say little about the "
            "methods. Train longer, e.g. --scale quick."
        )
    if not results.models:
        found.append("No model has been trained yet.")
    return found


def command(results: Results) -> str:
    """The command that makes this sweep."""
    if isinstance(known := results.environment.get("command"), str):
        return known
    words = ["meanstep", "reproduce", results.study]
    for key in COMMAND:
        value = results.settings.get(key)
        value = [x for x in value if x != "points"] if key == "sets" and value else value
        if value not in (None, []):
            words += [f"--{key}", *(shlex.quote(_plain(x)) for x in (value if isinstance(value, list) else [value]))]
    return " ".join(words)


def _plain(x: Any) -> str:
    return f"{x:g}" if isinstance(x, float) else str(x)
