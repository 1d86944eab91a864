"""The three identities of the displacement `X = (t - r) u`: `(field, bridge) -> Regression`. What is detached is visible in each return."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from meanstep import boundary
from meanstep.calls import called, real
from meanstep.coefficients import at, checked
from meanstep.joint_pass import answered
from meanstep.rates import Exact, plain
from meanstep.shapes import over
from meanstep.tangents import automatic, automatic_recorded, rehearsal
from meanstep.types import Answer, Bridge, Coefficient, Field, Query, Rate, Regression, Velocity
from meanstep.values import Value
from meanstep.velocities import as_is, auxiliary, conditional, own

Finish = Callable[[Answer], Regression]


@dataclass(frozen=True, repr=False, eq=False)
class Eulerian(Value):
    """`D_t X = v` along the flow, eq. (7). Methods differ in the tangent, the target and the rate.

    - `tangent`: the velocity along which the derivative is taken; `conditional`.
    - `target`: the velocity that is regressed on; `conditional`. Where both are one object it is evaluated once.
    - `rate`: how the derivative is made, see `rates`; `Exact()`.
    - `given`: a function of the bridge that hides conditions from `u`; `as_is`.

    `ValueError` for a tangent of another shape than the samples.
    """

    tangent: Velocity = conditional
    target: Velocity = conditional
    rate: Rate = Exact()
    given: Callable[[Bridge], Bridge] = as_is

    def __post_init__(self) -> None:
        boundary.velocity("the tangent", self.tangent)
        boundary.velocity("the target", self.target)
        boundary.function("rate", self.rate, "a rate (field, bridge, tangent) -> (u, change), such as rates.Exact()", 3)
        boundary.prepare("given", self.given)

    def __call__(self, field: Field, b: Bridge) -> Regression:
        """The regression of `u + (t - r) D_t u` on `v`, eq. (11)."""
        return answered(field, *self.query(field, b))

    def query(self, field: Field, b: Bridge) -> tuple[Query, Finish]:
        """What is asked of the field, and what `__call__` makes of the answer."""
        w = real(self.tangent(field, b), "the tangent velocity").detach().to(b.z)
        if w.shape != b.z.shape:
            raise ValueError(f"the tangent velocity has shape {tuple(w.shape)} for samples of shape {tuple(b.z.shape)}")
        v = w if self.target is self.tangent else self.target(field, b)
        shown = self.given(b)
        if not hasattr(self.rate, "query"):  # a rate of the user's own evaluates the field itself
            u, change = self.rate(field, shown, w)
            return Query(shown.z, shown.r, shown.t, shown.y, value=u), lambda _: Regression(u + change, v.detach(), u.detach(), w)
        query, made = self.rate.query(field, shown, w)

        def finish(found: Answer) -> Regression:
            u, change = made(found)
            return Regression(u + change, v.detach(), u.detach(), w)

        return query, finish


def average(field: Field) -> Field:
    """The field's average velocity: what an objective reads by default."""
    return field


@dataclass(frozen=True, repr=False, eq=False)
class Matching(Value):
    """`u = v`, eq. (7) without its derivative: flow matching on `r = t` rows, the anchor on rows near it, eq. (18).

    - `target`: the velocity that is regressed on; `conditional`.
    - `given`: a function of the bridge that hides conditions from `u`; `as_is`.
    - `read`: picks what is regressed: the field itself, or its `auxiliary` head (iMF, arXiv 2512.02012); `average`, the field.
    """

    target: Velocity = conditional
    given: Callable[[Bridge], Bridge] = as_is
    read: Callable[[Field], Field] = average

    def __post_init__(self) -> None:
        boundary.velocity("the target", self.target)
        boundary.prepare("given", self.given)

    def __call__(self, field: Field, b: Bridge) -> Regression:
        """The regression of `u(z, r, t)` (or the head) on `v`."""
        return answered(field, *self.query(field, b))

    def query(self, field: Field, b: Bridge) -> tuple[Query, Finish]:
        """What is asked of the field, and what `__call__` makes of the answer."""
        shown = self.given(b)
        asked, v = Query(shown.z, shown.r, shown.t, shown.y, head=self.read is auxiliary), self.target(field, b).detach()
        if self.read not in (average, auxiliary):
            asked = asked._replace(value=called(self.read(field), shown.z, shown.r, shown.t, shown.y))
        return asked, lambda found: Regression(found[0], v, found[0].detach())


