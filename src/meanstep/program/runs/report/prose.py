"""A run in words and tables: what the page says beside its figures. Draws nothing."""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from meanstep.program.console import UserError
from meanstep.program.evaluation.rows import Row, merged
from meanstep.program.evaluation.table import columns, floor_line, line, places
from meanstep.program.registry import default_sampler
from meanstep.program.runs import saved
from meanstep.program.runs.config import Config, NetworkConfig
from meanstep.program.runs.facts import known
from meanstep.program.runs.options import flat
from meanstep.program.runs.records import Record
from meanstep.program.runs.report.history import History

GROUPS = {"data": "Data", "network": "Network", "method": "Method", "optimiser": "Optimiser", "averages": "Averages", "run": "Run"}


def title(run: History) -> str:
    """What is trained on what."""
    return f"{run.config.method.recipe} on {run.manifest.source if run.manifest else run.config.data.source}"


def lead(run: History) -> str:
    """The run in a sentence."""
    seen = f"{run.seen:,} of {run.config.run.samples:,} samples seen"
    if run.manifest is None:
        return f"{seen}."
    m = run.manifest
    kind = f"{m.count:,} {m.noun} of {' x '.join(map(str, m.shape))}"
    known = f"{len(m.classes)} labels" if m.classes else f"the conditions {', '.join(m.given)}" if m.given else ""
    labels = f"with {known}" if known and run.config.data.conditional else "without labels"
    return f"{seen}: {run.seen / max(m.count, 1):,.3g} passes over {kind}, {labels}."


