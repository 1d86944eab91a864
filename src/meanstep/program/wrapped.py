"""Names of weights without what torch.compile, DDP, averaged copies and Lightning put before them, and which weights are shards of FSDP.

The one place that knows these words.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

COMPILED = re.compile(r"(?<![^.])_orig_mod\.")
BEFORE, COUNT = ("module.", "model.", "net."), "n_averaged"
"""Prefixes that are taken off where every weight has them, and the step count that torch's averaged copies hold beside the weights."""


def bare(name: str) -> str:
    """The name of a weight or a module without torch.compile's word, wherever it stands."""
    return COMPILED.sub("", name)


def plain(names: Iterable[str]) -> dict[str, str]:
    """For each name of a whole network its name without wrappers: `_orig_mod.` anywhere, `BEFORE` before all of them."""
    found = {name: bare(name) for name in names}
    weights = {name for name in found if name != COUNT}
    while start := next((p for p in BEFORE if weights and all(found[name].startswith(p) for name in weights)), ""):
        found |= {name: found[name].removeprefix(start) for name in weights}
    return found


def matched(tensors: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """The tensors under the names that a network has for them, whatever wraps the network or wrapped the one they were written from.

    `own`: the names of the network's state. A tensor that it has no place for keeps its name.
    """
    own = set(own)
    if own == tensors.keys():
        return dict(tensors)
    here = {short: name for name, short in plain(own).items()}
    there = plain(name for name in tensors if name != COUNT or name in own)
    return {here.get(short, name): tensors[name] for name, short in there.items()}


def sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether one of them is a DTensor, of which a rank holds a share; told without its module, which takes a second to import."""
    return any(hasattr(tensor, "full_tensor") for tensor in tensors)


def unwrapped(net: nn.Module) -> nn.Module:
    """The network that torch.compile was called on, or itself."""
    while inner := dict(net.named_children()).get("_orig_mod"):
        net = inner
    return net


def uncompiled(net: nn.Module) -> nn.Module:
    """The network without torch.compile around it and around any of its parts, which are put back in place."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if (inner := unwrapped(child)) is not child:
                module._modules[name] = inner
    return unwrapped(net)
