"""From a factory, weights and a folder to a network that can be asked as a field. Every way in which that fails ends in one line."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.program.at_scale import AtScale
from meanstep.program.console import UserError, first_line
from meanstep.program.diagnose.arrays import Dataset, whole
from meanstep.program.diagnose.target import checked_weights, files
from meanstep.program.doctor.arguments import Call, candidates, read, reading, stated
from meanstep.program.factories import load
from meanstep.program.reading.tensors import File, alike, finite
from meanstep.program.wrapped import matched

Make = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Probed:
    """`field`: the network as `(z, r, t, y) -> u`; `ema`: its second copy, if given; `call`: how it is called; `weights`: the files."""

    field: nn.Module
    ema: nn.Module | None
    call: str
    factory: str
    weights: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(p.numel() for p in self.field.parameters())


@dataclass(frozen=True)
class Found:
    """What a target on the command line stands for. `make(seed)` builds the network, which `name` describes.

    `scale`: at which guidance scale it is read, None for a network that does not take one as an input.
    """

    name: str
    make: Make
    weights: Path | None
    ema: Path | nn.Module | None
    scale: float | None = None


def find(target: str, network: str | None, options: Mapping[str, Any], weights: Path | None, ema: Path | None) -> Found:
    """The target of the command line that is no run: `options` are the keywords of what builds its network."""
    factory, weights, ema = files(target, network, weights, ema)
    return Found(factory, lambda seed: load(factory, options, seed)[0], weights, ema)


def admit(found: Found, data: Dataset, order: str, device: torch.device, seed: int = 0) -> Probed:
    """The network with its weights, in eval mode on the device, tried on rows of the data; `UserError` if it does not fit.

    `seed`: of torch's global generator while the network is built, for one that draws its weights.
    """
    net = _at_hand(found.make(seed), found.name)
    try:
        other = copy.deepcopy(net) if isinstance(found.ema, Path) else None
    except Exception as error:
        raise UserError(
            f"the network cannot be copied for --average ({first_line(error)}): hold no computed tensors in attributes"
        ) from error
    if isinstance(found.ema, nn.Module):
        other = _at_hand(copy.deepcopy(found.ema), "average")
    for path, copied in ((found.weights, net), (found.ema, other)):
        if isinstance(path, Path) and copied is not None:
            _fill(copied, path)
    if found.scale is not None:
        net, other = AtScale(net, found.scale), None if other is None else AtScale(other, found.scale)
    call = _call(net.eval(), stated(order) if order else read(net), data)
    ema = None if other is None else call.adapt(other.eval()).to(device)
    names = tuple(str(path) for path in (found.weights, found.ema) if isinstance(path, Path))
    return Probed(call.adapt(net).to(device), ema, call.line, found.name, names)


def _at_hand(net: nn.Module, name: str) -> nn.Module:
    """The network on the processor, in one type."""
    if held := next((k for k, p in net.state_dict().items() if isinstance(p, Tensor) and p.is_meta), ""):
        raise UserError(f"{name}: {held} is on the meta device and holds no numbers: build the network on the processor")
    net = net.cpu()
    return net.double() if any(p.dtype == torch.float64 for p in net.parameters()) else net.float()


def _fill(net: nn.Module, path: Path) -> None:
    """Load weights strictly, whatever wrapped the network that they were written from."""
    checked_weights(path, "weights")
    own = net.state_dict()
    held = matched(File.open(path).tensors(), own)
    wrong = [f"{k} is {list(held[k].shape)} in the file and {list(own[k].shape)} in the network" for k in own if _differs(held, own, k)]
    missing, extra = [k for k in own if k not in held], [k for k in held if k not in own]
    if wrong or missing or extra:
        parts = [*wrong[:1], *([f"{len(missing)} weights are missing, e.g. {missing[0]}"] if missing else [])]
        parts += [f"{len(extra)} belong nowhere, e.g. {extra[0]}"] if extra else []
        raise UserError(f"{path} belongs to another architecture: {'; '.join(parts)}")
    alike(held, own, path)
    finite(held, path)
    net.load_state_dict({k: p.to(own[k].dtype) for k, p in held.items()}, strict=True)


def _differs(held: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> bool:
    return name in held and held[name].shape != own[name].shape


# How it is called ------------------------------------------------------------------------------------------------------------------


def _call(net: nn.Module, first: Call, data: Dataset) -> Call:
    """The way of calling it that works on rows of the data, tried on a processor so that a label out of range is seen."""
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    b = data.rows(_telling(data), dtype, torch.device("cpu"))
    x, y = b.x, b.y
    t = torch.linspace(0.4, 0.9, len(x), dtype=dtype)
    complaints = []
    for call in candidates(net, first):
        field = call.adapt(net)
        try:
            with torch.no_grad():
                out: Any = field(x, t / 2, t, y)
        except Exception as error:  # the next order may do
            complaints.append(first_line(error, 200))
            continue
        call = Call(call.order, call.names, reading(out, x), call.native, call.known)
        return _shaped(net, call, call.adapt(net), (x, t / 2, t, y))
    if data.y is None and _wants_labels(net, first, (x, t / 2, t)):
        remedy = "give --labels-file y.npy (whole numbers [N]), or x and y in one .npz or .safetensors"
        raise UserError(f"{type(net).__name__} needs labels, and {data.name} holds none: {remedy}")
    raise UserError(f"{type(net).__name__} does not run on rows of {data.name}, {_hint(net, data, complaints[0])}")


def _wants_labels(net: nn.Module, call: Call, rows: tuple[Tensor, ...]) -> bool:
    """Whether it runs as soon as rows have a label."""
    try:
        with torch.no_grad():
            call.adapt(net)(*rows, torch.zeros(len(rows[0]), dtype=torch.long))
    except Exception:  # then labels are not what it lacks
        return False
    return True


def _telling(data: Dataset) -> Tensor:
    """A few rows, among them those with the least and the largest label."""
    rows = list(range(min(4, len(data))))
    for y in data.y.values() if isinstance(data.y, dict) else [data.y]:
        if y is not None and whole(y):
            rows += [int(y.argmin()), int(y.argmax())]
    return torch.tensor(rows)


def _shaped(net: nn.Module, call: Call, field: nn.Module, rows: tuple[Any, ...]) -> Call:
    with torch.no_grad():
        out: Any = field(*rows)
    shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if shape != tuple(rows[0].shape):
        raise UserError(f"{type(net).__name__} returns {shape} for rows of shape {tuple(rows[0].shape)}: a velocity has the sample's shape")
    if not out.isfinite().all():
        raise UserError(f"{type(net).__name__} returns values that are not finite on rows of the data: look at its weights")
    return call


def _hint(net: nn.Module, data: Dataset, complaint: str) -> str:
    shape = f"shape {'x'.join(map(str, data.event))}"
    if data.y is None:
        return f"{shape}, without labels: {complaint}. Check the data's shape and --order; if it needs labels, give --labels-file"
    if isinstance(data.y, dict):
        return f"{shape}, conditions {', '.join(data.y)}: {complaint}. Check their names and shapes"
    if data.labelled:
        return f"{shape}, labels {data.y.min()} to {data.y.max()}: {complaint}. Are the labels in its range?"
    return f"{shape}, conditions {list(data.y.shape[1:])}: {complaint}. Check their shapes and --order"
