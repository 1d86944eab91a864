"""Public weights from a file into a network. Knows no names of layers: those are in `meanstep.fields.public`.

A file is safetensors, or torch's own read with `weights_only`, which builds tensors and plain containers and calls nothing else.
"""

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.fields import DiT
from meanstep.fields.public import SOURCES, converted
from meanstep.program.console import UserError
from meanstep.program.reading import files
from meanstep.program.reading.tensors import File, alike, finite
from meanstep.program.wrapped import plain, unwrapped

NESTED = ("ema", "model", "state_dict")
"""Where training scripts put weights in a file, the one to be sampled from first."""


def load(net: nn.Module, spec: str, *, relabel: bool = False) -> tuple[str, ...]:
    """Start a `DiT` from public weights: `sit:FILE`, `repa:FILE`, `meanflow:FILE` or `dit:FILE`; what was done to them, a sentence each.

    `relabel`: every label starts as the file's "no class", for a network of other classes or of none. `UserError` in one line if the file
    cannot be read or holds another architecture; the network is then as it was. See docs/dit.md.
    """
    source, _, name = spec.partition(":")
    if source not in SOURCES or not name:
        raise UserError(f"public weights are given as {', '.join(f'{known}:FILE' for known in SOURCES)}, got {spec!r}")
    if not isinstance(net := unwrapped(net), DiT):
        raise UserError(f"public DiT and SiT weights start the network dit, not {type(net).__name__}")
    try:
        held = read(Path(name))
        state, notes = converted({short: held[name] for name, short in plain(held).items()}, net, source, relabel=relabel)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    alike(state, net.state_dict(), name)
    net.load_state_dict(state)
    return notes


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, by name; `UserError` for another file, and for a damaged one."""
    path = path.expanduser()
    with files.opened(path) as file:
        head = file.read(9)
    found = File.open(path).tensors() if head[8:] == b"{" or path.suffix == ".safetensors" else _read_torch(path)
    for key in NESTED:
        found = found[key] if isinstance(found, Mapping) and isinstance(found.get(key), Mapping) else found
    if not isinstance(found, Mapping) or not found:
        raise UserError(f"{path} holds no weights by name, but {type(found).__name__}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path} holds more than weights by name: {name!r} is {type(value).__name__}")
    finite(found, path)
    return dict(found)


def _read_torch(path: Path) -> Any:
    """What a torch file holds; training scripts store their arguments beside the weights, and a `Namespace` only holds values."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another pickle protocol, before the file is refused
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is no file of weights, or a pickle that holds more than tensors: it is not read; save tensors only"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no complete torch file: {str(error).strip().splitlines()[0] if str(error) else 'it ends too early'}"
        ) from None
