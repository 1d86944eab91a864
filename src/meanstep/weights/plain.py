"""Weights that need a row's error and bridge alone, and one that learns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meanstep import boundary
from meanstep.coefficients import at, checked
from meanstep.precise import Precise, uncast
from meanstep.shapes import event_size, filled
from meanstep.types import Bridge, Coefficient, Weight
from meanstep.values import Value, called_as, like, value


def constant(error: Tensor, b: Bridge) -> Tensor:
    """The mean squared error itself."""
    return error


@dataclass(frozen=True, repr=False, eq=False)
class Adaptive(Value):
    """The adaptive weight `q / sg(q + c)^power`, eq. (24), with `q` the squared error summed over the event, or averaged.

    At `power = 1` the logged loss is about 1 whatever the error: read `metrics["residual"]`. `power`: at least 0; `c`: positive;
    `reduction`: "sum" or "mean". Defaults 1, 0.01 and the sum are published, arXiv 2505.13447. `ValueError` for others.
    """

    power: float = 1.0
    c: float = 1e-2
    reduction: str = "sum"

    def __post_init__(self) -> None:
        boundary.number("the adaptive weight's power", self.power, 0)
        boundary.number("the adaptive weight's c", self.c, 0, above=True)
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', got {self.reduction!r}")

    def __repr__(self) -> str:
        return called_as("adaptive", [self.power, self.c, self.reduction], {})

    def __call__(self, error: Tensor, b: Bridge) -> Tensor:
        """`[*B]` error -> `[*B]` loss."""
        q = error * event_size(b.z, b.t, b.mask) if self.reduction == "sum" else error
        return q / (q.detach() + self.c) ** self.power

    def slope(self, error: Tensor, b: Bridge) -> Tensor:
        """The derivative of a row's loss in its error `[*B]`, see `weights.slope`."""
        n = event_size(b.z, b.t, b.mask) if self.reduction == "sum" else 1.0
        return n / (error.detach() * n + self.c) ** self.power


def adaptive(power: float = 1.0, c: float = 1e-2, reduction: str = "sum") -> Adaptive:
    """MeanFlow's weight, see `Adaptive`, eq. (24); arXiv 2505.13447.

    `power`: at least 0; 1, as published on ImageNet (CIFAR: 0.75). `c`: positive, in squared units of the data; 0.01, as published (CIFAR:
    0.001). `reduction`: "sum" of the squared error over the row, as published, or "mean". `ValueError` for others.
    """
    return Adaptive(power, c, reduction)


@value
def normed(power: float = 1.0, c: float = 1e-2, invariant: bool = False) -> Weight:
    """FastGen's optimised gradient: the row's gradient is that of the squared error over `(|residual| + c)^power`, a norm, not its square.

    `|residual|` is the root of the squared error summed over the event. `invariant`: the residual is divided by the root of the number of
    entries in it. `power` 1 and `c` 0.01 are ours; FastGen's own `c` is 1 for DiTs. `ValueError` unless `c > 0` and `power >= 0`.
    """
    boundary.number("the norm weight's power", power, 0)
    boundary.number("the norm weight's c", c, 0, above=True)

    def weight(error: Tensor, b: Bridge) -> Tensor:
        n = filled(event_size(b.z, b.t, b.mask), error)
        norm = (error if invariant else error * n).detach().sqrt()
        return error * (n.sqrt() if invariant else n) / (norm + c) ** power

    return weight


@value
def alpha(ratio: Coefficient, c: float = 1e-3) -> Weight:
    """alpha-Flow's weight, eq. (25), for the error of the `Backward(ratio)` rate; `q / (q + c)` at `ratio = 0` and where `r = t`.

    `ratio`: as of the rate, in [0, 1]; `c`: positive, of the mean squared error, 0.001 as published; `ValueError` for others.
    As published it nearly vanishes when `ratio < sqrt(c / q)`; `adaptive(1, c, "mean")` is the same weight without this dip. Source: arXiv
    2510.20771.
    """
    ratio = checked(ratio, "ratio")
    boundary.number("alpha-Flow's c", c, 0, above=True)

    def weight(error: Tensor, b: Bridge) -> Tensor:
        a = filled(at(ratio, b), error)
        square = torch.where((b.gap > 0) & (a > 0), a**2, 1.0)
        return error * square / (square * error.detach() + c)

    return weight


