"""Weights to start from: another run's, or public ones."""

from pathlib import Path

from meanstep.program.console import UserError
from meanstep.program.runs.saved import put
from meanstep.program.training.state import State


def start_from(state: State, source: str) -> None:
    """Put the weights of a run, a checkpoint or a file into the network and all averages; `UserError` if they do not fit."""
    from meanstep.program.sampling.model import chosen, located

    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"--network.start: there is no file or folder {path}")
    if path.is_dir():
        _, saved = located(path)
        name = chosen(saved, None)
        tensors = saved.tensors("model" if name == "raw" else f"ema_{name}")
        for module in (state.owner.net, *(a.module for a in state.averages)):
            put(module, tensors, saved.path)
