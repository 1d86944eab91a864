"""Estimates of the marginal velocity: the draw's own, the field's, another field's, an oracle's, and mixtures of two."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from meanstep import boundary
from meanstep.calls import called
from meanstep.coefficients import at, checked
from meanstep.precise import low
from meanstep.shapes import over
from meanstep.types import Bridge, Coefficient, Field, Velocity
from meanstep.values import value


def conditional(field: Field, b: Bridge) -> Tensor:
    """The conditional velocity of the draw, `v = e - x`, eq. (2): no bias, all the noise."""
    return b.v


@torch.no_grad()
def own(field: Field, b: Bridge) -> Tensor:
    """The field's own instantaneous velocity `u(z, t, t)`: no noise, the network's bias. iMF without a head, arXiv 2512.02012."""
    return called(field, b.z, b.t, b.t, b.y)


@torch.no_grad()
def head(field: Field, b: Bridge) -> Tensor:
    """The velocity of the field's auxiliary head, `field.head(z, t, t, y)`; iMF, arXiv 2512.02012."""
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


@value
def of(other: Field) -> Velocity:
    """The instantaneous velocity of another field, `other(z, t, t, y)`: an EMA copy or a frozen teacher.

    `TypeError` if it is not callable; `ValueError` for an `AveragedModel` of weights in less than float32, which never moves.
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


@value
def oracle(velocity: Callable[[Tensor, Tensor], Tensor], marginal: bool = False) -> Velocity:
    """A known marginal velocity `(z, t) -> v`, eq. (3). `ValueError` for rows with a condition, unless `marginal` averages over them."""
    boundary.function("velocity", velocity, "a function (z, t) -> v, for which velocities.of(field) stands where it takes y", 2)

    def known(field: Field, b: Bridge) -> Tensor:
        expect_marginal(b, marginal, "an oracle (z, t) -> v", "use velocities.of(a field (z, r, t, y) -> v)")
        return velocity(b.z, b.t)

    return known


def expect_marginal(b: Bridge, marginal: bool, what: str, remedy: str) -> None:
    """`ValueError` if rows have a condition and what is evaluated averages over it, unless that is meant."""
    if b.y is not None and not marginal:
        raise ValueError(
            f"{what} averages over all conditions, and these rows have one (y=), which samples would then ignore: "
            f"{remedy}, or marginal=True if the average over conditions is meant"
        )


@value
def mix(a: Velocity, c: Velocity, beta: Coefficient, name: str = "beta") -> Velocity:
    """`(1 - beta) a + beta c`, eq. (17). `beta` in [0, 1]; where it is the number 0 or 1 only one of the two is evaluated.

    `a`, `c`: velocities. `beta`: a number, a tensor over an ensemble, or a function of the bridge; `ValueError` outside [0, 1], under its
    `name`. Source: arXiv 2605.09235.
    """
    boundary.velocity("a", a)
    boundary.velocity("c", c)
    beta = checked(beta, name)

    def velocity(field: Field, b: Bridge) -> Tensor:
        weight = at(beta, b)
        if not isinstance(weight, Tensor) and weight in (0, 1):
            return (c if weight else a)(field, b)
        return torch.lerp(a(field, b).to(b.z), c(field, b).to(b.z), over(weight, b.z))

    return velocity
