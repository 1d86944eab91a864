"""What the page of a study of arms has beyond any study's: headline and gaps in words, settings, tables, grids of samples."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.pages.page import embedded, flat
from meanstep.program.pages.statistics import Change, mean
from meanstep.program.pages.verdicts import Claim, number, with_interval
from meanstep.program.reading.images import picture as opened
from meanstep.program.registry import INSTANTANEOUS, METHODS
from meanstep.program.reproduce.images import costs, published, rerun
from meanstep.program.reproduce.images import quantities as q
from meanstep.program.reproduce.images.answer import answer
from meanstep.program.reproduce.images.arms import ANCHORED
from meanstep.program.reproduce.images.caveats import caveats, far, notice, uncounted
from meanstep.program.reproduce.images.claims import CLAIMS, TIMES_AT_LEVEL, optimum, told
from meanstep.program.reproduce.images.contests import contests, noted, unmatched
from meanstep.program.reproduce.images.results import BIAS_NORMS, CENTER_WORDS, CENTERS, WEIGHTS, Arm, Results
from meanstep.program.reproduce.report.page import Report
from meanstep.program.reproduce.report.prose import alone, percent, some
from meanstep.program.reproduce.report.results import Seeds
from meanstep.program.reproduce.report.summary import STATISTICS

SENSIBLE = 10.0
"""A coefficient of least error beyond it is a quotient of noise."""
NO_WINNER = "In more steps none beats every constant."
WIDEST = 640
"""Pixels of an embedded grid of samples."""
PAPERS = (
    ("data", "ImageNet-256 latents"),
    ("network", "DiT-B/4"),
    ("steps", "300,000"),
    ("coefficients", "0, 0.25, 0.5, 1"),
    ("anchor at β = 1", "weight 0.1, gap up to 0.001"),
    ("FID in one step", "11.37, 11.76, 12.51, 23.36"),
    ("β of least error", "matrix form 0.94, scalar form 0.46 to 0.50"),
    ("seeds", "one of each, two of β = 0"),
)
"""What is known of the paper's own study."""


def _percent(ratio: float) -> str:
    return percent(ratio, 1)


def _center(results: Results) -> str:
    return next((c for c in CENTERS if optimum(results, c).n), CENTERS[0])


def headline(results: Results, claims: Sequence[Claim] = ()) -> list[str]:
    """Sentences, most important first."""
    about = [*_mismatch(results), *_loss(results)]
    if why := far(results):
        return [
            f"It is not said which β is best, which gain could have been seen and who beats whom. The reason: {why}.",
            *about,
            *_costs(results),
        ]
    return [*_quality(results), *about, *_schedules(results), *_anchor(results), *_costs(results)]


def _quality(results: Results) -> Iterator[str]:
    found = {arm: m.mean for arm in results.constants if (m := mean(results.distance(arm, results.end).values()))}
    if len(found) < 2:
        return
    ratios = {f"β = {arm.beta:g}": q.equal_steps(results, arm, results.base) for arm in found if arm is not results.base}
    ratios["β = 1 with the anchor"] = q.equal_steps(results, results.constant(1.0, ANCHORED), results.base)
    rest = ", ".join(f"{words}: {_by(change)}" for words, change in ratios.items() if change.n)
    best = min(found, key=lambda arm: found[arm])
    said = f"Of {len(found)} constant coefficients β = {best.beta:g} makes the best one-step samples, in the mean over seeds."
    yield f"{said} Distance against β = 0: {rest}." if rest else said


def _by(change: Change) -> str:
    found = change.interval
    return _percent(change.value) + (f" [{_percent(found[0])}, {_percent(found[1])}]" if found else "")


def _places(change: Change) -> str:
    """A coefficient with its interval, two places."""
    found = change.interval
    return f"{change.value:.2f}" + (f" [{found[0]:.2f}, {found[1]:.2f}]".replace("-0.00", "0.00") if found else "")


def _mismatch(results: Results) -> Iterator[str]:
    center = _center(results)
    free, least = optimum(results, center), _edged(q.error_optimal(results, results.base, results.end, center))
    if not free.n:
        return
    said = f"On the weights trained at β = 0 the error of the signal is least on [0, 1] at β = {_places(least)} ({CENTER_WORDS[center]}"
    if free.differences != least.differences:
        said += f"; unconstrained {_places(free)}" if abs(free.value) < SENSIBLE else "; the error hardly depends on β"
    found = {n: q.distance_optimal(results, results.end, "ema", n) for n in results.steps if not far(results)}
    places = [f"{_places(_edged(seeds))} in {n} {'step' if n == '1' else 'steps'}" for n, seeds in found.items() if seeds]
    yield f"{said}). The distance is least at β = {', '.join(places)}." if places else f"{said})."


def _edged(found: Seeds) -> Change:
    return Change(tuple(found.values()), logs=False, clipped=True)


def _loss(results: Results) -> Iterator[str]:
    if (change := q.tangents_ratio(results, results.end)).n:
        grown = {"conditional": q.growth(results, "conditional"), "EMA": q.growth(results, "ema")}
        over = " and ".join(f"{number(c.value)} times with the {name} tangent" for name, c in grown.items() if c.n)
        yield (
            f"At t = {q.LEVEL_T:g} the loss varies {with_interval(change)} times as much with the conditional tangent as with the EMA "
            f"copy's (the paper: {TIMES_AT_LEVEL} times). From the smallest to the largest t its variance grows {over}."
        )


