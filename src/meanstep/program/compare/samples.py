"""Samples of the same noise and the same labels, of each run one picture. The only part of a comparison that needs PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meanstep.program.compare.runs import Side
from meanstep.program.console import UserError
from meanstep.program.data.codecs import pictured
from meanstep.program.data.previews import encoded
from meanstep.program.machine import available
from meanstep.program.sampling.model import Model, load


@dataclass(frozen=True)
class Sampling:
    """What is asked for: samples of the seeds 0 to `count` - 1, in `steps` steps of the run's own sampler, by the last checkpoints."""

    count: int
    steps: int
    device: str = "auto"
    network: str | None = None
    autoencoder: str | None = None


def drawn(found: Sequence[Side], how: Sampling) -> tuple[list[bytes], str]:
    """A PNG for each run, or none and why not: rows of different shapes, different labels, a run without checkpoint."""
    try:
        models = [_model(side, how) for side in found]
        if why := apart(found, models):
            return [], why
        given = [model.labels(range(how.count)) for model in models]
        told = [k for k, y in enumerate(given) if y is not None]
        for k in told[1:]:
            if not _same(given[k], given[told[0]]):
                return (
                    [],
                    f"{found[told[0]].name} and {found[k].name} are given other labels: train both on the same data",
                )
        return [_picture(model, how) for model in models], ""
    except UserError as error:
        return [], str(error)


def _model(side: Side, how: Sampling) -> Model:
    return load(side.path, device=available(how.device), network=how.network, autoencoder=how.autoencoder)


def apart(found: Sequence[Side], models: Sequence[Model]) -> str:
    """Why the same noise does not mean the same thing to these models, empty where it does."""
    for side, model in zip(found[1:], models[1:], strict=True):
        if model.shape != models[0].shape:
            shapes = ["x".join(map(str, each.shape)) for each in (models[0], model)]
            both = f"{found[0].name} makes rows of {shapes[0]} and {side.name} of {shapes[1]}"
            return f"{both}, so the same noise does not fit both: compare runs of one shape"
        if model.manifest.codec != models[0].manifest.codec:
            codecs = f"{models[0].manifest.codec} and {side.name} {model.manifest.codec}"
            return f"{found[0].name} makes {codecs}: compare runs of one kind of data"
    return ""


def _same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)


def _picture(model: Model, how: Sampling) -> bytes:
    rows = model.sample(how.count, how.steps)
    return encoded(pictured(rows, model.manifest))
