"""Numbers with intervals, made of the tables of a probe. Knows no networks and no rules."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Any

import torch
from torch import Tensor

from meanstep import probes
from meanstep.probes import Estimate, Table
from meanstep.program.diagnose.case import Case
from meanstep.program.diagnose.probe import Measured
from meanstep.program.diagnose.tables import part
from meanstep.program.methods import falls, trained_jumps
from meanstep.program.runs.weighting import FEW

ROWS_OF_TAIL = 100
"""Of fewer the largest row alone is more than one percent of them."""
LATE = 0.75
COARSE = torch.linspace(0, 1, 5, dtype=torch.float64)
"""Edges of the terminal's maps."""


@dataclass(frozen=True)
class Measure:
    """A number and its 95 percent interval, nan where there is none."""

    value: float
    low: float = nan
    high: float = nan

    def above(self, threshold: float) -> bool | None:
        """Whether it is above: True or False with its whole interval, None if the interval reaches over the threshold."""
        ends = [end for end in (self.low, self.high) if end == end] or [self.value]
        return True if min(ends) > threshold else False if max(ends) <= threshold else None

    def record(self) -> list[float | None]:
        """For JSON."""
        return [x if isfinite(x) else None for x in (self.value, self.low, self.high)]

    def __format__(self, spec: str) -> str:
        """The number with its interval, in percent if `spec` is `%`, else in three digits; `spec` `v` leaves the interval out."""
        show = percent if "%" in spec else number
        if "v" in spec or self.low != self.low:
            return show(self.value)
        return f"{show(self.value)} [{show(self.low)}, {show(self.high)}]"


def number(x: float) -> str:
    """Three digits, without an exponent where it is readable so."""
    if not isfinite(x):
        return "unbounded" if x == inf else "unknown"
    if x == 0:
        return "0"
    return f"{x:.3g}" if 1e-3 <= abs(x) < 999.5 else f"{x:,.0f}" if 999.5 <= abs(x) < 1e7 else f"{x:.1e}"


def percent(x: float) -> str:
    """In percent, with as many digits as matter."""
    return number(x) if not isfinite(x) else f"{100 * x:.0f}%" if abs(x) >= 0.095 or x == 0 else f"{100 * x:.2g}%"


def measured(e: Estimate, f: Callable[[Tensor], Tensor] = lambda x: x) -> Measure:
    """An estimate through an increasing function."""
    return Measure(*(float(f(p)) for p in (e.value, *e.interval())))


def root(e: Estimate) -> Measure:
    """The root of a mean square."""
    return measured(e, lambda x: x.clamp(min=0).sqrt())


def measures(case: Case, found: Measured) -> dict[str, Measure]:
    """All that was measured, by name; what the probe could not measure is missing."""
    tables, all = found.tables, {"lost": Measure(found.lost / max(found.rows, 1)), "diagonal": Measure(case.method.diagonal)}
    all |= {name: Measure(value) for name, value in case.history.items()}
    for name, make in (("train", _noise), ("moving", _roles), ("pull", _weight), ("boundary", _boundary)):
        if name in tables and len(tables[name].t) > 2:
            all |= make(case, tables)
    if "answers" in tables and len(tables["answers"].t) > 2:
        all |= _answers(tables["answers"]) | (_jacobian(tables["jacobian"]) if "jacobian" in tables else {})
    if case.method.still and "still" in tables and case.center.kind != "own":
        all["noise_part"] = measured(tables["still"].ratio("noise", "residual"))
    if "shift" in tables and len(tables["shift"].t) > 2:
        all["shift"] = Measure(float(probes.center_shift(tables["half"], tables["shift"])))
    if case.entries <= FEW:
        all["falls"] = Measure(falls(case.method.recipe, case.data.event))
        if (seen := trained_jumps(case.method.recipe)) is not None:
            all["untrained"] = Measure(1 - seen)
    if found.gradient is not None:
        scale = Measure(*found.gradient.noise_scale())
        all["noise_scale"] = scale
        all["effective_batch"] = Measure(*(p / case.batch for p in (scale.value, scale.low, scale.high)))
    return all


def _noise(case: Case, tables: dict[str, Table]) -> dict[str, Measure]:
    """The parabola on the recipe's own r < t rows."""
    train = tables["train"]
    best = probes.matrix(train).clipped()
    beta = case.method.beta or 0.0
    curve = probes.curve(train, torch.tensor([0.0, 1.0, float(best.value), beta], dtype=torch.float64)).noise
    at = [measured(Estimate(*(part[k] for part in curve))) for k in range(4)]
    found = {"noise_0": at[0], "noise_1": at[1], "noise_best": at[2], "noise_recipe": at[3]}
    found["best"] = Measure(*(float(p) for p in best))
    found["paired"] = measured(probes.difference(train, 1.0, 0.0))
    if case.method.beta is not None:
        found["saving"] = _relative(probes.difference(train, beta, float(best.value)), at[3].value)
    if case.method.beta:
        found["excess"] = _relative(probes.difference(train, beta, 0.0), at[0].value)
    found["variance"] = measured(train.mean("s"))
    if train.columns["a"].shape[-1] >= ROWS_OF_TAIL:
        found["tail"] = Measure(float(train.top("a")))
    if bool(train.columns["e"].any()):
        found["bias"] = measured(train.ratio("e", "s"))
    return found


