"""The networks that `meanstep train` knows by name: a frozen dataclass of options each, which makes the network. Knows no files.

A new one is a class here: its fields, with their defaults and a text below each, are the flags of the command line.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Generator, Tensor, nn

from meanstep.catalogue import marked
from meanstep.fields import MLP, DiT, UNet

C = TypeVar("C", bound="type[Family]")
ACTIVATIONS = {"silu": nn.functional.silu, "gelu": nn.functional.gelu, "mish": nn.functional.mish, "tanh": torch.tanh}


def network(
    name: str,
    *,
    instead: dict[str, tuple[str, ...]] | None = None,
    axes: tuple[int, int] | None = None,
    ranges: dict[str, str] | None = None,
) -> Callable[[C], C]:
    """Declares a `Family` for the table of networks by `name`; `instead`: options that others say already, once these are given.

    `axes`: the least and the most axes of the rows that it takes; any number by default.
    `ranges`: which numbers an option takes, in the words that help shows, such as `INT from 1`.
    """
    return marked(name=name, instead=instead or {}, axes=axes or (1, 64), ranges=ranges or {})


Conditions = Mapping[str, int | Sequence[int]]


@dataclass(frozen=True)
class Family:
    """A network's options, whatever it is trained on."""

    def make(self, shape: tuple[int, ...], classes: int, generator: Generator, conditions: Conditions | None = None) -> nn.Module:
        """The field for rows `[B, *shape]` and so many labels, 0 for none; `generator` draws the weights.

        `conditions`: those that are no labels, numbers of categories or shapes by name; they are left out where there are none. torch's
        own generator has the same seed. `ValueError` for options that cannot be.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no network yet: give it a method make(shape, classes, generator)")

    def small(self, size: int) -> Self:
        """A cheap one that is asked for as many rows in a step, which is all that is counted of it; by default itself."""
        return self

    def large(self) -> tuple[float, str]:
        """About how many bytes its weights and what is made with them take, and of what, in words; 0 if that is not known."""
        return 0, ""


@network(
    "dit",
    instead={"model": ("patch", "patches", "width", "depth", "heads"), "patches": ("patch",)},
    axes=(2, 64),
    ranges={
        "patch": "INT from 1 to 65536",
        "patches": "INT from 1 to 65536",
        "width": "INT from 1 to 1048576",
        "depth": "INT from 1 to 1000000",
        "heads": "INT from 1 to 65536",
        "ratio": "FLOAT above 0 to 1024",
        "split": "INT from 0 to 1000000",
        "data_floor": "FLOAT above 0 to 1",
        "time_scale": "FLOAT above 0",
    },
)
@dataclass(frozen=True)
class Dit(Family):
    """The Diffusion Transformer, `fields.DiT`; arXiv 2212.09748, 2505.13447."""

    model: str = ""
    """A published size and patch such as B/4 or XL/2, instead of the next five."""
    patch: int = 2
    """Entries of a side that become one token; it divides every axis of the grid."""
    patches: tuple[int, ...] = ()
    """The same for each axis of the grid, instead of patch: 1 4 4 for video of frames, rows and columns."""
    width: int = 96
    """Entries of a token."""
    depth: int = 6
    """Blocks."""
    heads: int = 4
    """Heads of attention in a block; they divide the width."""
    ratio: float = 4.0
    """Hidden units of a block's second half, over the width."""
    qk_norm: bool = False
    """Normalise queries and keys, arXiv 2302.05442."""
    rms: bool = False
    """RMSNorm instead of LayerNorm."""
    head: bool = False
    """A second output, the auxiliary velocity of improved MeanFlow."""
    split: int | None = None
    """So many blocks see t, the others r: decoupled MeanFlow, arXiv 2510.24474."""
    data_floor: float | None = None
    """Predict data, and divide by max(t, data_floor): arXiv 2601.22158, whose floor is 0.05."""
    time_scale: float = 1.0
    """Multiplies t: 1000 for the weights of DiT."""
    checkpointing: bool = False
    """Compute the blocks anew in the backward pass instead of keeping them."""

    def make(self, shape: tuple[int, ...], classes: int, generator: Generator, conditions: Conditions | None = None) -> nn.Module:
        """A `fields.DiT`; rows are channels and a grid."""
        own = dataclasses.asdict(self) | {"generator": generator, "classes": classes, "conditions": conditions}
        model, patch = own.pop("model"), own.pop("patch")
        patch = own.pop("patches") or patch
        if not model:
            return DiT(shape[1:], shape[0], patch, **own)
        return DiT.named(model, shape[1:], shape[0], **{name: value for name, value in own.items() if name not in ("width", "depth", "heads")})

    def small(self, size: int) -> Self:
        """One token, one block: a head and a prediction of data are all that changes what a step asks."""
        return type(self)(patch=size, width=16, depth=1, heads=2, head=self.head, data_floor=self.data_floor)

    def large(self) -> tuple[float, str]:
        """Of its blocks."""
        return _blocks(self.depth, self.width)


