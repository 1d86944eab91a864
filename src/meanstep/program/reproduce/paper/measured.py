"""What came out here: one row a model, from measured.csv of this package (the committed studies) and from a folder's own records."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from meanstep.program.reproduce import images, points, records
from meanstep.program.reproduce.study import read

FILE = Path(__file__).with_name("measured.csv")
QUANTITIES = ("sw1", "sw2", "sw1_two", "variance")


@dataclass(frozen=True)
class Model:
    """One trained model of the plane or of a mixture. `where`: the set; `id`: the model; `gap`: the cap of its training, 1 without one;
    `centres`: of a mixture. `sw1`, `sw2`: one jump; `sw1_two`: two jumps; `variance`: of a batch's gradient. nan for what is not known.
    """

    study: str
    protocol: str
    where: str
    centres: str
    id: str
    seed: int
    steps: int
    gap: float
    sw1: float
    sw2: float
    sw1_two: float
    variance: float


def models(folder: Path) -> list[Model]:
    """Those of a study in the plane or of mixtures that is in a folder; nothing for a folder without one."""
    if not (folder / points.KIND.file).is_file():
        return []
    settings = {"protocol": "ours", "largest_gap": None, "centres": None} | read(folder).settings
    about = {
        "study": folder.name,
        "protocol": settings["protocol"],
        "centres": settings["centres"] or "",
        "gap": settings["largest_gap"] or 1.0,
    }
    return [_model(record, about) for record in records.load(folder, points.KIND) if record["kind"] == "model"]


def _model(record: dict[str, Any], about: dict[str, Any]) -> Model:
    ema = record["ema"]
    return Model(
        **about,
        where=record["set"],
        id=record["id"],
        seed=record["seed"],
        steps=record["steps"],
        sw1=_known(ema["sw1"].get("1")),
        sw2=_known(ema.get("sw2", {}).get("1")),
        sw1_two=_known(ema["sw1"].get("2")),
        variance=_known(record.get("variance")),
    )


def _known(value: float | None) -> float:
    return float("nan") if value is None else float(value)


@dataclass(frozen=True)
class Estimate:
    """What the authors' estimator of the best coefficient gives on a network of a study of images, at beta = 0 and its last moment.

    `quantity`: scalar or matrix, the two forms; shrinkage, the factor of the scalar one.
    """

    study: str
    quantity: str
    seed: int
    value: float


def estimates(folder: Path) -> list[Estimate]:
    """Those of a study of images that is in a folder; nothing for a folder without one, or of a study without them."""
    if not (folder / images.KIND.file).is_file():
        return []
    last = {
        r["seed"]: r for r in records.load(folder, images.KIND) if r["kind"] == "moment" and r["arm"] == "beta@0" and r.get("published")
    }
    return [
        Estimate(folder.name, quantity, seed, float(value))
        for seed, record in sorted(last.items())
        for quantity, value in _estimated(record["published"]).items()
        if value is not None
    ]


def _estimated(entry: dict[str, Any]) -> dict[str, float | None]:
    square, gap = entry["square"], entry["gap"]
    shrinkage = square / (square + gap) if square and gap is not None else None
    return {"scalar": entry["scalar"], "matrix": entry["matrix"], "shrinkage": shrinkage}


def held(path: Path = FILE) -> list[Model]:
    """The committed ones; none where the file is not there."""
    if not path.is_file():
        return []
    kinds = {f.name: f.type for f in fields(Model)}
    with path.open(encoding="utf-8", newline="") as file:
        return [Model(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]  # type: ignore


def written(found: Iterable[Model], path: Path) -> None:
    """The models as a table, sorted, with five digits."""
    rows = [asdict(m) for m in sorted(found, key=lambda m: (m.study, m.where, m.id, m.seed))]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Model)], lineterminator="\n")
        table.writeheader()
        table.writerows(row | {name: float(f"{row[name]:.5g}") for name in QUANTITIES} for row in rows)


def chosen(found: Sequence[Model], **wanted: Any) -> dict[int, Model]:
    """By seed the models with these entries, of the longest training among them; of several equal ones the last."""
    fit = [m for m in found if all(getattr(m, name) == value for name, value in wanted.items())]
    longest = max((m.steps for m in fit), default=0)
    return {m.seed: m for m in fit if m.steps == longest}
