"""From a row's mean squared error to its loss: `([*B], bridge) -> [*B]`. Knows no fields.

A weight may ask for derivatives of the field at its rows, see `probes`: then the loss answers it before it is called.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meanstep.coefficients import at
from meanstep.precise import Precise
from meanstep.shapes import event_size, over, per_sample
from meanstep.types import Bridge, Coefficient, Weight
from meanstep.values import Value, called_as, like, value


def constant(error: Tensor, b: Bridge) -> Tensor:
    """The mean squared error itself."""
    return error


def summed(error: Tensor, b: Bridge) -> Tensor:
    """The squared error summed over the entries that count."""
    return error * event_size(b.z, b.t, b.mask)


# Weights that ask the field ----------------------------------------------------------------------------------------------------------


def probes(weight: Weight, b: Bridge) -> Tensor | None:
    """The directions of `z`, `[K, *B, *E]`, along which a weight asks for the field's derivative at its rows; None for most weights.

    A weight that asks has the methods `probes(bridge)`, `answered(bridge, slopes) -> Weight` and `draws(entries)`, see `Trace`.
    """
    ask = getattr(weight, "probes", None)
    found: Tensor | None = None if ask is None else ask(b)
    return found


def draws(weight: Weight, entries: int) -> int:
    """How many uniforms of its own a weight needs for a row of so many entries, after the first four of `Bridge.aux`."""
    ask = getattr(weight, "draws", None)
    return 0 if ask is None else ask(entries)


def answered(weight: Weight, b: Bridge, slopes: Tensor | None) -> Weight:
    """The weight once the derivatives along its `probes` are known, `[K, *B, *E]`; itself if it does not ask for any."""
    answer = getattr(weight, "answered", None)
    return weight if answer is None else answer(b, slopes)


@dataclass(frozen=True, repr=False, eq=False)
class Adaptive(Value):
    """`q / sg(q + c)^power`, eq. (24), `q` the squared error summed (or averaged: `reduction="mean"`) over the event.

    At `power = 1` the logged loss is about 1 whatever the error: read `metrics["residual"]`. `ValueError` unless `c > 0`, `power >= 0`.
    """

    power: float = 1.0
    c: float = 1e-2
    reduction: str = "sum"

    def __post_init__(self) -> None:
        if self.c <= 0 or self.power < 0:
            raise ValueError(f"the adaptive weight needs c > 0 and power >= 0, got c={self.c:g}, power={self.power:g}")
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', got {self.reduction!r}")

    def __repr__(self) -> str:
        return called_as("adaptive", [self.power, self.c, self.reduction], {})

    def __call__(self, error: Tensor, b: Bridge) -> Tensor:
        """`[*B]` error -> `[*B]` loss."""
        q = error * event_size(b.z, b.t, b.mask) if self.reduction == "sum" else error
        return q / (q.detach() + self.c) ** self.power


def adaptive(power: float = 1.0, c: float = 1e-2, reduction: str = "sum") -> Adaptive:
    """MeanFlow's weight, see `Adaptive`; arXiv 2505.13447."""
    return Adaptive(power, c, reduction)


@dataclass(frozen=True, repr=False, eq=False)
class Factored(Value):
    """A factor times another weight's loss."""

    weight: Weight
    factor: Callable[[Bridge], Tensor | float]

    def __repr__(self) -> str:
        return called_as("times_factor", [self.weight, self.factor], {})

    def __call__(self, error: Tensor, b: Bridge) -> Tensor:
        """`[*B]` error -> `[*B]` loss."""
        return self.factor(b) * self.weight(error, b)

    def probes(self, b: Bridge) -> Tensor | None:
        """Those of the weight inside."""
        return probes(self.weight, b)

    def draws(self, entries: int) -> int:
        """Those of the weight inside."""
        return draws(self.weight, entries)

    def answered(self, b: Bridge, slopes: Tensor | None) -> Weight:
        """The same factor of the answered weight."""
        return Factored(answered(self.weight, b, slopes), self.factor)


def times_factor(weight: Weight, factor: Callable[[Bridge], Tensor | float]) -> Factored:
    """`factor(bridge)` times another weight's loss: it comes strictly after the adaptive weight and does not enter its `q`."""
    _no_module(weight)
    return Factored(weight, factor)


def _no_module(weight: Weight) -> None:
    if isinstance(weight, nn.Module):
        raise TypeError("a learned weight must be a term's own weight, or its parameters are lost: put the factor inside the module")