def _schedules(results: Results) -> Iterator[str]:
    for terms in q.TERMS:
        if found := contests(results, terms):
            yield f"Schedules and recipes against the constants in one step. {told(results, found, terms)}"
    pairs = [(steps, terms) for steps in results.steps if steps != "1" for terms in q.TERMS]
    more = {f"in {n} steps {terms}": contests(results, terms, steps=n) for n, terms in pairs}
    won = {words: [c.arm.name for c in found if c.finding == "agrees"] for words, found in more.items()}
    if any(contest.p_better is not None for found in more.values() for contest in found):
        said = [f"{some(names, 8)} {words}" for words, names in won.items() if names]
        yield f"Every constant is beaten in more steps too. {' '.join(f'By {each}.' for each in said)}" if said else NO_WINNER


def _anchor(results: Results) -> Iterator[str]:
    found = [(arm.beta, q.equal_steps(results, arm, plain)) for arm, plain in results.anchors]
    if parts := [f"{_by(change)} at β = {beta:g}" for beta, change in found if change.n]:
        yield f"The anchor by itself changes the one-step distance by {' and '.join(parts)}."


def _costs(results: Results) -> Iterator[str]:
    base, dear = results.base, max(results.arms, key=lambda arm: arm.cost, default=None)
    if base and dear and dear is not base:
        yield f"By counted passes “{dear.name}” is the dearest arm: {_percent(dear.cost / base.cost)} for one sample against β = 0."


def gaps(results: Results) -> Iterator[str]:
    """What is missing, so that nobody takes it for measured."""
    if missing := results.missing:
        runs = "1 run has" if len(missing) == 1 else f"{len(missing)} runs have"
        named = some([f"{arm} with seed {seed}" for arm, seed in missing])
        yield f"{runs} not reached {results.moments[-1]:,} samples, or not begun: {named}."
    for (arm, seed), why in results.failed.items():
        yield f"{arm} with seed {seed} broke off: {why.rstrip('.')}. What it had is shown up to there."
    yield from alone(results)
    if results.end and results.moments and results.end < results.moments[-1]:
        yield f"“The end” is {results.end:,} samples here: the last moment that two arms have reached."
    if said := notice(results):
        yield said
    if not results.runs:
        yield "No run has been measured yet."
    elif not results.base:
        yield "There is no arm with a constant coefficient of 0, which everything is compared with."
    elif not any(optimum(results, center).n for center in CENTERS):
        yield "The runs at β = 0 hold no probe of the error: the two optima cannot be compared."


def settings(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, whose)."""
    floor = results.floor()
    data = {"data set": results.about.get("data"), "extractor": results.about.get("extractor")}
    held = data | {"floor": None if floor is None else number(floor)} | results.settings | (results.about.get("config") or {})
    return [(name, words, "ours") for name, words in flat(held) if words not in ("no", "")]


def content(results: Results) -> dict[str, Any]:
    """For the template."""
    recipes = {entry["name"]: entry["recipe"] for entry in results.about["arms"]}
    held = {terms: contests(results, terms) for terms in q.TERMS}
    pictures = [(arm, results.pictures[arm.name]) for arm in results.arms if arm.name in results.pictures]
    return {
        "floor": results.floor(),
        "pictures": [(arm, path.stem.removeprefix(f"{arm.name}-"), picture(path)) for arm, path in pictures],
        "distances": list(_distances(results)),
        "contests": held,
        "unmatched": {terms: noted(unmatched(results, terms)) for terms in held},
        "caveats": {terms: caveats(results, terms) for terms in held},
        "uncounted": uncounted(results),
        "costs": costs.table(results),
        "clocks": " and ".join(costs.clocks(results)) or "none were taken",
        "kinds": q.kinds(results),
        "norms": BIAS_NORMS,
        "paper": PAPERS,
        "estimators": (published.HEAD, published.rows(results), published.about(results)),
        "own": (rerun.FILE, rerun.own(results)),
        "many": [name for name, recipe in recipes.items() if recipe in METHODS and METHODS[recipe].learns == INSTANTANEOUS],
    }


def _distances(results: Results) -> Iterator[tuple[Arm, int, list[str]]]:
    """Of each arm: number of seeds, mean and 95% interval at the end, by weights and steps."""
    for arm in results.arms:
        found = [results.distance(arm, results.end, weights, steps) for weights in WEIGHTS for steps in results.steps]
        if seeds := {seed for each in found for seed in each}:
            means = [mean(each.values()) for each in found]
            halves = [f" ± {number(m.high - m.mean)}" if m and m.high is not None else "" for m in means]
            yield arm, len(seeds), [f"{number(m.mean)}{half}" if m else "" for m, half in zip(means, halves, strict=True)]


def picture(path: Path) -> str:
    """A grid of samples in a URL, made smaller where it is wide."""
    try:
        with opened(path) as image:
            if image.width <= WIDEST:
                return embedded(path.read_bytes())
            small = image.convert("RGB")
    except UserError as error:
        raise UserError(f"{path} is damaged ({error}): delete it, the report can do without") from None
    small.thumbnail((WIDEST, 4 * WIDEST))
    held = io.BytesIO()
    small.save(held, "JPEG", quality=85)
    return embedded(held.getvalue(), "jpeg")


COLUMNS = {"arm": "id", "family": "arm"} | {name: name for name in ("beta", "seen", "weights", "metric", "steps", "at", *STATISTICS)}
REPORT = Report(
    quantities=q.quantities,
    results=Results,
    columns=COLUMNS,
    claims=CLAIMS,
    figures=("figures", "probes"),
    far=far,
    answer=answer,
    headline=headline,
    gaps=gaps,
    settings=settings,
    commands=rerun.commands,
    content=content,
    template=__package__ or "",
)
