"""From a diagnosis to one page that works offline. Measures nothing."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from meanstep.program.diagnose.answer import answer, sentences
from meanstep.program.diagnose.diagnosis import Diagnosis
from meanstep.program.diagnose.rules import CLEAR, FIRES, MISSING, OPEN, QUIET_IS_NOT_GOOD, WARN, Verdict
from meanstep.program.machine import environment
from meanstep.program.pages import form, page


def build(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write report.html into the folder, made if need be, and return its path. `UserError` if it cannot be written."""
    from meanstep.program.diagnose.figures import FIGURES

    drawn = form.drawn({name: partial(draw, diagnosis) for name, draw in FIGURES.items()})
    details = form.Details(__package__ or "", _content(diagnosis), drawn, {"greek": greek, "sentences": sentences})
    return page.published(form.rendered(_set(answer(diagnosis, {*drawn})), details), folder)


def _set(found: form.Answer) -> form.Answer:
    """With the letters of notation in what to do; a command stays as it is."""
    return replace(found, title=greek(found.title), steps=tuple(replace(step, words=greek(step.words)) for step in found.steps))


def _content(d: Diagnosis) -> dict[str, object]:
    return {
        "d": d,
        "still": d.case.method.still,
        "fired": d.fired,
        "rules": d.verdicts,
        "badge": badge,
        "facts": dict(d.facts),
        "quiet": QUIET_IS_NOT_GOOD,
        "environment": [(name, str(value)) for name, value in environment(str(d.case.device)).items() if value and name != "command"],
    }


def greek(text: str) -> str:
    """Notation for a page that has the letters; what a user types stays as it is."""
    text = re.sub(r"\bbeta\b(?!=)", "β", text).replace("kappa", "κ").replace("|^2", "|²")
    return text.replace("β = ", "β\u00a0=\u00a0")


def badge(v: Verdict) -> tuple[str, str]:
    """Class and words of what became of a rule."""
    return {
        FIRES: ("fails" if v.rule.level == WARN else "notes", v.rule.level),
        CLEAR: ("holds", "clear"),
        OPEN: ("open", "open"),
        MISSING: ("open", "not measured"),
    }[v.status]
