"""Many perceptrons in one buffer, with forward, tangent and gradient passes written out: what a sweep trains.

The network is `MLP`'s, to the bit of its parameters: `as_module` shows the same storage as an `MLP`. Knows no objectives.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from meanstep.fields.mlp import MLP

Layers = list[tuple[Tensor, Tensor]]


class Shape:
    """Sizes of an `MLP(dim, width, depth)` and where its layers lie in a flat vector of `size` parameters.

    `dim`: of the points; `width`: of a hidden layer, 128; `depth`: the number of hidden layers, 3.
    """

    def __init__(self, dim: int, width: int = 128, depth: int = 3) -> None:
        self.dim, self.width, self.depth = dim, width, depth
        first = MLP(dim, width, depth)
        self.frequencies = first.frequencies
        self.sizes = list(pairwise([first.weights[0].shape[-2], *[width] * depth, dim]))
        self.size = sum(fan_in * fan_out + fan_out for fan_in, fan_out in self.sizes)

    def layers(self, flat: Tensor) -> Layers:
        """Weights `[E, in, out]` and biases `[E, 1, out]` of each layer as views of `flat` `[E, size]`.

        They lie there as `[out, in]`: a product with few columns, as the last layer's, is several times faster that way.
        """
        found, start = [], 0
        for fan_in, fan_out in self.sizes:
            middle, end = start + fan_in * fan_out, start + fan_in * fan_out + fan_out
            found.append((flat[:, start:middle].view(-1, fan_out, fan_in).mT, flat[:, middle:end].view(-1, 1, fan_out)))
            start = end
        return found

    def initial(self, generator: Generator | None = None) -> Tensor:
        """The parameters of a fresh `MLP(..., generator=generator)`, `[size]`."""
        net = MLP(self.dim, self.width, self.depth, generator=generator)
        return self.flatten([p.detach()[None] for p in net.weights], [p.detach()[None] for p in net.biases])[0]

    def flatten(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        """`weights` `[E, in, out]` and `biases` `[E, 1, out]` of each layer (or their gradients) as one buffer `[E, size]`."""
        return torch.cat([p.flatten(1) for w, b in zip(weights, biases, strict=True) for p in (w.mT, b)], 1)

    def as_module(self, flat: Tensor) -> MLP:
        """An ensemble `MLP(members=(E,))` whose parameters are views of `flat` `[E, size]`, in its order."""
        net = MLP(self.dim, self.width, self.depth, members=(len(flat),)).to(flat)
        net.frequencies = self.frequencies.to(flat)
        for k, (w, b) in enumerate(self.layers(flat)):
            net.weights[k], net.biases[k] = nn.Parameter(w), nn.Parameter(b)
        return net

    def inputs(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """The first layer's input `[*B, D + 4 K]`: `z`, then sines and cosines of `t` and `t - r`."""
        angles = torch.stack([t, t - r], -1)[..., None] * self.frequencies.to(t)
        return torch.cat([z, angles.sin().flatten(-2), angles.cos().flatten(-2)], -1)

    def input_tangents(self, t: Tensor, gap: Tensor) -> Tensor:
        """The derivative of the inputs' time part along `dt = 1, dr = 0`, `[*B, 4 K]`; `gap` is `t - r`, `[*B]`."""
        f = self.frequencies.to(t)
        angles = torch.stack([t, gap], -1)[..., None] * f
        return torch.cat([(angles.cos() * f).flatten(-2), (-angles.sin() * f).flatten(-2)], -1)


