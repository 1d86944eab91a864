"""A sweep in memory: which number belongs to which set, model and seed. Knows no statistics, no figures and no page."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.inside import inside
from meanstep.program.reading import arrays
from meanstep.program.reproduce.points.records import Record, load, read_json

BASE, ANCHORED, BOTH = "beta 0", "ema 1 anchor", "posterior-both 1"
METRICS = ("sw1", "energy", "coverage")
PLANE = ("swiss_roll", "checkerboard", "pinwheel", "eight_gaussians", "two_moons", "two_spirals")

Seeds = dict[int, float]


@dataclass(frozen=True)
class Line:
    """One line of the sweep: its arm, its coefficient (None for an arm that is one model), the id of its model."""

    arm: str
    beta: float | None
    id: str


@dataclass(frozen=True)
class Results:
    """What a folder holds. Numbers that are not finite, from training that diverged, are left out here and named in `diverged`."""

    settings: dict[str, Any]
    environment: dict[str, Any]
    lines: tuple[Line, ...]
    sets: tuple[str, ...]
    about: dict[str, Record]
    models: dict[tuple[str, int, str], Record]
    study: str = "toy"
    samples: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[str, ...]:
        """Every model once, in the order of the lines."""
        return tuple(dict.fromkeys(line.id for line in self.lines))

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that have a model."""
        return tuple(sorted({seed for _, seed, _ in self.models}))

    @property
    def betas(self) -> tuple[float, ...]:
        """Coefficients of the swept lines."""
        return tuple(sorted({line.beta for line in self.lines if line.beta is not None}))

    @property
    def missing(self) -> list[tuple[str, int, str]]:
        """Models that were asked for and have no record."""
        seeds = self.settings.get("seeds") or self.seeds
        asked = ((name, seed, id) for name in self.sets for seed in seeds for id in self.ids)
        return [key for key in asked if key not in self.models]

    @property
    def diverged(self) -> list[tuple[str, int, str]]:
        """Models whose one-step SW1 is not a finite number, under either kind of weights."""
        return [key for key, model in self.models.items() if not all(_is(_score(model, w, "sw1", "1")) for w in ("raw", "ema"))]

    def swept(self) -> dict[str, list[Line]]:
        """Lines of the arms that have several coefficients, or at least a numbered one, by arm."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            if line.beta is not None:
                found.setdefault(line.arm, []).append(line)
        return found

    def singles(self) -> list[Line]:
        """Arms that are one model."""
        return [line for line in self.lines if line.beta is None]

    def paper(self, beta: float) -> str:
        """The id of the paper's model: EMA tangent between 0 and 1, the anchor with it at 1."""
        return {0.0: BASE, 1.0: ANCHORED}.get(beta, f"ema {beta:g}")

    def paper_betas(self) -> list[float]:
        """Coefficients of the paper's models that were trained."""
        found = {id for _, _, id in self.models}
        return [beta for beta in self.betas if self.paper(beta) in found]

    def score(self, name: str, id: str, metric: str = "sw1", weights: str = "ema", steps: str = "1") -> Seeds:
        """A score by seed."""
        return self._by_seed(name, id, lambda model: _score(model, weights, metric, steps))

    def probed(self, name: str, id: str, quantity: str, beta: float) -> Seeds:
        """A curve of the probe at one coefficient, by seed."""
        return self._by_seed(name, id, lambda model: _at(model.get("probe"), quantity, beta))

    def probe(self, name: str, id: str, group: str, key: str) -> Seeds:
        """A named number of the probe: `group` is `proxies`, `bias` or `optimum`."""
        return self._by_seed(name, id, lambda model: ((model.get("probe") or {}).get(group) or {}).get(key))

    def probe_betas(self, name: str, id: str) -> list[float]:
        """Coefficients at which the probe was taken."""
        return next((probe["betas"] for probe in self.probes(name, id)), [])

    def probes(self, name: str, id: str) -> Iterator[Record]:
        """The probes of one model, seed by seed."""
        yield from (model["probe"] for (s, _, i), model in sorted(self.models.items()) if (s, i) == (name, id) and model.get("probe"))

    def curves(self, name: str, id: str, quantity: str) -> tuple[list[int], np.ndarray] | None:
        """Steps and a curve of training for each seed `[seed, step]`, as long as the shortest; None if there is none."""
        curves = [model["curve"] for (s, _, i), model in sorted(self.models.items()) if (s, i) == (name, id) and model.get("curve")]
        curves = [curve for curve in curves if curve.get(quantity)]
        if not curves:
            return None
        shortest = min(min(len(curve["step"]), len(curve[quantity])) for curve in curves)
        values = [[np.nan if x is None else x for x in curve[quantity][:shortest]] for curve in curves]
        return curves[0]["step"][:shortest], np.array(values, dtype=float)

    def floor(self, name: str, metric: str = "sw1") -> list[float]:
        """Fresh data against fresh data, one value a replicate."""
        return [x for x in (self.about.get(name, {}).get("floor") or {}).get(metric, []) if _is(x)]

    def noise(self, name: str, metric: str = "sw1") -> list[float]:
        """Noise taken for samples against fresh data, one value a replicate; none in records that did not measure it."""
        return [x for x in (self.about.get(name, {}).get("noise") or {}).get(metric, []) if _is(x)]

    def law(self, name: str) -> Record | None:
        """The exact noise over (r, t), None where no closed form exists."""
        return self.about.get(name, {}).get("law")

    def _by_seed(self, name: str, id: str, read: Any) -> Seeds:
        found = {seed: read(model) for (s, seed, i), model in sorted(self.models.items()) if (s, i) == (name, id)}
        return {seed: float(x) for seed, x in found.items() if _is(x)}


