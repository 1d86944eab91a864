"""The report of a sweep on synthetic records with known effects: statistics, verdicts, CSV, page, partial sweeps, damage."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from meanstep.program.console import UserError
from meanstep.program.sweep import claims, report, results, statistics, verdicts
from meanstep.program.sweep.statistics import Change

PLANE = results.PLANE
GAIN = {"swiss_roll": 0.5, "checkerboard": 0.76, "pinwheel": 0.63, "eight_gaussians": 0.84, "two_moons": 0.77, "two_spirals": 1.08}
FALL = {"eight_gaussians": 3.9, "checkerboard": 3.1}
REFERENCES = {"flow_matching": 6.0, "improved_meanflow": 0.8, "shortcut": 1.1}
BINS = 12


@dataclass(frozen=True)
class Plan:
    """What a synthetic sweep holds. `gain` maps a set to SW1 at beta 1 over beta 0; `fall` is Tr Cov at 0 over 1."""

    sets: Sequence[str] = PLANE
    seeds: Sequence[int] = (0, 1, 2)
    betas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    arms: Sequence[str] = ("paper", "plain@0,1", "anchored@0", "posterior-both@1", *REFERENCES)
    gain: dict[str, float] | None = None
    fall: float | None = None
    spread: float = 0.01
    matrix: float = 1.0
    probe: bool = True
    law: bool = True
    pictures: bool = True
    scatter: int = 4000


def lines(plan: Plan) -> list[dict]:
    found = []
    for arm in plan.arms:
        name, _, chosen = arm.partition("@")
        for beta in [None] if name in REFERENCES else [float(b) for b in chosen.split(",")] if chosen else plan.betas:
            found.append({"arm": name, "beta": beta, "id": identity(name, beta)})
    return found


def identity(arm: str, beta: float | None) -> str:
    if beta is None:
        return arm
    word = f"{'ema' if arm in ('paper', 'plain', 'anchored') else arm} {beta:g}" if beta else "beta 0"
    return word + (" anchor" if arm == "anchored" or (arm == "paper" and beta == 1) else "")


def quality(plan: Plan, name: str, id: str, beta: float | None) -> float:
    """SW1 of a model over that at beta 0: all of the gain is the coefficient's."""
    gain = (plan.gain or GAIN).get(name, 0.9)
    if id in REFERENCES:
        return REFERENCES[id]
    if id.startswith("posterior"):
        return 0.7 * gain
    dip = 0.09 * np.sin(np.pi * (beta or 0) / 0.8) if name == "mixture-64" and (beta or 0) <= 0.8 else 0.0
    return float(gain ** (beta or 0) - dip)


def law(fall: float) -> dict:
    edges = np.linspace(0, 1, BINS + 1)
    centre = (edges[1:] + edges[:-1]) / 2
    r, t = np.meshgrid(centre, centre)
    j = 1 + (fall - 1) * (t - r) * np.sin(3 * t) - 0.3 * (t > 0.7)
    a, b, c = j**2, j * (j - 1), (j - 1) ** 2
    cells = {k: np.where(r <= t, x, np.nan).round(5).tolist() for k, x in {"a": a, "b": b, "c": c, "s": np.ones_like(a)}.items()}
    return {"edges": edges.tolist(), **{k: [[None if x != x else x for x in row] for row in m] for k, m in cells.items()}, "rows": 1000}


def probe(plan: Plan, name: str, noise: np.random.Generator) -> dict:
    fall = plan.fall or FALL.get(name, 1.6)
    betas = np.array(plan.betas)
    trace = 40 * np.exp(0.3 * noise.standard_normal()) * (1 + (1 / fall - 1) * betas) * np.exp(plan.spread * noise.standard_normal(betas.shape))
    at_one = float(trace[-1])
    proxies = {f"{p}{tail}": at_one * k * (0.3 if tail and k < 1.01 else 1) for p, k in (("ema", 1.0), ("own", 1.1), ("posterior", 0.95)) for tail in ("", "-both")}
    return {
        "betas": betas.tolist(),
        "trace": trace.tolist(),
        "trace_se": (0.01 * trace).tolist(),
        "weighted": (0.001 * trace / trace[0] * (1 - 0.3 * betas)).tolist(),
        "noise": (0.8 * trace).tolist(),
        "error": (1 + (betas - 0.9) ** 2).tolist(),
        "proxies": proxies,
        "bias": {"ema": 0.02, "own": 0.03, "posterior": 0.001, "oracle": 0.0},
        "map": law(fall),
        "optimum": {"norm": 0.48 + 0.01 * noise.standard_normal(), "signed": 0.3, "matrix": plan.matrix, "matrix_biased": 0.95 * plan.matrix},
    }


