"""Losses beside the regression on the same pass of the field: of its predicted data, or of a layer's output. Knows no recipes.

An `Auxiliary` belongs to a `Term`, see `Term.beside`. Its network costs one forward pass for the predicted data, whose backward pass
reaches the field, and one without gradient for the data.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meanstep import boundary
from meanstep.shapes import over
from meanstep.types import Bridge, Weight
from meanstep.values import Value, called_as, record, value
from meanstep.weights import adaptive, constant


class Look(NamedTuple):
    """What an auxiliary loss sees of a term's rows.

    `velocity`: the field's `u(z, r, t)`, with its gradient, `[*B, *E]`; `bridge`: the draw, whose `data` are the rows' own; `hidden`: what
    the layer that was asked for returned for these rows, `[*B, ...]`, with its gradient.
    """

    velocity: Tensor
    bridge: Bridge
    hidden: Tensor | None = None

    def __repr__(self) -> str:
        return record(self)

    @property
    def data(self) -> Tensor:
        """The data that the velocity points to, `z - t u` on the linear path, `[*B, *E]`; 0 under the mask, as the data are."""
        b = self.bridge
        found = b.path.data(b.z, self.velocity.to(b.z), b.t)
        return found if b.mask is None else torch.where(over(b.mask, b.z), found, 0.0)


Loss = Callable[[Look], Tensor]
Features = Callable[[Tensor], Tensor]
MODULE = "a module of the field that is trained, such as net.blocks[3] or net.get_submodule('blocks.3')"
FEATURES = "a function or module from rows [B, *E] to features [B, ..., features]"
DISTANCE = "a function (predicted, data) -> one number a row, such as auxiliary.distance_of(network) of a feature network"


@dataclass(frozen=True, repr=False, eq=False)
class Auxiliary(Value):
    """A loss of each row that is added to its term's: `scale` times the `weight` of `loss(look)`, on rows with `t` below `before`.

    - `loss`: from a `Look` to `[*B]`, such as `perceptual` and `aligned` make, or your own.
    - `scale`: a finite number, 1 by default. `weight`: of the loss as of an error, none by default. `before`: a time in (0, 1].
    - `layer`: a module of the field; `Look.hidden` is then its output.
    - `learned`: modules with parameters of the loss, which join those of `ms.Loss`.
    """

    loss: Loss
    scale: float = 1.0
    weight: Weight = constant
    before: float = 1.0
    layer: nn.Module | None = None
    learned: tuple[nn.Module, ...] = field(default=())

    def __post_init__(self) -> None:
        boundary.function("an auxiliary loss", self.loss, "a function of a Look to one number a row, such as lambda look: ...", 1)
        boundary.number("the scale of an auxiliary loss", self.scale)
        boundary.weight("weight", self.weight)
        boundary.number("before, the time below which an auxiliary loss holds,", self.before, 0, 1, above=True)
        if self.layer is not None:
            boundary.kind("layer", self.layer, nn.Module, MODULE)
        if not all(isinstance(part, nn.Module) for part in self.learned):
            raise TypeError(f"learned holds the modules whose parameters the loss trains, got {self.learned!r:.60}")

    def __call__(self, look: Look) -> Tensor:
        """What it adds to each row's loss, `[*B]`."""
        b, found = look.bridge, self.loss(look)
        if not isinstance(found, Tensor) or found.shape != b.t.shape:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"an auxiliary loss returns one number a row, {tuple(b.t.shape)}, got {got}: take the mean over the other axes"
            )
        inside = b.t < self.before if self.before < 1 else torch.ones_like(b.t, dtype=torch.bool)
        return self.scale * torch.where(inside, self.weight(found.to(b.t), b), 0.0)


