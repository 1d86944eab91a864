"""A perceptron in `(z, t, t - r)` for points, alone `[B, D]` or as an ensemble of independent members `[M, B, D]`."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from meanstep.fields.given import labels, parts, sizes
from meanstep.values import like


class MLP(nn.Module):
    """Average velocity of points in `dim` dimensions: `depth` hidden layers of `width` units, Fourier features of `t` and `t - r`.

    `frequencies`: of each time, as many sines as cosines; 8. `ValueError` for sizes below 1, for both `classes` and `conditions`, or for
    points of another dimension.

    `members`: leading axes of an ensemble, e.g. `(5,)` for inputs `[5, B, D]`; no member sees another. `classes`: number of labels `y`
    (int64 `[*B]`), and label `classes` means none. `conditions`: instead of labels, parts of `y` by name, each a number of categories
    (int64 `[*B]`, one more means none) or the shape of its numbers (`[*B, *shape]`); all are features of the first layer. `head`: a second
    output, the auxiliary velocity. `activation`: of a hidden layer, an elementwise function. `generator` draws the weights.
    """

    frequencies: Tensor
    carries_tangents = True

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 3,
        *,
        members: tuple[int, ...] = (),
        classes: int = 0,
        conditions: Mapping[str, int | Sequence[int]] | None = None,
        head: bool = False,
        frequencies: int = 8,
        activation: Callable[[Tensor], Tensor] = nn.functional.silu,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if min(dim, width, depth) < 1:
            raise ValueError(f"dim, width and depth are at least 1, got {dim}, {width}, {depth}")
        self.dim, self.classes = dim, classes
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(frequencies).div(2) / 2, persistent=False)
        self.conditions, self.activation = sizes(conditions, classes), activation
        known = sum(size + 1 if isinstance(size, int) else math.prod(size) for size in self.conditions.values())
        first = dim + 4 * frequencies + (classes + 1 if classes else 0) + known
        widths = [first, *[width] * depth, dim * (2 if head else 1)]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            bound = fan_in**-0.5
            self.weights.append(nn.Parameter(torch.empty(*members, fan_in, fan_out).uniform_(-bound, bound, generator=generator)))
            self.biases.append(nn.Parameter(torch.empty(*members, 1, fan_out).uniform_(-bound, bound, generator=generator)))
        self.two = head

    def _run(self, z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
        if z.shape[-1:] != (self.dim,) or z.ndim != t.ndim + 1:
            raise ValueError(f"z has shape {tuple(z.shape)}, and this MLP takes points of {self.dim} numbers, {(*t.shape, self.dim)}")
        angles = torch.stack([t, t - r], -1)[..., None] * self.frequencies
        parts = [z, angles.sin().flatten(-2), angles.cos().flatten(-2)]
        if self.classes:
            known = torch.full_like(t, self.classes, dtype=torch.int64) if y is None else labels(y)
            parts.append(nn.functional.one_hot(known, self.classes + 1).to(z))
        h = torch.cat([*parts, *self._known(y, z, t)], -1)
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.matmul(self.activation(h) if k else h, w) + b
        return h

    def _known(self, y: Any, z: Tensor, t: Tensor) -> Iterator[Tensor]:
        """The features of the conditions, `[*B, n]` each; `y` a tensor where there is one, else by name."""
        for _, size, part in parts(self.conditions, y, "MLP"):
            yield (nn.functional.one_hot(part, size + 1) if isinstance(size, int) else part.reshape(*t.shape, -1)).to(z)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity: `[*M, B, D], [*M, B], [*M, B] -> [*M, B, D]`."""
        out = self._run(z, r, t, y)
        return out[..., : self.dim] if self.two else out

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def with_head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> tuple[Tensor, Tensor]:
        """Both velocities in one pass."""
        u, v = self._run(z, r, t, y).chunk(2, -1)
        return u, v

    @property
    def head(self) -> Any:
        """The auxiliary velocity `(z, r, t, y) -> [*M, B, D]`, or None if the network was built without it."""
        return (lambda z, r, t, y=None: self._run(z, r, t, y)[..., self.dim :]) if self.two else None
