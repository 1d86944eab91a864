"""Weights to start from: another run's, or public ones."""

from pathlib import Path

from torch import nn

from meanstep.fields.public import SOURCES
from meanstep.program.console import UserError
from meanstep.program.data import Manifest
from meanstep.program.runs import own_weights, public_weights
from meanstep.program.runs.facts import known
from meanstep.program.runs.hub import local
from meanstep.program.runs.restored import put
from meanstep.program.runs.saved import chosen, located

SCALING = 0.18215
"""Of the latents that public SiT and DiT weights know: the autoencoder's own times this number, not normalised by channel."""


def start_from(net: nn.Module, source: str, manifest: Manifest, path: str = "linear") -> tuple[str, ...]:
    """Put the weights of a run, a checkpoint or a public file into the network; what was done, a sentence each.

    `source`: a folder, a file of weights of this very network, or `sit:FILE`, `repa:FILE`, `dit:FILE`, of which `relabel-sit:FILE` and so
    on start every label as the file's "no class". `UserError` if they do not fit the network, or public ones the latents. Weights of
    another path than the run's `path` are a start all the same, and a note says so.
    """
    relabelled = source.startswith("relabel-")
    kind = source.removeprefix("relabel-").partition(":")[0]
    if kind in SOURCES:
        _check_scaling(manifest)
        found = public_weights.load(net, source.removeprefix("relabel-"), relabel=relabelled)
        return (*found, *(_other_path("linear", path) if SOURCES[kind].velocity else ()))
    if (file := Path(source).expanduser()).is_file():
        return own_weights.load(net, file)
    folder = local(Path(source).expanduser())
    if not folder.is_dir():
        listed = ", ".join(f"{name}:FILE" for name in SOURCES)
        raise UserError(f"--network.start: there is no folder or file {folder}: give a run's, weights, or public ones as {listed}")
    run, saved = located(folder)
    name = chosen(saved, None)
    put(net, saved.tensors("model" if name == "raw" else f"ema_{name}"), saved.path)
    return (f"weights {name} of {saved.path}", *_other_path(known(run).path, path))


def _other_path(theirs: str, ours: str) -> tuple[str, ...]:
    return () if theirs == ours else (f"these weights are a velocity of the path {theirs}, and this run trains on {ours}",)


def _check_scaling(manifest: Manifest) -> None:
    plain = all(m == 0 for m in manifest.mean) and all(s == 1 for s in manifest.std)
    if manifest.codec != "latents" or not plain or abs(manifest.scaling - SCALING) > 1e-4:
        remedy = "cache the images with kl:... and --no-normalise"
        raise UserError(f"--network.start: public weights know latents times {SCALING}, not normalised by channel: {remedy}")
