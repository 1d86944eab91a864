"""From a diagnosis to one page that works offline. Measures nothing."""

import re
from pathlib import Path

from meanstep.program.diagnose.diagnosis import Diagnosis
from meanstep.program.diagnose.rules import CLEAR, FIRES, MISSING, OPEN, QUIET_IS_NOT_GOOD, WARN, Verdict
from meanstep.program.machine import environment
from meanstep.program.pages import page


def build(diagnosis: Diagnosis, folder: Path) -> Path:
    """Write report.html into the folder, made if need be, and return its path. `UserError` if it cannot be written."""
    from meanstep.program.diagnose.figures import FIGURES

    drawn = {name: image for name, draw in FIGURES.items() if (image := draw(diagnosis)) is not None}
    return page.published(page.rendered(__package__ or "", _content(diagnosis, drawn), {"greek": greek}), folder)


def _content(d: Diagnosis, drawn: dict[str, bytes]) -> dict[str, object]:
    return {
        "d": d,
        "still": d.case.method.still,
        "drawn": page.figures(drawn),
        "tiles": tiles(d),
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


def tiles(d: Diagnosis) -> list[tuple[str, str, str]]:
    """The few numbers that matter: value, words, interval."""
    words = {
        "best": "quietest β, all r < t rows of the recipe together",
        "noise_0": "noise at β = 0 over that of the velocity; 1 at β = 1 without bias",
        "change_late": "|(t - r) du/dt| / |u| at t above 0.75",
        "residual": "raw mean squared residual: the number to watch",
    }
    if d.case.method.still:
        words |= {"boundary": "squared error of u(z, t, t) over E|v'|²", "slope": "|d_t u(z, t, t)| / |u|"}
    held = {name: d.values[name] for name in words if name in d.values}
    sure = {name: "" if m.low != m.low else f"95% interval: {m.low:.3g} to {m.high:.3g}" for name, m in held.items()}
    more = {"best": ("saving", "takes {:v%} of the recipe's noise away"), "residual": ("loss", "the loss reads {:v}")}
    for name, (other, text) in more.items():
        if name in held and other in d.values:
            sure[name] += f"; {text.format(d.values[other])}"
    return [(f"{m:v}", words[name], sure[name]) for name, m in held.items()]