def model(plan: Plan, name: str, seed: int, line: dict, level: float, noise: np.random.Generator) -> dict:
    ema = level * quality(plan, name, line["id"], line["beta"]) * np.exp(plan.spread * noise.standard_normal())
    steps = np.linspace(1000, 20000, 20).round().astype(int)
    curve = ema * (1 + 4 * np.exp(-steps / 4000)) * np.exp(0.05 * noise.standard_normal(20))
    residual = (3 - (line["beta"] or 0)) * np.exp(-steps / 30000) * np.exp(0.05 * noise.standard_normal(20))
    scores = [{"sw1": {"1": x, "2": 0.8 * x, "4": 0.7 * x}, "energy": x / 9, "coverage": 0.93} for x in (1.15 * ema, ema)]
    return {
        "kind": "model",
        "set": name,
        "seed": seed,
        "id": line["id"],
        "spec": {"recipe": "coefficient"},
        "steps": 20000,
        "seconds": 90.0,
        "raw": scores[0],
        "ema": scores[1],
        "curve": {"step": steps.tolist(), "sw1": curve.tolist(), "sw1_raw": curve.tolist(), "residual": residual.tolist(), "residual_gap": residual.tolist()},
        "probe": probe(plan, name, noise) if plan.probe and line["id"] not in REFERENCES else None,
    }


def points(name: str, n: int, blur: float, noise: np.random.Generator) -> np.ndarray:
    turn, at = noise.integers(0, 8, n) * np.pi / 4, noise.uniform(0, 1, n)
    if name in ("swiss_roll", "two_spirals"):
        turn, at = 3 * np.pi * at**0.5, noise.integers(0, 2, n) * np.pi * (name == "two_spirals")
        x = np.stack([np.cos(turn + at), np.sin(turn + at)], 1) * turn[:, None] / 4.7
    elif name == "checkerboard":
        cell = noise.integers(0, 4, (n, 2))
        cell[:, 1] = cell[:, 1] // 2 * 2 + cell[:, 0] % 2
        x = cell + noise.uniform(0, 1, (n, 2)) - 2
    else:
        x = 2 * np.stack([np.cos(turn), np.sin(turn)], 1) + 0.12 * noise.standard_normal((n, 2))
    return x + blur * noise.standard_normal((n, 2))


def sweep(folder: Path, plan: Plan = Plan()) -> Path:
    """The folder of a sweep with these effects planted."""
    (folder / "samples").mkdir(parents=True)
    noise, records, found = np.random.default_rng(0), [], lines(plan)
    for name in plan.sets:
        floor = {"sw1": [0.021, 0.023, 0.022], "energy": [0.001, 0.0012], "coverage": [0.95, 0.96]}
        dim = results.mixture(name) or 2
        records.append({"kind": "set", "set": name, "dim": dim, "regions": 8, "floor": floor, "law": law(3.0) if plan.law else None, "seconds": 1.0})
        for seed in plan.seeds:
            level = (0.034 if name == "two_spirals" else 0.1) * np.exp(0.2 * noise.standard_normal())
            once = {line["id"]: line for line in reversed(found)}
            records += [model(plan, name, seed, line, level, noise) for line in once.values()]
        if plan.pictures:
            blurs = {"data": 0.0, **{line["id"]: 0.03 + 0.2 * (1 - (line["beta"] or 0)) for line in found}}
            arrays = {id: points(name, plan.scatter, blur, noise) for id, blur in blurs.items()}
            arrays = {id: np.hstack([x, noise.standard_normal((len(x), dim - 2))]).astype(np.float16) for id, x in arrays.items()}
            np.savez_compressed(folder / "samples" / f"{name}-{plan.seeds[0]}.npz", **arrays)
    settings = {"sets": plan.sets, "betas": plan.betas, "seeds": plan.seeds, "arms": plan.arms, "steps": 20000, "batch": 256, "width": 128}
    settings |= {"depth": 3, "anchor": 0.5, "delta": [1e-4, 1e-2], "lr": 1e-3, "samples": 10000, "points": None, "ensemble": False, "times": "logit-normal"}
    (folder / "sweep.json").write_text(json.dumps({"settings": settings, "lines": found}))
    env = {"commit": "b36a3b8", "clean": True, "versions": {"meanstep": "0.1.0", "torch": "2.13.0"}, "machine": "two cores"}
    (folder / "env.json").write_text(json.dumps(env))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
