"""The networks that `meanstep train` knows by name: a frozen dataclass of options each, which makes the network. Knows no files.

A new one is a class here: its fields, with their defaults and a text below each, are the flags of the command line.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from torch import Generator, Tensor, nn

from meanstep.catalogue import marked
from meanstep.fields import MLP, DiT

C = TypeVar("C", bound="type[Family]")


def network(
    name: str,
    *,
    instead: dict[str, tuple[str, ...]] | None = None,
    shapes: bool = False,
    conditions: bool = False,
    ranges: dict[str, str] | None = None,
) -> Callable[[C], C]:
    """Declares a `Family` for the table of networks by `name`; `instead`: options that others say already, once these are given.

    `shapes`: it takes rows of any shape, not only square pictures and latents `[channels, side, side]`.
    `conditions`: its `make` takes conditions that are no labels, numbers of categories or shapes by name.
    `ranges`: which numbers an option takes, in the words that help shows, such as `INT from 1`.
    """
    return marked(name=name, instead=instead or {}, shapes=shapes, conditions=conditions, ranges=ranges or {})


@dataclass(frozen=True)
class Family:
    """A network's options, whatever it is trained on."""

    def make(self, shape: tuple[int, ...], classes: int, generator: Generator) -> nn.Module:
        """The field for rows `[B, *shape]` and so many labels, 0 for none; `generator` draws the weights.

        torch's own generator has the same seed. `ValueError` for options that cannot be.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no network yet: give it a method make(shape, classes, generator)")

    def small(self, size: int) -> Self:
        """A cheap one that is asked for as many rows in a step, which is all that is counted of it; by default itself."""
        return self


@network(
    "dit",
    instead={"model": ("patch", "width", "depth", "heads")},
    ranges={
        "patch": "INT from 1 to 65536",
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
    """A published size and patch such as B/4 or XL/2, instead of the next four."""
    patch: int = 2
    """Pixels of a side that become one token; it divides the images' side."""
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

    def make(self, shape: tuple[int, ...], classes: int, generator: Generator) -> nn.Module:
        """A `fields.DiT`."""
        options: dict[str, Any] = dataclasses.asdict(self) | {"size": shape[-1], "channels": shape[0], "classes": classes}
        model = options.pop("model")
        if not model:
            return DiT(generator=generator, **options)
        own = {name: value for name, value in options.items() if name not in ("patch", "width", "depth", "heads")}
        return DiT.named(model, generator=generator, **own)

    def small(self, size: int) -> Self:
        """One token, one block: a head and a prediction of data are all that changes what a step asks."""
        return type(self)(patch=size, width=16, depth=1, heads=2, head=self.head, data_floor=self.data_floor)


@network(
    "mlp",
    shapes=True,
    conditions=True,
    ranges={"width": "INT from 1 to 1048576", "depth": "INT from 1 to 1000000", "frequencies": "INT from 1 to 1024"},
)
@dataclass(frozen=True)
class Mlp(Family):
    """A perceptron on the entries of a row, `fields.MLP`: for points, short signals and other rows of few entries."""

    width: int = 256
    """Units of a layer."""
    depth: int = 4
    """Hidden layers."""
    frequencies: int = 8
    """Fourier features of t and of t - r."""
    head: bool = False
    """A second output, the auxiliary velocity of improved MeanFlow."""

    def make(
        self, shape: tuple[int, ...], classes: int, generator: Generator, conditions: Mapping[str, int | Sequence[int]] | None = None
    ) -> nn.Module:
        """A `fields.MLP` of rows of any shape."""
        net = MLP(math.prod(shape), classes=classes, conditions=conditions, generator=generator, **dataclasses.asdict(self))
        return net if len(shape) == 1 else Flattened(net)

    def small(self, size: int) -> Self:
        """Few units: a head is all that changes what a step asks."""
        return type(self)(width=16, depth=1, head=self.head)


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