SIGMAS: dict[str, Callable[[Tensor], Tensor]] = {
    "one": torch.ones_like,
    "t": lambda t: t,
    "t2": torch.square,
    "bridge": lambda t: (t * (1 - t)).clamp(min=0).sqrt(),
    "scale": lambda t: ((1 - t).square() + t.square()).rsqrt(),
}
"""Published choices of the noise scale: 1, `t`, `t^2`, `sqrt(t (1 - t))` and `1 / sqrt((1 - t)^2 + t^2)`."""
MOST = 256
"""Entries of a row up to which its trace is taken exactly, a derivative for each."""


@dataclass(frozen=True, repr=False, eq=False)
class Trace(Value):
    """`w of(error)` with `w = 1 / (1 + sigma(t)^2 sg Tr(J J^T) / d)`, `J = (t - r) d_z u - I` at the row, eq. (55); arXiv 2605.09235.

    `w` carries no gradient and lies in [0, 1]; it is `1 / (1 + sigma^2)` where `r = t`, which takes no derivative. `d` counts the entries
    that the mask leaves, and `J` is of those. `sigma`: a name of `SIGMAS` or a function of `t`; `exact`: the trace from `d` derivatives,
    else its estimate `|J e|^2` by one `e` of random signs, from the uniforms of `Bridge.aux` after the fourth; `of`: the weight that it
    multiplies. `ValueError` for a name that there is not, and for an exact trace of more than 256 entries.
    """

    sigma: str | Callable[[Tensor], Tensor] = "one"
    exact: bool = False
    of: Weight = summed

    def __post_init__(self) -> None:
        _no_module(self.of)
        if not callable(self.sigma) and self.sigma not in SIGMAS:
            raise ValueError(f"sigma is one of {', '.join(SIGMAS)}, or a function of t, got {self.sigma!r}")

    def __repr__(self) -> str:
        default = {"sigma": "one", "exact": False, "of": summed}
        return called_as("trace", [], {name: part for name, part in self._parts().items() if part != default[name]})

    def draws(self, entries: int) -> int:
        """A uniform for each sign."""
        return draws(self.of, entries) + (0 if self.exact else entries)

    def probes(self, b: Bridge) -> Tensor | None:
        """The signs `[1, *B, *E]` or the unit vectors `[d, *B, *E]`, 0 where masked; None where `r` is `t` itself."""
        if probes(self.of, b) is not None:
            raise ValueError("a weight inside the trace weight cannot ask for derivatives of its own")
        if b.r is b.t:
            return None
        return torch.where(_kept(b), self._units(b) if self.exact else self._signs(b)[None], 0.0)

    def _units(self, b: Bridge) -> Tensor:
        event = b.z.shape[b.t.ndim :]
        if (entries := event.numel()) > MOST:
            what = f"an exact trace takes a derivative for each of the {entries:,} entries of a row"
            raise ValueError(f"{what}, which are at most {MOST}: leave exact out")
        one = torch.eye(entries, dtype=b.z.dtype, device=b.z.device).reshape(entries, *(1,) * b.t.ndim, *event)
        return one.expand(entries, *b.z.shape)

    def _signs(self, b: Bridge) -> Tensor:
        event = b.z.shape[b.t.ndim :]
        if (own := b.uniforms()[..., 4 : 4 + event.numel()]).shape[-1] < event.numel():
            what = f"the trace weight draws a sign for each of the {event.numel()} entries of a row"
            raise ValueError(f"{what}: draw the bridge with Loss.draw, or give it aux=torch.rand(*t.shape, {4 + event.numel()})")
        return torch.where(own.reshape(b.z.shape) < 0.5, -1.0, 1.0).to(b.z)

    def answered(self, b: Bridge, slopes: Tensor | None) -> Weight:
        """The weight of the rows of a bridge, from the derivatives of `u` along their probes, None where `r` is `t`."""
        return Factored(self.of, Known(self.weights(b, slopes)))

    def weights(self, b: Bridge, slopes: Tensor | None) -> Tensor:
        """`w`, `[*B]`; nan where a derivative is not finite, which the loss refuses."""
        if (along := self.probes(b)) is None:
            ratio = torch.ones_like(b.t)
        elif slopes is None:
            raise ValueError("the trace weight needs the field's derivatives along its probes: the loss asks for them")
        else:
            change = over(b.gap, b.z) * torch.where(_kept(b), slopes.detach().to(b.z), 0.0) - along
            ratio = torch.stack([per_sample(p, b.t, b.mask) for p in change.square().unbind(0)]).sum(0)
            ratio = torch.where(change.isfinite().reshape(len(change), *b.t.shape, -1).all(-1).all(0), ratio, float("nan"))
        return (1 / (1 + self._scale(b.t).square() * ratio)).detach()

    def _scale(self, t: Tensor) -> Tensor:
        found = SIGMAS[self.sigma](t) if isinstance(self.sigma, str) else self.sigma(t)
        found = torch.as_tensor(found, dtype=t.dtype, device=t.device)
        if found.shape not in ((), t.shape):
            raise ValueError(f"sigma(t) has shape {tuple(found.shape)} for times of shape {tuple(t.shape)}")
        return found

    def __call__(self, error: Tensor, b: Bridge) -> Tensor:
        """`[*B]` error -> `[*B]` loss, where `r` is `t`; `ValueError` elsewhere, where the loss answers it first."""
        return self.answered(b, None)(error, b)


