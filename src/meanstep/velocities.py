"""Estimates of the marginal velocity `E[v | z_t]`: `(field, bridge) -> v`. They serve as tangent, as target, or both.

Guidance is not a method, it is a velocity. Knows nothing of derivatives and losses. No velocity carries a gradient.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from meanstep.calls import called
from meanstep.coefficients import at, checked
from meanstep.conditions import hidden, learned, prepared
from meanstep.paths import linear
from meanstep.precise import low
from meanstep.shapes import over, where
from meanstep.types import Bridge, Coefficient, Field, Velocity


def conditional(field: Field, b: Bridge) -> Tensor:
    """The draw's own `v = e - x`, eq. (2): unbiased, with all the noise."""
    return b.v


@torch.no_grad()
def own(field: Field, b: Bridge) -> Tensor:
    """The field's boundary `u(z, t, t)`: no noise, the network's bias. iMF without a head, arXiv 2512.02012."""
    return called(field, b.z, b.t, b.t, b.y)


@torch.no_grad()
def head(field: Field, b: Bridge) -> Tensor:
    """The field's auxiliary velocity head at the boundary, `field.head(z, t, t, y)`; iMF, arXiv 2512.02012."""
    return called(auxiliary(field), b.z, b.t, b.t, b.y)


def auxiliary(field: Field) -> Field:
    """The field's `head`, or `TypeError` if it has none."""
    found: Field | None = getattr(field, "head", None)
    if not callable(found):
        raise TypeError(
            f"this recipe needs an auxiliary velocity head, and {type(field).__name__} has no method head(z, r, t, y): "
            "add one, give as_field(net, head=...) the network's second output, or use improved_meanflow(tangent=velocities.own)"
        )
    return found


def of(other: Field) -> Velocity:
    """The boundary of another field, `other(z, t, t, y)`: an EMA copy or a frozen teacher. `TypeError` if it is not callable.

    `ValueError` for an `AveragedModel` of weights in less than float32, which stands still.
    """
    if not callable(other):
        raise TypeError(f"a proxy velocity comes from a field (z, r, t, y) -> u such as an EMA copy of the network, got {other!r}")
    if isinstance(other, AveragedModel) and (rounded := next(filter(low, other.parameters()), None)) is not None:
        raise ValueError(f"torch's AveragedModel averages in {rounded.dtype} and stands still: give an ms.Average(net), which is float32")

    @torch.no_grad()
    def boundary(field: Field, b: Bridge) -> Tensor:
        try:
            return called(other, b.z, b.t, b.t, b.y)
        except TypeError as error:
            remedy = "copy the adapted field, e.g. ms.Average(ms.as_field(net, ...)), or adapt the copy"
            raise TypeError(f"the proxy {type(other).__name__} is called as (z, r, t, y) and failed: {error}; {remedy}") from error

    return boundary


def oracle(velocity: Callable[[Tensor, Tensor], Tensor], marginal: bool = False) -> Velocity:
    """A known marginal velocity `(z, t) -> v`, eq. (3); `ValueError` for rows with a condition, unless the average over them is meant."""

    def known(field: Field, b: Bridge) -> Tensor:
        _expect_marginal(b, marginal, "an oracle (z, t) -> v", "use velocities.of(a field (z, r, t, y) -> v)")
        return velocity(b.z, b.t)

    return known


def _expect_marginal(b: Bridge, marginal: bool, what: str, remedy: str) -> None:
    if b.y is not None and not marginal:
        raise ValueError(
            f"{what} averages over all conditions, and these rows have one (y=), which samples would then ignore: "
            f"{remedy}, or marginal=True if the average over conditions is meant"
        )


def floored(base: Velocity, floor: float = 0.05) -> Velocity:
    """`base` scaled by `t / max(t, floor)`: the velocity `(z - x) / max(t, floor)` of x-prediction, eq. (32); arXiv 2601.22158."""
    if isinstance(base, Guided):
        raise ValueError("floor the velocity inside the guidance, Guided(floored(conditional), ...): its recipe must see the guidance")

    def velocity(field: Field, b: Bridge) -> Tensor:
        if b.path != linear:
            raise ValueError(f"a floored velocity is x-prediction's on the linear path, and this draw is on {b.path}")
        return base(field, b) * over(b.t / b.t.clamp(min=floor), b.z)

    return velocity


