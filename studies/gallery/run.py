"""Flow matching and the program's one-step recipe on four kinds of rows, by `meanstep.train`. Half an hour on one core for each part.

Every line of records.jsonl is one data set, seed and method: distances to held-out rows at four points of the training in 1 and 4 steps, at
the last in 32 too, with the processor's seconds until then. `--part long` writes long.jsonl, of longer trainings with a falling rate, whose
last point is the only one. A second call goes on where the first one stopped. tables.py makes the report.
"""

import argparse
import csv
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import written
from torch import Tensor

import meanstep as ms
from meanstep.metrics import directions, energy_distance, sliced_wasserstein

SEEDS, STEPS, COUNT = range(5), (1, 4, 32), 2000
METHODS = {"flow matching": "flow_matching", "one step": "meanflow"}


@dataclass(frozen=True)
class Kind:
    """What `meanstep.train` is told beside what is common, and the rows to train on."""

    source: str
    told: dict[str, Any]
    condition: str = ""


KINDS = {
    "policy": Kind("policy.npz", {"data_condition": ["observation"]}, "observation"),
    "signals": Kind("signals.npz", {}),
    "super-resolution": Kind("digits.npz", {"data_condition": ["low"]}, "low"),
    "table": Kind("train.csv", {"data_table": "quantile"}),
}
COMMON = {"net": "mlp", "network_depth": 3, "batch": 128, "rate": 1e-3}


@dataclass(frozen=True)
class Part:
    """Trainings of one length: `samples` by recipe; `points`: at which distances are taken; `told`: of both recipes, `also` of a data set's
    one-step recipe."""

    name: str
    samples: dict[str, int]
    points: int
    told: dict[str, Any]
    also: dict[str, dict[str, Any]]


SHORT = Part("records.jsonl", dict.fromkeys(METHODS.values(), 192_000), 4, {"network_width": 128, "schedule": "constant"}, {})
"""One network and one constant rate for both methods, so that every point of a run is as good a model as its last."""
PLAIN = {"method_options": {"times": "uniform", "diagonal_share": 0.5, "power": 0}}
LONG = Part(
    "long.jsonl",
    {"flow_matching": 1_280_000, "meanflow": 704_000},
    1,
    {"network_width": 256, "schedule": "cosine"},
    {"signals": PLAIN},
)
"""The one-step recipe sees 0.55 of flow matching's rows, so that it takes no more seconds than that."""
PARTS = {"short": SHORT, "long": LONG}


def columns(rows: dict[str, Any], like: dict[str, Any]) -> Tensor:
    """A table's rows as numbers in units of `like`'s deviations, words as one entry for each."""
    parts = []
    for name, known in like.items():
        if isinstance(known[0], str):
            parts += [[float(word == other) for word in rows[name]] for other in sorted(set(known))]
        else:
            parts.append((np.asarray(rows[name], float) - np.mean(known)) / np.std(known))
    return torch.tensor(np.stack(parts, -1), dtype=torch.float32)


def read(path: Path) -> dict[str, Any]:
    """The columns of a table by name."""
    with path.open(encoding="utf-8") as file:
        name, *lines = csv.reader(file)
    found = dict(zip(name, map(list, zip(*lines, strict=True)), strict=True))
    return {key: value if value[0].isalpha() else [float(x) for x in value] for key, value in found.items()}


@dataclass(frozen=True)
class Held:
    """Held-out and training rows as flat numbers with their condition, and the way of samples to such rows."""

    condition: dict[str, Tensor] | None
    count: int
    test: Tensor
    train: Tensor
    flat: Callable[[Any, Tensor], Tensor]


def held(kind: Kind, folder: Path) -> Held:
    """Units are the deviations over the rows to train on along their first axis, as in `meanstep evaluate`; of a table, of each column."""
    if kind.source.endswith(".csv"):
        like, test = read(folder / kind.source), read(folder / "test.csv")
        rows = columns(test, like)
        return Held(None, len(rows), rows, columns(like, like)[: len(rows)], lambda model, x: columns(model.table(x), like))
    parts = {name: torch.from_numpy(part) for name, part in np.load(folder / kind.source).items()}
    std = parts["x_train"].transpose(0, 1).flatten(1).std(1).view(-1, *(1,) * (parts["x_train"].ndim - 2))
    y = None if not kind.condition else parts[f"{kind.condition}_test"][:COUNT]

    def flat(x: Tensor, y: Tensor | None) -> Tensor:
        rows = (x / std).flatten(1)
        return rows if y is None else torch.cat([rows, y.flatten(1) / y.std()], 1)

    test, beside = parts["x_test"][:COUNT], parts.get(f"{kind.condition}_train")
    train = flat(parts["x_train"], beside)[: len(test)]
    given = None if y is None else {kind.condition: y}
    return Held(given, len(test), flat(test, y), train, lambda model, x: flat(x, y))


