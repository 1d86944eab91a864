"""Weights of a network like this one from a file of any training code: whatever wrapped it there. Knows no names of layers.

A file is read as tensors only, see `public_weights.read`: safetensors, `torch.save` of a state or of one under `ema`, `model` or
`state_dict`, such as Lightning's checkpoints.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import nn

from meanstep.fields import Gapped
from meanstep.program.console import UserError
from meanstep.program.runs.public_weights import read
from meanstep.program.runs.restored import put
from meanstep.program.wrapped import COUNT, bare, unwrapped


def load(net: nn.Module, path: Path) -> tuple[str, ...]:
    """Start a network from a file of its weights, a flow-matching one with a gap from its own; what was done, a sentence each.

    Names may have anything before them, such as `module.`, `net.`, `model.` and `_orig_mod.`, and stand among others: the part of the file
    that is this network is taken, of several an average (`ema`). `UserError` in one line where there is none; the network is as it was.
    """
    inner = unwrapped(net)
    target = inner.net if isinstance(inner, Gapped) else inner
    held = {bare(name): value for name, value in read(path).items() if name.rpartition(".")[2] != COUNT}
    own = [bare(name) for name in target.state_dict()]
    common = _common(own)
    wanted = {name.removeprefix(common) for name in own}
    parts = {start: {name.removeprefix(start) for name in held if name.startswith(start)} for start in _starts(held)}
    fitting = [start for start, names in parts.items() if names == wanted]
    averages = [start for start in fitting if "ema" in start.lower()]
    if len(fitting) > 1 and len(averages) != 1:
        raise UserError(f"{path} holds several networks like this one, {', '.join(fitting)}: save one of them alone")
    start = (averages or fitting or [max(parts, key=lambda start: len(parts[start] & wanted))])[0]
    put(target, {common + name.removeprefix(start): value for name, value in held.items() if name.startswith(start)}, path)
    gap = ("the gap's embedding starts at zero: the field is the file's network for every r",) if target is not inner else ()
    return (f"weights {start.removesuffix('.')} of {path}" if start else f"weights of {path}", *gap)


def _starts(names: Iterable[str]) -> Iterator[str]:
    """Nothing, and all that stands before a dot in a name, once each."""
    found = {"": None}
    for name in names:
        words = name.split(".")
        found |= {".".join(words[:k]) + ".": None for k in range(1, len(words))}
    yield from found


def _common(names: list[str]) -> str:
    """What stands before a dot in all names."""
    start = names[0].rpartition(".")[0] if names else ""
    while start and not all(name.startswith(f"{start}.") for name in names):
        start = start.rpartition(".")[0]
    return f"{start}." if start else ""