def mix(a: Velocity, c: Velocity, beta: Coefficient, name: str = "beta") -> Velocity:
    """`(1 - beta) a + beta c`, eq. (17). `beta` in [0, 1]; where it is the number 0 or 1 only one of the two is evaluated."""
    beta = checked(beta, name)

    def velocity(field: Field, b: Bridge) -> Tensor:
        weight = at(beta, b)
        if not isinstance(weight, Tensor) and weight in (0, 1):
            return (c if weight else a)(field, b)
        return torch.lerp(a(field, b).to(b.z), c(field, b).to(b.z), over(weight, b.z))

    return velocity


@dataclass(frozen=True)
class Posterior:
    """The velocity at the posterior mean of a reference batch, eq. (31): weights `p(z_t | x_i)`, self-normalised.

    `reference`: data `[N, *E]`; `labels` `[N]`, integers: only references with the row's label `b.y` count (that of a `Condition`). Rows
    with a condition need them, or `marginal`: the average over conditions is meant. With `include_own` the row's own data point is one of
    the references, so the weights cannot vanish and the value tends to the conditional velocity as `t -> 0`. On any path, but for fresh
    Gaussian noise only. Under a mask only the row's own entries are compared. The bias vanishes as N grows. `dtype`: that of the
    comparison; float32 is two to three times faster and its weights are off by about `1e-7 |z|^2 / t^2`. `basis` `[entries, K]`: compare
    in these orthonormal directions only (principal components), which forgets the others and is biased; takes no mask.
    `ValueError` if shapes do not fit, a condition is no label or a label has no reference, or if the noise was handed in: its law given
    the data is not the one that the weights are made of.
    """

    reference: Tensor
    labels: Tensor | None = None
    include_own: bool = True
    dtype: torch.dtype = torch.float64
    basis: Tensor | None = None
    marginal: bool = False

    def __post_init__(self) -> None:
        if not self.reference.is_floating_point():
            raise TypeError(f"the reference holds data as the loss gets it, floating-point numbers, got {self.reference.dtype}")
        if self.labels is not None and not _are_labels(self.labels, self.reference.shape[:1]):
            what = f"{self.labels.dtype} {tuple(self.labels.shape)}" if isinstance(self.labels, Tensor) else f"{self.labels!r:.40}"
            raise ValueError(f"labels are integers, one for each of the {len(self.reference)} references, got {what}")

    @torch.no_grad()
    def __call__(self, field: Field, b: Bridge) -> Tensor:
        """The velocity `[*B, *E]`."""
        if not b.independent:
            raise ValueError(
                "a Posterior weighs data by the law of fresh Gaussian noise, and this draw's noise was handed in (noise=): "
                "use velocities.conditional, or pass independent=True if it is a standard normal draw that knows nothing of the data"
            )
        x = b.data
        if self.reference.shape[1:] != x.shape[b.t.ndim :]:
            raise ValueError(f"the reference holds rows of shape {tuple(self.reference.shape[1:])}, the batch {tuple(x.shape[b.t.ndim :])}")
        alike = self._alike(b)
        t = b.t.clamp(min=1e-6).to(self.dtype)[..., None]
        a, s = b.path.scales(t)
        z, mine, keep = (p.reshape(*b.t.shape, -1).to(self.dtype) for p in (b.z, x, self._kept(b)))
        # log p(z | x_i) up to a term of the row, in one product: large numbers cancel at small t, hence float64 by default
        flat = self.reference.flatten(1).to(z)
        here, there, own = (self._seen(p) for p in (z, flat, mine))
        keep = keep if self.basis is None else torch.ones_like(here)
        left = torch.cat([here * keep * (a / s**2), keep * (-(a**2) / (2 * s * s))], -1)
        logits = left @ torch.cat([there, there.square()], -1).mT
        own = (left * torch.cat([own, own.square()], -1)).sum(-1, keepdim=True)
        if alike is not None:
            logits = logits.masked_fill(~alike, float("-inf"))
        mean = self._mean(logits, own, flat, mine)
        return b.v - ((mean - mine) / b.path.span(t)).reshape(b.z.shape).to(b.z)

    def _alike(self, b: Bridge) -> Tensor | None:
        """Which references have each row's label, `[*B, N]`; None where all count."""
        if self.labels is None:
            _expect_marginal(b, self.marginal, "a Posterior without labels", "give it labels=, one for each reference")
            return None
        y = b.y.label if isinstance(b.y, Condition) else b.y
        if not isinstance(y, Tensor):
            raise ValueError("a Posterior with labels compares them with the rows' labels: call the loss with y=labels")
        if not _are_labels(y, b.t.shape):
            raise ValueError(
                f"a Posterior compares labels, integers of shape {tuple(b.t.shape)}, and this condition is {y.dtype} {tuple(y.shape)}: "
                "use another velocity, or a Posterior without labels and marginal=True if the average over conditions is meant"
            )
        alike = y[..., None].long() == self.labels.to(y.device).long()
        if not self.include_own and y.device.type == "cpu" and not torch.compiler.is_compiling() and not (there := alike.any(-1)).all():
            raise ValueError(f"no reference has the label {y[~there][0].item()}: give references of every label, or include_own=True")
        return alike

    def _seen(self, x: Tensor) -> Tensor:
        """What is compared of points `[*B, entries]`."""
        return x if self.basis is None else x @ self.basis.to(x)

    def _kept(self, b: Bridge) -> Tensor:
        if self.basis is not None and b.mask is not None:
            raise ValueError("a Posterior with a basis compares whole rows: it takes no mask")
        return torch.ones_like(b.z) if b.mask is None else over(b.mask, b.z).expand_as(b.z).to(b.z)

    def _mean(self, logits: Tensor, own: Tensor, flat: Tensor, mine: Tensor) -> Tensor:
        top = logits.amax(-1, keepdim=True)
        top = torch.maximum(top, own) if self.include_own else top
        floor = math.log(torch.finfo(logits.dtype).tiny) / 2  # 1e-19 in float32: an exp that underflows takes ten to thirty times as long
        weights, mass = logits.sub_(top).clamp_(min=floor).exp_(), (own - top).exp() if self.include_own else torch.zeros_like(own)
        return (weights @ flat + mass * mine) / (weights.sum(-1, keepdim=True) + mass)


