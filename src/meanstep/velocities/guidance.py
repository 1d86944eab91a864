"""Guided velocities: guidance is not a method, it is a velocity."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanstep import boundary
from meanstep.coefficients import at
from meanstep.paths import linear
from meanstep.shapes import over
from meanstep.types import Bridge, Field, Velocity
from meanstep.values import Value, value
from meanstep.velocities.conditioned import Condition, LabelDropout, as_is, says_null
from meanstep.velocities.estimates import conditional, own

Scale = float | Callable[[Bridge], float | Tensor]
"""A number, or a function of the bridge with one value a row."""
DROPPED = ("plain", "guided", "true")


@dataclass(frozen=True, repr=False, eq=False)
class Guided(Value):
    """MeanFlow's guided velocity, eq. (28): `omega base + kappa u(t, t | y) + (1 - omega - kappa) u(t, t | null)`; arXiv 2505.13447.

    A recipe with this velocity also hides the labels of `dropout`'s rows from the network.

    - `base`: the velocity to guide, such as `conditional`.
    - `dropout`: which label means none, and the share of rows that get it.
    - `omega`, `kappa`: finite numbers, or functions of the bridge with one value a row; the effective scale is `omega / (1 - kappa)`.
      Defaults 1 and 0.5.
    - `window`: times `(low, high)` with guidance; all by default.
    - `by`: the velocity of both `u` terms; the network's own by default.
    - `dropped`: what rows without a label regress on: "plain", by default, `base`; "guided", the guided velocity of no label, as in
      alpha-Flow's and rectified MeanFlow's code; "true", the guided velocity of the label that is hidden from the network, as in TiM's.

    `ValueError` for a number that is not finite, a window that is not two rising times in [0, 1], and another word; `TypeError` for what is
    no velocity or no `LabelDropout`.
    """

    base: Velocity
    dropout: LabelDropout
    omega: Scale = 1.0
    kappa: Scale = 0.5
    window: tuple[float, float] = (0.0, 1.0)
    by: Velocity = own
    dropped: str = "plain"

    def __post_init__(self) -> None:
        boundary.velocity("base", self.base)
        boundary.velocity("by", self.by)
        says_null("dropout", self.dropout)
        for name in ("omega", "kappa"):
            scale = getattr(self, name)
            boundary.prepare(name, scale) if callable(scale) else boundary.number(f"the guidance scale {name}", scale)
        boundary.rising("the window of guided times", self.window, 0, 1)
        if self.dropped not in DROPPED:
            raise ValueError(f"rows without a label regress on dropped={', '.join(map(repr, DROPPED))}, got {self.dropped!r}")

    def __call__(self, field: Field, b: Bridge) -> Tensor:
        """The velocity `[*B, *E]`."""
        v, omega, kappa = self.base(field, b), _scale(self.omega, b, "omega"), _scale(self.kappa, b, "kappa")
        rest, seen = 1 - omega - kappa, self.dropout(b) if self.dropped == "guided" else b
        g = over(omega, b.z) * v
        if isinstance(kappa, Tensor) or kappa:
            g = g + over(kappa, b.z) * self.by(field, seen)
        if isinstance(rest, Tensor) or rest:
            g = g + over(rest, b.z) * self.by(field, b._replace(y=self.dropout.hidden(b.y)))
        inside = (b.t >= self.window[0]) & (b.t <= self.window[1])
        inside = inside & ~self.dropout.dropped(b) if self.dropped == "plain" else inside
        return torch.where(over(inside, b.z), g, v)


def _scale(scale: Scale, b: Bridge, name: str) -> float | Tensor:
    """A scale's value on the rows; `ValueError` for one that is not finite, as far as that can be seen without waiting for a device."""
    value = at(scale, b)
    known = not isinstance(value, Tensor) or (value.device.type == "cpu" and not torch.compiler.is_compiling())
    if callable(scale) and known and not torch.as_tensor(value).isfinite().all():
        raise ValueError(f"guidance needs finite numbers, and {name} has one that is not on these rows: look at the function of the bridge")
    return value


@value
def fading(scale: float = 3.0, mix: float = 1.0, start: float = 0.8, speed: float = 0.025) -> Callable[[Bridge], Tensor]:
    """SoFlow's scale, `mix (1 + k(t) (scale - 1))`: `k` is 1 up to `start` and falls smoothly to 0 at `t = 1`; arXiv 2512.15657.

    `k = 1 - exp(-speed x / (1 - x))` with `x = (1 - t) / (1 - start)`. Published: 3, `start` 0.8, `speed` 0.025. `mix` is a
    factor of all of it, 1 by default, which is ours. `ValueError` unless `0 <= start < 1`,
    `speed` is positive, and all are finite.
    """
    boundary.number("the guidance scale", scale)
    boundary.number("the mix of guidance", mix)
    boundary.number("the time from which guidance fades, start,", start, 0, 1, below=True)
    boundary.number("the speed of fading", speed, 0, above=True)

    def omega(b: Bridge) -> Tensor:
        x = ((1 - b.t) / (1 - start)).clamp(0, 1)
        return mix * (1 + -torch.expm1(-speed * x / (1 - x)) * (scale - 1))

    return omega


def faded(dropout: LabelDropout, scale: float = 3.0, mix: float = 0.25, start: float = 0.8, speed: float = 0.025) -> Guided:
    """SoFlow's guided velocity, `mix (v + k(t) (scale - 1) (v - u(null))) + (1 - mix) u(y)`, see `fading`; arXiv 2512.15657.

    - `dropout`: which label means none, and the share of rows that get it.
    - `scale`, `mix`, `start`, `speed`: of `fading`; 3, 0.25, 0.8 and 0.025, as published.

    `ValueError` as of `fading`. In eq. (28) `omega` is the faded scale and `kappa` is `1 - mix`.
    """
    return Guided(conditional, dropout, fading(scale, mix, start, speed), 1 - mix)


