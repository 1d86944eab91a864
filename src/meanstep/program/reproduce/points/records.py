"""A sweep's folder: what was asked, what was found. Knows no networks.

sweep.json      {"study", "settings", "lines": [{arm, beta, id}]}: a folder belongs to one sweep
env.json        commit, versions, machine
records.jsonl   one object a line, in any order:

{"kind": "set", "set", "dim", "regions", "floor": {"sw1": [..], "energy": [..], "coverage": [..]}, "law": MAP or null, "seconds"}
    floor: fresh data against fresh data, one value a replicate, with the same number of samples as the models
    "noise": {"sw1": [..]}: the noise that samples are made of against fresh data, likewise; older records have none
{"kind": "model", "set", "seed", "id", "spec": {..}, "steps", "seconds" (training), "measuring" (seconds),
 "raw": SCORES (one jump only), "ema": SCORES,      raw weights and EMA weights
 "curve": {"step": [..], "sw1": [..], "sw1_raw": [..], "residual": [..], "residual_gap": [..]},
    residual: mean squared residual an entry since the point before, over all rows but the anchors; residual_gap: over those with r < t
 "probe": null (reference recipes) or {
    "rows": ..,                                     the number of fresh rows with r < t, the same for all models of a set and seed
    "betas": [..],                                  the tangent (1 - beta) v + beta EMA, target v, on these frozen raw weights
    "trace": [..], "trace_se": [..],                Tr Cov of one row's gradient of the squared residual, eq. (14)
    "weighted": [..],                               the same under the adaptive weight that trains
    "noise": [..],                                  the part of `trace` given (z, r, t): 4 E|G^T N v'|^2
    "error": [..],                                  M(beta): mean squared residual noise plus squared bias, over E|v'|^2
    "proxies": {"ema", "own", "posterior", "oracle", and each with "-both"}: trace at beta = 1, in the tangent or in both roles
    "bias": {proxy: E|w - v|^2 over E|v'|^2},       mean squared error; a network's is all bias, the posterior's also noise
    "map": MAP,
    "optimum": {"norm", "signed", "matrix", "matrix_biased"}   predicted: eq. (19) with |kappa|, (19b), (20) with b = 0, (20)
 }}
SCORES: {"sw1": {"1": .., "2": .., "4": ..}, "energy": .., "coverage": ..}   by steps of the sampler; flow matching also has "64" (Euler)
MAP: {"edges": [..], "a": [[..]], "b": [[..]], "c": [[..]], "s": [[..]], "rows"}   [bin of t][bin of r], null where there is no row:
    a = E|J v'|^2, b = E<J v', (J + I) v'>, c = E|(J + I) v'|^2, s = E|v'|^2, so the noise at beta is (a - 2 beta b + beta^2 c) / s

samples/SET-SEED.npz   for the first seed: float16 arrays [n, D], "data" and one for each model id (EMA weights, one step)
report.html, summary.csv, figures/*.png   made of the above
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.disk import write

Record = dict[str, Any]
PARTS = {"set": ("set", "dim", "floor", "law"), "model": ("set", "seed", "id", "raw", "ema", "curve", "probe")}
"""What a record of each kind cannot do without."""


def load(folder: Path) -> list[Record]:
    """The records of a sweep's folder, none if there is no file. `UserError` names the line that is damaged."""
    path = folder / "records.jsonl"
    if not path.exists():
        return []
    found = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if any(name not in record for name in PARTS[record["kind"]]):
                raise KeyError(record["kind"])
        except (ValueError, KeyError, TypeError):
            remedy = "repair or delete that line and run the command again: what it held is computed anew"
            raise UserError(f"{path}, line {number} is damaged (the other {len(lines) - 2} lines are kept): {remedy}") from None
        found.append(record)
    return found


def save(folder: Path, records: Iterable[Record]) -> None:
    """Write all records; a crash leaves the old file or the new one."""
    write(folder / "records.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def read_json(path: Path) -> Any:
    """The content of a JSON file, `UserError` if it is not one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
