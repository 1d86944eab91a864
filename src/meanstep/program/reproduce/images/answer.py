"""What the page of a study of arms says first: which way to train makes better samples, by how much and how surely. Knows no page."""

from collections.abc import Iterator, Sequence

from meanstep.program.pages.forest import forest
from meanstep.program.pages.form import OPEN, Answer, Shown, Step, Tile
from meanstep.program.pages.statistics import Change, mean
from meanstep.program.pages.verdicts import Claim, number
from meanstep.program.reproduce.images import quantities as q
from meanstep.program.reproduce.images.caveats import far, mixed
from meanstep.program.reproduce.images.contests import Contest, contests, lost
from meanstep.program.reproduce.images.results import Arm, Results
from meanstep.program.reproduce.images.steps import again, longer, seeds
from meanstep.program.reproduce.report.compared import Compared
from meanstep.program.reproduce.report.prose import aside, counted, kind, percent


def answer(results: Results, claims: Sequence[Claim]) -> Answer:
    """Title, tiles, figure and what to do."""
    held = [] if far(results) else contests(results, q.STEPS_EQUAL)
    plain = Compared.of({} if far(results) else _constants(results))
    tiles = (_others(results, held), _coefficient(results, plain), counted(claims))
    title, about = _title(results, held, plain), tuple(_about(results, held))
    return Answer(title, about, tiles, tuple(_steps(results, held, plain)), kind(results), _shown(results, held, plain))


def _constants(results: Results) -> dict[str, Change]:
    """Distance of each constant coefficient above 0 over that at 0."""
    return {_beta(arm): q.equal_steps(results, arm, results.base) for arm in results.constants if arm is not results.base}


def _beta(arm: Arm) -> str:
    return f"β = {arm.beta:.12g}"


def _winner(held: Sequence[Contest]) -> Contest | None:
    """Of the arms that beat every constant, the one that does so by most."""
    return min((c for c in held if c.finding == "agrees"), key=lambda c: c.least.value, default=None)


def _nearer(change: Change) -> str:
    return f"{100 * (1 - change.value):.0f}%"


def _title(results: Results, held: Sequence[Contest], plain: Compared) -> str:
    if not results.runs:
        return "Nothing has been measured yet."
    if far(results):
        return "Nothing can be said about the ways to train: their samples are still too far from the data."
    if (won := _winner(held)) is not None:
        nearer = f"{_nearer(won.least)} nearer to the data than any constant coefficient"
        return f"The way to train “{won.arm.name}” brings one-step samples {nearer}."
    if lost(results, held):
        return "MeanFlow with a constant coefficient makes better one-step samples than every other way to train here."
    if plain.named("better"):
        return "A calmer training signal, by a constant coefficient, makes better one-step samples than the original MeanFlow."
    if _worse(plain):
        return "The original MeanFlow makes better one-step samples than every larger constant coefficient."
    return "This study cannot tell which way to train makes the best one-step samples."


def _worse(plain: Compared) -> bool:
    """Whether every constant above 0 is worse."""
    return bool(plain.states) and len(plain.named("worse")) == len(plain.states)


def _about(results: Results, held: Sequence[Contest]) -> Iterator[str]:
    yield "MeanFlow trains along a velocity: 1 less β parts of a single pair's noisy one and β parts of an averaged copy's estimate."
    yield "β = 0 is the original method. A constant coefficient keeps one β; a schedule or another recipe does something else."
    yield f"Compared: {len(results.arms)} ways to train one network on the same data, {results.seeds_each} each, after the same samples."
    if (won := _winner(held)) is not None:
        yield f"“{won.arm.name}” is {won.arm.about.rstrip('.')}."
        if won.arm.name in mixed(results):
            yield "It also trains under another weight than the constants, and the comparison mixes that in."


def _floor(results: Results, arm: Arm | None) -> str:
    """The distance of an arm beside its floor."""
    found, floor = mean(results.distance(arm, results.end).values()), results.floor()
    below = f"the floor is {number(floor)}" if floor is not None else "the floor was not measured"
    return f"{number(found.mean)}; {below}" if found else below


