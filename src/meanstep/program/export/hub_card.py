"""The model card of a hub folder: front matter, the table of distances, recipe and data, how to sample, limits."""

from typing import Any

import yaml

from meanstep.program.errors import UserError
from meanstep.program.evaluation.rows import Row, comparable, load, merged
from meanstep.program.evaluation.table import columns, floor_line, line, places
from meanstep.program.export import bare
from meanstep.program.export.card import few, plain
from meanstep.program.export.subject import PICTURES, Subject
from meanstep.program.reading import files, trees
from meanstep.program.registry import AVERAGE, INSTANTANEOUS
from meanstep.program.runs.networks import foreign
from meanstep.program.runs.records import load as records
from meanstep.program.runs.saved import AUTOENCODER, manifest

TEXT = """\
---
{matter}---

# {name}

A generator that turns noise into data {how}, trained by {recipe} on
{data} with meanstep.

![{count} samples, {steps} step{s} each](preview.png)

## How to sample

```python
import meanstep as ms

samples = ms.load("hub:owner/name"{given}).sample(16, steps={steps})  # or the path of this folder
```

`meanstep sample hub:owner/name{flags}` writes a grid, and `--network.start` trains from these weights. They are safetensors: nothing here
is a pickle, and no code of this folder runs.{needed}

## How far from the data

{distances}

## How it was made

| | |
|---|---|
{facts}

`config.yaml` holds the whole recipe.

## Limits

- It knows what its data hold: {images:,} rows of {data}. Nothing was filtered, and nothing is claimed beyond the table.
- Distances compare with those data by the features that the table names; they do not say that single samples are good.
{more}"""
HOW = {AVERAGE: "in one evaluation of its network, or a few", INSTANTANEOUS: "in many small steps along its velocity"}
"""By what the network knows."""
NONE = "Not evaluated. `meanstep evaluate RUN --steps 1 2 4` writes the rows that belong here."


def text(subject: Subject, difference: float, count: int) -> str:
    """README.md."""
    facts, more = subject.facts, []
    if subject.classes:
        more.append(f"- It takes {len(subject.classes)} classes: {few(subject.classes)}.")
    if subject.choice.half:
        more.append("- The weights are stored in half precision and computed with in float32.")
    more.append(f"- Read back from this folder it makes the run's own samples: largest difference {difference:.2g} of their spread.")
    told = {**facts, "cost": _cost(subject), "commit": _environment(subject).get("commit", "not known")}
    hidden = ("classes", "label", "offered", "columns", "images", "data", "steps", "guidance")
    rows = "\n".join(f"| {name} | {plain(value)} |" for name, value in told.items() if name not in hidden and value)
    s, beside = "s" * (facts["steps"] > 1), _beside(subject)
    known = {
        "given": "".join(f', {name}="{value}"' for name, value in beside.items()),
        "flags": "".join(f" --{name} {value}" for name, value in beside.items()),
        "needed": "".join(f"\n\nThe {name} `{value}` is not in this folder and is needed beside it." for name, value in beside.items()),
        "name": subject.name,
        "recipe": facts["recipe"],
        "how": HOW[facts["learns"]],
        "data": facts["data"],
        "images": facts["images"],
        "steps": facts["steps"],
        "s": s,
    }
    return TEXT.format(
        matter=_matter(subject), distances=_distances(subject), facts=rows, more="\n".join(more) + "\n", count=count, **known
    )


def _beside(subject: Subject) -> dict[str, str]:
    """What a reader needs that is not in the folder, by the argument that takes it: code of a network, an autoencoder."""
    run, saved = subject.run, subject.saved
    assert run and saved
    network = foreign(saved.description)
    autoencoder = bare.place(manifest(run).autoencoder) if subject.decoder and not (run / AUTOENCODER).is_file() else ""
    return {name: value for name, value in (("network", network), ("autoencoder", autoencoder)) if value}


def _matter(subject: Subject) -> str:
    pictures = {"pipeline_tag": "unconditional-image-generation"} if subject.view == PICTURES else {}
    jumps = ["meanflow", "one-step-generation"] if subject.facts["learns"] == AVERAGE else []
    entries = {
        "library_name": "meanstep",
        **pictures,
        "tags": list(dict.fromkeys(["meanstep", *jumps, str(subject.facts["recipe"]).split(":")[-1]])),
    }
    return str(yaml.safe_dump(entries, sort_keys=False))


def _distances(subject: Subject) -> str:
    """A Markdown table of the evaluations of this checkpoint."""
    run, facts = subject.run, subject.facts
    held = merged(load(run)) if run else []
    cells = [row for row in held if row["kind"] == "cell" and (row["seen"], row["average"]) == (facts["samples seen"], facts["weights"])]
    cells = sorted((row for row in cells if row["values"] is not None), key=lambda row: (row["extractor"], row["steps"], row["guidance"]))
    if not cells:
        return NONE
    floors = [row for row in held if row["kind"] == "floor"]
    tables: dict[tuple[str, str], list[Row]] = {}
    for row in cells:
        tables.setdefault((row["extractor"], row["reference_digest"]), []).append(row)
    return "\n\n".join(_table(rows, floors) for rows in tables.values())


def _table(cells: list[Row], floors: list[Row]) -> str:
    metrics = {metric for row in cells for metric in row["metrics"]}
    place, numbers = places(cells), columns(metrics, cells[0]["distance"])
    keys = [*place, *numbers, ("seeds", lambda row: f"{row['seed']} to {row['seed'] + row['count'] - 1}")]
    rows = [[*line(row, place, numbers), keys[-1][1](row)] for row in cells]
    same = [row for row in floors if row["reference_digest"] == cells[0]["reference_digest"] and row["extractor"] == cells[0]["extractor"]]
    same = [*{row.get("count"): row for row in same if any(comparable(row, cell["count"]) for cell in cells)}.values()]
    rows += [[*floor_line(row, place, numbers), ""] for row in same]
    lines = [" | ".join(words) for words in ([name for name, _ in keys], ["---"] * len(keys), *rows)]
    below = f"± is half of a 95 percent interval. Reference: {cells[0]['reference']}."
    last = "Last line, the floor" if len(same) == 1 else "Last lines, the floors of these counts"
    floor = f" {last}: {', '.join(dict.fromkeys(row['data'] for row in same))}." if same else ""
    return "\n".join(f"| {words} |" for words in lines) + f"\n\n{below}{floor}"


def _environment(subject: Subject) -> dict[str, Any]:
    path = subject.run / "env.json" if subject.run else None
    try:
        return trees.entries(files.text(path)) if path else {}
    except (UserError, ValueError):
        return {}


def _cost(subject: Subject) -> str:
    """Time of training and the device."""
    trained = [r for r in records(subject.run / "records.jsonl") if r["kind"] == "train"] if subject.run else []
    if not trained:
        return ""
    environment = _environment(subject)
    return f"{trained[-1]['seconds'] / 60:,.1f} minutes on {environment.get('device', '?')} ({environment.get('processor', '?')})"