@value
def shrinking_gap(scale: float, power: float = 1.0) -> Callable[[Bridge], Tensor]:
    """A factor that favours short gaps early: `1 - s + scale s (1 - (t - r))`, `s = 1 - progress^power`, eq. (26); arXiv 2511.19065.

    `scale`: at least 0, the source's `1 / (1 - mean gap)`; `power`: positive; 1, as published. Needs `progress`. `ValueError` for others.
    """
    boundary.number("the scale of the gap's weight", scale, 0)
    boundary.number("the curriculum's power", power, 0, above=True)

    def factor(b: Bridge) -> Tensor:
        s = 1 - b.elapsed() ** power
        return 1 - s + scale * s * (1 - b.gap)

    return factor


@value
def min_snr(gamma: float = 5.0) -> Callable[[Bridge], Tensor]:
    """`min(SNR, gamma) / (SNR + 1)` with the path's `SNR = (a / b)^2`, the Min-SNR weight of velocity regression, arXiv 2303.09556.

    `gamma`: positive; 5, as published; `ValueError` for another.
    """
    boundary.number("gamma, the largest signal-to-noise ratio,", gamma, 0, above=True)

    def factor(b: Bridge) -> Tensor:
        data, noise = (p**2 for p in b.path.scales(b.t))
        return torch.minimum(data, gamma * noise) / (data + noise)

    return factor


def inverse_square_scale(b: Bridge) -> Tensor:
    """`1 / omega^2` of the row's guidance scale; TVM, arXiv 2511.19797."""
    scale: Tensor = b.y.omega
    return scale.square().reciprocal()


def tangent_gap(b: Bridge) -> Tensor:
    """`(tan t - tan r + 1)^(-1/2)`, 1 on the diagonal, eq. (34); TiM, arXiv 2509.04394."""
    return (b.t.tan() - b.r.tan() + 1).rsqrt()


class Cauchy(Precise):
    """A learned weight: `log(q exp(-s) + c) + s` with a log-scale `s(r, t)` that starts at 0, eq. (27); arXiv 2510.24474.

    The only weight with parameters: give `loss.parameters()` to the optimiser, too. `c`: positive; 0.01, as published. `frequencies`: how
    many sines and cosines of each time `s` is a linear map of; 16, ours. `ValueError` for others.
    """

    frequencies: Tensor

    def __init__(self, c: float = 1e-2, frequencies: int = 16) -> None:
        super().__init__()
        boundary.number("the Cauchy weight's c", c, 0, above=True)
        boundary.whole("the number of frequencies", frequencies, 1)
        self.c = c
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-1, 4, frequencies))
        self.log_scale = nn.Linear(4 * frequencies, 1)
        nn.init.zeros_(self.log_scale.weight)
        nn.init.zeros_(self.log_scale.bias)

    def extra_repr(self) -> str:
        """The constant `c`, which bounds the logarithm from below."""
        return f"c={self.c:g}"

    def forward(self, error: Tensor, b: Bridge) -> Tensor:
        """`[*B]` error -> `[*B]` loss; the gradient reaches the field through the error and the log-scale through `s`."""
        angles = torch.stack([b.t, b.r], -1)[..., None] * self.frequencies
        features = torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)
        with uncast(features):
            s: Tensor = self.log_scale(features.to(self.log_scale.weight)).squeeze(-1).to(error)
        return torch.log(error * torch.exp(-s) + self.c) + s

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
