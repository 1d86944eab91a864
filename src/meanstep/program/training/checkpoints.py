"""Writing checkpoints and going on from them: complete or not there, whole tensors, so that any number of ranks can go on."""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from meanstep.precise import low
from meanstep.program import disk
from meanstep.program.console import UserError
from meanstep.program.runs.integrity import NETWORK, STATE, VERSION, damaged, digest
from meanstep.program.runs.restored import put, put_part
from meanstep.program.runs.saved import CHECKPOINTS, Saved, found
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.state import State
from meanstep.program.wrapped import bare

LEFT = re.compile(r"\.\d+\.(aside(-[a-z0-9_]{8})?|old)")
"""Names of what a kill leaves half-written, or half-removed."""


def save_state(folder: Path, state: State, ranks: Ranks) -> Path:
    """Write a checkpoint aside and rename it; all ranks must call it together, the first one writes."""
    files = _files(state)
    target = folder / CHECKPOINTS / f"{state.seen:012d}"
    failure = None
    if ranks.first:
        try:
            _written(target, files, state)
        except OSError as error:
            failure = f"cannot write the checkpoint {target}: {error.strerror or error}; the one before is untouched"
    if failure := ranks.told(failure):
        raise UserError(failure)
    return target


def _files(state: State) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file, whole, on the processor; empty but on the first rank if they are sharded."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict  # takes a second

    owner, whole = state.owner, StateDictOptions(full_state_dict=True, cpu_offload=True)
    rest = {f"loss.{k}": v for k, v in get_model_state_dict(owner.loss, options=whole).items()}
    rest |= {f"learner.{k}": v for k, v in owner.learner.state_dict().items()} if owner.learner is not None else {}
    moments: Any = get_optimizer_state_dict(owner, state.optimiser, options=whole).get("state", {})
    rest |= {f"optimiser.{name}.{k}": v for name, held in moments.items() for k, v in held.items()}
    files: Any = {"model": get_model_state_dict(owner.net, options=whole), "state": rest}
    found: dict[str, dict[str, Tensor]] = files | {f"ema_{a.name}": get_model_state_dict(a.exact, options=whole) for a in state.averages}
    return found


def _written(target: Path, files: dict[str, dict[str, Tensor]], state: State) -> None:
    if not _whole(target):  # else it is the same moment, saved before
        disk.tree(target, _contents(files, state))


def _whole(target: Path) -> bool:
    """Whether the checkpoint is there, and is what was written."""
    try:
        saved = Saved.open(target, whole=True)
        return all(saved.file(name) for name in saved.about["sizes"])
    except UserError:
        return False


def _contents(files: dict[str, dict[str, Tensor]], state: State) -> Iterator[tuple[str, bytes]]:
    """The files of a checkpoint one after the other, last the one that says what the others are."""
    sizes, sums = {}, {}
    for name, tensors in files.items():
        data = save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})  # clone: two names may hold one tensor
        sizes[f"{name}.safetensors"], sums[f"{name}.safetensors"] = len(data), sha256(data).hexdigest()
        yield f"{name}.safetensors", data
    network = (json.dumps(state.description, indent=1) + "\n").encode()
    yield NETWORK, network
    about = {"version": VERSION, "seen": state.seen, "step": state.step, "best_seen": state.best_seen, "sizes": sizes}
    about |= {"best": None if state.best_seen < 0 else state.best, "chosen": state.chosen, "data": state.data}
    about |= {"sha256": sums | {NETWORK: sha256(network).hexdigest()}}
    yield STATE, (json.dumps(about | {"digest": digest(about)}, indent=1) + "\n").encode()


def prune(folder: Path, keep: int, best: int) -> None:
    """Remove all but the last `keep` checkpoints and the best one, and what a kill left half-written."""
    for path in (folder / CHECKPOINTS).glob(".*"):
        if LEFT.fullmatch(path.name):
            disk.remove(path)
    for path in found(folder)[:-keep]:
        if int(path.name) != best:
            disk.drop(path)


def restore(state: State, saved: Saved) -> None:
    """Put a checkpoint's values into a state that was made by the same configuration; `UserError` if they do not fit."""
    if saved.description.get("dtype") != state.description.get("dtype"):
        raise UserError(f"the checkpoint {saved.path} is one of another --precision: its weights would be rounded")
    put(state.owner.net, saved.tensors("model"), saved.path)
    for average in state.averages:
        source = f"ema_{average.name}" if average.name in saved.averages else "model"
        put(average.exact, saved.tensors(source), saved.path)
        average.settle()
    rest = saved.tensors("state")
    put_part(state.owner.loss, rest, "loss.", saved.path)
    if state.owner.learner is not None:
        put_part(state.owner.learner, rest, "learner.", saved.path)
    state.seen, state.step = int(saved.about["seen"]), int(saved.about["step"])
    _put_moments(state, dict(_moments(rest)), saved.path)
    state.best_seen = int(saved.about.get("best_seen", -1))
    state.best = saved.about["best"] if state.best_seen >= 0 else float("inf")


def _moments(rest: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    names = dict.fromkeys(k.removeprefix("optimiser.").rpartition(".")[0] for k in rest if k.startswith("optimiser."))
    for name in names:
        start = f"optimiser.{name}."
        yield name, {k.removeprefix(start): v for k, v in rest.items() if k.startswith(start) and "." not in k.removeprefix(start)}


def _put_moments(state: State, moments: dict[str, dict[str, Tensor]], where: Path) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

    groups: Any = get_optimizer_state_dict(state.owner, state.optimiser, options=StateDictOptions(full_state_dict=True))["param_groups"]
    names = [name for group in groups for name in group["params"]]
    if names and not moments and state.step:
        raise damaged(where, "it has no optimiser state")
    weights = {bare(name): weight for name, weight in state.owner.named_parameters()}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name, entries in moments.items():
        for kind, value in entries.items():
            wanted = () if kind == "step" else shapes.get(name, "unknown")
            if tuple(value.shape) != wanted or not value.is_floating_point():
                raise damaged(where, f"the optimiser's {kind} of {name} is {value.dtype} {tuple(value.shape)}, not floating {wanted}")
    found: Any = {"state": {name: moments[name] for name in names if name in moments}, "param_groups": groups}
    set_optimizer_state_dict(state.owner, state.optimiser, found, options=StateDictOptions(full_state_dict=True, strict=False))
    for name, weight in weights.items():
        if name not in moments:  # it never had a gradient, and torch made it moments
            state.optimiser.state.pop(weight, None)
        elif low(weight):  # torch rounds moments to the type of the weight
            state.optimiser.state[weight] = {k: v.to(weight.device).float() for k, v in moments[name].items()}
