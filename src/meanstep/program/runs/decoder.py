"""The autoencoder of a run. What its folder names lies in it; the user names all else, and what is fetched."""

from pathlib import Path

import torch

from meanstep.program.console import UserError
from meanstep.program.data.autoencoders import Autoencoder, open_autoencoder
from meanstep.program.data.manifest import Manifest
from meanstep.program.data.request import on_hub
from meanstep.program.inside import inside
from meanstep.program.runs.saved import AUTOENCODER


def decoder(run: Path, manifest: Manifest, device: torch.device, given: str | None = None) -> Autoencoder:
    """That which the user names, else the run's copy, else one of the hub that is on this machine already: no network is asked.

    `UserError` if it is elsewhere.
    """
    return open_autoencoder(given, device) if given else open_autoencoder(_own(run, manifest), device, fetch=False)


def while_training(run: Path, manifest: Manifest, device: torch.device) -> Autoencoder:
    """The run's copy, else where the cache that the user named has it, on this machine."""
    return open_autoencoder(_copy(run, manifest) or manifest.autoencoder, device, fetch=False)


def _copy(run: Path, manifest: Manifest) -> str:
    kind, copy = manifest.autoencoder.partition(":")[0], inside(run, AUTOENCODER)
    return f"{kind}:{copy}" if copy else ""


def _own(run: Path, manifest: Manifest) -> str:
    kind, _, where = manifest.autoencoder.partition(":")
    if copy := _copy(run, manifest):
        return copy
    if where and (here := inside(run, where)):
        return f"{kind}:{here}"
    if where and not on_hub(manifest.autoencoder):
        remedy = f"if it is the one, give --autoencoder {manifest.autoencoder} (in Python autoencoder=)"
        raise UserError(f"the run names the autoencoder {manifest.autoencoder}, which is not in its folder {run}: {remedy}")
    return manifest.autoencoder
