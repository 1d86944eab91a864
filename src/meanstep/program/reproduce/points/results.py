"""A sweep in memory: which number belongs to which set, model and seed. Knows no statistics, no figures and no page."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.reading import arrays
from meanstep.program.reproduce.points import KIND
from meanstep.program.reproduce.records import Record
from meanstep.program.reproduce.report import results
from meanstep.program.reproduce.report.results import Seeds, at, is_number, numbered
from meanstep.program.reproduce.study import Line

BASE, ANCHORED, BOTH = "beta 0", "ema 1 anchor", "posterior-both 1"
ALONE = "ema 1"
"""The averaged copy without the anchor: what a study compares that trained no model with it."""
PLANE = ("swiss_roll", "checkerboard", "pinwheel", "eight_gaussians", "two_moons", "two_spirals")


class Results(results.Results):
    """By set, model and seed; numbers of training that diverged are left out here and named in `diverged`."""

    @cached_property
    def lines(self) -> list[Line]:
        """The variants."""
        return KIND.lines(self.about)

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """Those that were asked for, then others that have a record."""
        found = [*(record["set"] for record in self.rest), *(name for name, _, _ in self.runs)]
        return tuple(dict.fromkeys([*self.settings.get("sets", []), *found]))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Every model once, in the order of the lines."""
        return tuple(dict.fromkeys(line.id for line in self.lines))

    @property
    def betas(self) -> tuple[float, ...]:
        """Coefficients of the swept lines."""
        return tuple(sorted({line.beta for line in self.lines if line.beta is not None}))

    @property
    def missing(self) -> list[tuple[str, str, int]]:
        """Models that were asked for and have no record."""
        seeds = self.settings.get("seeds") or self.seeds
        return [key for name in self.sets for seed in seeds for id in self.ids if (key := (name, id, seed)) not in self.runs]

    @property
    def diverged(self) -> list[tuple[str, str, int]]:
        """Models whose one-step SW1 is not a finite number, under either kind of weights."""
        return [(*key,) for key, run in self.runs.items() if not all(is_number(_score(run[0], w, "sw1", "1")) for w in ("raw", "ema"))]

    def swept(self) -> dict[str, list[Line]]:
        """Lines of the arms that have several coefficients, or at least a numbered one, by arm."""
        swept = [line for line in self.lines if line.beta is not None]
        return {arm: [line for line in swept if line.arm == arm] for arm in dict.fromkeys(line.arm for line in swept)}

    def singles(self) -> list[Line]:
        """Arms that are one model."""
        return [line for line in self.lines if line.beta is None]

    def paper(self, beta: float) -> str:
        """The id of the paper's model: EMA tangent between 0 and 1, at 1 with the anchor, or alone in a study without that model."""
        return {0.0: BASE, 1.0: ANCHORED if ANCHORED in self.ids else ALONE}.get(beta, f"ema {beta:.12g}")

    def paper_betas(self) -> list[float]:
        """Coefficients of the paper's models that were trained."""
        found = {id for _, id, _ in self.runs}
        return [beta for beta in self.betas if self.paper(beta) in found]

    def score(self, name: str, id: str, metric: str = "sw1", weights: str = "ema", steps: str = "1") -> Seeds:
        """A score by seed."""
        return self.by_seed((name, id), lambda model: _score(model, weights, metric, steps))

    def probed(self, name: str, id: str, quantity: str, beta: float) -> Seeds:
        """A curve of the probe at one coefficient, by seed."""
        return self.by_seed((name, id), lambda model: _at(model.get("probe"), quantity, beta))

    def probe(self, name: str, id: str, group: str, key: str) -> Seeds:
        """A named number of the probe: `group` is `proxies`, `bias` or `optimum`."""
        return self.by_seed((name, id), lambda model: at(model, "probe", group, key))

    def probe_betas(self, name: str, id: str) -> list[float]:
        """Coefficients at which the probe was taken."""
        return next((probe["betas"] for probe in self.probes(name, id)), [])

    def models(self, name: str, id: str) -> list[Record]:
        """The records of one model, seed by seed."""
        return [run[0] for run in self.by_unit.get((name, id), {}).values()]

    def probes(self, name: str, id: str) -> Iterator[Record]:
        """The probes of one model, seed by seed."""
        yield from (model["probe"] for model in self.models(name, id) if model.get("probe"))

    def curves(self, name: str, id: str, quantity: str) -> tuple[list[int], np.ndarray] | None:
        """Steps and a curve of training for each seed `[seed, step]`, as long as the shortest; None if there is none."""
        curves = [curve for model in self.models(name, id) if (curve := model.get("curve")) and curve.get(quantity)]
        if not curves:
            return None
        shortest = min(min(len(curve["step"]), len(curve[quantity])) for curve in curves)
        values = [[np.nan if x is None else x for x in curve[quantity][:shortest]] for curve in curves]
        return curves[0]["step"][:shortest], np.array(values, dtype=float)

    def of_set(self, name: str) -> Record:
        """What is known of a set, empty without a record of it."""
        return next((record for record in self.rest if record["set"] == name), {})

    def floor(self, name: str, metric: str = "sw1", what: str = "floor") -> list[float]:
        """Fresh data against fresh data, one value a replicate; `what`: "noise" for noise taken for samples, which older records lack."""
        return [x for x in at(self.of_set(name), what, metric) or [] if is_number(x)]

    @cached_property
    def samples(self) -> dict[str, dict[str, np.ndarray]]:
        """Arrays of each set's first seed that has some."""
        return {name: _arrays(path) for name in self.sets if (path := numbered(self.folder, name, "npz"))}


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        found = {key: np.asarray(x, dtype=float) for key, x in arrays.archive(path).items()}
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, the report can do without") from None
    wrong = next((key for key, x in found.items() if x.ndim != 2 or x.shape[1] < 2), None)
    if wrong is not None:
        raise UserError(f"{path} is damaged ({wrong!r} is no array of points): delete it, the report can do without")
    return found


def _score(model: Record, weights: str, metric: str, steps: str) -> Any:
    value = (model.get(weights) or {}).get(metric)
    return value.get(steps) if isinstance(value, dict) else value


def _at(probe: Record | None, quantity: str, beta: float) -> float | None:
    if not probe or beta not in probe["betas"] or not probe.get(quantity):
        return None
    found: float | None = probe[quantity][probe["betas"].index(beta)]
    return found
