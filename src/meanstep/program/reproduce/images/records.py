"""A study's folder: what was asked, what was found. Knows no networks.

study.json      what the study is made of, written anew when arms or seeds are added; a folder belongs to one study:
    {"study": "latents", "version": 1, "settings": {...}, "config": {...}, "data": {"name", "rows", "shape": [..], "classes": N},
     "extractor", "floor": {"1": distance of one half of the data to the other, "noise": of noise taken for samples, where it was measured},
     "seeds": [..], "moments": [..],
     "arms": [{"name", "about", "family": "constant" | "anchored" | "schedule" | "recipe", "beta": B or null, "recipe", "options": {...},
               "samples": to see in all, "compute": {"forwards", "backwards", "tangents"}}, ...],
     "asked": [["arm", seed], ...]}   the runs that were asked for; without it every arm with every seed
    moments: samples seen at which all arms are measured; an arm with more samples goes on at the same spacing, so that it can be compared
    at equal compute. compute: rows passed through a network for one row of training: without and with gradient, and tangents; a pass
    forward is 1, a pass backward 2, a tangent 1.
env.json        commit, versions, machine
runs/ARM-SEED/  a run of `meanstep train`, and measures.jsonl: one object a moment, as below
records.jsonl   all of them, as the report found them: runs/ replaces what was there of the same arm and seed, and the rest stays
samples/ARM-SEED.png   a grid of one-step samples (EMA weights) of the same noise and labels for every arm, at the last matched moment
report.html, summary.csv, figures/*.png   made of study.json, env.json (those of the runs too, where they are), records.jsonl and samples/
.report.lock    held by whoever writes records.jsonl and what is made of it

A record: {"kind": "moment", "arm", "seed", "seen", "beta": mean coefficient on rows r < t now, or null,
 "seconds": spent training so far, "clock": "processor" (that of the process; without the entry too) or "wall", "measuring": this moment,
 "distance": {"raw": {"1": .., "2": .., "4": ..}, "ema": {...}},     by steps of the sampler; flow matching: Euler steps
 "loss": {"t": [..], "conditional": {"mean": [..], "variance": [..]}, "ema": {"mean": [..], "variance": [..]}},
    on these frozen raw weights, at fixed times t with r uniform below: mean over rows of the squared residual an entry (target v) and its
    variance, with either tangent; the same rows for both, for all arms of a seed, and at every moment
 "error": {CENTER: {"betas": [..], "value": [..], "se": [..], "a", "b", "c", "d", "s": means over rows, "by_t": {"t": [..], "a": [..], ...},
                    "optimum": {"matrix": [value, se], "matrix_unbiased": [..], "norm": [..], "sign": [..]}}},
    M(beta) = E|J v'|^2 - 2 beta E<J v', (J + I) v'> + beta^2 (E|(J + I) v'|^2 + E|(J + I) bias|^2) over E|v'|^2 for the tangent
    (1 - beta) v + beta EMA, eq. (17), (20), (47), on raw weights. CENTER stands for the marginal velocity: "data", the posterior over
    the data (exact for their empirical law), bias that of the EMA copy; "ema", the EMA copy itself, bias 0
 "bias": {"value", "se", "kind"}}   of the EMA copy: E|ema - v|^2 over E|v'|^2, kind "exact for the data"; where the center "data" is
    missing E|ema - v_c|^2 over E|v_c|^2, kind "upper bound"
    or {"kind": "failure", "arm", "seed", "seen", "error"}   its loss was not finite; "moments" before it are kept
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.disk import clean, lock, write
from meanstep.program.runs import records as runs

Record = dict[str, Any]
STUDY, RECORDS, MEASURES, VERSION = "study.json", "records.jsonl", "measures.jsonl", 1
PARTS = {"moment": ("distance",), "failure": ("error",)}
"""What a record of each kind cannot do without, beside arm, seed and seen."""
OF_STUDY = ("settings", "config", "seeds", "moments")
OF_ARM = ("name", "about", "family", "beta", "recipe", "options", "samples", "compute")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other process writes records.jsonl or a report; `UserError` if the folder cannot be written into."""
    with lock(folder / ".report.lock"):
        clean(folder, [RECORDS, "report.html", "summary.csv"])
        clean(folder / "figures", ["*.png"])
        yield


def collect(folder: Path) -> list[Record]:
    """The records of a study, in order: those of runs/*/measures.jsonl, and of records.jsonl for every other arm and seed; kept there.

    `UserError` names a damaged line.
    """
    before, parts = load(folder / RECORDS), sorted((folder / "runs").glob(f"*/{MEASURES}"))
    if not parts:
        return _merged(before)
    found = [record for part in parts for record in load(part)]
    there = {(record["arm"], record["seed"]) for record in found}
    found = _merged([*(record for record in before if (record["arm"], record["seed"]) not in there), *found])
    write(folder / RECORDS, "".join(json.dumps(record) + "\n" for record in found))
    return found


def load(path: Path) -> list[Record]:
    """The records of a file, none if there is no file; a last line that was cut is skipped, another damaged one is a `UserError`."""
    return runs.load(path, _valid)


def study(folder: Path) -> Record:
    """What study.json holds; `UserError` if it is missing, damaged or of another study."""
    path = folder / STUDY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    arms = found.get("arms") if isinstance(found, dict) else None
    if not isinstance(arms, list) or not all(isinstance(arm, dict) and all(name in arm for name in OF_ARM) for arm in arms):
        raise UserError(f"{path} is damaged: it holds no arms of a study")
    if (found.get("study"), found.get("version")) != ("latents", VERSION):
        raise UserError(f"{path} is of another version: this one reads study latents, version {VERSION}")
    if missing := [name for name in OF_STUDY if name not in found]:
        raise UserError(f"{path} is damaged: it holds no {', '.join(missing)}")
    return found


def held(folder: Path) -> Record | None:
    """The same, None where there is no study.json."""
    return study(folder) if (folder / STUDY).exists() else None


def _valid(record: Any) -> Record:
    if any(name not in record for name in (*PARTS[record["kind"]], "arm")):
        raise KeyError(record["kind"])
    valid: Record = record | {"seed": int(record["seed"]), "seen": int(record["seen"])}
    return valid


def _merged(records: Iterable[Record]) -> list[Record]:
    """The last of each moment of a run, by arm, seed and moment; a failure counts only if its run did not go on."""
    moments: dict[tuple[str, int, int], Record] = {}
    failures: dict[tuple[str, int], Record] = {}
    for record in records:
        run = record["arm"], record["seed"]
        if record["kind"] == "failure":
            failures[run] = record
        else:
            moments[*run, record["seen"]] = record
            if run in failures and record["seen"] > failures[run]["seen"]:
                del failures[run]
    return sorted([*moments.values(), *failures.values()], key=lambda x: (x["arm"], x["seed"], x["seen"], x["kind"] == "failure"))