def gaps(run: History) -> list[str]:
    """What a reader must know before the numbers."""
    failed = run.records and run.records[-1].get("kind") == "failure"
    found = [f"The run broke off: {run.records[-1]['error']}"] if failed else []
    found += [f"Said at the start: {record['words']}." for record in run.of("caution")]
    if not run.of("train"):
        return [*found, "There is no record of a step yet."]
    if not run.of("evaluation"):
        found.append("No evaluation was made: look at the samples, or run meanstep evaluate.")
    elif run.best and (last := run.far(run.of("evaluation")[-1])) is not None and last > 1.15 * run.far(run.best):
        was = f"{_g(last)} at {run.of('evaluation')[-1]['seen']:,} against {_g(run.far(run.best))} at {run.best['seen']:,}"
        found.append(f"{run.made.capitalize()} were nearer to the data earlier: {was}. The best checkpoint was kept.")
    _, norms = run.curve("gradient_norm")
    if len(norms) >= 10 and norms[3:].max() > 20 * (middle := sorted(norms)[len(norms) // 2]):
        found.append(f"The gradient's norm had spikes: up to {_g(norms[3:].max())}, with a median of {_g(middle)}.")
    return found


def loss(run: History) -> str:
    """The loss itself, a footnote."""
    _, y = run.curve("loss")
    if not len(y):
        return ""
    span = f"between {_g(y.min())} and {_g(y.max())}" if y.max() > 1.001 * y.min() else f"{_g(y[-1])} all the time"
    _, share = run.curve("saturated")
    why = ": its adaptive weight divides each row's residual by itself, so it says nothing" if len(share) and share[-1] > 0.9 else ""
    return f"The loss itself read {span}{why}."


def tangent(run: History) -> str:
    """Why there is no curve of the tangent's noise, if there is none."""
    _, y = run.curve("tangent_noise")
    if len(y) and not y.any():
        return "The tangent is the conditional velocity itself, so it keeps no noise out: its tangent noise is 0 all the time."
    return ""


# Tables ------------------------------------------------------------------------------------------------------------------------------


def checkpoints(run: History) -> list[dict[str, Any]]:
    """The checkpoints of the records that are there, the last first: where, and what was measured."""
    measured = {r["seen"]: r for r in run.of("evaluation")}
    there = {int(path.name) for path in saved.found(run.folder)}
    held = {r["seen"]: r for r in run.of("checkpoint")}
    best = run.best["seen"] if run.best else None
    return [
        {"seen": seen, "folder": r["folder"], "best": seen == best, "steps": measured.get(seen, {}).get("steps", {})}
        for seen, r in sorted(held.items(), reverse=True)
        if seen in there
    ]


def evaluations(run: History) -> list[dict[str, Any]]:
    """Tables of evaluations.jsonl, one for each extractor and reference: caption, columns, rows of cells, which row is best."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in run.cells:
        groups.setdefault((row.get("extractor_digest", ""), row.get("reference_digest", "")), []).append(row)
    usual = _usual(run) if groups else ""
    return [_table(rows, usual) for rows in groups.values()]


def _usual(run: History) -> str:
    """The sampler that reads what the run learned; empty if it does not say what that is."""
    try:
        return default_sampler(known(run.folder).learns)
    except UserError:
        return ""


ORDER = ("seen", "average", "sampler", "steps", "guidance", "count")


def _table(rows: Sequence[Row], usual: str) -> dict[str, Any]:
    rows = merged(rows, usual)
    cells = sorted((row for row in rows if row["kind"] == "cell"), key=lambda row: tuple(row[name] for name in ORDER))
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["metrics"]))
    place, numbers = places(cells, usual), columns(metrics, rows[0]["distance"])
    ruling = next((name for name in ("frechet", "sliced") if any(name in (row["values"] or {}) for row in cells)), "")
    valued = [row["values"][ruling] for row in cells if row["values"] and ruling in row["values"]]
    body = []
    for row in cells:
        best = bool(row["values"]) and row["values"].get(ruling) == min(valued, default=-1)
        body.append({"cells": line(row, place, numbers), "best": best})
    for row in rows:
        if row["kind"] == "floor" and row["values"]:
            body.append({"cells": floor_line(row, place, numbers), "best": False})
    caption = f"{rows[0]['extractor']} against {rows[0]['reference']}"
    return {"caption": caption, "heads": [name for name, _ in (*place, *numbers)], "rows": body}


def settings(run: History) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """The configuration by part: name, value, and a mark where it is not the default."""
    usual = flat(Config(network=NetworkConfig(run.config.network.name)))
    found: dict[str, list[tuple[str, str, str]]] = {part: [] for part in GROUPS}
    for (part, name), value in flat(run.config).items():
        found[part].append((name.replace("_", " "), _value(value), "set" if value != usual.get((part, name)) else ""))
    return [(words, found[part]) for part, words in GROUPS.items()]


def environment(run: History) -> list[tuple[str, str]]:
    """Whatever env.json tells, the command apart."""
    return [(name, str(value)) for name, value in run.environment.items() if name != "command" and value]


def commands(run: History) -> list[tuple[str, str]]:
    """What to do next with the run: command, words."""
    name = shlex.quote(str(run.folder))
    train = [] if run.finished else [(f"meanstep train --out {name}", "goes on where it stopped")]
    return [
        *train,
        (f"meanstep sample {name}", "pictures"),
        (f"meanstep evaluate {name}", "distances with intervals"),
        (f"meanstep diagnose {name}", "where the noise of its training signal is"),
        (f"meanstep report {name}", "this page again"),
    ]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().strip("{}") or "none"
    if isinstance(value, tuple):
        return ", ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else value or "none"


def beside(run: History) -> str:
    """What the pictures show where rows are no pictures: how they are drawn, and the rows of the data that are there too."""
    m = run.manifest
    if m is None or m.codec != "plain":
        return ""
    look = m.seen_as
    ways = {
        "points": "A dot for each row, samples left and rows of the data right, on the same scale.",
        "signals": "A panel for each row, a line for each channel; samples above, rows of the data below, on the same scale.",
        "table": "For each column the share of rows in each bin: samples as a line, the data in grey; below, the first rows of both.",
        "sound": f"Waves of samples above, of the data below, on the same scale, at {look.rate:,} samples a second.",
        "grids": "Samples above, rows of the data below, on the same scale of greys.",
    }
    return ways[look.kind]


def moment(seen: int, run: History) -> str:
    """What was measured where a picture was made."""
    found: Record = next((r for r in run.of("evaluation") if r["seen"] == seen), {})
    parts = [f"{k} step{'s' if k != '1' else ''} {_g(v)}" for k, v in found.get("steps", {}).items() if v is not None]
    return f"{run.measure}: {', '.join(parts)}" if parts else ""


def clock(seconds: float) -> str:
    """A duration in words."""
    for size, word in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {word}"
    whole = f"{seconds:.0f}"
    return f"{whole} second{'s' * (whole != '1')}"


def _g(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
