"""What lies beside a row: categories, numbers and arrays that the network is given, the row's length, the start of its flow."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """What the network is given beside a row: one of the categories `words`, or numbers of a `shape`, `()` for one.

    `mean`, `std` of numbers, of each entry of the first axis: the network sees `(value - mean) / std`. `along`: the axis of a row whose
    length this number is, what lies behind it being padding. `start`: the network is not given it, the flow starts there instead of at
    noise, and it is normalised as rows are.
    """

    name: str
    words: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    along: int | None = None
    start: bool = False

    def stated(self) -> dict[str, Any]:
        """As part of a digest: without what conditions had not always."""
        plain = asdict(self)
        return {name: value for name, value in plain.items() if (name, value) not in (("along", None), ("start", False))}

    def seen(self, values: "Tensor") -> "Tensor":
        """Stored values `[B, *shape]` as the network sees them: categories int64, numbers float32 and normalised."""
        mean, std = self._moments(values)
        return values if self.words else (values - mean) / std

    def back(self, values: "Tensor") -> "Tensor":
        """What the network sees, in units of the data."""
        mean, std = self._moments(values)
        return values if self.words else values * std + mean

    def _moments(self, like: "Tensor") -> "tuple[Tensor, Tensor]":
        mean, std = (like.new_tensor(m).reshape(-1, *(1 for _ in self.shape[1:])) for m in (self.mean, self.std))
        return (mean, std) if self.shape else (mean[0], std[0])


def unlabelled(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Those that are no labels: categories alone are."""
    return () if len(conditions) == 1 and conditions[0].words else tuple(conditions)


def condition(entry: dict[str, Any], axes: int) -> Condition:
    """Of a manifest whose rows have so many axes; `ValueError` or `TypeError` for what is none."""
    lists = {name: tuple(entry[name]) for name in ("words", "shape", "mean", "std")}
    found = Condition(**{**entry, **lists})
    numbers = (*found.shape, *found.mean, *found.std)
    moments = 1 if not found.shape else found.shape[0]
    if (
        not isinstance(found.name, str)
        or not all(isinstance(n, int | float) for n in numbers)
        or not len(found.mean) == len(found.std) == moments
        or found.along not in (None, *range(axes))
        or not isinstance(found.start, bool)
    ):
        raise ValueError(f"its condition {found.name!r} has other moments than its shape")
    return found
