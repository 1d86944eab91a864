"""Guided velocities: guidance is not a method, it is a velocity."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanstep.paths import linear
from meanstep.shapes import over
from meanstep.types import Bridge, Field, Velocity
from meanstep.values import Value, value
from meanstep.velocities.conditioned import Condition, LabelDropout, as_is
from meanstep.velocities.estimates import own


@dataclass(frozen=True, repr=False, eq=False)
class Guided(Value):
    """MeanFlow's guided velocity, eq. (28): `omega base + kappa u(t, t | y) + (1 - omega - kappa) u(t, t | null)`; arXiv 2505.13447.

    A recipe with this velocity also hides the labels of `dropout`'s rows from the network; those rows keep `base`.

    - `base`: the velocity to guide, such as `conditional`.
    - `dropout`: which label means none, and the share of rows that get it.
    - `omega`, `kappa`: finite; the effective scale is `omega / (1 - kappa)`. Defaults 1 and 0.5.
    - `window`: times `(low, high)` with guidance; all by default.
    - `by`: the velocity of both `u` terms; the network's own by default.
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
    """The function that hides from the network the labels that this velocity's guidance drops; `as_is` without guidance."""
    return velocity.dropout if isinstance(velocity, Guided) else as_is


def _effective(b: Bridge) -> Bridge:
    y: Condition = b.y
    inside = (b.t >= y.low) & (b.t <= y.high)
    omega = torch.where(inside, y.omega, torch.ones_like(y.omega))
    return b._replace(y=Condition(y.label, omega, torch.zeros_like(y.low), torch.ones_like(y.high)))


@value
def hidden_from(proxy: Velocity, given: Callable[[Bridge], Bridge]) -> Velocity:
    """A proxy that gets the same labels as the trained network: hidden where they are hidden from it."""
    return lambda field, b: proxy(field, given(b))


@value
def in_window(base: Velocity) -> Velocity:
    """`base` with the row's guidance scale inside its interval and scale 1 outside; it does not get the interval, as in iMF's code."""
    return lambda field, b: base(field, _effective(b))


@value
def flexibly_guided(base: Velocity, dropout: LabelDropout, by: Velocity = own) -> Velocity:
    """`base + (1 - 1 / omega) (v(y) - v(null))` with the row's own scale inside its interval, eq. (29); dropped rows keep `base`. iMF."""

    def velocity(field: Field, b: Bridge) -> Tensor:
        b = _effective(b)
        v, g = base(field, b), by(field, b) - by(field, b._replace(y=dropout.hidden(b.y)))
        pull = torch.where(dropout.rows(b), 0.0, 1 - 1 / b.y.omega)
        return v + over(pull, b.z) * g

    return velocity


@value
def floored(base: Velocity, floor: float = 0.05) -> Velocity:
    """`base` scaled by `t / max(t, floor)`: the velocity `(z - x) / max(t, floor)` of x-prediction, eq. (32); arXiv 2601.22158."""
    if isinstance(base, Guided):
        raise ValueError("floor the velocity inside the guidance, Guided(floored(conditional), ...): its recipe must see the guidance")

    def velocity(field: Field, b: Bridge) -> Tensor:
        if b.path != linear:
            raise ValueError(f"a floored velocity is x-prediction's on the linear path, and this draw is on {b.path}")
        return base(field, b) * over(b.t / b.t.clamp(min=floor), b.z)

    return velocity


@value
def scaled_guided(base: Velocity, dropout: LabelDropout, by: Velocity) -> Velocity:
    """`omega base + (1 - omega) v(null)` with the row's own scale, eq. (30): TVM's flow-matching target, `by` an EMA copy's boundary."""

    def velocity(field: Field, b: Bridge) -> Tensor:
        null = by(field, b._replace(y=dropout.hidden(b.y)))
        return torch.lerp(null.to(b.z), base(field, b).to(b.z), over(b.y.omega, b.z))

    return velocity
