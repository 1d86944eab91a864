"""What is computed of a sweep's numbers: ratios paired by seed, how far samples are, predicted and measured optima. Knows no claims."""

from collections.abc import Iterator, Sequence
from math import log, nan

import numpy as np

from meanstep.program.pages.statistics import Change, across, mean, ratio
from meanstep.program.pages.trained import FAR, covered, way
from meanstep.program.reproduce.points.results import ALONE, ANCHORED, BASE, PLANE, Results
from meanstep.program.reproduce.report.results import Seeds, is_number
from meanstep.program.reproduce.report.summary import Quantity
from meanstep.program.reproduce.study import Line


def far(results: Results) -> str:
    """How far one-step samples at beta 0 are from the data, where nothing follows from them; else empty."""
    scores = [[*results.score(name, BASE).values()] for name in results.sets]
    floors, starts = ([results.floor(name, what=what) for name in results.sets] for what in ("floor", "noise"))
    found = way(*([float(np.mean(x)) if x else None for x in values] for values in (scores, floors, starts)))
    if not found.far:
        return ""
    times = f"SW1 at β = 0 is {found.times:.0f} times its floor, more than {FAR:g} times"
    return times if found.times > FAR else f"at β = 0 one-step samples {covered(found)}"


def trace_ratio(results: Results, name: str) -> Change:
    """Tr Cov of the gradient at beta 0 over beta 1: on the weights trained at beta 0, or `in_training` of the two models."""
    if not in_training(results):
        return ratio(results.probed(name, BASE, "trace", 0), results.probed(name, BASE, "trace", 1))
    found = {id: results.by_seed((name, id), lambda model: model.get("variance")) for id in (BASE, ANCHORED, ALONE)}
    one = ANCHORED if found[ANCHORED] else ALONE
    return ratio(found[BASE], found[one], broken=results.broken((name, BASE), (name, one)))


def in_training(results: Results) -> bool:
    """Whether the variance of the gradient is known from training alone, each model's at its own weights: no weights were probed."""
    return not any(results.probed(name, BASE, "trace", 0) for name in results.sets)


def sw1_ratio(results: Results, name: str, id: str, base: str = BASE, weights: str = "ema") -> Change:
    """One-step SW1 of a model over that of another, paired by seed."""
    found, under = (results.score(name, each, weights=weights) for each in (id, base))
    return ratio(found, under, broken=results.broken((name, id), (name, base)))


def plane(results: Results) -> list[str]:
    return [name for name in PLANE if name in results.sets]


def overall(changes: dict[str, Change]) -> tuple[str, Change]:
    """Across sets with the set means as units; of a single set, its seeds: of one with an interval, where there is such a set."""
    several = across(changes.values())
    if several.n > 1:
        return f"{several.n} sets as units", several
    return max(changes.items(), key=lambda item: min(item[1].n, 2), default=("", Change(())))


def changes_of(results: Results, id: str, base: str = BASE) -> dict[str, Change]:
    return {name: change for name in results.sets if (change := sw1_ratio(results, name, id, base)).known}


def rise(trace: Sequence[float | None]) -> float:
    """The share of rises in the total variation of the logarithm; 0 if nothing varies, nan where a number is missing or not positive."""
    known = [x for x in trace if x is not None and x > 0]
    if len(known) < len(trace):
        return nan
    steps = np.diff(np.log(known))
    return float(steps[steps > 0].sum() / total) if (total := np.abs(steps).sum()) > 0 else 0.0


def price(results: Results, name: str, rule: str) -> Change:
    """SW1 at the predicted coefficient over SW1 at the best of the other seeds, seed by seed; none below three coefficients."""
    scores, predicted = _scores(results, name), results.probe(name, BASE, "optimum", rule)
    grid, seeds = [*scores], sorted(set.intersection(set(predicted), *map(set, scores.values())))
    if len(grid) < 3 or len(seeds) < 2:
        return Change(())
    ratios = {}
    for seed in seeds:
        near = min(grid, key=lambda beta: abs(beta - predicted[seed]))
        best = min(grid, key=lambda beta: float(np.mean([log(scores[beta][other]) for other in seeds if other != seed])))
        ratios[seed] = scores[near][seed] / scores[best][seed]
    return ratio(ratios, dict.fromkeys(seeds, 1.0))


def least(results: Results, name: str, quantity: str) -> Seeds:
    """The probed coefficient with the least `trace` or `error` on the weights trained at beta 0, by seed."""
    return _least({beta: results.probed(name, BASE, quantity, beta) for beta in results.probe_betas(name, BASE)})


def best_sw1(results: Results, name: str) -> Seeds:
    """The trained coefficient of the paper's arm with the least SW1, by seed; none below three coefficients."""
    return _least(_scores(results, name))


def _scores(results: Results, name: str) -> dict[float, Seeds]:
    return {beta: results.score(name, results.paper(beta)) for beta in results.paper_betas()}


def _least(curves: dict[float, Seeds]) -> Seeds:
    seeds = set.intersection(*map(set, curves.values())) if len(curves) > 2 else set()
    return {seed: min(curves, key=lambda beta: curves[beta][seed]) for seed in sorted(seeds)}


def gaps_of(results: Results, name: str, rule: str) -> Seeds:
    best, predicted = least(results, name, "error"), results.probe(name, BASE, "optimum", rule)
    return {seed: abs(predicted[seed] - best[seed]) for seed in best.keys() & predicted.keys()}


CURVES = ("trace", "weighted", "noise", "error")
NAMED = (("proxies", "trace, proxy"), ("bias", "bias"), ("optimum", "optimum"))


def quantities(results: Results) -> Iterator[Quantity]:
    """Scores, then what the probes found, of every line on every set."""
    for name in results.sets:
        for line in results.lines:
            yield from _scored(results, name, line)
            yield from _probed(results, name, line)
            found = {m["seed"]: float(m["variance"]) for m in results.models(name, line.id) if is_number(m.get("variance"))}
            yield Quantity("variance in training", line, found, name, "raw")


def _scored(results: Results, name: str, line: Line) -> Iterator[Quantity]:
    models = results.models(name, line.id)
    for weights in ("ema", "raw"):
        held = [pair for model in models for pair in (model.get(weights) or {}).items()]
        steps = [(metric, steps) for metric, value in held for steps in (value if isinstance(value, dict) else ("1",))]
        for metric, n in dict.fromkeys(steps):
            found, floor = results.score(name, line.id, metric, weights, n), mean(results.floor(name, metric))
            (broken,) = results.broken((name, line.id))
            yield Quantity(metric, line, found, name, weights, n, floor=floor.mean if floor else None, broken=broken)


def _probed(results: Results, name: str, line: Line) -> Iterator[Quantity]:
    for quantity in CURVES:
        for beta in results.probe_betas(name, line.id):
            yield Quantity(quantity, line, results.probed(name, line.id, quantity, beta), name, "raw", at=f"{beta:.12g}")
    for group, words in NAMED:
        for key in dict.fromkeys(key for probe in results.probes(name, line.id) for key in probe.get(group) or {}):
            at, found = "1" if group == "proxies" else "", results.probe(name, line.id, group, key)
            yield Quantity(f"{words} {key}", line, found, name, "raw", at=at)