@network(
    "unet",
    axes=(2, 4),
    ranges={
        "width": "INT from 4 to 65536",
        "multipliers": "INT from 1 to 1024",
        "blocks": "INT from 1 to 1024",
        "attention": "INT from 0 to 64",
        "heads": "INT from 1 to 65536",
    },
)
@dataclass(frozen=True)
class Unet(Family):
    """A U-Net of signals, pictures and video, `fields.UNet`; arXiv 2006.11239, 2105.05233."""

    width: int = 32
    """Channels of the first level, a multiple of 4."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """How many times as many each level has; each halves the grid, and any length will do."""
    blocks: int = 2
    """Residual blocks of a level, on the way down and on the way up."""
    attention: tuple[int, ...] = (2,)
    """Levels with self-attention, from 0; --network.options '{attention: []}' for none."""
    heads: int = 4
    """Heads of attention; they divide the channels there."""
    head: bool = False
    """A second output, the auxiliary velocity of improved MeanFlow."""

    def make(self, shape: tuple[int, ...], classes: int, generator: Generator, conditions: Conditions | None = None) -> nn.Module:
        """A `fields.UNet`; rows are channels and a grid."""
        return UNet(shape, classes=classes, conditions=conditions, generator=generator, **dataclasses.asdict(self))

    def small(self, size: int) -> Self:
        """One level, one block: a head is all that changes what a step asks."""
        return type(self)(8, (1,), 1, (), 1, self.head)

    def large(self) -> tuple[float, str]:
        """Of its blocks, as if convolutions had two axes."""
        return sum(400 * self.blocks * (self.width * m) ** 2 for m in self.multipliers), f"{self.blocks:,} blocks a level"


@network(
    "mlp",
    ranges={"width": "INT from 1 to 1048576", "depth": "INT from 1 to 1000000", "frequencies": "INT from 1 to 1024"},
)
@dataclass(frozen=True)
class Mlp(Family):
    """A perceptron on the entries of a row, `fields.MLP`: for points, rows of tables and others of few entries."""

    width: int = 256
    """Units of a layer."""
    depth: int = 4
    """Hidden layers."""
    frequencies: int = 8
    """Fourier features of t and of t - r."""
    activation: Literal["silu", "gelu", "mish", "tanh"] = "silu"
    """Of a hidden layer."""
    head: bool = False
    """A second output, the auxiliary velocity of improved MeanFlow."""

    def make(self, shape: tuple[int, ...], classes: int, generator: Generator, conditions: Conditions | None = None) -> nn.Module:
        """A `fields.MLP` of rows of any shape."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        own = dataclasses.asdict(self) | {"activation": ACTIVATIONS[self.activation]}
        net = MLP(math.prod(shape), classes=classes, conditions=conditions, generator=generator, **own)
        return net if len(shape) == 1 else Flattened(net)

    def small(self, size: int) -> Self:
        """Few units: a head is all that changes what a step asks."""
        return type(self)(width=16, depth=1, head=self.head)

    def large(self) -> tuple[float, str]:
        """Of its layers."""
        return _blocks(self.depth, self.width)


def _blocks(depth: int, width: int) -> tuple[float, str]:
    return depth * (48.0 * width**2 + 100_000), f"{depth:,} blocks of width {width:,}"


class Flattened(nn.Module):
    """A network of vectors `[B, D]` on rows `[B, *E]` of as many entries."""

    carries_tangents = True

    def __init__(self, net: MLP) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity: `[B, *E], [B], [B] -> [B, *E]`."""
        return self.net(z.flatten(t.ndim), r, t, y).reshape(z.shape)

    def with_head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> tuple[Tensor, Tensor]:
        """Both velocities in one pass."""
        u, v = self.net.with_head(z.flatten(t.ndim), r, t, y)
        return u.reshape(z.shape), v.reshape(z.shape)

    @property
    def head(self) -> Any:
        """The auxiliary velocity `(z, r, t, y) -> [B, *E]`, or None if the network was built without it."""
        inner = self.net.head
        return inner and (lambda z, r, t, y=None: inner(z.flatten(t.ndim), r, t, y).reshape(z.shape))
