"""The displacement's rate `D_t[(t - r) u]` along a tangent: exact, or by a difference. How a derivative is made is not known here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meanstep import boundary
from meanstep.calls import called
from meanstep.coefficients import at, checked
from meanstep.joint_pass import answered
from meanstep.precise import uncast, weighs_low
from meanstep.shapes import over
from meanstep.tangents import Way, automatic, automatic_recorded, rehearsal
from meanstep.types import Answer, Bridge, Coefficient, Field, Query, Rate
from meanstep.values import Value

Change = tuple[Tensor, Tensor]


def plain(field: Field, b: Bridge, drew: bool) -> Query:
    """The question for the field's value at the bridge; asked at once if what came before `drew` random numbers that it must draw again."""
    return Query(b.z, b.r, b.t, b.y, value=called(field, b.z, b.r, b.t, b.y) if drew else None)


@dataclass(frozen=True, repr=False, eq=False)
class Exact(Value):
    """The derivative itself, eq. (10). The gradient flows through `u`; the share `through` of it through the derivative too.

    With `through = 0` the derivative costs neither a graph nor a pass of its own where its rules reach: `way` is one of
    `tangents.carried`, `separate`, `recorded`, by default `automatic`. Otherwise its graph too. Source of `through`: arXiv 2508.17426.
    """

    through: Coefficient = 0.0
    way: Way = automatic

    def __post_init__(self) -> None:
        object.__setattr__(self, "through", checked(self.through, "through"))

    def __call__(self, field: Field, b: Bridge, w: Tensor) -> Change:
        """`(u, (t - r) D_t u)`, both `[*B, *E]`."""
        return answered(field, *self.query(field, b, w))

    def query(self, field: Field, b: Bridge, w: Tensor) -> tuple[Query, Callable[[Answer], Change]]:
        """What is asked of the field, and what `__call__` makes of the answer."""
        share = over(at(self.through, b), b.z)
        flows = isinstance(share, Tensor) or share > 0

        def finish(found: Answer) -> Change:
            u, du = found
            assert du is not None
            du = du.detach() + share * (du - du.detach()) if flows else du.detach()
            return u, over(b.gap, u) * du

        return Query(b.z, b.r, b.t, b.y, (w, None, torch.ones_like(b.t)), automatic_recorded if flows else self.way), finish


@dataclass(frozen=True, repr=False, eq=False)
class Backward(Value):
    """One-sided difference over the share `ratio` of the gap, eq. (22): needs no forward mode. `ratio` 0 is `Exact`, 1 is `u` itself.

    A tensor of ratios must be positive (`ValueError`, on the processor). The gradient flows through `u`. `clamp` bounds the discrete target
    elementwise, also at ratio 1 (guided alpha-Flow: 4). Sources: arXiv 2510.20771, 2512.15657.
    """

    ratio: Coefficient
    clamp: float | None = None

    def __post_init__(self) -> None:
        if self.clamp is not None:
            boundary.number("clamp, the bound of the target's entries,", self.clamp, 0, above=True)
        object.__setattr__(self, "ratio", checked(self.ratio, "ratio"))

    @property
    def divides(self) -> bool:
        """Whether the rounding of `u` and of its earlier value is divided by the ratio: not at 0 and 1, where there is no difference."""
        return callable(self.ratio) or isinstance(self.ratio, Tensor) or self.ratio not in (0, 1)

    def __call__(self, field: Field, b: Bridge, w: Tensor) -> Change:
        """`(u, (t - r) D_t u)` to first order in `ratio (t - r)`, both `[*B, *E]`."""
        return answered(field, *self.query(field, b, w))

    def query(self, field: Field, b: Bridge, w: Tensor) -> tuple[Query, Callable[[Answer], Change]]:
        """What is asked of the field, and what `__call__` makes of the answer."""
        ratio = at(self.ratio, b)
        if not isinstance(ratio, Tensor) and ratio == 0:
            return Exact().query(field, b, w)
        if not isinstance(ratio, Tensor) and ratio == 1 and self.clamp is None:
            return plain(field, b, drew=False), lambda found: (found[0], torch.zeros_like(found[0]))
        if isinstance(ratio, Tensor) and ratio.device.type == "cpu" and not torch.compiler.is_compiling() and not (ratio > 0).all():
            raise ValueError(f"a tensor of ratios must be positive, got {ratio.min().item():g}: only the number 0 is the exact derivative")
        step, share = ratio * b.gap, over(ratio, b.z)
        with rehearsal(b.z, field) as rehearsed:
            earlier = called(field, b.z - over(step, b.z) * w, b.r, b.t - step, b.y)
        goal = share * w + (1 - share) * earlier
        if self.clamp is not None:  # on moving rows: where r = t the goal only stands for the velocity
            goal = torch.where(over(b.gap > 0, b.z), goal.clamp(-self.clamp, self.clamp), goal)

        def finish(found: Answer) -> Change:
            u = found[0]
            return u, (w - u + (u - goal) / share).detach()

        return plain(field, b, rehearsed.drew), finish


