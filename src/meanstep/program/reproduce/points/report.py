"""What the page of a sweep has beyond any study's: headline and gaps in words, settings and whose they are, pictures to move through."""

from collections.abc import Iterator, Sequence
from typing import Any

from meanstep.program.pages.page import embedded
from meanstep.program.pages.statistics import mean
from meanstep.program.pages.verdicts import FAILS, HOLDS, OPEN, Claim, number, shown
from meanstep.program.reproduce.points.answer import answer as answered
from meanstep.program.reproduce.points.answer import compared, quieter
from meanstep.program.reproduce.points.claims import CLAIMS
from meanstep.program.reproduce.points.quantities import changes_of, far, in_training, quantities
from meanstep.program.reproduce.points.rerun import commands
from meanstep.program.reproduce.points.results import BASE, Results
from meanstep.program.reproduce.points.settings import PUBLISHED
from meanstep.program.reproduce.report.compared import Compared, Pooled
from meanstep.program.reproduce.report.page import Report
from meanstep.program.reproduce.report.prose import alone, percent, some
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


def headline(results: Results, claims: Sequence[Claim]) -> list[str]:
    """Sentences, most important first."""
    if why := far(results):
        return [f"It is not said which β is best and what it gains. The reason: {why}.", *_variance(results)]
    return [*_quality(compared(results)), *_variance(results), *_best(results), *_price(claims)]


def _quality(found: Pooled) -> Iterator[str]:
    changes = found.each.changes
    if changes and all(change.n < 2 for change in changes.values()):
        listed = some([f"{shown(n)} {percent(c.value)}" for n, c in changes.items()], 6)
        yield f"From β = 0 to the paper's β = 1, SW1 of one-step samples changed by: {listed}. One seed: no interval, nothing is claimed."
    elif changes:
        told = {words: found.each.named(of) for words, of in (("better", "better"), ("worse", "worse"), ("not told apart", "open"))}
        ordered = {words: sorted(names, key=lambda name: changes[name].value) for words, names in told.items() if names}
        named = {w: some([f"{shown(n)} ({percent(changes[n].value)})" for n in names], 6) for w, names in ordered.items()}
        parts = " ".join(f"They are {words} on {names}." for words, names in named.items())
        yield f"One-step samples at the paper's β = 1 are compared with those at β = 0 by SW1. {parts}"


def _variance(results: Results) -> Iterator[str]:
    if changes := {name: change for name, change in quieter(results).items() if change.n}:
        low, high = (pick(changes, key=lambda name: changes[name].value) for pick in (min, max))
        span = " to ".join(f"{number(changes[name].value)} ({shown(name)})" for name in dict.fromkeys((low, high)))
        calm = len(Compared.of(changes, less=False).named("better"))
        told = f". β = 1 is quieter on {calm} of {len(changes)} sets" if any(change.n > 1 for change in changes.values()) else ""
        where = "In training, each on its own weights," if in_training(results) else "On the same weights"
        yield f"{where} the gradient's variance at β = 0 over that at β = 1 is {span}{told}."


def _best(results: Results) -> Iterator[str]:
    every = {id: Pooled.of(changes_of(results, id)) for id in results.ids if id != BASE}
    most = max((len(found.counted) for found in every.values()), default=0)
    gains = {id: found.value for id, found in every.items() if most and len(found.counted) == most and not found.change.over}
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
            named = some([f"{id} on {shown(name)} with seed {seed}" for name, id, seed in keys], 2)
            yield f"{len(keys)} models {words} and are left out: {named}."
    yield from alone(results)
    if why := far(results):
        yield (
            f"One-step samples are still far from the data. The reason: {why}. No claim is decided, and the numbers below say little about "
            "the methods. Train longer: “What to do” says how."
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


def content(results: Results) -> dict[str, Any]:
    """For the template."""
    return {
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
    answer=answered,
    headline=headline,
    gaps=gaps,
    settings=settings,
    commands=commands,
    content=content,
    template=__package__ or "",
)
