"""`meanstep couple` at work: samples of seeds, the noise of the same seeds, one file."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from meanstep.program.bar import counting
from meanstep.program.console import UserError, put_json, say, stage
from meanstep.program.data import CODECS
from meanstep.program.data.request import listed
from meanstep.program.disk import put
from meanstep.program.machine import available
from meanstep.program.sampling.model import Model, load
from meanstep.samplers import noise

if TYPE_CHECKING:
    from meanstep.program.sampling.couple import Couple


def coupled(asked: "Couple", path: Path) -> None:
    """Make the pairs, write them to `path`, and say so; `UserError` if none is left, and for a run that has none to write."""
    with stage("building the network"):
        given: dict[str, Any] = {"average": asked.average, "checkpoint": asked.checkpoint, "network": asked.network}
        model = load(asked.folder, **given, device=available(asked.device), autoencoder=asked.autoencoder)
    _check(model, asked.guidance)
    if why := model.untaught(asked.guidance):
        say(why)
    codec = CODECS[model.manifest.codec]
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


def _check(model: Model, guidance: float) -> None:
    """`UserError` for latents, whose pictures are not trained on, conditions other than labels, and guidance that cannot be."""
    codec, made = CODECS[model.manifest.codec], "made from Python: samplers.couplings on the run's field, and loss(net, x, noise=e)"
    if codec.measured and codec.pictures:
        raise UserError(f"pairs of latents are {made}")
    if model.manifest.start is not None:
        raise UserError(f"this flow starts at {model.manifest.start.name}, not at noise: couple a run that starts at noise")
    if model.manifest.length is not None:
        raise UserError(f"rows of this run differ in length, which a file of pairs does not hold: they are {made}")
    if model.needed:
        names = listed([c.name for c in model.needed])
        raise UserError(f"a file of pairs holds labels alone, and this network is given {names}: its pairs are {made}")
    if why := model.facts.refused(guidance, model.classes, model.given):
        raise UserError(f"--guidance: {why}")