@dataclass(frozen=True, repr=False, eq=False)
class Lagrangian(Value):
    """`-d_r X = v` at the arrival point, eq. (8): terminal velocity matching, arXiv 2511.19797. No spatial tangent, so no noise.

    `arrival`: the velocity at the arrival point (`own`, or `of` an EMA copy); `through`: share of the gradient that flows through the
    derivative in `r`, 1 as published.
    """

    arrival: Velocity = own
    through: Coefficient = 1.0

    def __post_init__(self) -> None:
        boundary.velocity("the arrival", self.arrival)
        object.__setattr__(self, "through", checked(self.through, "through"))

    def __call__(self, field: Field, b: Bridge) -> Regression:
        """The regression of `u - (t - r) d_r u` on the arrival's velocity."""
        return answered(field, *self.query(field, b))

    def query(self, field: Field, b: Bridge) -> tuple[Query, Finish]:
        """What is asked of the field, and what `__call__` makes of the answer."""
        share = over(at(self.through, b), b.z)
        flows = isinstance(share, torch.Tensor) or share > 0

        def finish(found: Answer) -> Regression:
            u, du = found
            assert du is not None
            du = du.detach() + share * (du - du.detach()) if flows else du.detach()
            change, landed = over(b.gap, u) * du, b.z - over(b.gap, u) * u.detach()
            # no conditional velocity exists there: nan exposes an arrival that asks for it
            there = b._replace(z=landed.to(b.z), t=b.r, v=torch.full_like(b.z, float("nan")))
            return Regression(u - change, self.arrival(field, there).detach(), u.detach())

        return Query(b.z, b.r, b.t, b.y, (None, torch.ones_like(b.r), None), automatic_recorded if flows else automatic), finish


@dataclass(frozen=True, repr=False, eq=False)
class Semigroup(Value):
    """`(t - r) u(t, r) = (t - s) u(t, s) + (s - r) u(s, r)` at `s = t - split (t - r)`, eq. (9): SplitMeanFlow, Shortcut.

    `split`: 1/2, or a function of the bridge; `by`: the field that makes the two shorter jumps (None: the trained one, without gradient);
    `clamp` bounds the midpoint and the target elementwise (Shortcut uses 4). `ValueError` for one that is not positive, and a split outside
    [0, 1].
    """

    split: Coefficient = 0.5
    by: Field | None = None
    clamp: float | None = None

    def __post_init__(self) -> None:
        if self.clamp is not None:
            boundary.number("clamp, the bound of the target's entries,", self.clamp, 0, above=True)
        if self.by is not None:
            boundary.function("by", self.by, "a field (z, r, t, y) -> u, such as an EMA copy", 4)
        object.__setattr__(self, "split", checked(self.split, "split"))

    def __call__(self, field: Field, b: Bridge) -> Regression:
        """The regression of `u(t, r)` on the two jumps' mean."""
        return answered(field, *self.query(field, b))

    def query(self, field: Field, b: Bridge) -> tuple[Query, Finish]:
        """What is asked of the field, and what `__call__` makes of the answer."""
        split, jump = at(self.split, b), field if self.by is None else self.by
        step = split * b.gap
        with rehearsal(b.z, jump) as one:
            first = called(jump, b.z, b.t - step, b.t, b.y)
            middle = self._clamped(b.z - over(step, b.z) * first)
        with rehearsal(b.z, jump) as two:
            second = called(jump, middle, b.r, b.t - step, b.y)
        mean = self._clamped(torch.lerp(second.to(b.z), first.to(b.z), over(split, b.z)))
        return plain(field, b, one.drew or two.drew), lambda found: Regression(found[0], mean, found[0].detach())

    def _clamped(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


def random_split(b: Bridge) -> torch.Tensor:
    """A uniform split of each row's gap, for `Semigroup`."""
    return b.uniforms()[..., 1]
