"""From a description, as `network.json` holds it, to a network. Knows no files."""

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, nn

from meanstep.keys import key
from meanstep.program.console import UserError
from meanstep.program.doctor.arguments import read
from meanstep.program.factories import attribute, load
from meanstep.program.reading.arrays import memory
from meanstep.program.registry import NETWORKS
from meanstep.program.runs.config import NetworkConfig
from meanstep.program.runs.families import Family
from meanstep.program.runs.options import SIZES, fits, resolved, suits

Description = dict[str, Any]


def described(
    network: NetworkConfig,
    shape: tuple[int, ...],
    classes: int,
    precision: str = "float32",
    conditions: Mapping[str, int | list[int]] | None = None,
) -> Description:
    """What a network is made of: all that `made` needs. `precision`: the configuration's, of which only float64 is the network's own.

    `conditions`: those that are no labels, numbers of categories or shapes by name.
    """
    name, options = network.name, resolved(network).options
    sizes: dict[str, Any] = {"shape": list(shape)} if _takes(name, "shape", "shapes") else _square(name, shape)
    found: Description = {"network": name, "options": sizes | {"classes": classes} | options}
    if conditions:
        if name in NETWORKS and not _takes(name, "conditions", "conditions"):
            remedy = "give --network.name mlp, or a factory of your own, or leave --data.condition out"
            raise UserError(f"the network {name} takes labels, and the data have other conditions ({', '.join(conditions)}): {remedy}")
        found["conditions"] = dict(conditions)
        if _takes(name, "conditions", "conditions"):
            found["options"]["conditions"] = dict(conditions)
    return found | ({"dtype": "float64"} if precision == "float64" else {})


def conditional(description: Description) -> bool:
    """Whether the network is given labels or other conditions."""
    return bool(description.get("options", {}).get("classes") or description.get("conditions"))


def null(classes: int, conditions: Mapping[str, int | list[int]], numbers: bool = False) -> Any:
    """What takes the place of a condition that is hidden: of labels and categories the number after the last, of `numbers` zeros.

    Zeros are the mean of the data, as the network sees them. None where nothing is hidden.
    """
    parts = {name: size if isinstance(size, int) else torch.zeros_like if numbers else None for name, size in conditions.items()}
    if classes or not any(parts.values()):
        return classes or None
    return parts if len(parts) > 1 else next(iter(parts.values()))


def _takes(name: str, keyword: str, fact: str) -> bool:
    """Whether a network of ours states the fact, such as that it takes rows of any shape; one of others takes the keyword."""
    if name in NETWORKS:
        return bool(NETWORKS[name].facts.get(fact))
    try:
        return keyword in inspect.signature(attribute(name)).parameters
    except (TypeError, ValueError):
        return False


def _square(name: str, shape: tuple[int, ...]) -> dict[str, int]:
    """How a network for square pictures is told their shape."""
    words = " x ".join(map(str, shape))
    if len(shape) != 3:
        remedy = "give --network.name mlp, or a factory of your own that takes a keyword shape"
        raise UserError(f"the network {name} takes pictures or latents of three axes, and the rows are {words}: {remedy}")
    if name in NETWORKS and not suits(name, shape):
        raise UserError(f"the network {name} takes square images, and the data are {words}: cache them with --size, or --network.name mlp")
    return {"size": shape[-1], "channels": shape[0]}


def made(description: Description, seed: int = 0, allowed: str = "") -> nn.Module:
    """The network of a description, its weights drawn from `key(seed, "weights")`; `UserError` for one that there is not.

    Its type is the description's `dtype`, float64; without one it is that in which the network was made, and weights are drawn in that.

    A network that is not ours is code of others, and a description may come from anywhere: it is called only if its name is `allowed`.
    """
    name, options, dtype = str(description.get("network")), dict(description.get("options", {})), description.get("dtype")
    if dtype not in (None, "float64"):
        raise UserError(f"a network's dtype is float64 or left out, got {dtype!r}")
    if foreign(description) not in ("", allowed):
        raise UserError(
            f"this network is made by {name}, code that would run: if you trust it, allow it by that name with --network (network=)"
        )
    generator = key(seed, "weights")
    with torch.random.fork_rng(devices=[]):  # layers draw weights before anyone gives them others
        torch.manual_seed(generator.initial_seed())
        net = _called(name, options) if name not in NETWORKS else _ours(name, options, generator)
    return net.double() if dtype else net


def _called(name: str, options: dict[str, Any]) -> nn.Module:
    fits(name, attribute(name), options)
    return _called_like_a_field(load(name, options)[0], name)


def _ours(name: str, options: dict[str, Any], generator: Generator) -> nn.Module:
    depth, width = (n if isinstance(n := options.get(size), int) else 0 for size in ("depth", "width"))
    if (needed := depth * (48 * width**2 + 100_000)) > memory():
        what = f"about {needed / 1e9:,.0f} GB for {depth:,} blocks of width {width:,}, more than half of this machine's memory"
        raise UserError(f"--network.depth: {what}: choose a smaller --network.depth or --network.width")
    try:
        sizes = {size: options.pop(size, 0) for size in SIZES}
        shape = tuple(sizes["shape"] or (sizes["channels"], sizes["size"], sizes["size"]))
        more = {"conditions": sizes["conditions"]} if sizes["conditions"] else {}
        return family(NetworkConfig(name, options)).make(shape, sizes["classes"], generator, **more)
    except (TypeError, ValueError) as error:
        named = next((option for option in options if re.search(rf"\b{option}\b", str(error))), "")
        raise UserError(f"--network{'.' + named.replace('_', '-') if named else ''}: {error}") from None


def foreign(description: Description) -> str:
    """The name of the function that makes a network which is not ours; empty for one of ours."""
    name = str(description.get("network"))
    return "" if name in NETWORKS else name


def family(network: NetworkConfig) -> Family:
    """The options of a network of ours."""
    found: Family = NETWORKS[network.name].load()(**network.options)
    return found


def small(network: NetworkConfig, size: int) -> NetworkConfig:
    """A cheap network that is asked for as many rows in a step; one of others is itself. It starts from no other's weights."""
    if network.name not in NETWORKS:
        return dataclasses.replace(network, start="")
    return NetworkConfig(network.name, dataclasses.asdict(family(resolved(network)).small(size)))


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
