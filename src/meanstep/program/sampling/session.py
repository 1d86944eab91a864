"""`meanstep sample` at work: a model, its samples with a progress bar, one file."""

import operator
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from meanstep.program.bar import counting
from meanstep.program.console import put_json, say, stage
from meanstep.program.data import waves
from meanstep.program.data.beside import Condition
from meanstep.program.data.look import Look
from meanstep.program.data.manifest import Manifest
from meanstep.program.data.opened import shown_as
from meanstep.program.data.request import listed
from meanstep.program.machine import available
from meanstep.program.runs.saved import located
from meanstep.program.runs.saved import manifest as described
from meanstep.program.sampling import conditions, files
from meanstep.program.sampling.labels import told
from meanstep.program.sampling.model import Model, load
from meanstep.shapes import tree_map

if TYPE_CHECKING:
    from meanstep.program.sampling.command import Sample


def sampled(asked: "Sample", path: Path, labels: list[int] | None, fixed: conditions.Stored) -> None:
    """Make the samples, write them to `path`, and say so."""
    run, _ = located(asked.folder.expanduser(), asked.checkpoint)
    known = described(run)
    look = seen_as(asked.preview or "", known)
    files.checked(path, replace(known, look=look), run, asked.seeds)
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
    model = replace(model, manifest=replace(model.manifest, look=look))
    n = len(asked.seeds)
    for notice in (*notices(asked.labels, model), *filter(None, [model.untaught(asked.guidance)])):
        say(notice)
    y = (
        {c.name: x for c, x in _beside(model, asked.seeds, fixed)}
        if model.needed
        else model.labels(asked.seeds, None if labels is None else torch.tensor(labels).repeat(n // len(labels) + 1)[:n])
    )
    began = time.perf_counter()
    rows = _rows(asked, model, y)
    seconds = time.perf_counter() - began
    made = _made(rows, asked, y, model)
    written = files.saved(path, made)
    if made.kind == "sound" and (loud := waves.loud(rows)):
        say(f"{loud} of {n} samples are louder than a .wav holds (beyond 1 or -1): it has them cut, an .npz has not")
    record = {"command": "sample", "file": str(path), model.manifest.items: n, "steps": asked.steps, "guidance": asked.guidance}
    if put_json(asked.json, record | {"seen": model.seen, "average": model.average, "seconds": round(seconds, 3)}):
        return
    what = f"{n} samples in {asked.steps} step{'s' * (asked.steps > 1)}, {n / seconds:,.0f}/s"
    say(f"{', '.join(map(str, written))}: {what}, weights {model.average} after {model.seen:,} samples")


def seen_as(words: str, manifest: Manifest) -> Look:
    """How samples are shown: as the data are, or as the user asks."""
    return shown_as(words, manifest.look, manifest.image, manifest.codec)


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
            parts.append(model.rows(asked.seeds[piece], asked.steps, y, asked.guidance, asked.chunk))
            bar.update(task, completed=start + len(parts[-1]))
    return torch.cat(parts)


def _made(rows: Tensor, asked: "Sample", y: Any, model: Model) -> files.Made:
    """The samples with what they were asked for; zeros behind rows that are shorter than others."""
    mask, length = model.mask(y), model.manifest.length
    beside: dict[str, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    if isinstance(y, dict):
        beside = conditions.told(y, model.manifest)
        arrays = {f"condition_{name}": values for name, values in beside.items() if length is None or name != length.name}
        if length is not None and length.along is not None:
            lengths = beside[length.name].astype(np.int64)
            arrays |= {files.LENGTHS: lengths, files.MASK: np.arange(rows.shape[1 + length.along]) < lengths[:, None]}
    elif y is not None:
        beside = {(model.manifest.conditions[0].name if model.manifest.conditions else "label"): np.array(model.classes)[y.numpy()]}
        arrays = {"labels": y.numpy(), "classes": np.array(model.classes)}
    kept = rows if mask is None else torch.where(mask, rows, 0.0)
    return files.Made(kept, tuple(asked.seeds), model.manifest, beside, arrays, asked.columns)
