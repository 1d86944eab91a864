"""Weights of a file into a module, whole or in shards. Knows no folders."""

from pathlib import Path
from typing import Any

from torch import nn

from meanstep.program.console import UserError
from meanstep.program.reading.tensors import alike, finite
from meanstep.program.wrapped import bare, matched, sharded


def put(module: nn.Module, tensors: dict[str, Any], where: Path) -> None:
    """Load a module's values, whole ones into shards too; `UserError` names the first that does not fit, or is not finite.

    Names may have what wraps a network before them, here and there (`wrapped`). One floating type is rounded to another; a truth value,
    a whole or a complex number is never made of another kind.
    """
    own = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    tensors = matched(tensors, own)
    for name in dict.fromkeys((*own, *tensors)):
        theirs = tuple(tensors[name].shape) if name in tensors else "missing"
        if theirs != own.get(name, "unknown"):
            here = own.get(name, "unknown")
            raise UserError(f"{where} holds another architecture: {name} is {theirs} there and {here} in this network")
    alike(tensors, module.state_dict(), where)
    finite(tensors, where)
    if sharded(module.parameters()):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict  # takes a third of a second

        set_model_state_dict(module, {bare(k): v for k, v in tensors.items()}, options=StateDictOptions(full_state_dict=True))
    else:
        module.load_state_dict(tensors)


def put_part(module: nn.Module, tensors: dict[str, Any], start: str, where: Path) -> None:
    """Load those values whose names begin with `start`, as `put` does."""
    put(module, {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}, where)