def perceptual(
    distance: Callable[[Tensor, Tensor], Tensor], scale: float = 0.4, before: float = 0.8, weight: Weight = adaptive(1.0, 1e-2, "mean")
) -> Auxiliary:
    """A distance of the predicted data from the row's own, as pixel MeanFlow has two of them; arXiv 2601.22158.

    - `distance`: `(predicted, data) -> [*B]`, such as LPIPS, or `distance_of(network)`. Published: 0.4 of LPIPS, 0.1 of ConvNeXt features.
    - `scale`: a finite number, 0.4 by default. `before`: the rows with `t` below it, in (0, 1], 0.8 by default. `weight`: the source's
      adaptive weight by default.

    `TypeError` for what is no function of two pictures, such as a feature network itself; `ValueError` for numbers out of their range, and
    at the first step for a distance that does not take the rows, or does not return one number for each.
    """
    boundary.function("distance", distance, DISTANCE, 2)
    return Auxiliary(_perceived(distance), scale, weight, before)


@value
def _perceived(distance: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    def loss(look: Look) -> Tensor:
        if isinstance(distance, Distance):
            return distance.of_rows(look.data, look.bridge.data, look.bridge.t.ndim)
        found: Tensor = _answer("the distance", distance, look.data, look.bridge.data)
        return found

    return loss


@dataclass(frozen=True, repr=False, eq=False)
class Distance(Value):
    """What `distance_of` makes of a feature `network`."""

    network: Features

    def __repr__(self) -> str:
        return called_as("distance_of", [self.network], {})

    def __call__(self, predicted: Tensor, data: Tensor) -> Tensor:
        """The distance of rows `[B, *E]`, `[B]`."""
        return self.of_rows(predicted, data, 1)

    def of_rows(self, predicted: Tensor, data: Tensor, batch_dims: int) -> Tensor:
        """The distance of rows `[*B, *E]` with so many axes in `*B`, `[*B]`."""
        with torch.no_grad():
            goal = _asked(self.network, data, batch_dims)
        found = _asked(_frozen(self.network), predicted, batch_dims)
        if predicted.requires_grad and torch.is_grad_enabled() and not found.requires_grad:
            what = f"the feature network {_name(self.network)} cuts the gradient to its input, which trains nothing"
            raise ValueError(f"{what}: leave out no_grad and detach")
        return (found - goal).square().flatten(batch_dims).sum(batch_dims)


def distance_of(network: Features) -> Distance:
    """The squared distance of a network's features, summed: `(predicted, data) -> [B]`, `[*B]` in a loss. Its weights get no gradient.

    - `network`: `[B, *E] -> [B, ..., features]`, differentiable in its input. The rows of all members of an ensemble are one batch to it.

    `TypeError` for what is no function of the rows alone; `ValueError` at the first step for a network that does not fit them.
    """
    boundary.function("network", network, FEATURES, 1)
    return Distance(network)


def aligned(layer: nn.Module, network: Features, projection: nn.Module, scale: float = 1.0) -> Auxiliary:
    """Feature alignment: 1 - cosine of a layer's projected output and a network's features of the data; arXiv 2410.06940, 2509.04394.

    - `layer`: a module of the field, whose output is `[*B, ..., width]`; `projection`: from there to the features' last axis; it learns.
    - `network`: `[B, *E] -> [B, ..., features]` as of `distance_of`, without gradient. The mean is over all axes between, such as tokens.
    - `scale`: a finite number; 1, as TiM has.

    `TypeError` for a layer or a projection that is no module; `ValueError` at the first step for a network, a projection or a layer that
    does not fit.
    """
    boundary.kind("layer", layer, nn.Module, MODULE)
    boundary.function("network", network, FEATURES, 1)
    boundary.kind(
        "projection", projection, nn.Module, "a module that learns, from the layer's width to the features', such as nn.Linear(a, b)"
    )
    return Auxiliary(_alignment(network, projection), scale, layer=layer, learned=(projection,))


@value
def _alignment(network: Features, projection: nn.Module) -> Loss:
    def loss(look: Look) -> Tensor:
        assert look.hidden is not None
        with torch.no_grad():
            goal = _asked(network, look.bridge.data, look.bridge.t.ndim)
        mine = _answer("the projection", projection, look.hidden)
        if mine.shape != goal.shape:
            what = f"the projected layer is {tuple(mine.shape)} and the network's features are {tuple(goal.shape)}"
            raise ValueError(f"{what}: give a projection or a network that meets the other")
        apart = 1 - F.cosine_similarity(mine.to(goal), goal, dim=-1)
        return apart.reshape(*look.bridge.t.shape, -1).mean(-1)

    return loss


@dataclass(frozen=True, repr=False, eq=False)
class Directional(Value):
    """TiM's term inside the weight: 1 - cosine over the first axis of the event, mean over the others; arXiv 2509.04394.

    A picture of one channel (three axes and more, the first of one entry) is one direction: over one entry a cosine is a sign, which
    has no gradient but near 0. Two axes may be tokens, of which one alone counts as it does among others: `[1, L]` stays entry by entry.

    `floor`: norms below it count as it. The source has 1e-8, at which a network that starts at 0 gets a gradient of 1e8.
    """

    floor: float = 1e-2

    def __post_init__(self) -> None:
        boundary.number("floor, the least norm of a direction,", self.floor, 0, above=True)

    def __call__(self, u: Tensor, goal: Tensor, b: Bridge) -> Tensor:
        """`u` and its target, `[*B, *E]`, to `[*B]`; entries under the mask do not count."""
        axis = b.t.ndim
        kept = torch.ones_like(b.z, dtype=torch.bool) if b.mask is None else over(b.mask, b.z).expand_as(b.z)
        mine, theirs = torch.where(kept, u.to(b.z), 0.0), torch.where(kept, goal.to(b.z), 0.0)
        if b.z.ndim >= axis + 3 and b.z.shape[axis] == 1:
            mine, theirs, kept = (p.flatten(axis) for p in (mine, theirs, kept))
        norms = [torch.linalg.vector_norm(x, dim=axis).clamp(min=self.floor) for x in (mine, theirs)]
        apart, there = 1 - (mine * theirs).sum(axis) / (norms[0] * norms[1]), kept.any(axis)
        apart, there = (p.reshape(*b.t.shape, -1) for p in (torch.where(there, apart, 0.0), there))
        return apart.sum(-1) / there.sum(-1).clamp(min=1)


def _asked(network: Features, x: Tensor, batch_dims: int) -> Tensor:
    """The features of rows, `[*B, *E] -> [*B, ..., features]`; `ValueError` for a network that does not take them, or that returns none."""
    batch, x = x.shape[:batch_dims], x.flatten(0, batch_dims - 1)
    found, name = _answer("the feature network", network, x), _name(network)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim < 2 or len(found) != len(x):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"the feature network {name} returned {got} for {len(x)} rows: it must return [rows, ..., features]")
    return found.reshape(*batch, *found.shape[1:])


def _name(part: Any) -> str:
    return str(getattr(part, "__name__", type(part).__name__))


REMEDY = {
    "the distance": "give one that takes such rows, after a function that resizes them where it must",
    "the feature network": "give a function that resizes them first",
    "the projection": "give one from that last axis to the features', such as nn.Linear({last}, features)",
}


def _answer(what: str, part: Callable[..., Any], *given: Tensor) -> Any:
    """What a user's function makes of rows; `ValueError` with the remedy where it fails on them."""
    try:
        return part(*given)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        shape = tuple(given[0].shape)
        remedy = REMEDY[what].format(last=shape[-1])
        raise ValueError(f"{what} {_name(part)} failed on rows {shape}: {why}; {remedy}") from error


def _frozen(network: Features) -> Features:
    """The network with weights that get no gradient, while its input does."""
    if not isinstance(network, nn.Module):
        return network
    fixed = {name: p.detach() for name, p in network.named_parameters()}
    return lambda x: torch.func.functional_call(network, fixed, (x,))
