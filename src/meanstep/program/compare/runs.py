"""Several runs beside one another: which of their distances may be compared, where their configurations differ. Draws nothing."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.data.manifest import differences as unlike
from meanstep.program.errors import shown
from meanstep.program.evaluation.rows import Row, comparable
from meanstep.program.registry import default_sampler
from meanstep.program.runs import saved
from meanstep.program.runs.facts import known
from meanstep.program.runs.hub import local
from meanstep.program.runs.integrity import NETWORK, STATE
from meanstep.program.runs.options import flat
from meanstep.program.runs.report.answer import floor
from meanstep.program.runs.report.history import History, read

METRICS = {"frechet": "Frechet distance", "sliced": "Sliced distance"}
"""Distances with an interval, in the order in which they are asked for, and their names."""
SAME = ("sampler", "steps", "guidance", "labels", "count", "seed", "distance", "input", "extractor_digest", "reference_digest", "among")
"""What two rows of `meanstep evaluate` must agree in for their distances to be compared."""
REMEDY = {
    "count": "--count",
    "seed": "--seed",
    "steps": "--steps",
    "guidance": "--guidance",
    "sampler": "--sampler",
    "labels": "--class-shares",
}


@dataclass(frozen=True)
class Side:
    """One run. `name`: it in figures and words; `path`: as it was given; `at`: the samples seen of a checkpoint, None for the whole run."""

    name: str
    path: Path
    history: History
    at: int | None = None


@dataclass(frozen=True)
class Distance:
    """One run's distance: its value, 95% interval over samples if there is one, samples seen in training, and floor if it is known."""

    value: float
    interval: tuple[float, float] | None
    seen: int
    floor: float | None


@dataclass(frozen=True)
class Distances:
    """Of every run, in their order. `measure`: what they are; `about`: of which samples; without `found` not compared: `why`."""

    found: tuple[Distance, ...] = ()
    measure: str = ""
    about: str = ""
    why: str = ""


def sides(paths: Sequence[Path]) -> list[Side]:
    """The runs of these folders or checkpoints; `UserError` for one that is no run, and for the same one twice."""
    found = [_side(path) for path in paths]
    for k, one in enumerate(found):
        if any(one.history.folder.resolve() == other.history.folder.resolve() and one.at == other.at for other in found[:k]):
            raise UserError(f"{shown(str(one.path))} is given twice: compare it with another run, or with another of its checkpoints")
    names = [side.name for side in found]
    return [side if names.count(side.name) == 1 else replace(side, name=f"{side.name} ({k})") for k, side in enumerate(found, 1)]


def _side(path: Path) -> Side:
    here = local(path.expanduser())
    if not here.is_dir():
        raise UserError(f"there is no folder {path}: give folders of runs of `meanstep train`, their checkpoints, or studies")
    if (here / saved.CONFIG).is_file() or not ((here / STATE).exists() or (here / NETWORK).exists()):
        run = read(here)
        return Side(here.resolve().name, path, run)
    run, seen = read(saved.home(here)), int(saved.Saved.open(here).about["seen"])
    cut = replace(run, records=[r for r in run.records if r["seen"] <= seen], cells=[c for c in run.cells if c.get("seen", seen) == seen])
    return Side(f"{run.folder.resolve().name} at {seen:,}", path, cut, seen)


# Distances ---------------------------------------------------------------------------------------------------------------------------


def distances(found: Sequence[Side]) -> Distances:
    """Those of `meanstep evaluate` where all have the same cell, else those of the evaluations in training."""
    if why := other_data(found):
        return Distances(why=why)
    measured = _evaluated(found)
    if measured.found:
        return measured
    trained = _trained(found)
    return trained if trained.found or not measured.why else replace(trained, why=measured.why)


def other_data(found: Sequence[Side]) -> str:
    """Why distances of runs of different data are not compared; empty for runs of the same."""
    data = [side.history.manifest for side in found]
    for side, manifest in zip(found, data, strict=True):
        if manifest is None:
            return f"{side.name} has no {saved.MANIFEST}, which says what it was trained on: copy it there"
    digests = [manifest.digest for manifest in data if manifest]
    k = next((k for k, digest in enumerate(digests) if digest != digests[0]), 0)
    if not k:
        return ""
    first, other = data[0], data[k]
    assert first and other
    odd = set(unlike(first, other))  # the source's digest knows partners, shards hold conditions, and labels beside partners are one
    if "conditions" in odd and odd <= {"conditions", "source_digest", "shards", "classes"} and first.source == other.source:
        what = "train both on the same rows with the same --data.condition, --data.pair and --data.pair-as"
        return f"{found[0].name} and {found[k].name} are given other conditions beside the rows of {first.source}: {what}"
    return (
        f"{found[0].name} was trained on {first.source} (digest {digests[0][:8]}) and {found[k].name} on {other.source} "
        f"({digests[k][:8]}): train them on the same data"
    )


def _evaluated(found: Sequence[Side]) -> Distances:
    """Of cells with an interval: that which all runs have, of the latest checkpoint, in the fewest steps."""
    for metric, words in METRICS.items():
        cells = [_cells(side, metric) for side in found]
        if not all(cells):
            continue
        common = [key for key in cells[0] if all(key in other for other in cells[1:])]
        if not common:
            return Distances(why=_apart(found, [next(iter(each.values())) for each in cells]))
        key = min(common, key=lambda key: (key[SAME.index("steps")], key[SAME.index("guidance")] != 1))
        rows = [each[key] for each in cells]
        made = tuple(_distance(side, row, metric) for side, row in zip(found, rows, strict=True))
        row, steps = rows[0], rows[0]["steps"]
        of = f"{words} ({row['distance']})" if metric == "frechet" else words
        weights = ", ".join(dict.fromkeys(str(each.get("average", "raw")) for each in rows))
        what = f"{row['count']:,} samples of {steps} step{'s' * (steps > 1)}, weights {weights}"
        return Distances(made, of, f"{what}, against {row['reference']}")
    return Distances()


