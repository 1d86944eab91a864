"""The three identities of the displacement `X = (t - r) u`: `(field, bridge) -> Regression`. What is detached is visible in each return."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from meanstep.coefficients import at, checked
from meanstep.rates import Exact, derivative, rehearsal
from meanstep.shapes import over
from meanstep.types import Bridge, Coefficient, Field, Rate, Regression, Velocity
from meanstep.velocities import as_is, conditional, own


@dataclass(frozen=True)
class Eulerian:
    """`D_t X = v` along the flow, eq. (7). Methods differ in the tangent, the target and the rate; `given` hides conditions from `u`."""

    tangent: Velocity = conditional
    target: Velocity = conditional
    rate: Rate = Exact()
    given: Callable[[Bridge], Bridge] = as_is

    def __call__(self, field: Field, b: Bridge) -> Regression:
        """The regression of `u + (t - r) D_t u` on `v`, eq. (11)."""
        w = self.tangent(field, b).detach().to(b.z)
        if w.shape != b.z.shape:
            raise ValueError(f"the tangent velocity has shape {tuple(w.shape)} for samples of shape {tuple(b.z.shape)}")
        v = w if self.target is self.tangent else self.target(field, b)
        u, change = self.rate(field, self.given(b), w)
        return Regression(u + change, v.detach(), u.detach(), w)


def average(field: Field) -> Field:
    """The field's average velocity: what an objective reads by default."""
    return field


@dataclass(frozen=True)
class Matching:
    """`u = v`, eq. (7) without its derivative: flow matching on `r = t` rows, the anchor on rows near it, eq. (18).

    `read` picks what is regressed: the field itself, or its `auxiliary` head (iMF, arXiv 2512.02012).
    """

    target: Velocity = conditional
    given: Callable[[Bridge], Bridge] = as_is
    read: Callable[[Field], Field] = average

    def __call__(self, field: Field, b: Bridge) -> Regression:
        """The regression of `u(z, r, t)` (or the head) on `v`."""
        shown = self.given(b)
        u = self.read(field)(shown.z, shown.r, shown.t, shown.y)
        return Regression(u, self.target(field, b).detach(), u.detach())


@dataclass(frozen=True)
class Lagrangian:
    """`-d_r X = v` at the arrival point, eq. (8): terminal velocity matching, arXiv 2511.19797. No spatial tangent, so no noise.

    `arrival`: the velocity at the arrival point (`own`, or `of` an EMA copy); `through`: share of the gradient that flows through the
    derivative in `r`, 1 as published.
    """

    arrival: Velocity = own
    through: Coefficient = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "through", checked(self.through, "through"))

    def __call__(self, field: Field, b: Bridge) -> Regression:
        """The regression of `u - (t - r) d_r u` on the arrival's velocity."""
        u, du = derivative(field, b, torch.zeros_like(b.z), torch.ones_like(b.r), torch.zeros_like(b.t))
        du = du.detach() + over(at(self.through, b), b.z) * (du - du.detach())
        change, landed = over(b.gap, u) * du, b.z - over(b.gap, u) * u.detach()
        # no conditional velocity exists there: nan exposes an arrival that asks for it
        there = b._replace(z=landed.to(b.z), t=b.r, v=torch.full_like(b.z, float("nan")))
        return Regression(u - change, self.arrival(field, there).detach(), u.detach())


@dataclass(frozen=True)
class Semigroup:
    """`(t - r) u(t, r) = (t - s) u(t, s) + (s - r) u(s, r)` at `s = t - split (t - r)`, eq. (9): SplitMeanFlow, Shortcut.

    `split`: 1/2, or a function of the bridge; `by`: the field that makes the two shorter jumps (None: the trained one, without gradient);
    `clamp` bounds the midpoint and the target elementwise (Shortcut uses 4).
    """

    split: Coefficient = 0.5
    by: Field | None = None
    clamp: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", checked(self.split, "split"))

    def __call__(self, field: Field, b: Bridge) -> Regression:
        """The regression of `u(t, r)` on the two jumps' mean."""
        split, jump = at(self.split, b), field if self.by is None else self.by
        step = split * b.gap
        with rehearsal(b.z):
            first = jump(b.z, b.t - step, b.t, b.y)
            middle = self._clamped(b.z - over(step, b.z) * first)
        with rehearsal(b.z):
            second = jump(middle, b.r, b.t - step, b.y)
        u = field(b.z, b.r, b.t, b.y)
        return Regression(u, self._clamped(torch.lerp(second.to(b.z), first.to(b.z), over(split, b.z))), u.detach())

    def _clamped(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


def random_split(b: Bridge) -> torch.Tensor:
    """A uniform split of each row's gap, for `Semigroup`."""
    return b.uniforms()[..., 1]