class Passes:
    """Workspace for `E` members and up to `rows` rows: passes that reuse its buffers, so a result lives until the next pass.

    Nothing is recorded for autograd. A tangent or a gradient pass belongs to the last `forward`, which kept the slopes for it.

    - `shape`: of the network; `members`: how many, `E`; `rows`: at most so many go through at once.
    - `like`: a tensor of the type, and on the device, of the buffers.
    - In the passes, `layers` are those of `Shape.layers`, and `grads` tensors of the same shapes.
    """

    def __init__(self, shape: Shape, members: int, rows: int, like: Tensor) -> None:
        self.shape = shape
        width, depth = shape.width, shape.depth

        def buffers(n: int) -> list[Tensor]:
            return [torch.empty(members * rows * width, dtype=like.dtype, device=like.device) for _ in range(n)]

        self.members, self.width = members, width
        self._post, self._slopes, self._spare = buffers(depth), buffers(depth), buffers(2)
        self._one = torch.ones((), dtype=like.dtype, device=like.device)
        self._views: dict[int, tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}

    def _of(self, rows: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The buffers as `[E, rows, width]`: after each activation, its derivative, and two to spare."""
        if rows not in self._views:
            size, shape = self.members * rows * self.width, (self.members, rows, self.width)
            post, slopes, spare = ([p[:size].view(shape) for p in group] for group in (self._post, self._slopes, self._spare))
            self._views[rows] = post, slopes, spare
        return self._views[rows]

    def forward(self, layers: Layers, h: Tensor, slopes: bool = True) -> Tensor:
        """Outputs `[E, B, D]` for inputs `h` `[E, B, F]`; with `slopes` it keeps what the tangent and gradient passes need."""
        self.h = h
        self.post, self.slopes, self.spare = self._of(h.shape[1])
        for (w, b), s, d in zip(layers, self.post, self.slopes, strict=False):
            torch.baddbmm(b, h, w, out=s)
            if slopes:
                torch.sigmoid(s, out=d)
                torch.lerp(s.mul_(d), self._one, d, out=d)  # with q = sigmoid(a), s = SiLU(a) = a q: SiLU'(a) = s + (1 - s) q
            else:
                nn.functional.silu(s, inplace=True)
            h = s
        return torch.baddbmm(layers[-1][1], h, layers[-1][0])

    def tangent(self, layers: Layers, dh: Tensor) -> Tensor:
        """The derivative `[E, n, D]` of the outputs of the first `n` rows along input tangents `dh` `[E, n, F]`."""
        n = dh.shape[1]
        da, other = self._of(n)[2]
        for (w, _), d in zip(layers[:-1], self.slopes, strict=True):
            torch.bmm(dh, w, out=da)
            dh, da, other = da.mul_(d[:, :n]), other, da
        return torch.bmm(dh, layers[-1][0])

    def backward(self, layers: Layers, grads: Layers, cotangent: Tensor) -> None:
        """Writes `sum_rows cotangent . d output / d parameters` into `grads`; `cotangent` `[E, B, D]`."""
        g, (spare, other) = cotangent, self.spare
        for k in range(len(layers) - 1, -1, -1):
            torch.bmm(g.mT, self.post[k - 1] if k else self.h, out=grads[k][0].mT)
            torch.sum(g, 1, keepdim=True, out=grads[k][1])
            if k:
                torch.bmm(g, layers[k][0].mT, out=spare)
                g, spare, other = spare.mul_(self.slopes[k - 1]), other, spare

    def norms(self, layers: Layers, cotangent: Tensor) -> Tensor:
        """Squared norm of each row's own parameter gradient, eq. (40), `[E, B]`; `cotangent` `[E, B, D]`."""
        g, total = cotangent, torch.zeros_like(cotangent[..., 0])
        for k in range(len(layers) - 1, -1, -1):
            total = total + g.square().sum(-1) * (1 + (self.post[k - 1] if k else self.h).square().sum(-1))
            if k:
                g = torch.bmm(g, layers[k][0].mT).mul_(self.slopes[k - 1])
        return total


class Plain(Passes):
    """The same passes of one member without buffers, for a compiler, which has its own; `backward` leaves the gradient in `grad`.

    `shape`: of the network. `layers`: its weights and biases, as of `Shape.layers`.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape, self.grad = shape, torch.empty(0)

    def forward(self, layers: Layers, h: Tensor, slopes: bool = True) -> Tensor:
        """Outputs `[1, B, D]` for inputs `h` `[1, B, F]`; with `slopes` it keeps what the other passes need."""
        if slopes:
            self.h, self.post, self.slopes = h, [], []
        for w, b in layers[:-1]:
            a = _product(h, w) + b
            q = a.sigmoid()
            h = a * q
            if slopes:
                self.post.append(h)
                self.slopes.append(h + (1 - h) * q)
        return _product(h, layers[-1][0]) + layers[-1][1]

    def tangent(self, layers: Layers, dh: Tensor) -> Tensor:
        """The derivative `[1, n, D]` of the outputs of the first `n` rows along input tangents `dh` `[1, n, F]`."""
        for (w, _), d in zip(layers[:-1], self.slopes, strict=True):
            dh = _product(dh, w) * d[:, : dh.shape[1]]
        return _product(dh, layers[-1][0])

    def backward(self, layers: Layers, grads: Layers, cotangent: Tensor) -> None:
        """Leaves `sum_rows cotangent . d output / d parameters` in `grad`, `[1, size]`; `grads` are not touched."""
        g, found = cotangent, []
        for k in range(len(layers) - 1, -1, -1):
            found.append((_product(g.mT, self.post[k - 1] if k else self.h).mT, g.sum(1, keepdim=True)))
            if k:
                g = _product(g, layers[k][0].mT) * self.slopes[k - 1]
        self.grad = self.shape.flatten(*zip(*found[::-1], strict=True))


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a[0], b[0])[None]


class Runner:
    """Evaluates flat parameters `[E, size]` as the field `u(z, r, t)` without a gradient, in blocks of rows: for samplers and probes.

    `shape`: of the networks; `flat`: their parameters; `block`: how many rows go through at once, 2048.
    """

    def __init__(self, shape: Shape, flat: Tensor, block: int = 2048) -> None:
        self.shape, self.layers, self.block = shape, shape.layers(flat), block
        self.passes = Passes(shape, len(flat), block, flat)

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: None = None) -> Tensor:
        """The average velocity `[E, B, D]` at `z` `[E, B, D]` (or `[1, B, D]`), `r` and `t` `[E, B]` (or `[1, B]`)."""
        parts = zip(*(p.split(self.block, 1) for p in (z, r, t)), strict=True)  # type: ignore[no-untyped-call]
        out = [self.passes.forward(self.layers, self._spread(self.shape.inputs(*part)), slopes=False) for part in parts]
        return torch.cat(out, 1)

    def _spread(self, h: Tensor) -> Tensor:
        return h.expand(self.passes.members, -1, -1)


class Trace:
    """The trace of the covariance of one row's gradient, eq. (40), and its standard error, for a cotangent `[N, D]`.

    `passes`: of one member, after their `forward`; `layers`: its layers; `grads`: buffers for its gradient, of the same shapes.
    """

    def __init__(self, passes: Passes, layers: Layers, grads: Layers) -> None:
        self.passes, self.layers, self.grads = passes, layers, grads

    def __call__(self, cotangent: Tensor) -> tuple[float, float]:
        """The trace and its error."""
        n, g = len(cotangent), cotangent[None]
        norms = self.passes.norms(self.layers, g)[0].double()
        self.passes.backward(self.layers, self.grads, g / n)
        mean = sum(part.double().square().sum() for pair in self.grads for part in pair)
        return float((norms.mean() - mean) * n / (n - 1)), float(norms.std() / n**0.5)
