"""Derivatives of the same rows along several directions, by one pass where tangents are carried."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from meanstep.tangents.choice import automatic, chosen
from meanstep.tangents.forward_mode import Directions
from meanstep.tangents.jvp import Way, aside, beside, carried, divided
from meanstep.types import Field


def several_along(
    way: Way, field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, directions: Sequence[Directions]
) -> tuple[Tensor, list[Tensor]]:
    """`u` of all rows by a way, and the derivatives of the first rows along several directions: the first by the way, the others by its
    pass where tangents are carried, else by a forward-mode pass each, without gradient and with the same random numbers.
    """
    if len(directions) == 1:
        u, du = way(field, z, r, t, y, directions[0])
        return u, [du]
    if way is automatic:
        return chosen(field, z, r, t, y, directions[0], lambda found: several_along(found, field, z, r, t, y, directions))
    if way is carried:
        return beside(field, z, r, t, y, directions)
    rows, _ = divided(z, r, t, y, directions[0])
    others = [aside(field, rows, along)[0] for along in directions[1:]]
    u, du = way(field, z, r, t, y, directions[0])
    return u, [du, *others]
