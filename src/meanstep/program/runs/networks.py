"""From a description, as `network.json` holds it, to a network. Knows no files."""

from typing import Any

import torch
from torch import Generator, nn

from meanstep.fields import DiT
from meanstep.keys import key
from meanstep.program.console import UserError
from meanstep.program.doctor.arguments import read
from meanstep.program.factories import load
from meanstep.program.runs.config import NetworkConfig

Description = dict[str, Any]


def described(network: NetworkConfig, shape: tuple[int, ...], classes: int, precision: str = "float32") -> Description:
    """What a network is made of: all that `made` needs. `precision`: the configuration's, of which only float64 is the network's own."""
    return _built_of(network, shape, classes) | ({"dtype": "float64"} if precision == "float64" else {})


def _built_of(network: NetworkConfig, shape: tuple[int, ...], classes: int) -> Description:
    if network.name != "dit":
        sizes = {"size": shape[-1], "channels": shape[0], "classes": classes}
        return {"network": network.name, "options": sizes | network.options}
    if len(shape) != 3 or shape[1] != shape[2]:
        raise UserError(f"the DiT takes square images, and the data are {' x '.join(map(str, shape))}: cache them with --size")
    sizes = {"size": shape[1], "channels": shape[0], "classes": classes}
    if network.model:
        return {"network": "dit", "options": {"model": network.model, **sizes, **network.options}}
    numbers = {"patch": network.patch, "width": network.width, "depth": network.depth, "heads": network.heads}
    return {"network": "dit", "options": {**sizes, **numbers, **network.options}}


def made(description: Description, seed: int = 0, allowed: str = "") -> nn.Module:
    """The network of a description, its weights drawn from `key(seed, "weights")`; `UserError` for one that there is not.

    Its type is the description's `dtype`, float64; without one it is that in which the network was made, and weights are drawn in that.

    A network that is not ours is code of others, and a description may come from anywhere: it is called only if its name is `allowed`.
    """
    name, options, dtype = description.get("network"), dict(description.get("options", {})), description.get("dtype")
    if dtype not in (None, "float64"):
        raise UserError(f"a network's dtype is float64 or left out, got {dtype!r}")
    if name not in ("dit", allowed):
        raise UserError(
            f"this network is made by {name}, code that would run: if you trust it, allow it by that name with --network (network=)"
        )
    with torch.random.fork_rng(devices=[]):  # layers draw weights before anyone gives them others
        torch.manual_seed(key(seed, "weights").initial_seed())
        if name != "dit":
            net = _called_like_a_field(load(str(name), options)[0], str(name))
        else:
            net = _dit(options, key(seed, "weights"))
    return net.double() if dtype else net


def _dit(options: dict[str, Any], generator: Generator) -> nn.Module:
    model = options.pop("model", "")
    try:
        return DiT.named(model, generator=generator, **options) if model else DiT(generator=generator, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"--network: {error}") from None


def _called_like_a_field(net: nn.Module, name: str) -> nn.Module:
    """The network, or `UserError` if the names of its arguments say that it is called otherwise than (z, r, t, y)."""
    call = read(net)
    if call.native or not call.known:
        return net
    raise UserError(f"{name} is called as (z, r, t, y), and its arguments are in another order: return {call.line} from it")


def dtype(net: nn.Module) -> torch.dtype:
    """The type of the data that a network takes: float64 if its weights are, else float32."""
    kind = next((p.dtype for p in net.parameters() if p.is_floating_point()), None)
    return torch.float64 if kind == torch.float64 else torch.float32


def parameters(net: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in net.parameters())
