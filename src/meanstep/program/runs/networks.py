"""From a description, as `network.json` holds it, to a network. Knows no files."""

import dataclasses
import inspect
import re
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, nn

from meanstep.fields import told_scale
from meanstep.keys import key
from meanstep.program.console import UserError
from meanstep.program.doctor.arguments import read
from meanstep.program.factories import attribute, load
from meanstep.program.reading.arrays import memory
from meanstep.program.registry import NETWORKS
from meanstep.program.runs import given
from meanstep.program.runs.config import NetworkConfig
from meanstep.program.runs.families import Family
from meanstep.program.runs.options import SIZES, fits, resolved

Description = dict[str, Any]
EVERY = 1, 64
"""Axes of the rows of a network that does not say which it takes."""
_drawing = threading.RLock()
"""Of torch's global generator, which networks are made with: two threads take turns."""


def described(
    network: NetworkConfig,
    shape: tuple[int, ...],
    classes: int,
    precision: str = "float32",
    conditions: Mapping[str, int | list[int]] | None = None,
    scales: bool = False,
) -> Description:
    """What a network is made of: all that `made` needs. `precision`: the configuration's, of which only float64 is the network's own.

    `conditions`: those that are no labels, numbers of categories or shapes by name; `scales`: whether a network of ours is told a guidance
    scale beside its label.
    """
    name, options = network.name, resolved(network).options
    object_ = given.is_given(name)  # which has its sizes already
    if not object_:
        _check_axes(name, shape)
    sizes: dict[str, Any] = {} if object_ else {"shape": list(shape)} if _takes(name, "shape") else _square(name, shape)
    found: Description = {"network": name, "options": sizes | {"classes": classes} | options}
    if conditions:
        found["conditions"] = dict(conditions)
        if not object_ and _takes(name, "conditions"):
            found["options"]["conditions"] = dict(conditions)
    if scales and name in NETWORKS and classes:
        found["options"]["scales"] = True
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


def _takes(name: str, keyword: str) -> bool:
    """Whether a network of others takes the keyword; those of ours do."""
    try:
        return name in NETWORKS or keyword in inspect.signature(attribute(name)).parameters
    except (TypeError, ValueError):
        return False


def _check_axes(name: str, shape: tuple[int, ...]) -> None:
    """`UserError` for a network of ours that is not for rows of so many axes."""
    least, most = NETWORKS[name].facts.get("axes", EVERY) if name in NETWORKS else EVERY
    if not least <= len(shape) <= most:
        there, words = f"rows of {least} to {most} axes" if most < EVERY[1] else f"rows of {least} axes and more", " x ".join(map(str, shape))
        raise UserError(f"the network {name} takes {there}, channels first, and the rows are {words}: give --network.name mlp")


def _square(name: str, shape: tuple[int, ...]) -> dict[str, int]:
    """How a factory for square pictures is told their shape."""
    if len(shape) != 3 or shape[1] != shape[2]:
        what = f"the network {name} takes square pictures or latents, and the rows are {' x '.join(map(str, shape))}"
        raise UserError(f"{what}: give --network.name mlp, or a factory of your own that takes a keyword shape")
    return {"size": shape[-1], "channels": shape[0]}


def made(description: Description, seed: int = 0, allowed: str = "", net: nn.Module | None = None) -> nn.Module:
    """The network of a description, its weights drawn from `key(seed, "weights")`; `UserError` for one that there is not.

    Its type is the description's `dtype`, float64; without one it is that in which the network was made, and weights are drawn in that.

    A network that is not ours is code of others, and a description may come from anywhere: it is called only if its name is `allowed`.
    One that was an object from Python is a copy of `net`, or what the function `allowed` builds.
    """
    name, options, dtype = str(description.get("network")), dict(description.get("options", {})), description.get("dtype")
    if dtype not in (None, "float64"):
        raise UserError(f"a network's dtype is float64 or left out, got {dtype!r}")
    if given.is_given(name):
        return _given(name, net, allowed, seed, bool(dtype))
    if net is not None:
        raise UserError(f"net: this network is made by its name, {name}: leave net out")
    if allowed not in ("", name) and not foreign(description):
        raise UserError(f"--network (network=) {allowed}: this network is {name}, one of ours: leave it out")
    if foreign(description) not in ("", allowed):
        raise UserError(
            f"this network is made by {name}, code that would run: if you trust it, allow it by that name with --network (network=)"
        )
    generator = key(seed, "weights")
    with _drawing, torch.random.fork_rng(devices=[]):  # layers draw weights before anyone gives them others
        torch.manual_seed(generator.initial_seed())
        net = _called(name, options) if name not in NETWORKS else _ours(name, options, generator)
    return net.double() if dtype else net


def _given(name: str, net: nn.Module | None, allowed: str, seed: int, double: bool) -> nn.Module:
    if net is None and allowed in ("", name):
        raise UserError(given.remedy(name))
    with _drawing:
        found = given.taken(net, name) if net is not None else _called_like_a_field(load(allowed, {}, seed)[0], allowed)
    return found.double() if double else found


def _called(name: str, options: dict[str, Any]) -> nn.Module:
    fits(name, attribute(name), options)
    return _called_like_a_field(load(name, options)[0], name)


def _ours(name: str, options: dict[str, Any], generator: Generator) -> nn.Module:
    try:
        sizes, told = {size: options.pop(size, 0) for size in SIZES}, options.pop("scales", False)
        shape = tuple(sizes["shape"] or (sizes["channels"], sizes["size"], sizes["size"]))
        more = {"conditions": sizes["conditions"]} if sizes["conditions"] else {}
        asked = family(NetworkConfig(name, options))
        needed, words = asked.large()
        if needed > memory():
            what = f"about {needed / 1e9:,.0f} GB for {words}, more than half of this machine's memory"
            size = "depth" if "depth" in options else "width"
            raise UserError(f"--network.{size}: {what}: choose a smaller --network.{size}")
        if told:
            net = asked.make(shape, 0, generator, conditions=told_scale.conditions(sizes["classes"]))
            return told_scale.ToldScale(net, sizes["classes"])
        return asked.make(shape, sizes["classes"], generator, **more)
    except (TypeError, ValueError, OverflowError) as error:
        places = {option: at.start() for option in options if (at := re.search(rf"\b{option}\b", str(error)))}
        named = min(places, key=lambda option: places[option], default="")
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