def randomly_guided(dropout: LabelDropout, low: float = 1.0, high: float = 2.5, after: float = 0.5) -> Guided:
    """Rectified MeanFlow's second stage: a scale `s` uniform on [low, high], one a step, `omega = max(1, s - 1)`, `kappa = 1 - omega / s`.

    In eq. (28). Rows without a label stay guided. No guidance before the share `after` of the training, which needs `progress` unless it
    is 0; arXiv 2511.23342. `dropout`: which label means none, and which rows get it; `low`, `high`: 1 and 2.5, `after`: 0.5, as published.
    `ValueError` unless `1 <= low <= high` and `after` lies in [0, 1].
    """
    boundary.rising("the guidance scales", (low, high), 1)
    boundary.number("the share of the training without guidance, after,", after, 0, 1)
    return Guided(conditional, dropout, step_omega(low, high, after), step_kappa(low, high, after), dropped="guided")


@value
def step_omega(low: float, high: float, after: float) -> Callable[[Bridge], Tensor]:
    """`omega` of `randomly_guided`."""

    def omega(b: Bridge) -> Tensor:
        return torch.where(_begun(b, after), _omega(b, low, high)[0], 1.0).expand_as(b.t)

    return omega


@value
def step_kappa(low: float, high: float, after: float) -> Callable[[Bridge], Tensor]:
    """`kappa` of `randomly_guided`."""

    def kappa(b: Bridge) -> Tensor:
        omega, s = _omega(b, low, high)
        return torch.where(_begun(b, after), 1 - omega / s, 0.0).expand_as(b.t)

    return kappa


def _omega(b: Bridge, low: float, high: float) -> tuple[Tensor, Tensor]:
    """`omega` and the scale of the step, `[*B[:-1], 1]`."""
    s = (low + (high - low) * b.shared()[..., 1]).to(b.t)
    return (s - 1).clamp(min=1), s


def _begun(b: Bridge, after: float) -> Tensor:
    begun = b.elapsed() >= after if after else True
    return begun.to(b.t.device) if isinstance(begun, Tensor) else torch.full((), bool(begun), device=b.t.device)


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
    """A proxy that gets the same labels as the trained network: hidden where they are hidden from it.

    `proxy`: a velocity; `given`: the function of the bridge that hides labels, such as a `LabelDropout`. `TypeError` for others.
    """
    boundary.velocity("proxy", proxy)
    boundary.prepare("given", given)
    return lambda field, b: proxy(field, given(b))


@value
def in_window(base: Velocity) -> Velocity:
    """`base` with the row's guidance scale inside its interval and scale 1 outside; it does not get the interval, as in iMF's code.

    `base`: a velocity of rows with a `Condition`. Source: arXiv 2512.02012.
    """
    boundary.velocity("base", base)
    return lambda field, b: base(field, _effective(b))


@value
def flexibly_guided(base: Velocity, dropout: LabelDropout, by: Velocity = own) -> Velocity:
    """`base + (1 - 1 / omega) (v(y) - v(null))` with the row's own scale inside its interval, eq. (29); dropped rows keep `base`. iMF.

    - `base`: the velocity to guide, such as `conditional`; `by`: that of both `v` terms, the network's own by default.
    - `dropout`: which label means none, and which rows got it. Rows carry a `Condition`.

    Source: arXiv 2512.02012.
    """
    boundary.velocity("base", base)
    boundary.velocity("by", by)
    says_null("dropout", dropout)

    def velocity(field: Field, b: Bridge) -> Tensor:
        b = _effective(b)
        v, g = base(field, b), by(field, b) - by(field, b._replace(y=dropout.hidden(b.y)))
        pull = torch.where(dropout.dropped(b), 0.0, 1 - 1 / b.y.omega)
        return v + over(pull, b.z) * g

    return velocity


@value
def floored(base: Velocity, floor: float = 0.05) -> Velocity:
    """`base` scaled by `t / max(t, floor)`: the velocity `(z - x) / max(t, floor)` of x-prediction, eq. (32); arXiv 2601.22158.

    `floor`: a time in (0, 1]; 0.05, as published. `ValueError` for another, for a guided `base`, and for rows on
    another path than the linear one.
    """
    boundary.velocity("base", base)
    boundary.number("the floor of the time", floor, 0, 1, above=True)
    if isinstance(base, Guided):
        raise ValueError("floor the velocity inside the guidance, Guided(floored(conditional), ...): its recipe must see the guidance")

    def velocity(field: Field, b: Bridge) -> Tensor:
        if b.path != linear:
            raise ValueError(f"a floored velocity is x-prediction's on the linear path, and this draw is on {b.path}")
        return base(field, b) * over(b.t / b.t.clamp(min=floor), b.z)

    return velocity


@value
def scaled_guided(base: Velocity, dropout: LabelDropout, by: Velocity) -> Velocity:
    """`omega base + (1 - omega) v(null)` with the row's own scale, eq. (30): TVM's flow-matching target, `by` an EMA copy's boundary.

    `base`: the velocity to guide, such as `conditional`; `dropout`: which label means none. Rows carry a `Condition`. Source: arXiv
    2511.19797.
    """
    boundary.velocity("base", base)
    boundary.velocity("by", by)
    says_null("dropout", dropout)

    def velocity(field: Field, b: Bridge) -> Tensor:
        null = by(field, b._replace(y=dropout.hidden(b.y)))
        return torch.lerp(null.to(b.z), base(field, b).to(b.z), over(b.y.omega, b.z))

    return velocity