def _cells(side: Side, metric: str) -> dict[tuple[Any, ...], Row]:
    """By what must agree the row of the latest checkpoint: of an average where there is one, of several such the last written."""
    usual, here = default_sampler(known(side.history.folder).learns), dict[tuple[Any, ...], Row]()
    for row in side.history.cells:
        values = row.get("values") or {}
        if row["kind"] != "cell" or any(values.get(f"{metric}{end}") is None for end in ("", "_low", "_high")):
            continue
        full = {"sampler": usual} | row
        key = tuple(full.get(name) for name in SAME)
        if key not in here or _rank(full) >= _rank(here[key]):
            here[key] = full
    return dict(sorted(here.items(), key=lambda item: item[1]["seen"], reverse=True))


def _rank(row: Row) -> tuple[int, bool]:
    """Later checkpoints before earlier ones, then an average of the weights before the weights themselves."""
    return row["seen"], row.get("average", "raw") != "raw"


def _distance(side: Side, row: Row, metric: str) -> Distance:
    values = row["values"]
    floors = [
        (other["values"] or {}).get(metric)
        for other in side.history.cells
        if other["kind"] == "floor"
        and all(other.get(name) == row.get(name) for name in ("extractor_digest", "reference_digest", "among"))
        and comparable(other, row["count"])
    ]
    below = next((float(x) for x in reversed(floors) if isinstance(x, int | float)), None)
    return Distance(float(values[metric]), (float(values[f"{metric}_low"]), float(values[f"{metric}_high"])), row["seen"], below)


def _apart(found: Sequence[Side], rows: Sequence[Row]) -> str:
    """What two runs' evaluations do not agree in, and how they would."""
    for side, row in zip(found[1:], rows[1:], strict=True):
        for name in SAME:
            if row.get(name) != rows[0].get(name):
                said = name.removesuffix("_digest")
                values = [shown(each.get(said, each.get(name))) for each in (rows[0], row)]
                flag = REMEDY.get(name, f"--{said}" if said in ("extractor", "reference") else "the same options")
                return (
                    f"{found[0].name} was evaluated with {said} {values[0]} and {side.name} with {values[1]}: "
                    f"run meanstep evaluate on both with the same {flag.removeprefix('the same ')}"
                )
    return "their evaluations have no cell in common: run meanstep evaluate on each with the same options"


def _trained(found: Sequence[Side]) -> Distances:
    """Of the last evaluations in training, which have no interval; an earlier one tells nothing of a run whose last was not finite."""
    last = [side.history.of("evaluation")[-1:] for side in found]
    for side, records in zip(found, last, strict=True):
        if not any(isinstance(x, int | float) for r in records for x in r["steps"].values()):
            command = shlex.join(["meanstep", "evaluate", str(side.path)])
            lacks = "finite distance at its last evaluation" if records else "evaluation with a finite distance"
            return Distances(why=f"{side.name} has no {lacks}: {command} measures one")
    ends = [records[0] for records in last]
    for side, record in zip(found[1:], ends[1:], strict=True):
        for name in ("extractor", "count", "measure"):
            if record.get(name) != ends[0].get(name):
                values = f"{shown(ends[0].get(name))} and {side.name} with {shown(record.get(name))}"
                return Distances(
                    why=f"{found[0].name} was evaluated with {name} {values}: run meanstep evaluate on both with the same options"
                )
    common = set.intersection(*({int(k) for k, x in r["steps"].items() if isinstance(x, int | float)} for r in ends))
    if not common:
        return Distances(why="their evaluations have no number of steps in common: run meanstep evaluate on each with the same --steps")
    steps = min(common)
    made = tuple(Distance(float(r["steps"][str(steps)]), None, r["seen"], floor(s.history)) for s, r in zip(found, ends, strict=True))
    about = f"{ends[0]['count']:,} samples of {steps} step{'s' * (steps > 1)} at the last evaluation in training"
    return Distances(made, found[0].history.measure, about)


# Configurations ----------------------------------------------------------------------------------------------------------------------


def differences(found: Sequence[Side]) -> list[tuple[str, list[str]]]:
    """The entries in which configurations differ, by name, with the value of each run; one that a run lacks is none."""
    entries = [flat(side.history.config) for side in found]
    names = dict.fromkeys(name for each in entries for name in each)
    return [
        (f"{part}.{name.replace('_', '-')}", [_told(each, (part, name)) for each in entries])
        for part, name in names
        if any(each.get((part, name), names) != entries[0].get((part, name), names) for each in entries)
    ]


def _told(entries: dict[tuple[str, str], Any], name: tuple[str, str]) -> str:
    if name not in entries:
        return "none"
    value = entries[name]
    if isinstance(value, dict):
        return ", ".join(f"{key}: {x}" for key, x in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple | list) else "none" if value in ("", None) else str(value)


def records(found: Sequence[Side], measured: Distances) -> Iterator[dict[str, Any]]:
    """What --json says of each run."""
    for k, side in enumerate(found):
        run = side.history
        one: dict[str, Any] = {"run": str(side.path), "name": side.name, "recipe": run.config.method.recipe, "seen": run.seen}
        one |= {"seconds": round(run.seconds, 3), "distance": None}
        if measured.found:
            d = measured.found[k]
            one["distance"] = {"value": d.value, "interval": d.interval, "seen": d.seen, "floor": d.floor}
        yield one
