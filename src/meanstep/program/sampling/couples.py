"""`meanstep couple` at work: samples of seeds, the noise of the same seeds, one file."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from meanstep.program.bar import counting
from meanstep.program.console import UserError, put_json, say, stage
from meanstep.program.data import CODECS
from meanstep.program.disk import put
from meanstep.program.machine import available
from meanstep.program.sampling.model import load
from meanstep.samplers import noise

if TYPE_CHECKING:
    from meanstep.program.sampling.couple import Couple


def coupled(asked: "Couple", path: Path) -> None:
    """Make the pairs, write them to `path`, and say so; `UserError` if none is left, or for latents, whose pictures are not trained on."""
    with stage("building the network"):
        given: dict[str, Any] = {"average": asked.average, "checkpoint": asked.checkpoint, "network": asked.network}
        model = load(asked.folder, **given, device=available(asked.device), autoencoder=asked.autoencoder)
    codec = CODECS[model.manifest.codec]
    if codec.measured and codec.pictures:
        raise UserError("pairs of latents are made from Python: samplers.couplings on the run's field, and loss(net, x, noise=e)")
    rows, noises, seeds = [], [], []
    with counting() as bar:
        task = bar.add_task("coupling", total=asked.pairs)
        for start in range(0, asked.pairs, asked.chunk):
            here = range(start, min(asked.pairs, start + asked.chunk))
            z, e = model.latents(here, asked.steps, None, asked.guidance, asked.chunk), noise(here, model.shape)
            kept = ((e - z).flatten(1).square().mean(1) < (asked.longest or float("inf"))) & z.isfinite().flatten(1).all(1)
            rows.append(model.decode(z[kept], asked.chunk))
            noises.append(e[kept])
            seeds += [seed for seed, keep in zip(here, kept.tolist(), strict=True) if keep]
            bar.update(task, completed=here.stop)
    if not seeds:
        raise UserError("no pair is finite and shorter than --longest: give a larger one, or look at the run's samples")
    held: dict[str, Any] = dict(codec.named(torch.cat(rows))) | {"noise": torch.cat(noises).numpy(), "seeds": np.array(seeds)}
    if (labels := model.labels(seeds)) is not None:
        held |= {"labels": labels.numpy(), "classes": np.array(model.classes)}
    box = io.BytesIO()
    np.savez(box, **held)
    put(path, box.getvalue())
    if not put_json(asked.json, {"command": "couple", "file": str(path), "pairs": len(seeds), "of": asked.pairs, "steps": asked.steps}):
        say(f"{path}: {len(seeds):,} pairs of {asked.pairs:,}, {asked.steps} steps, weights {model.average} after {model.seen:,} samples")
        say(f"go on: meanstep train --data.source {path} --method.coupling pairs:{path} --method.recipe rectified_meanflow")