def _sure(change: Change) -> str:
    said = "One seed: no interval." if change.n < 2 else "The same to the bit."
    if found := change.interval:
        said = f"95% interval {percent(found[0], 1)} to {percent(found[1], 1)}, {change.n} seeds."
    return " ".join([said, *aside(change)])


def _others(results: Results, held: Sequence[Contest]) -> Tile:
    if not held:
        return Tile("Other ways: not compared", "No schedule or recipe can be compared with a constant coefficient.", "Nothing follows.")
    left = [contest for contest in held if contest.finding == OPEN]
    best = _winner(held) or min(left or held, key=lambda c: c.least.value)
    came = "better" if best.finding == "agrees" else "worse" if lost(results, held) else OPEN
    heads = {
        "better": f"“{best.arm.name}”: {_nearer(best.least)} nearer to the data",
        "worse": "Other ways: worse than a constant",
        OPEN: "Other ways: no difference can be told",
    }
    words = (
        f"Frechet distance of “{best.arm.name}” over that of the nearest constant, β = {best.nearest:g}: {percent(best.least.value, 1)}."
    )
    return Tile(
        heads[came],
        f"{words} It is {_floor(results, best.arm)}.",
        f"{_sure(best.least)} Tested against each constant, with Holm's correction.",
        came,
    )


def _coefficient(results: Results, plain: Compared) -> Tile:
    if not plain.changes:
        return Tile("Coefficient: not compared", "No constant coefficient can be compared with β = 0.", "Nothing follows.")
    name = plain.best
    change, came = plain.changes[name], plain.states[name]
    if _worse(plain):
        head, tone = f"Coefficient: {name} at best is worse", "worse"
    elif came == "better":
        head, tone = f"Coefficient: {name} is better", "better"
    else:
        head, tone = "Coefficient: no better one can be told", OPEN
    which = "the best that is told apart" if came == "better" else "the best above 0"
    words = f"Frechet distance at {name}, {which}, over that at β = 0: {percent(change.value, 1)}."
    words += f" At β = 0 it is {_floor(results, results.base)}."
    return Tile(head, words, _sure(change), tone)


def _shown(results: Results, held: Sequence[Contest], plain: Compared) -> Shown:
    arms = [arm for arm in results.arms if arm is not results.base]
    rows = (
        [] if far(results) else [(arm.name, q.equal_steps(results, arm, results.base), f"distance {_floor(results, arm)}") for arm in arms]
    )
    words = "Each row is a way to train: its distance over that at β = 0 after the same samples, with the 95% interval."
    words += " Grey rows decide nothing."
    known = {arm.name: plain.states[_beta(arm)] for arm in results.constants if _beta(arm) in plain.states}
    known |= {c.arm.name: "better" for c in held if c.finding == "agrees"}  # who beats every constant beats β = 0
    found = forest(rows, "← better than β = 0", "worse →", known=known)
    return Shown(words, rows=found) if found else Shown("Distance of one-step samples over samples seen. Lower is better.", name="distance")


def _steps(results: Results, held: Sequence[Contest], plain: Compared) -> Iterator[Step]:
    if not results.runs:
        yield from again(results, "Train it, then read this page again.")
    elif far(results):
        yield from longer(results, "Train longer, then read the page of that.")
    elif (won := _winner(held)) is not None:
        yield Step(f"Train with “{won.arm.name}” on data like these, and compare samples on your own.")
        yield from again(results)
    elif best := plain.named("better") and plain.best:
        yield Step(f"Train with the constant coefficient {best} on data like these, and compare samples on your own.")
        yield from again(results)
    elif _worse(plain):
        yield Step("Stay at β = 0, the original MeanFlow, on data like these.")
        yield from again(results)
    else:
        yield from seeds(results, "Add seeds where an interval is too wide to decide.")
