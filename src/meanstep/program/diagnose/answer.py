"""What the page of a diagnosis says first: whether anything is wrong with the training signal, and what to change. Knows no page."""

import re
from collections.abc import Iterator
from math import isfinite

from meanstep.program.diagnose.diagnosis import Diagnosis
from meanstep.program.diagnose.measures import number
from meanstep.program.diagnose.rules import CLEAR, FIRES, MISSING, NOTE, WARN, Verdict
from meanstep.program.diagnose.rules import OPEN as LEFT
from meanstep.program.pages.form import BETTER, KNOWN, OPEN, WORSE, Answer, Shown, Step, Tile

FIGURES = {
    "curve": "Noise over the coefficient β, with 95% intervals; the least is marked. Right: the change from β = 0 on the same rows.",
    "instants": "Squared residual of rows with r = t over time: the part that is noise, and what is left of the network's own error.",
    "weight": "Raw residuals of rows, and what the weight makes of them.",
}
"""The one figure that shows it: the first that was drawn."""


def answer(d: Diagnosis, drawn: set[str]) -> Answer:
    """Title, tiles, figure and what to do."""
    name = next((name for name in FIGURES if name in drawn), "")
    shown = Shown(FIGURES[name], name=name) if name else None
    notes = ("Interrupted: all numbers are of the rows drawn until then.",) if d.interrupted else ()
    tiles = (_checks(d), _noise(d), _batch(d))
    return Answer(_title(d), tuple(_about(d)), tiles, tuple(_steps(d)), f"meanstep diagnose {d.case.probed.factory}", shown, notes)


def sentences(text: str) -> str:
    """Clauses of the terminal as sentences."""
    parts = [part.strip() for part in re.split(r";\s+|:\s+(?=all |exact )", text.rstrip("."))]
    return ". ".join(part[:1].upper() + part[1:] for part in parts) + "."


def _of(d: Diagnosis, status: str, level: str = "") -> list[Verdict]:
    return [v for v in d.verdicts if v.status == status and level in ("", v.rule.level)]


def _title(d: Diagnosis) -> str:
    warned, clear, left = _of(d, FIRES, WARN), _of(d, CLEAR), len(_of(d, LEFT))
    if warned:
        first = warned[0].rule.plain
        if len(warned) == 1:
            return f"One thing is wrong with this training signal: {first}."
        return f"{len(warned)} things are wrong with this training signal, first of all that {first}."
    if not clear or left > len(clear):
        return "This probe is too short to tell whether anything is wrong with the training signal."
    open_ = f", and {left} {'is' if left == 1 else 'are'} left open" if left else ""
    return f"Nothing is found wrong with this training signal: {len(clear) + len(_of(d, FIRES))} checks raise no warning{open_}."


def _about(d: Diagnosis) -> Iterator[str]:
    s, data = d.case.probed, d.case.data
    shape = "x".join(map(str, data.event))
    weights = f"with weights {' and '.join(s.weights)}" if s.weights else "as its factory made it"
    yield f"The network {s.factory} has {s.parameters:,} {'parameter' if s.parameters == 1 else 'parameters'}, {weights}."
    yield f"It is read as {d.case.method.line} on {data.name}, {len(data):,} rows of {shape}. Nothing was trained."


def _checks(d: Diagnosis) -> Tile:
    keys = ((FIRES, WARN), (FIRES, NOTE), (CLEAR,), (LEFT,), (MISSING,))
    warned, notes, clear, left, missing = (len(_of(d, *key)) for key in keys)
    words = f"Clear: {clear}. Notes, which ask for nothing: {notes}. Left open: {left}. Not measured: {missing}."
    sure = "A check is decided only where its number, with all of its 95% interval where it has one, is on one side of its threshold."
    if warned:
        return Tile(f"Checks: {warned} {'warns' if warned == 1 else 'warn'}", words, sure, WORSE)
    return Tile("Checks: none warns", words, sure, BETTER if clear > left else OPEN)


def _noise(d: Diagnosis) -> Tile:
    v = d.values
    if d.case.method.still:
        return Tile("Noise: no coefficient to choose", "All rows of the recipe have r = t, so β does nothing.", "By the recipe.")
    if "best" not in v:
        return Tile("Noise: not measured", "No time was left for it, or the rows with r < t were too few.", "Nothing follows.")
    status = {each.rule.name: each.status for each in d.verdicts}
    words = f"Noise is {v['noise_0']:v} at β = 0 and {v['noise_1']:v} at β = 1, in units of E|v'|². It is least at β = {v['best']:v}."
    sure = f"95% interval of the quietest β: {number(v['best'].low)} to {number(v['best'].high)}. Quiet is not good: decide by samples."
    pooled = next(each for each in d.verdicts if each.rule.key == "saving")
    if status["beta-louder"] == FIRES:
        return Tile(f"Noise: {v['excess']:v%} worse than at β = 0", words, sure, WORSE)
    if status["beta-pooled"] == FIRES:
        return Tile(f"Noise: {v['saving']:v%} less at another β", words, sure, KNOWN)
    if pooled.status == CLEAR and v["best"].high - v["best"].low < 0.5:
        return Tile("Noise: no other β is better", words, sure, BETTER)
    return Tile("Noise: a better coefficient cannot be told", words, sure)


def _batch(d: Diagnosis) -> Tile:
    found = next((v for v in d.verdicts if v.rule.key == "effective_batch"), None)
    if found is None or found.status == MISSING:
        return Tile("Batch: not measured", "The gradient was not measured.", "Nothing follows.")
    ratio, scale = d.values["effective_batch"], d.values["noise_scale"]
    words = f"A batch of {d.case.batch} rows has {ratio:v} times as much noise as signal. A batch of {scale:v} rows has as much of both."
    if not isfinite(ratio.value):
        words = f"No signal is seen in the gradient beside its noise. A batch of {number(scale.low)} rows or more may show it."
    sure = f"95% interval of noise over signal: {number(ratio.low)} to {number(ratio.high)}."
    heads = {FIRES: ("Batch: mostly noise, worse than signal", WORSE), CLEAR: ("Batch: mostly signal, better than noise", BETTER)}
    head, state = heads.get(found.status, ("Batch: noise and signal cannot be told apart", OPEN))
    return Tile(head, words, sure, state)


def _steps(d: Diagnosis) -> Iterator[Step]:
    for v in _of(d, FIRES, WARN) or _of(d, FIRES, NOTE):
        yield Step(f"{v.rule.plain[:1].upper()}{v.rule.plain[1:]}. {v.change}")
    if not d.fired:
        yield Step("Nothing needs a change. Raise --budget if a check that matters is left open.")
    if d.interrupted:
        yield Step("Run it again, to its end.", d.command)
