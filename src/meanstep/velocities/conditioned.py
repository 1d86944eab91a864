"""What the network is shown: conditions with guidance as an input, labels that are hidden from some rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from meanstep.coefficients import checked
from meanstep.conditions import hidden, learned, prepared
from meanstep.shapes import where
from meanstep.types import Bridge
from meanstep.values import Value, record, value


class Condition(NamedTuple):
    """A condition with guidance as an input of the network: label, scale `omega`, and the times `[low, high]` of guidance, `[*B]` each."""

    label: Tensor
    omega: Tensor
    low: Tensor
    high: Tensor

    def __repr__(self) -> str:
        return record(self)


@dataclass(frozen=True, repr=False, eq=False)
class LabelDropout(Value):
    """Hides the condition of a random `share` of the rows, the same rows in all of a step; `null` takes its place.

    - `null`: a number for integer labels. For a condition of several parts, the same structure with a null for each part, such as
      `{"text": 0.0, "mask": None, "speaker": 4}`: a number, a tensor, a function of the part, or None for a part that is not hidden. One
      function takes all parts together. An `nn.Parameter` or `nn.Module` is learned and is among the parameters of the `Loss`.
    - `share`: in [0, 1]; 0.1 by default.
    """

    null: Any
    share: float = 0.1

    def __post_init__(self) -> None:
        checked(self.share, "the share of dropped labels")
        object.__setattr__(self, "null", prepared(self.null))

    @property
    def learned(self) -> tuple[nn.Module, ...]:
        """The learned parts of the null."""
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


@dataclass(frozen=True, repr=False, eq=False)
class LabelOnly(Value):
    """Hides only the label of a `Condition`; the row keeps its scale and its interval. iMF, arXiv 2512.02012."""

    dropout: LabelDropout

    @property
    def learned(self) -> tuple[nn.Module, ...]:
        """The learned parts of the null."""
        return self.dropout.learned

    def __call__(self, b: Bridge) -> Bridge:
        """The bridge with those rows' labels hidden."""
        return b._replace(y=b.y._replace(label=where(self.dropout.rows(b), self.dropout.hidden(b.y.label), b.y.label)))


def as_is(b: Bridge) -> Bridge:
    """The bridge unchanged."""
    return b


@value
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


@dataclass(frozen=True, repr=False, eq=False)
class ScaledRows(Value):
    """Gives rows a guidance scale, and hides label and scale of some of them; TVM, arXiv 2511.19797."""

    scale: Callable[[Bridge], Bridge]
    dropout: LabelDropout

    @property
    def learned(self) -> tuple[nn.Module, ...]:
        """The learned parts of the null."""
        return self.dropout.learned

    def __call__(self, b: Bridge) -> Bridge:
        """The bridge with scales, and those rows hidden."""
        return self.dropout(self.scale(b))


@value
def random_scale(low: float = 1.0, high: float = 2.0) -> Callable[[Bridge], Bridge]:
    """Makes the label a `Condition` with `omega` uniform on [low, high] at all times; the scale that TVM's network is given."""

    def draw(b: Bridge) -> Bridge:
        omega = low + (high - low) * b.uniforms()[..., 1].to(b.t)
        return b._replace(y=Condition(b.y, omega, torch.zeros_like(b.t), torch.ones_like(b.t)))

    return draw
