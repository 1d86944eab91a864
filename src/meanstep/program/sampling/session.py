"""`meanstep sample` at work: a model, its samples with a progress bar, one file."""

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from meanstep.program.bar import shown
from meanstep.program.console import chat, put_json, stage
from meanstep.program.data.kinds import listed
from meanstep.program.disk import put
from meanstep.program.machine import available
from meanstep.program.sampling import pictures
from meanstep.program.sampling.labels import told
from meanstep.program.sampling.model import Model, load

if TYPE_CHECKING:
    from meanstep.program.sampling.command import Sample


def sampled(asked: "Sample", path: Path, labels: list[int] | None) -> None:
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
        chat.print(notice, soft_wrap=True, markup=False, highlight=False)
    y = model.labels(asked.seeds, None if labels is None else torch.tensor(labels).repeat(n // len(labels) + 1)[:n])
    began = time.perf_counter()
    images = _images(asked, model, y)
    seconds = time.perf_counter() - began
    _save(path, images, asked.seeds, y, asked.columns, model.classes)
    record = {"command": "sample", "file": str(path), "images": n, "steps": asked.steps, "guidance": asked.guidance}
    if put_json(asked.json, record | {"seen": model.seen, "average": model.average, "seconds": round(seconds, 3)}):
        return
    what = f"{n} samples in {asked.steps} step{'s' * (asked.steps > 1)}, {n / seconds:,.0f}/s"
    chat.print(f"{path}: {what}, weights {model.average} after {model.seen:,} samples", highlight=False, soft_wrap=True, markup=False)


def notices(text: str | None, model: Model) -> list[str]:
    """Which classes were taken for the words of `--labels`; without any, which are not drawn."""
    if text is not None and model.conditional:
        return [told(word, model.classes, model.shown) for word in dict.fromkeys(text.split(","))]
    left = [name for k, name in enumerate(model.classes) if k not in model.shown]
    return [f"classes of which the data hold no image are not drawn: {listed(left)}"] if left else []


def _images(asked: "Sample", model: Model, labels: Tensor | None) -> Tensor:
    parts = []
    columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with shown(*columns) as bar:
        task = bar.add_task("", total=len(asked.seeds))
        for start in range(0, len(asked.seeds), asked.chunk):
            piece = slice(start, start + asked.chunk)
            y = labels[piece] if labels is not None else None
            parts.append(model.sample(asked.seeds[piece], asked.steps, y, asked.guidance, asked.chunk))
            bar.update(task, completed=start + len(parts[-1]))
    return torch.cat(parts)


def _save(path: Path, images: Tensor, seeds: tuple[int, ...], labels: Tensor | None, columns: int | None, classes: tuple[str, ...]) -> None:
    if path.suffix.lower() != ".npz":
        pictures.save(path, pictures.grid(images, columns))
        return
    held: dict[str, Any] = {"images": images.permute(0, 2, 3, 1).numpy(), "seeds": np.array(seeds)}
    held |= {"labels": labels.numpy(), "classes": np.array(classes)} if labels is not None else {}
    box = io.BytesIO()
    np.savez_compressed(box, **held)
    put(path, box.getvalue())
