"""The table: every published number, ours under the authors' protocol and under our own, a verdict and, where it is known, a cause."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from meanstep.program.pages.statistics import Mean, mean, ratio
from meanstep.program.reproduce.paper import history
from meanstep.program.reproduce.paper.compared import NOT, OUT, UNTOLD, Verdict, compared, summed
from meanstep.program.reproduce.paper.measured import Estimate, Model, chosen
from meanstep.program.reproduce.paper.published import Published

LENGTH = 200_000
"""Steps of the published models of points."""
CAP = 0.5


@dataclass(frozen=True)
class Row:
    """`theirs`: under the authors' protocol, a mean with its interval, None where it was not measured; `ours`: under our protocol, in units
    of data with variance 1 where it is a distance; `also`: the same number read as another arm; `cause`: what varied alone says.
    """

    published: Published
    theirs: Mean | None
    ours: Mean | None
    verdict: Verdict
    also: str = ""
    cause: str = ""


def table(numbers: Sequence[Published], models: Sequence[Model], estimates: Sequence[Estimate] = ()) -> list[Row]:
    """A row for every published number, in order."""
    return [
        _estimated(number, estimates) if number.quantity in ESTIMATORS else ROWS.get(number.part, _unmeasured)(number, models)
        for number in numbers
    ]


# Points ------------------------------------------------------------------------------------------------------------------------------

ARMS = {
    "plain": "ema",
    "anchored": "ema",
    "ema": "ema",
    "trace": "trace-one",
    "trace, sigma 1": "trace-one",
    "trace, sigma t^2": "trace-t2",
}
"""What a published arm is called here; the toy code has no anchor, so that the published "anchored" is the tangent alone."""
TRACE = "trace weight"


def identifier(arm: str, beta: float | None) -> str | None:
    """The id of the model that a published arm and coefficient name; None for one that is not trained here."""
    name, _, sigma = ARMS.get(arm, "").partition("-")
    if not name or beta is None:
        return None
    if beta == 0 and name == "ema":
        return "beta 0"
    return f"ema {beta:.12g} trace {sigma}" if sigma else f"ema {beta:.12g}"


def _where(number: Published) -> dict[str, str]:
    if number.where.startswith("dense-"):
        return {"where": number.where.replace("dense", "mixture"), "centres": "redrawn"}
    return {"where": number.where, "centres": ""}


def _points(number: Published, models: Sequence[Model]) -> Row:
    quantity = number.quantity.partition(",")[0]
    if quantity in ("sw1", "sw2"):
        return _distance(number, quantity, models)
    if quantity == "sw1 change":
        return _change(number, models)
    if quantity == "gradient variance":
        return _variance(number, models)
    if quantity == "best beta by sw1":
        return _best(number, models)
    return _unmeasured(number, models)


def _distance(number: Published, quantity: str, models: Sequence[Model]) -> Row:
    name = identifier(number.arm, number.beta)
    found = _theirs(number, models, name)
    values = finite(found, quantity)
    own = finite(_own(number, models, name), quantity)
    assert number.number is not None
    verdict = _at_length(compared(list(values.values()), number.number, number.deviation, number.seeds), found)
    also = _as_trace(number, quantity, models)
    return Row(number, mean(values.values()), mean(own.values()), verdict, also, _cause(number, models))


def _change(number: Published, models: Sequence[Model]) -> Row:
    """In percent; their own interval is not printed, so theirs is a number without a spread."""
    pairs = [_theirs(number, models, name) for name in (identifier(number.arm, number.beta), "beta 0")]
    own = [_own(number, models, name) for name in (identifier(number.arm, number.beta), "beta 0")]
    above, below = (finite(found, "sw1") for found in pairs)
    changes = {seed: 100 * (above[seed] / below[seed] - 1) for seed in above.keys() & below.keys()}
    ours = ratio(*(finite(found, "sw1") for found in own))
    found = ratio(above, below)
    assert number.number is not None
    verdict = _at_length(compared(list(changes.values()), number.number, None, number.seeds, 100.0), *pairs)
    return Row(number, summed(found, _percent), summed(ours, _percent), verdict, cause=_cause(number, models))


def _percent(factor: float) -> float:
    return 100 * (factor - 1)


def _variance(number: Published, models: Sequence[Model]) -> Row:
    """A ratio of the two coefficients, as the quantity says which over which."""
    pair = [_theirs(number, models, name) for name in ("beta 0", identifier(number.arm, number.beta))]
    zero, other = (finite(found, "variance") for found in pair)
    above, below = (zero, other) if number.quantity.endswith("0 over 1") else (other, zero)
    found, seeds = ratio(above, below), sorted(above.keys() & below.keys())
    assert number.number is not None
    verdict = compared([above[s] / below[s] for s in seeds], number.number, None, number.seeds)
    return Row(number, summed(found), None, _at_length(verdict, *pair))


def _best(number: Published, models: Sequence[Model]) -> Row:
    """The coefficient with the least mean; it does not come out only where ours is better than theirs by an interval that excludes 1."""
    betas = sorted({_beta(m.id) for m in models if _beta(m.id) is not None and m.protocol == "authors"}, key=lambda b: b or 0.0)
    trained = {b: _theirs(number, models, identifier("plain", b)) for b in betas if b is not None}
    longest = max((m.steps for found in trained.values() for m in found.values()), default=0)
    trained = {b: found for b, found in trained.items() if any(m.steps == longest for m in found.values())}
    by_beta = {b: finite(found, "sw1") for b, found in trained.items()}
    means = {b: fmean(values.values()) for b, values in by_beta.items() if values}
    named = [float(word) for word in number.value.replace("or", " ").split()]
    there = [b for b in named if b in means]
    if len(means) < 2 or not there:
        return Row(number, None, None, Verdict(UNTOLD, "too few coefficients measured here"))
    best = min(means, key=lambda b: means[b])
    found = Mean(best, None, None, None, len(by_beta[best]))
    if best in named and len(by_beta[best]) < 2:
        return Row(number, found, None, Verdict(UNTOLD, "one seed here"))
    if best in named:
        return Row(number, found, None, _at_length(Verdict(OUT, f"least of {', '.join(f'{b:g}' for b in means)}"), trained[best]))
    against = ratio(by_beta[there[0]], by_beta[best])
    told = against.interval is not None and against.interval[0] > 1
    why = f"{there[0]:g} over {best:g}: {shown(summed(against))}" if against.n else "no common seed"
    return Row(number, found, None, _at_length(Verdict(NOT if told else UNTOLD, why), trained[best]))


def _beta(name: str) -> float | None:
    words = name.split()
    return float(words[1]) if len(words) == 2 and words[0] in ("beta", "ema") and words[1] != "matrix" else None


def _theirs(number: Published, models: Sequence[Model], name: str | None) -> Mapping[int, Model]:
    return {} if name is None else chosen(models, protocol="authors", id=name, gap=CAP, **_where(number))


def _own(number: Published, models: Sequence[Model], name: str | None) -> Mapping[int, Model]:
    return {} if name is None else chosen(models, protocol="ours", id=name, gap=1.0, where=_where(number)["where"])


def finite(found: Mapping[int, Model], quantity: str) -> dict[int, float]:
    """A quantity of the models that did not diverge, by seed."""
    return {seed: value for seed, m in found.items() if math.isfinite(value := getattr(m, quantity))}


def _at_length(verdict: Verdict, *found: Mapping[int, Model]) -> Verdict:
    """No verdict on a number of which any part is of another length of training."""
    steps = {m.steps for part in found for m in part.values()}
    if steps - {LENGTH}:
        return Verdict(UNTOLD, f"at {min(steps):,} of {LENGTH:,} steps; {verdict.why}", verdict.detectable)
    return verdict


def _as_trace(number: Published, quantity: str, models: Sequence[Model]) -> str:
    """A number that an older draft prints for the trace weight, compared with that."""
    if TRACE not in number.note:
        return ""
    found = _theirs(number, models, "ema 1 trace t2")
    values = list(finite(found, quantity).values())
    if len(values) < 2 or number.number is None:
        return ""
    verdict = _at_length(compared(values, number.number, number.deviation, number.seeds), found)
    return f"as the trace weight: {shown(mean(values))}, {verdict.word}"


def _cause(number: Published, models: Sequence[Model]) -> str:
    """Of a change by the coefficient: what is left of it where all gaps are trained, and in two trained jumps; all three or none."""
    if number.part != "toy" or number.quantity.partition(",")[0] not in ("sw1", "sw1 change") or number.beta != 1:
        return ""
    where, lines = _where(number), []
    for words, gap, quantity in (
        ("capped, one jump", CAP, "sw1"),
        ("capped, two jumps", CAP, "sw1_two"),
        ("all gaps, one jump", 1.0, "sw1"),
    ):
        pair = [chosen(models, protocol="authors", id=name, gap=gap, **where) for name in ("ema 1", "beta 0")]
        found = summed(ratio(*(finite(part, quantity) for part in pair)))
        if found is not None:
            lines.append(f"{words} {shown(found)}")
    return "1 over 0: " + "; ".join(lines) if len(lines) == 3 else ""


# Histories ---------------------------------------------------------------------------------------------------------------------------


def _history(number: Published, models: Sequence[Model]) -> Row:
    """Counted again from the logged histories."""
    read = history.histories()
    found, points = history.summary(read), history.counted(read)
    counts: dict[str, float] = {
        "checkpoints in the order 0, .25, .5, 1, of 54, published run of 0": found.ordered,
        "checkpoints in the order 0, .25, .5, 1, of 54, other run of 0": found.ordered_again,
        "median difference of the two runs of 0, FID": found.seeds,
        "median FID of .25 less that of 0": median(point.at["beta_0.25"] - point.at[history.ZERO] for point in points),
    }
    key = ", ".join(part for part in (number.quantity, number.arm) if part)
    value = counts[key]
    digits = len(number.value.partition(".")[2])
    same = abs(value - float(number.value)) <= 0.51 * 10**-digits
    return Row(number, Mean(value, None, None, None, 1), None, Verdict(OUT if same else NOT, "counted from the logged histories"))


# Latents -----------------------------------------------------------------------------------------------------------------------------


def _latents(number: Published, models: Sequence[Model]) -> Row:
    if number.quantity != "FID":
        return _unmeasured(number, models)
    seeds = history.summary(history.histories()).seeds
    why = f"one run on ImageNet; two runs of beta = 0 differ by {seeds:.2g} FID in the median"
    return Row(number, None, None, Verdict(UNTOLD, why), cause=number.note)


ESTIMATORS = {
    "best beta, scalar form as published": "scalar",
    "best beta, matrix form without bias": "matrix",
    "shrinkage as published": "shrinkage",
}
"""Published numbers that the study of images measures by the authors' own estimators, on other networks and data."""


def _estimated(number: Published, estimates: Sequence[Estimate]) -> Row:
    """Beside the largest study that has it, and without a verdict: it is of another network, other data and another length."""
    by_study: dict[str, list[float]] = {}
    for each in estimates:
        if each.quantity == ESTIMATORS[number.quantity]:
            by_study.setdefault(each.study, []).append(each.value)
    values = max(by_study.values(), key=len, default=[])
    assert number.number is not None
    against = compared(values, number.number, None, number.seeds)
    verdict = Verdict(UNTOLD, f"of another network and length; {against.why}" if values else against.why, against.detectable)
    return Row(number, mean(values), None, verdict, cause=number.note)


def _unmeasured(number: Published, models: Sequence[Model]) -> Row:
    return Row(number, None, None, Verdict(UNTOLD, "not measured here"), cause=number.note)


def shown(found: Mean | None) -> str:
    """`0.93 [0.90, 0.96]`, three digits; nothing for what was not measured."""
    if found is None:
        return ""
    return f"{found.mean:.3g}" if found.low is None else f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]"


ROWS = {"toy": _points, "mixtures": _points, "history": _history, "latents": _latents}