@dataclass(frozen=True, repr=False, eq=False)
class Central(Value):
    """Symmetric difference over `t +- step`, eq. (23), with both probes in float32 whatever the autocast. TiM, arXiv 2509.04394.

    Times are not clamped, as in the source: the field is asked slightly outside [0, 1] near the ends, and with `r > t` on gaps below
    `step`, which lies in (0, 1] (`ValueError`); 0.005, as published.
    """

    step: float = 0.005

    def __post_init__(self) -> None:
        boundary.number("the step of the difference", self.step, 0, 1, above=True)

    def __call__(self, field: Field, b: Bridge, w: Tensor) -> Change:
        """`(u, (t - r) D_t u)` to second order in `step`, both `[*B, *E]`."""
        return answered(field, *self.query(field, b, w))

    def query(self, field: Field, b: Bridge, w: Tensor) -> tuple[Query, Callable[[Answer], Change]]:
        """What is asked of the field, and what `__call__` makes of the answer."""
        ends, drew = [], False
        for h in (self.step, -self.step):
            with rehearsal(b.z, field) as rehearsed, uncast(b.z):
                ends.append(_probed(field, b, b.z + h * w, b.t + h))
            drew = drew or rehearsed.drew
        du = (ends[0] - ends[1]) / (2 * self.step)
        return plain(field, b, drew), lambda found: (found[0], over(b.gap, found[0]) * du)


def _probed(field: Field, b: Bridge, z: Tensor, t: Tensor) -> Tensor:
    """The field without autocast; `TypeError` where weights of less precision need it."""
    try:
        return called(field, z, b.r, t, b.y)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not weighs_low(field):
            raise
        what = "a Central rate asks the network without autocast, and weights of less precision than float32 do not take float32 rows"
        raise TypeError(f"{what}: call net.float() and keep autocast around the loss, or choose rates.Exact()") from error


@dataclass(frozen=True, repr=False, eq=False)
class Warmed(Value):
    """Another rate's change times `share` in [0, 1], such as `coefficients.linear(0, 1, until=0.1)`: FastGen's tangent warm-up.

    At 0 every row is flow matching. The change still costs what it costs.
    """

    rate: Rate
    share: Coefficient

    def __post_init__(self) -> None:
        boundary.function("rate", self.rate, "a rate (field, bridge, tangent) -> (u, change), such as rates.Exact()", 3)
        object.__setattr__(self, "share", checked(self.share, "share"))

    @property
    def divides(self) -> bool:
        """Whether the rate does, see `Backward`."""
        return getattr(self.rate, "divides", False)

    def __call__(self, field: Field, b: Bridge, w: Tensor) -> Change:
        """`(u, share (t - r) D_t u)`, both `[*B, *E]`."""
        return self._scaled(self.rate(field, b, w), b)

    def query(self, field: Field, b: Bridge, w: Tensor) -> tuple[Query, Callable[[Answer], Change]]:
        """What is asked of the field, and what `__call__` makes of the answer."""
        if not hasattr(self.rate, "query"):  # a rate of the user's own evaluates the field itself
            u, change = self(field, b, w)
            return Query(b.z, b.r, b.t, b.y, value=u), lambda _: (u, change)
        query, finish = self.rate.query(field, b, w)
        return query, lambda found: self._scaled(finish(found), b)

    def _scaled(self, found: Change, b: Bridge) -> Change:
        return found[0], over(at(self.share, b), b.z) * found[1]
