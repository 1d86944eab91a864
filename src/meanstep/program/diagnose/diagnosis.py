"""What a probe found, in words: the headline, the verdicts, and the facts beside them. Knows no terminal and no page."""

import sys
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import torch

from meanstep import probes
from meanstep.keys import key
from meanstep.program.diagnose.case import Case
from meanstep.program.diagnose.measures import Measure, loudest, measures, number, percent, record
from meanstep.program.diagnose.probe import BUDGET, REACHED, ROWS, STOPPED, Measured
from meanstep.program.diagnose.reading import second
from meanstep.program.diagnose.rules import CLEAR, FIRES, OPEN, QUIET_IS_NOT_GOOD, WARN, Verdict, verdicts
from meanstep.program.machine import environment

COPY = (
    " Its proxy is an averaged copy of the network, and none was given here. Make one before the training with"
    " ema = ms.Average(net, 0.999), and call ema.update(net) after every step of the optimiser."
)
"""What to do for a proxy where there is no EMA copy."""


@dataclass(frozen=True)
class Diagnosis:
    """All that a page says. `command`: what made it."""

    case: Case
    found: Measured
    values: dict[str, Measure]
    verdicts: list[Verdict]
    budget: float
    precision: float
    command: str

    def __repr__(self) -> str:
        return f"Diagnosis({self.headline})"

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the probe."""
        return self.found.ended == STOPPED

    @property
    def fired(self) -> list[Verdict]:
        """The rules that fire."""
        return [v for v in self.verdicts if v.status == FIRES]

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        warned = [v for v in self.fired if v.rule.level == WARN]
        checked = sum(v.status in (FIRES, CLEAR, OPEN) for v in self.verdicts)
        notes = len(self.fired) - len(warned)
        names = ", ".join(v.rule.name for v in warned)
        first = f"{len(warned)} of {checked} rules warn{'s' * (len(warned) == 1)}: {names}" if warned else f"none of {checked} rules warns"
        left = sum(v.status == OPEN for v in self.verdicts)
        more = f"; {left} left open by {'its interval' if left == 1 else 'their intervals'}" if left else ""
        return f"{first}; {notes} {'note' if notes == 1 else 'notes'}{more}"

    @property
    def why(self) -> str:
        """Why no more rows were drawn."""
        reasons = {
            REACHED: f"the wanted precision of {self.precision:g} was reached",
            BUDGET: f"the budget of {number(self.budget)} s was spent before the precision of {self.precision:g} was reached",
            ROWS: "all rows asked for by --rows were drawn",
            STOPPED: "Ctrl-C ended it: all numbers are of the rows until then",
        }
        return reasons[self.found.ended]

    @cached_property
    def facts(self) -> list[tuple[str, str]]:
        """Everything that was measured, a line each: a name and a sentence."""
        lines = [("where the noise is", self._where()), ("noise over beta", self._beta()), ("roles", self._roles())]
        lines += [("change of u", self._change()), ("Jacobian", self._jacobian()), ("weight", self._weight())]
        lines += [("gradient", self._gradient()), ("center", self._center()), ("proxy", self._proxy())]
        return [(name, text) for name, text in lines if text]

    def _where(self) -> str:
        if self.case.method.still:
            return ""
        share, place = loudest(self.found)
        return f"{percent(share)} of the noise at beta = 0 lies in {place}, on rows spread evenly over r < t"

    def _beta(self) -> str:
        v = self.values
        if self.case.method.still:
            return "all rows of the recipe have r = t: it has no derivative, no Jacobian and no coefficient to measure"
        if "best" not in v:
            return "not measured: no time was left for it, or the rows with r < t were too few"
        two = f"{v['noise_0']} at beta = 0, {v['noise_1']} at 1 (1 less 0, paired: {v['paired']})"
        return f"over E|v'|^2, on the recipe's rows: {two}; least at beta = {v['best']}{self._worth}"

    @property
    def _worth(self) -> str:
        """What the quietest coefficient is worth: on a flat curve it is well known and means nothing."""
        return f", which takes {self.values['saving']:%} of the recipe's noise away" if "saving" in self.values else ""

    def _roles(self) -> str:
        v = self.values
        text = f"noise through the tangent is {v['role']} of that of the target" if "role" in v else ""
        if self.case.method.still and self.case.center.kind == "own":
            return "with the network's own u(z, t, t) as center all of the squared residual counts as noise: only another tells them apart"
        rows = "on r = t rows " if self.case.method.still else ""
        part = f"{rows}noise is {v['noise_part']:%} of the squared residual" if "noise_part" in v else ""
        return "; ".join(filter(None, (text, part)))

    def _change(self) -> str:
        v = self.values
        if "change" not in v:
            return f"|d_t u(z, t, t)| / |u| is {v['slope']}" if "slope" in v else ""
        late = f", {v['change_late']} at t above 0.75" if "change_late" in v else ""
        return f"|(t - r) du/dt| / |u| is {v['change']}{late}; |d_t u| / |u| is {v['slope']}"

    def _jacobian(self) -> str:
        v = self.values
        if "factor" not in v:
            return ""
        top = f", largest singular value {v['norm']:v}" if "norm" in v else ""
        return f"|J g| / |g| is {v['factor']}{top}; signed kappa {v['kappa']} (-1: as at r = t); {v['expanding']:%} of the rows expand"

    def _weight(self) -> str:
        v = self.values
        if "loss" not in v:
            return ""
        rows = f"{v['saturated']:v%} of the rows saturated; effective rows {v['effective_rows']:v%}"
        rows += "; the learned weight as it starts, for no file of the network holds its state" if self.case.method.learns else ""
        return f"the loss reads {v['loss']}, the raw mean squared residual is {v['residual']}; {rows}"

    def _gradient(self) -> str:
        g = self.found.gradient
        if g is None:
            return "not measured: no time was left for it, or the loss is not finite"
        cov = Measure(g.row, *(float(p) * g.rows for p in g.covariance.positive_interval()))
        scale = self.values["noise_scale"]
        seen = f"signal and noise meet at a batch of {scale} rows"
        none = f"no signal is seen in {g.rows} rows: it meets the noise at a batch of {number(scale.low)} rows or more"
        return f"Tr Cov of one row {cov} ({g.way}); {seen if isfinite(scale.value) else none}"

    def _center(self) -> str:
        center, v = self.case.center, self.values
        if center.kind == "posterior":
            moved = f"; half of it moves the quietest beta by at most {v['shift']:v}" if "shift" in v else ""
            return center.words + moved
        text = f"{center.words}: all noise here is too large by its squared error"
        if self.case.method.still:
            return text
        if "factor" not in v or "best" not in v:
            return f"{text}, and nothing here bounds that error"
        norm, words = (
            (v["norm"].value, "largest seen norm of J")
            if "norm" in v
            else (v["factor"].value, "mean |J g| / |g|, so no bound but an estimate,")
        )
        shift = float(probes.center_bound(self.found.tables["train"], 0.1 * v["variance"].value, norm))
        far = "anywhere" if not shift < 1 else f"by up to {number(shift)}"
        return f"{text}; by eq. (49) with the {words} an error of a tenth of E|v'|^2 can move the quietest beta {far}"

    def _proxy(self) -> str:
        name = second(self.case.probed, self.case.center)[0]
        return f"squared bias of {name} against the center: {self.values['bias']:%} of E|v'|^2" if "bias" in self.values else ""

    @property
    def cost(self) -> str:
        """What the probe took."""
        f = self.found
        parts = ", ".join(f"{name} {number(s)} s" for name, s in sorted(f.seconds.items(), key=lambda item: -item[1])[:4])
        rows = f"{f.rows:,} rows in {f.batches} batches, {f.evaluations:,} rows through the network"
        return f"{number(f.elapsed)} s, {rows} (most: {parts}); seed {self.case.seed}"

    @property
    def probed(self) -> str:
        """The network in a few words."""
        s, data = self.case.probed, self.case.data
        weights = f", weights {' and '.join(s.weights)}" if s.weights else ", as its factory made it"
        return (
            f"{s.factory}, {s.parameters:,} parameters{weights}; data {data.name}, {len(data):,} rows of {'x'.join(map(str, data.event))}"
        )

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "command": self.command,
            "probed": self.probed,
            "recipe": self.case.method.line,
            "center": self.case.center.kind,
            "headline": self.headline,
            "verdicts": [_row(v) for v in self.verdicts],
            "facts": dict(self.facts),
            **record(self.values, self.found),
            "rows": self.found.rows,
            "ended": self.why,
            "seconds": {"all": round(self.found.elapsed, 3)} | {name: round(s, 3) for name, s in self.found.seconds.items()},
            "evaluations": self.found.evaluations,
            "environment": environment(str(self.case.device)),
        }


def _row(v: Verdict) -> dict[str, Any]:
    rule = v.rule
    named = {"rule": rule.name, "level": rule.level, "quantity": rule.quantity, "threshold": rule.condition, "source": rule.source}
    return {"status": v.status, **named, "measured": v.measured, "means": v.means, "change": v.change}


def diagnosed(case: Case, found: Measured, budget: float, precision: float, command: str = "") -> Diagnosis:
    """Measures and verdicts of a probe."""
    values = measures(case, found)
    values["scale_off"] = _scale(case)
    return Diagnosis(case, found, values, verdicts(values, _words(case, values)), budget, precision, command or " ".join(sys.argv))


def _scale(case: Case) -> Measure:
    """How far the data's standard deviation is from 1, as a factor of at least 1."""
    n = min(1024, len(case.center.rows))
    index = case.center.rows[torch.randint(len(case.center.rows), (n,), generator=key(case.seed, "scale"))]
    std = float(case.data.rows(index, torch.float64, torch.device("cpu")).x.std())
    return Measure(max(std, 1 / std) if std > 0 else float("inf"))


def _words(case: Case, values: dict[str, Measure]) -> dict[str, str]:
    through = values["through_time"].value if "through_time" in values else 0.0
    time = through > 0.5
    return {
        "proxy": second(case.probed, case.center)[0] or "the proxy",
        "batch": str(case.batch),
        "time_or_space": f"{percent(min(through, 1.0))} of it comes through t, the rest through z." if through == through else "",
        "slower": "Slow down its answer to t (frequencies of the embedding)." if time else "Its Jacobian in z is large: clip the gradient.",
        "quiet": QUIET_IS_NOT_GOOD,
        "quieter": _quieter(case, values),
        "copy": "" if case.probed.ema is not None else COPY,
    }


def _quieter(case: Case, values: dict[str, Measure]) -> str:
    """The recipe at the quietest coefficient, and what it needs that was not given."""
    best = values["best"].value if "best" in values else 0.0
    if not best > 0:
        return "recipes.coefficient(beta=0) is quieter."
    return f"recipes.coefficient(beta={number(best)}, proxy=ema) is quieter." + ("" if case.probed.ema is not None else COPY)
