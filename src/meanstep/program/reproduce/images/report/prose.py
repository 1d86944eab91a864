"""What a report says in words, from the numbers: headline, tiles, gaps, settings and whose they are. Knows no figures and no page."""

from collections.abc import Iterator
from typing import Any

from meanstep.program.pages.page import flat
from meanstep.program.pages.statistics import Change, mean
from meanstep.program.pages.verdicts import FAILS, HOLDS, OPEN, Claim, number, with_interval
from meanstep.program.reproduce.images.arms import ANCHORED
from meanstep.program.reproduce.images.report import quantities as q
from meanstep.program.reproduce.images.report.beats import outcome
from meanstep.program.reproduce.images.report.caveats import caveats
from meanstep.program.reproduce.images.report.claims import optimum, values
from meanstep.program.reproduce.images.report.contests import TERMS, contests
from meanstep.program.reproduce.images.report.converged import far, notice, reason
from meanstep.program.reproduce.images.report.results import CENTER_WORDS, CENTERS, Results, Seeds

Tile = tuple[str, str, str]
SENSIBLE = 10.0
"""A coefficient of least error beyond it is a quotient of noise."""


def tiles(results: Results, claims: list[Claim]) -> list[Tile]:
    """The numbers that matter: (number, what it is, how sure)."""
    near = not far(results)
    found = [*(_tile_of_optima(results) if near else ()), *_tile_of_loss(results), *(_tile_of_best(results) if near else ())]
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in (HOLDS, FAILS, OPEN)}
    told = f"{counts[FAILS]} do not, {counts[OPEN]} cannot be told from this study"
    return [*found, (f"{counts[HOLDS]} of {len(claims)}", "claims hold", told)]


def headline(results: Results) -> list[str]:
    """Sentences, most important first."""
    if far(results):
        return [reason(results), *_mismatch(results), *_loss(results), *_costs(results)]
    return [*_quality(results), *_mismatch(results), *_loss(results), *_schedules(results), *_anchor(results), *_costs(results)]


def percent(ratio: float) -> str:
    """A ratio as a change, such as +9.1%, with a true minus sign."""
    return f"{100 * (ratio - 1):+.1f}%".replace("-", "\u2212")


def _sure(change: Change, show: Any = number) -> str:
    found = change.interval
    return (
        f"95% interval {show(found[0])} to {show(found[1])}, {change.n} seeds"
        if found
        else "one seed: no interval"
        if change.n < 2
        else "the same to the bit"
    )


def _tile_of_optima(results: Results) -> Iterator[Tile]:
    center = _center(results)
    gap, both = q.mismatch(results, results.end, center), q.both_optima(results, results.end, center)
    if gap.n:
        least, best = (values(found).value for found in both)
        words, seeds = "β of least error against β of the best one-step samples", f"{gap.n} {'seed' if gap.n == 1 else 'seeds'}"
        yield f"{least:.2f} | {best:.2f}", words, f"difference {_places(gap)}, {seeds}"


def _tile_of_loss(results: Results) -> Iterator[Tile]:
    change = q.tangents_ratio(results, results.end)
    if change.n:
        yield f"{number(change.value)}×", f"variance of the loss, conditional over EMA tangent at t = {q.LEVEL_T:g}", _sure(change)


def _tile_of_best(results: Results) -> Iterator[Tile]:
    found = {arm.name: change for arm in results.others if (change := q.equal_steps(results, arm, results.base)).n}
    if found:
        best = min(found, key=lambda name: found[name].value)
        yield percent(found[best].value), f"distance of “{best}”, the best schedule or recipe, against β = 0", _sure(found[best], percent)


def _center(results: Results) -> str:
    return next((c for c in CENTERS if optimum(results, c).n), CENTERS[0])


def _quality(results: Results) -> Iterator[str]:
    found = {arm: m for arm in results.constants if (m := mean(results.distance(arm, results.end).values()))}
    if len(found) < 2:
        return
    best = min(found, key=lambda arm: found[arm].mean)
    ratios = {arm: q.equal_steps(results, arm, results.base) for arm in found if arm is not results.base}
    rest = ", ".join(f"β = {arm.beta:g}: {percent(c.value)}{_interval(c)}" for arm, c in ratios.items() if c.n)
    anchored = results.constant(1.0, ANCHORED)
    with_anchor = q.equal_steps(results, anchored, results.base)
    rest += f", β = 1 with the anchor: {percent(with_anchor.value)}{_interval(with_anchor)}" if with_anchor.n else ""
    said = f"Of {len(found)} constant coefficients β = {best.beta:g} makes the best one-step samples, in the mean over seeds."
    yield f"{said} Distance against β = 0: {rest}." if rest else said


def _places(change: Change) -> str:
    """A coefficient with its interval, two places."""
    found = change.interval
    return f"{change.value:.2f}" + (f" [{found[0]:.2f}, {found[1]:.2f}]".replace("-0.00", "0.00") if found else "")


def _interval(change: Change) -> str:
    return f" [{percent(change.interval[0])}, {percent(change.interval[1])}]" if change.interval else ""