def _relative(e: Estimate, to: float) -> Measure:
    return Measure(*(float(p) / to for p in (e.value, *e.interval()))) if to else Measure(nan)


def _roles(case: Case, tables: dict[str, Table]) -> dict[str, Measure]:
    """Tangent over target, and the noise's part of the residual, on moving rows."""
    moving = tables["moving"]
    found = {"role": measured(moving.ratio("tangent", "target")), "noise_part": measured(moving.ratio("noise", "residual"))}
    return {name: m for name, m in found.items() if isfinite(m.value)}


def _weight(case: Case, tables: dict[str, Table]) -> dict[str, Measure]:
    pull = tables["pull"].columns
    flags = (pull["slope"] < 0.1 * pull["zero"]).double()
    table = tables["pull"]._replace(columns=pull | {"flag": flags})
    effective = pull["pull"].sum().square() / (pull["pull"].square().sum() * len(flags))
    return {
        "saturated": Measure(float(flags.mean())),
        "loss": measured(table.mean("value")),
        "residual": measured(table.mean("error")),
        "effective_rows": Measure(float(effective)),
    }


def _boundary(case: Case, tables: dict[str, Table]) -> dict[str, Measure]:
    return {"boundary": measured(tables["boundary"].smooth(lambda e, whole: e / (whole - e), "square", "total"))}


def _answers(table: Table) -> dict[str, Measure]:
    found = {"slope": root(table.ratio("slope", "u")), "zero": Measure(float((table.columns["u"] == 0).double().mean()))}
    if "change" not in table.columns:
        return found
    late = part(table, table.t >= LATE)
    found["change"] = root(table.ratio("change", "u"))
    found["through_time"] = measured(table.ratio("moved", "change"))
    return found | ({"change_late": root(late.ratio("change", "u"))} if len(late.t) > 2 else {})


def _jacobian(table: Table) -> dict[str, Measure]:
    found = {"kappa": measured(table.mean("kappa")), "factor": root(table.mean("square")), "expanding": measured(table.mean("expanding"))}
    return found | ({"norm": Measure(float(table.columns["norm"].max()))} if "norm" in table.columns else {})


def maps(found: Measured, edges: Tensor) -> dict[str, Tensor]:
    """Means over bins of `(r, t)` `[n, n]`, rows by t: noise at beta 0 and 1 over E|v'|^2, quietest beta, change over u; nan if empty."""
    grid = probes.per_bin(found.tables["map"], edges)
    # a bin with no curvature has no quietest coefficient
    best = torch.where(grid.c > 1e-6 * grid.s, grid.beta.value, torch.nan).clamp(0, 1)
    loud = torch.where(grid.counts > 0, grid.a * grid.counts, 0.0)
    return {
        "noise_0": grid.noise(0.0) / grid.s,
        "noise_1": grid.noise(1.0) / grid.s,
        "best": best,
        "change": found.tables["answers"].bins("change", "u", edges).value.clamp(min=0).sqrt(),
        "share": loud / loud.sum(),
        "counts": grid.counts,
    }


def loudest(found: Measured, edges: Tensor = COARSE) -> tuple[float, str]:
    """The bin of `(r, t)` with the largest share of the noise at beta = 0, on rows spread evenly, and its words."""
    share = maps(found, edges)["share"]
    k = int(share.argmax())
    i, j = divmod(k, len(edges) - 1)
    low, high = edges[:-1].tolist(), edges[1:].tolist()
    return float(share.flatten()[k]), f"t in [{low[i]:g}, {high[i]:g}], r in [{low[j]:g}, {high[j]:g}]"


def record(values: dict[str, Measure], found: Measured) -> dict[str, Any]:
    """For JSON: all measures, and the curve and the maps of a recipe with r < t rows; what is not finite is null."""
    if "map" not in found.tables:
        return {"measures": {name: m.record() for name, m in values.items()}}
    grids = maps(found, probes.rows.EDGES)
    curve = probes.curve(found.tables.get("train", found.tables["map"])).noise
    low, high = curve.interval()
    return {
        "measures": {name: m.record() for name, m in values.items()},
        "curve": {"beta": [k / 10 for k in range(11)], "noise": _plain(curve.value), "low": _plain(low), "high": _plain(high)},
        "maps": {"edges": probes.rows.EDGES.tolist(), **{name: [_plain(row) for row in grid] for name, grid in grids.items()}},
    }


def _plain(x: Tensor) -> list[float | None]:
    return [p if isfinite(p) else None for p in x.tolist()]
