"""Guidance as an input of any of our networks: label, scale and interval as conditions by name. Knows no recipes."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meanstep.values import like

LABEL, GUIDANCE = "label", "guidance"


def conditions(classes: int) -> dict[str, int | list[int]]:
    """What the network inside is built with: `classes` labels, one more means none, and three numbers of guidance."""
    return {LABEL: classes, GUIDANCE: [3]}


class ToldScale(nn.Module):
    """A network with the conditions of `conditions` as one that is given a `velocities.Condition`, or labels at scale 1.

    `classes`: number of labels; no condition at all is label `classes` at scale 1. The numbers are `log omega` and the interval's two ends.
    """

    carries_tangents = True

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__()
        self.net, self.classes = net, classes

    def told(self, t: Tensor, y: Any) -> dict[str, Tensor]:
        """The conditions of the network inside, for times `[B]`."""
        zero = torch.zeros_like(t)
        if hasattr(y, "omega"):
            return {LABEL: y.label, GUIDANCE: torch.stack([y.omega.log(), y.low, y.high], -1).to(t)}
        label = torch.full_like(t, self.classes, dtype=torch.int64) if y is None else y
        return {LABEL: label, GUIDANCE: torch.stack([zero, zero, zero + 1], -1)}

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity: `[B, *E], [B], [B] -> [B, *E]`."""
        found: Tensor = self.net(z, r, t, self.told(t, y))
        return found

    if TYPE_CHECKING:

        @like(forward)
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def path(self) -> Any:
        """The only path that the network predicts data on, None for any."""
        return getattr(self.net, "path", None)

    @property
    def blocks(self) -> Any:
        """The network's blocks, none if it has none."""
        return getattr(self.net, "blocks", ())

    def with_head(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> tuple[Tensor, Tensor]:
        """Both velocities in one pass, of a network with a head."""
        u, v = self.net.with_head(z, r, t, self.told(t, y))  # type: ignore[operator]
        return u, v

    @property
    def head(self) -> Any:
        """The auxiliary velocity `(z, r, t, y) -> [B, *E]`, or None if the network was built without it."""
        inner: Any = self.net.head
        return inner and (lambda z, r, t, y=None: inner(z, r, t, self.told(t, y)))
