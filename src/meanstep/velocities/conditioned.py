"""What the network is shown: conditions with guidance as an input, labels that are hidden from some rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from meanstep import boundary
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
    - `share`: of all rows of a step, in [0, 1]; 0.1 by default.
    - `rows`: "all", by default, or "instant", which takes as many from the rows with `r = t` alone, as the published code of MeanFlow, iMF
      and pixel MeanFlow does. `u(z, r, t)` without the condition is then never trained where `r < t`: few-step samples cannot be guided.
    - `inside`: two times; only rows strictly between them lose their condition, as in alpha-Flow's code. None: at all times.

    `ValueError` for a share, a word or times that cannot be, and at "instant" for fewer rows with `r = t` than lose their condition.
    """

    null: Any
    share: float = 0.1
    rows: str = "all"
    inside: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        boundary.number("the share of dropped labels", self.share, 0, 1)
        if self.rows not in ("all", "instant"):
            raise ValueError(f"labels are dropped on rows='all' or rows='instant', got {self.rows!r}")
        if self.inside is not None:
            boundary.rising("labels are dropped inside two times", self.inside, 0, 1, strict=True)
        object.__setattr__(self, "null", prepared(self.null))

    @property
    def learned(self) -> tuple[nn.Module, ...]:
        """The learned parts of the null."""
        return learned(self.null)

    def dropped(self, b: Bridge) -> Tensor:
        """The rows that lose their condition, `[*B]`."""
        u = b.uniforms()[..., 0]
        found = u < self.share if self.rows == "all" else (u * self._still(b) < self.share) & (b.r == b.t)
        return found if self.inside is None else found & (self.inside[0] < b.t) & (b.t < self.inside[1])

    def _still(self, b: Bridge) -> float:
        """The share of the rows with `r = t`, if it is enough."""
        if b.still is None:
            raise ValueError(
                "LabelDropout(rows='instant') needs the share of rows with r = t: draw the bridge with Loss.draw, or give still="
            )
        if b.still < self.share:
            raise ValueError(
                f"LabelDropout(rows='instant') hides {self.share:g} of the labels, all on rows with r = t, and this recipe has a share of "
                f"{b.still:g} of them: take a smaller share, a larger diagonal_share, or rows='all'"
            )
        return b.still

    def hidden(self, y: Any) -> Any:
        """`y` with every row's condition hidden: label null, and where guidance is an input, scale 1 on all times."""
        if y is None:
            raise ValueError("guidance and label dropout need a condition: call the loss with y=...")
        if isinstance(y, Condition):
            return Condition(self.hidden(y.label), torch.ones_like(y.omega), torch.zeros_like(y.low), torch.ones_like(y.high))
        return hidden(self.null, y)

    def __call__(self, b: Bridge) -> Bridge:
        """The bridge with those rows hidden."""
        return b._replace(y=where(self.dropped(b), self.hidden(b.y), b.y))


@dataclass(frozen=True, repr=False, eq=False)
class LabelOnly(Value):
    """Hides only the label of a `Condition`; the row keeps its scale and its interval. iMF, arXiv 2512.02012.

    `dropout`: which label means none, and which rows get it; `TypeError` for another thing.
    """

    dropout: LabelDropout

    def __post_init__(self) -> None:
        says_null("dropout", self.dropout)

    @property
    def learned(self) -> tuple[nn.Module, ...]:
        """The learned parts of the null."""
        return self.dropout.learned

    def __call__(self, b: Bridge) -> Bridge:
        """The bridge with those rows' labels hidden."""
        return b._replace(y=b.y._replace(label=where(self.dropout.dropped(b), self.dropout.hidden(b.y.label), b.y.label)))


def says_null(name: str, dropout: Any) -> None:
    """`TypeError` for what does not say which label means none."""
    boundary.kind(name, dropout, LabelDropout, "a velocities.LabelDropout(null) that says which label means none")


def as_is(b: Bridge) -> Bridge:
    """The bridge unchanged."""
    return b