def _are_labels(y: Any, shape: Sequence[int]) -> bool:
    kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
    return isinstance(y, Tensor) and y.dtype in kinds and tuple(y.shape) == tuple(shape)


# Guidance ---------------------------------------------------------------------------------------------------------------------------


class Condition(NamedTuple):
    """A condition with guidance as an input of the network: label `[*B]`, scale `omega` `[*B]`, and the interval `[low, high]` of times."""

    label: Tensor
    omega: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class LabelDropout:
    """Hides the condition of a random `share` of the rows: `null` takes its place. The same rows all step long.

    `null`: a number for integer labels; else a tree like the condition, whose parts are numbers, tensors, None for what is not hidden, or
    functions of the part, `{"text": 0.0, "mask": None, "speaker": 4}`; one function takes all parts together. An `nn.Parameter` or an
    `nn.Module` is learned: the loss of a recipe that shows the network its rows holds it among its parameters.
    """

    null: Any
    share: float = 0.1

    def __post_init__(self) -> None:
        checked(self.share, "the share of dropped labels")
        object.__setattr__(self, "null", prepared(self.null))

    @property
    def learned(self) -> tuple[nn.Module, ...]:
        """What learns in the null."""
        return learned(self.null)

    def rows(self, b: Bridge) -> Tensor:
        """The rows that lose their condition, `[*B]`."""
        return b.uniforms()[..., 0] < self.share

    def hidden(self, y: Any) -> Any:
        """`y` with every row's condition hidden: label null, and where guidance is an input, scale 1 on all times."""
        if y is None:
            raise ValueError("guidance and label dropout need a condition: call the loss with y=...")
        if isinstance(y, Condition):
            return Condition(self.hidden(y.label), torch.ones_like(y.omega), torch.zeros_like(y.low), torch.ones_like(y.high))
        return hidden(self.null, y)

    def __call__(self, b: Bridge) -> Bridge:
        """The bridge with those rows hidden."""
        return b._replace(y=where(self.rows(b), self.hidden(b.y), b.y))


@dataclass(frozen=True)
class LabelOnly:
    """The dropout of a `Condition`'s label alone: the row keeps its scale and its interval; iMF, arXiv 2512.02012."""

    dropout: LabelDropout

    @property
    def learned(self) -> tuple[nn.Module, ...]:
        """What learns in the null."""
        return self.dropout.learned

    def __call__(self, b: Bridge) -> Bridge:
        """The bridge with those rows' labels hidden."""
        return b._replace(y=b.y._replace(label=where(self.dropout.rows(b), self.dropout.hidden(b.y.label), b.y.label)))


def as_is(b: Bridge) -> Bridge:
    """The bridge unchanged."""
    return b