def _mismatch(results: Results) -> Iterator[str]:
    center = _center(results)
    free = optimum(results, center)
    if not free.n:
        return
    least = _edged(q.error_optimal(results, results.base, results.end, center))
    said = f"On the weights trained at β = 0 the error of the signal is least on [0, 1] at β = {_places(least)} ({CENTER_WORDS[center]}"
    if free.differences != least.differences:
        said += f"; unconstrained {_places(free)}" if abs(free.value) < SENSIBLE else "; the error hardly depends on β"
    gaps = {n: _edged(found) for n in results.steps if not far(results) and (found := q.distance_optimal(results, results.end, "ema", n))}
    best = ", ".join(f"{_places(change)} in {n} {'step' if n == '1' else 'steps'}" for n, change in gaps.items())
    yield f"{said}); the distance is least at β = {best}." if best else f"{said})."


def _edged(found: Seeds) -> Change:
    return Change(tuple(found.values()), logs=False, clipped=True)


def _loss(results: Results) -> Iterator[str]:
    change = q.tangents_ratio(results, results.end)
    if change.n:
        grown = [(name, q.growth(results, key)) for name, key in (("conditional", "conditional"), ("EMA", "ema"))]
        over = " and ".join(f"{number(c.value)} times with the {name} tangent" for name, c in grown if c.n)
        yield (
            f"At t = {q.LEVEL_T:g} the loss varies {with_interval(change)} times as much with the conditional tangent as with the EMA "
            f"copy's (the paper: 71 times). From the smallest to the largest t its variance grows {over}."
        )


def _schedules(results: Results) -> Iterator[str]:
    for terms in TERMS:
        if found := contests(results, terms):
            said = (f"Schedules and recipes against the constants in one step. {outcome(results, found, terms)}", caveats(results, terms))
            yield " ".join(filter(None, said))
    more = {(steps, terms): contests(results, terms, steps=steps) for steps in results.steps if steps != "1" for terms in TERMS}
    won = [f"{c.arm.name} in {n} steps {terms}" for (n, terms), each in more.items() for c in each if c.finding == "agrees"]
    if any(c.p_better is not None for each in more.values() for c in each):
        yield f"In more steps {'these beat every constant: ' + ', '.join(won) if won else 'none beats every constant'}."


def _anchor(results: Results) -> Iterator[str]:
    arms = [arm for arm in results.arms if arm.family == ANCHORED and arm.beta is not None]
    found = [(arm.beta, q.equal_steps(results, arm, results.constant(arm.beta or 0.0))) for arm in arms]
    parts = [f"{percent(c.value)}{_interval(c)} at β = {beta:g}" for beta, c in found if c.n]
    if parts:
        yield f"The anchor by itself changes the one-step distance by {' and '.join(parts)}."


def _costs(results: Results) -> Iterator[str]:
    base = results.base
    dear = max(results.arms, key=lambda arm: arm.cost, default=None)
    if base and dear and dear is not base:
        yield f"By counted passes “{dear.name}” is the dearest arm: {percent(dear.cost / base.cost)} for one sample against β = 0."


def gaps(results: Results) -> list[str]:
    """What is missing, so that nobody takes it for measured."""
    found = []
    if results.missing:
        some = ", ".join(f"{arm} with seed {seed}" for arm, seed in results.missing[:4])
        some += " and others" if len(results.missing) > 4 else ""
        runs = "1 run has" if len(results.missing) == 1 else f"{len(results.missing)} runs have"
        found.append(f"{runs} not reached {results.moments[-1]:,} samples, or not begun: {some}.")
    for (arm, seed), why in results.failed.items():
        found.append(f"{arm} with seed {seed} broke off ({why}); what it had is shown up to there.")
    if len(results.seeds) == 1:
        found.append("There is one seed, so there are no intervals and no tests.")
    if results.end and results.moments and results.end < results.moments[-1]:
        found.append(f"“The end” is {results.end:,} samples here: the last moment that two arms have reached.")
    if said := notice(results):
        found.append(said)
    if not results.runs:
        found.append("No run has been measured yet.")
    elif not results.base:
        found.append("There is no arm with a constant coefficient of 0, which everything is compared with.")
    elif not any(optimum(results, center).n for center in CENTERS):
        found.append("The runs at β = 0 hold no probe of the error: the two optima cannot be compared.")
    return found


def settings(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, whose)."""
    floor = number(results.floor) if results.floor is not None else None
    data = {"data set": results.about.get("data"), "extractor": results.about.get("extractor"), "floor": floor}
    held = {**data, **(results.about.get("settings") or {}), **(results.about.get("config") or {})}
    return [(name, words, "ours") for name, words in flat(held) if words not in ("no", "")]


PAPERS = (
    ("data", "ImageNet-256 latents"),
    ("network", "DiT-B/4"),
    ("steps", "300,000"),
    ("coefficients", "0, 0.25, 0.5, 1"),
    ("anchor at β = 1", "weight 0.1, gap up to 0.001"),
    ("FID in one step", "11.37, 11.76, 12.51, 23.36"),
    ("β of least error", "matrix form 0.94, scalar form 0.46 to 0.50"),
    ("seeds", "not known to us"),
)
"""What is known of the paper's own study."""


def environment(results: Results) -> list[tuple[str, str]]:
    """Whatever the env.json tell, flat; what differs between runs is all there."""
    found: dict[str, dict[str, None]] = {}
    for each in results.environments:
        for name, value in flat(each):
            if name != "command" and value:
                found.setdefault(name, {})[value] = None
    return [(name, ", ".join(values)) for name, values in found.items()]
