"""`meanstep sample` at work: a model, its samples with a progress bar, one file."""

import operator
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meanstep.program.bar import counting
from meanstep.program.console import put_json, say, stage
from meanstep.program.data import CODECS, previews
from meanstep.program.data.beside import Condition
from meanstep.program.data.request import listed
from meanstep.program.disk import put
from meanstep.program.machine import available
from meanstep.program.sampling import conditions
from meanstep.program.sampling.labels import told
from meanstep.program.sampling.model import Model, load
from meanstep.program.sampling.written import WRITERS
from meanstep.shapes import tree_map

if TYPE_CHECKING:
    from meanstep.program.sampling.command import Sample


def sampled(asked: "Sample", path: Path, labels: list[int] | None, fixed: conditions.Stored) -> None:
    """Make the samples, write them to `path`, and say so."""
    with stage("building the network"):
        model = load(
            asked.folder,
            average=asked.average,
            checkpoint=asked.checkpoint,
            device=available(asked.device),
            autoencoder=asked.autoencoder,
            sampler=asked.sampler,
            network=asked.network,
        )
    n = len(asked.seeds)
    for notice in notices(asked.labels, model):
        say(notice)
    y = (
        {c.name: x for c, x in _beside(model, asked.seeds, fixed)}
        if model.needed
        else model.labels(asked.seeds, None if labels is None else torch.tensor(labels).repeat(n // len(labels) + 1)[:n])
    )
    began = time.perf_counter()
    rows = _rows(asked, model, y)
    seconds = time.perf_counter() - began
    files = _save(path, rows, asked, y, model)
    record = {"command": "sample", "file": str(path), model.manifest.items: n, "steps": asked.steps, "guidance": asked.guidance}
    if put_json(asked.json, record | {"seen": model.seen, "average": model.average, "seconds": round(seconds, 3)}):
        return
    what = f"{n} samples in {asked.steps} step{'s' * (asked.steps > 1)}, {n / seconds:,.0f}/s"
    say(f"{', '.join(map(str, files))}: {what}, weights {model.average} after {model.seen:,} samples")


def _beside(model: Model, seeds: Sequence[int], fixed: conditions.Stored) -> Iterator[tuple[Condition, Tensor]]:
    drawn = conditions.drawn(seeds, model.held, fixed)
    return ((c, drawn[c.name]) for c in model.needed)


def notices(text: str | None, model: Model) -> list[str]:
    """Which classes were taken for the words of `--labels`; without any, which are not drawn."""
    if text is not None and model.conditional:
        return [told(word, model.classes, model.shown) for word in dict.fromkeys(text.split(","))]
    left = [name for k, name in enumerate(model.classes) if k not in model.shown]
    return [f"classes of which the data hold no image are not drawn: {listed(left)}"] if left else []


def _rows(asked: "Sample", model: Model, labels: Any) -> Tensor:
    parts = []
    with counting() as bar:
        task = bar.add_task("sampling", total=len(asked.seeds))
        for start in range(0, len(asked.seeds), asked.chunk):
            piece = slice(start, start + asked.chunk)
            y = tree_map(operator.itemgetter(piece), labels)
            parts.append(model.sample(asked.seeds[piece], asked.steps, y, asked.guidance, asked.chunk))
            bar.update(task, completed=start + len(parts[-1]))
    return torch.cat(parts)


def _save(path: Path, rows: Tensor, asked: "Sample", labels: Any, model: Model) -> list[Path]:
    """Write what the name's end says; numbers are also written as arrays beside an image of them. The files."""
    codec, end = CODECS[model.manifest.codec], path.suffix.lower()
    if end not in WRITERS:
        previews.save(path, codec.preview(rows, asked.columns))
        return [path, *([] if codec.pictures else _save(path.with_suffix(".npz"), rows, asked, labels, model))]
    put(path, WRITERS[end](rows, labels, model, asked.seeds))
    return [path]
