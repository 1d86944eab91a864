"""A network that takes its guidance scale as an input, as one of labels alone: at one scale. Knows no runs and no exports."""

from typing import Any

import torch
from torch import Tensor, nn

from meanstep.tangents.choice import trusted
from meanstep.velocities import Condition, at_scale


class AtScale(nn.Module):
    """The network of a run of `--method.scales`, told `scale` at all times beside each label; a `Condition` is given on as it is."""

    def __init__(self, net: nn.Module, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale

    def told(self, t: Tensor, y: Any) -> Any:
        """The condition of the network inside, for times `[*B]`."""
        return y if y is None or isinstance(y, Condition) else at_scale(y, torch.full_like(t, self.scale), trained=None)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity at the scale: `[*B, *E], [*B], [*B] -> [*B, *E]`."""
        found: Tensor = self.net(z, r, t, self.told(t, y))
        return found

    @property
    def carries_tangents(self) -> bool:
        """As of the network."""
        return trusted(self.net)

    @property
    def path(self) -> Any:
        """The only path that the network predicts data on, None for any."""
        return getattr(self.net, "path", None)

    @property
    def head(self) -> Any:
        """The auxiliary velocity, or None if the network has none."""
        inner: Any = getattr(self.net, "head", None)
        return inner and (lambda z, r, t, y=None: inner(z, r, t, self.told(t, y)))

    @property
    def with_head(self) -> Any:
        """Both velocities in one pass, or None if the network has no such method."""
        inner: Any = getattr(self.net, "with_head", None)
        return inner and (lambda z, r, t, y=None: inner(z, r, t, self.told(t, y)))