def _kept(b: Bridge) -> Tensor:
    """The entries that count."""
    return over(torch.ones_like(b.t, dtype=torch.bool) if b.mask is None else b.mask, b.z)


@dataclass(frozen=True, repr=False, eq=False)
class Known(Value):
    """A factor that is known row by row, `[*B]`."""

    rows: Tensor

    def __call__(self, b: Bridge) -> Tensor:
        """The factor."""
        return self.rows


def trace(sigma: str | Callable[[Tensor], Tensor] = "one", exact: bool = False, of: Weight = summed) -> Trace:
    """The trace weight, see `Trace`: `1 / (1 + sigma(t)^2 Tr(J J^T) / d)` times the summed squared error, or another weight's loss."""
    return Trace(sigma, exact, of)


@value
def alpha(ratio: Coefficient, c: float = 1e-3) -> Weight:
    """alpha-Flow's weight, eq. (25), on the error of the `Backward(ratio)` rate; `q / (q + c)` at `ratio = 0` and where `r = t`.

    As published it falls silent when `ratio < sqrt(c / q)`; `adaptive(1, c, "mean")` is the same weight without the dip. Source: arXiv
    2510.20771.
    """

    def weight(error: Tensor, b: Bridge) -> Tensor:
        a = at(ratio, b)
        moving = (b.gap > 0) & (torch.as_tensor(a, device=error.device) > 0)
        square = torch.where(moving, torch.as_tensor(a, dtype=error.dtype, device=error.device) ** 2, 1.0)
        return error * square / (square * error.detach() + c)

    return weight


@value
def shrinking_gap(scale: float, power: float = 1.0) -> Callable[[Bridge], Tensor]:
    """The curriculum factor `1 - s + scale s (1 - (t - r))`, `s = 1 - progress^power`, eq. (26): short gaps first; arXiv 2511.19065."""

    def factor(b: Bridge) -> Tensor:
        s = 1 - b.elapsed() ** power
        return 1 - s + scale * s * (1 - b.gap)

    return factor


@value
def min_snr(gamma: float = 5.0) -> Callable[[Bridge], Tensor]:
    """`min(SNR, gamma) / (SNR + 1)` with the path's `SNR = (a / b)^2`, the Min-SNR weight of velocity regression, arXiv 2303.09556."""

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
    """`log(q exp(-s) + c) + s` with a learned log-scale `s(r, t)`, zero at the start, eq. (27); decoupled MeanFlow, arXiv 2510.24474.

    The only weight with parameters: `Loss` registers it, so hand `loss.parameters()` to the optimiser too.
    """

    frequencies: Tensor

    def __init__(self, c: float = 1e-2, frequencies: int = 16) -> None:
        super().__init__()
        self.c = c
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-1, 4, frequencies))
        self.log_scale = nn.Linear(4 * frequencies, 1)
        nn.init.zeros_(self.log_scale.weight)
        nn.init.zeros_(self.log_scale.bias)

    def extra_repr(self) -> str:
        """What the log is bounded by."""
        return f"c={self.c:g}"

    def forward(self, error: Tensor, b: Bridge) -> Tensor:
        """`[*B]` error -> `[*B]` loss; the gradient reaches the field through the error and the log-scale through `s`."""
        angles = torch.stack([b.t, b.r], -1)[..., None] * self.frequencies
        features = torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)
        s: Tensor = self.log_scale(features.to(self.log_scale.weight)).squeeze(-1).to(error)
        return torch.log(error * torch.exp(-s) + self.c) + s

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