def distances(x: Tensor, to: Tensor) -> dict[str, float]:
    """Sliced W1 along the same 512 directions, and the energy distance."""
    along = directions(to.shape[1], 512, generator=ms.key(0, "directions"))
    return {"sw1": sliced_wasserstein(x, to, along), "energy": float(energy_distance(x[:1000], to[:1000]))}


def made(model: Any, against: Held, steps: int) -> Tensor:
    """Samples, one for each held-out row and given its condition."""
    labels = None if against.condition is None else next(iter(against.condition.values()))
    return model.sample(against.count, steps=steps, labels=labels, batch=2000)


def trained(part: Part, name: str, recipe: str, seed: int, folder: Path, samples: int, out: Path) -> tuple[Any, dict[int, float]]:
    """The run, and the processor's seconds at each of its points."""
    kind, every, seconds = KINDS[name], samples // part.points, {}
    shutil.rmtree(out, ignore_errors=True)
    began = time.process_time()

    def watch(moment: Any) -> None:
        seconds[moment.seen] = time.process_time() - began

    told = COMMON | part.told | kind.told | (part.also.get(name, {}) if recipe == METHODS["one step"] else {})
    told |= {"save_every": every, "log_every": every, "keep": part.points + 1, "evaluate_every": 0, "sample_every": samples}
    run = ms.train(
        data=str(folder / kind.source), method_recipe=recipe, samples=samples, seed=seed, out=out, callback=watch, progress=False, **told
    )
    return run, seconds


def cell(part: Part, name: str, recipe: str, seed: int, folder: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Distances at every point, and the floor: as many rows to train on against the held-out ones. Seed 0's last samples are kept."""
    kind, samples = KINDS[name], part.samples[recipe]
    run, seconds = trained(part, name, recipe, seed, folder, samples, folder / f"run-{recipe}")
    against, points = held(kind, folder), []
    for at, spent in seconds.items():
        model, found, last = ms.load(run, checkpoint=at), {}, at == samples
        for steps in STEPS if last else STEPS[:2]:
            x = made(model, against, steps)
            found[steps] = distances(against.flat(model, x), against.test)
            if last and seed == 0 and part is SHORT:
                rows = against.flat(model, x) if kind.source.endswith(".csv") else x
                np.save(folder / f"samples-{name}-{recipe}-{steps}.npy", rows[:500].numpy())
        points.append({"seen": at, "seconds": round(spent, 2), "found": found})
    return points, distances(against.train, against.test)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--part", choices=PARTS, default="short")
    asked.add_argument("--out", type=Path, help="records.jsonl or long.jsonl beside this file, if nothing is said")
    asked.add_argument("--folder", type=Path, default=Path("out/gallery"), help="data and runs")
    asked.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    asked.add_argument("--only", nargs="*", default=list(KINDS))
    words = asked.parse_args()
    part = PARTS[words.part]
    out = words.out or Path(__file__).with_name(part.name)
    torch.set_num_threads(1)
    written(words.folder)
    os.environ["MEANSTEP_CACHE"] = str((words.folder / "cache").resolve())
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    done = {(line["kind"], line["method"], line["seed"]) for line in map(json.loads, lines)}
    warm: set[tuple[str, str]] = set()
    for seed in words.seeds:
        for name in words.only:
            for method, recipe in METHODS.items():
                if (name, method, seed) in done:
                    continue
                if (name, method) not in warm:  # what is imported and cached once counts nothing
                    trained(part, name, recipe, 100, words.folder, 1024, words.folder / "warm")
                    warm.add((name, method))
                points, floor = cell(part, name, recipe, seed, words.folder)
                line = {"kind": name, "method": method, "seed": seed, "points": points, "floor": floor}
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                last = points[-1]
                shown = {steps: round(found["sw1"], 3) for steps, found in last["found"].items()}
                print(name, seed, method, last["seconds"], shown, f"floor {floor['sw1']:.3f}", flush=True)


if __name__ == "__main__":
    main()