def read(folder: Path) -> Results:
    """The folder of a sweep. `UserError` names the file that is missing or damaged."""
    asked = read_json(folder / "sweep.json")
    environment = read_json(path) if (path := inside(folder, "env.json")) else {}
    records = load(folder)
    settings = asked.get("settings", {}) if isinstance(asked, dict) else None
    if not isinstance(settings, dict) or not isinstance(asked.get("lines"), list):
        raise UserError(f"{folder / 'sweep.json'} is damaged: it holds no settings and lines of a sweep")
    sets = tuple(dict.fromkeys([*settings.get("sets", []), *(record["set"] for record in records)]))
    return Results(
        settings=settings,
        environment=environment if isinstance(environment, dict) else {},
        lines=tuple(Line(line["arm"], line["beta"], line["id"]) for line in asked["lines"]),
        sets=sets,
        about={record["set"]: record for record in records if record["kind"] == "set"},
        models={(record["set"], record["seed"], record["id"]): record for record in records if record["kind"] == "model"},
        study=str(asked.get("study", "toy")),
        samples={name: found for name in sets if (found := _samples(folder, name))},
    )


def _samples(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays of the set's first seed, none if there is no file; a link that leads out of the folder is none."""
    here = [path for path in (folder / "samples").glob("*.npz") if inside(folder, path.relative_to(folder))]
    numbers = {path: path.stem.removeprefix(f"{name}-") for path in here if path.stem.startswith(f"{name}-")}
    paths = sorted((path for path, number in numbers.items() if number.isdigit()), key=lambda path: int(numbers[path]))
    if not paths:
        return {}
    try:
        found = {key: np.asarray(x, dtype=float) for key, x in arrays.archive(paths[0]).items()}
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{paths[0]} is damaged ({error}): delete it, the report can do without") from None
    wrong = next((key for key, x in found.items() if x.ndim != 2 or x.shape[1] < 2), None)
    if wrong is not None:
        raise UserError(f"{paths[0]} is damaged ({wrong!r} is no array of points): delete it, the report can do without")
    return found


def _score(model: Record, weights: str, metric: str, steps: str) -> Any:
    value = (model.get(weights) or {}).get(metric)
    return value.get(steps) if isinstance(value, dict) else value


def _at(probe: Record | None, quantity: str, beta: float) -> float | None:
    if not probe or beta not in probe["betas"] or not probe.get(quantity):
        return None
    return probe[quantity][probe["betas"].index(beta)]


def _is(x: Any) -> bool:
    return isinstance(x, int | float) and isfinite(x)