@value
def flexible_scale(top: float = 8.0, power: float = 1.0) -> Callable[[Bridge], Bridge]:
    """Makes the label a `Condition`: `omega` on [1, top] with density `~ omega^-power`, interval ends uniform on [0, .5] and [.5, 1].

    On `r = t` rows the guidance holds at all times. `top`: at least 1; 8, as published. `power`: a finite number; 1, as published.
    `ValueError` for others. Source: iMF, eq. (29), arXiv 2512.02012.
    """
    boundary.number("the largest guidance scale, top,", top, 1)
    boundary.number("the power of the scale's density", power)

    def draw(b: Bridge) -> Bridge:
        u = b.uniforms()
        omega = top ** u[..., 1] if power == 1 else (1 + u[..., 1] * (top ** (1 - power) - 1)) ** (1 / (1 - power))
        low, high = torch.where(b.r < b.t, u[..., 2] / 2, 0.0), torch.where(b.r < b.t, (1 + u[..., 3]) / 2, 1.0)
        return b._replace(y=Condition(b.y, omega.to(b.t), low.to(b.t), high.to(b.t)))

    return draw


@dataclass(frozen=True, repr=False, eq=False)
class ScaledRows(Value):
    """Gives rows a guidance scale, and hides label and scale of some of them; TVM, eq. (30), arXiv 2511.19797.

    - `scale`: makes the label a `Condition`, such as `random_scale(1, 2)`.
    - `dropout`: which label means none, and which rows get it; their scale is then 1.

    `TypeError` for other things.
    """

    scale: Callable[[Bridge], Bridge]
    dropout: LabelDropout

    def __post_init__(self) -> None:
        boundary.prepare("scale", self.scale)
        says_null("dropout", self.dropout)

    @property
    def learned(self) -> tuple[nn.Module, ...]:
        """The learned parts of the null."""
        return self.dropout.learned

    def __call__(self, b: Bridge) -> Bridge:
        """The bridge with scales, and those rows hidden."""
        return self.dropout(self.scale(b))


@value
def random_scale(low: float = 1.0, high: float = 2.0) -> Callable[[Bridge], Bridge]:
    """Makes the label a `Condition` with `omega` uniform on [low, high] at all times; the scale that TVM's network is given, eq. (30).

    `low`, `high`: positive, 1 and 2, which is ours; `ValueError` unless `0 < low <= high`. Source: arXiv 2511.19797.
    """
    boundary.rising("the guidance scales", (low, high), 0, above=True)

    def draw(b: Bridge) -> Bridge:
        omega = low + (high - low) * b.uniforms()[..., 1].to(b.t)
        return b._replace(y=Condition(b.y, omega, torch.zeros_like(b.t), torch.ones_like(b.t)))

    return draw


def at_scale(
    label: Tensor,
    omega: float | Tensor,
    interval: tuple[float, float] = (0.0, 1.0),
    trained: tuple[float, float] | None = (1.0, 8.0),
) -> Condition:
    """The `Condition` for samples of these labels at their guidance scale, held inside `interval`, for a network that takes the scale.

    - `label`: int64 `[*B]`. `omega`: the scale, one for all or one a row `[*B]`. `interval`: two times in [0, 1]; all by default.
    - `trained`: the scales that the network was trained on, iMF's (1, 8) by default; None looks at no scale, so that a graph can be traced.

    `ValueError` for a scale outside them, scales of another shape than the labels, or no interval.
    """
    if isinstance(omega, Tensor) and omega.shape != label.shape:
        raise ValueError(f"guidance scales: one number, or one a row {list(label.shape)} as the labels, got {list(omega.shape)}")
    if trained is not None:
        boundary.rising("trained, the guidance scales of the training", trained)
        wrong = [w for w in (omega.flatten().tolist() if isinstance(omega, Tensor) else [omega]) if not trained[0] <= w <= trained[1]]
        if wrong:
            what = f"this network was trained at guidance scales from {trained[0]:g} to {trained[1]:g}, and {wrong[0]:g} is none of them"
            raise ValueError(f"{what}: choose one that is, or say trained=(low, high) as it was")
    boundary.rising("the interval of guidance", interval, 0, 1)
    full = torch.ones_like(label, dtype=torch.result_type(omega, 1.0))
    return Condition(label, omega * full, interval[0] * full, interval[1] * full)