@dataclass(frozen=True)
class Guided:
    """`omega base + kappa u(t, t | y) + (1 - omega - kappa) u(t, t | null)` for times in `window`, eq. (28); dropped rows keep `base`.

    The effective scale is `omega / (1 - kappa)`. `by` gives the two boundary velocities. A recipe given this velocity also hides the
    labels of `dropout`'s rows from the network. Source: arXiv 2505.13447, appendix.
    """

    base: Velocity
    dropout: LabelDropout
    omega: float = 1.0
    kappa: float = 0.5
    window: tuple[float, float] = (0.0, 1.0)
    by: Velocity = own

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.omega, self.kappa, *self.window)):
            raise ValueError(f"guidance needs finite numbers, got omega={self.omega}, kappa={self.kappa}, window={self.window}")
        if self.window[0] > self.window[1]:
            raise ValueError(f"the window of guided times is (low, high), got {self.window}")

    def __call__(self, field: Field, b: Bridge) -> Tensor:
        """The velocity `[*B, *E]`."""
        v, rest = self.base(field, b), 1 - self.omega - self.kappa
        g = self.omega * v
        if self.kappa:
            g = g + self.kappa * self.by(field, b)
        if rest:
            g = g + rest * self.by(field, b._replace(y=self.dropout.hidden(b.y)))
        inside = (b.t >= self.window[0]) & (b.t <= self.window[1]) & ~self.dropout.rows(b)
        return torch.where(over(inside, b.z), g, v)


def shown(velocity: Velocity) -> Callable[[Bridge], Bridge]:
    """What the network is given beside this velocity: the bridge without the labels that its guidance drops."""
    return velocity.dropout if isinstance(velocity, Guided) else as_is


def flexible_scale(top: float = 8.0, power: float = 1.0) -> Callable[[Bridge], Bridge]:
    """Makes the label a `Condition`: `omega` on [1, top] with density `~ omega^-power`, interval ends uniform on [0, .5] and [.5, 1].

    On `r = t` rows the guidance holds at all times. Source: iMF, arXiv 2512.02012.
    """

    def draw(b: Bridge) -> Bridge:
        u = b.uniforms()
        omega = top ** u[..., 1] if power == 1 else (1 + u[..., 1] * (top ** (1 - power) - 1)) ** (1 / (1 - power))
        low, high = torch.where(b.r < b.t, u[..., 2] / 2, 0.0), torch.where(b.r < b.t, (1 + u[..., 3]) / 2, 1.0)
        return b._replace(y=Condition(b.y, omega.to(b.t), low.to(b.t), high.to(b.t)))

    return draw


def random_scale(low: float = 1.0, high: float = 2.0) -> Callable[[Bridge], Bridge]:
    """Makes the label a `Condition` with `omega` uniform on [low, high] at all times; the scale that TVM's network is given."""

    def draw(b: Bridge) -> Bridge:
        omega = low + (high - low) * b.uniforms()[..., 1].to(b.t)
        return b._replace(y=Condition(b.y, omega, torch.zeros_like(b.t), torch.ones_like(b.t)))

    return draw


def _effective(b: Bridge) -> Bridge:
    y: Condition = b.y
    inside = (b.t >= y.low) & (b.t <= y.high)
    omega = torch.where(inside, y.omega, torch.ones_like(y.omega))
    return b._replace(y=Condition(y.label, omega, torch.zeros_like(y.low), torch.ones_like(y.high)))


def in_window(base: Velocity) -> Velocity:
    """`base` given the row's scale inside its interval and scale 1 outside; the interval itself it never sees, as in iMF's code."""
    return lambda field, b: base(field, _effective(b))


def flexibly_guided(base: Velocity, dropout: LabelDropout, by: Velocity = own) -> Velocity:
    """`base + (1 - 1 / omega) (v(y) - v(null))` with the row's own scale inside its interval, eq. (29); dropped rows keep `base`. iMF."""

    def velocity(field: Field, b: Bridge) -> Tensor:
        b = _effective(b)
        v, g = base(field, b), by(field, b) - by(field, b._replace(y=dropout.hidden(b.y)))
        pull = torch.where(dropout.rows(b), 0.0, 1 - 1 / b.y.omega)
        return v + over(pull, b.z) * g

    return velocity


def scaled_guided(base: Velocity, dropout: LabelDropout, by: Velocity) -> Velocity:
    """`omega base + (1 - omega) v(null)` with the row's own scale, eq. (30): TVM's flow-matching target, `by` an EMA copy's boundary."""

    def velocity(field: Field, b: Bridge) -> Tensor:
        null = by(field, b._replace(y=dropout.hidden(b.y)))
        return torch.lerp(null.to(b.z), base(field, b).to(b.z), over(b.y.omega, b.z))

    return velocity
