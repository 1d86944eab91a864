"""What one claim is: a measured number, what it should be, and a verdict that can fail."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One claim. `relation`: `=` within the tolerance, `<=` or `>=` the expected value.

    `unless`: set where a published form fails under a condition and the measurement shows just that; the verdict then says so.
    """

    claim: str
    equation: str
    measured: float
    expected: float
    tolerance: float = 0.0
    relation: str = "="
    unless: str = ""

    @property
    def holds(self) -> bool:
        """Whether the measurement is as expected."""
        if not math.isfinite(self.measured):
            return False
        if self.relation == "=":
            return abs(self.measured - self.expected) <= self.tolerance
        return self.measured <= self.expected if self.relation == "<=" else self.measured >= self.expected

    @property
    def verdict(self) -> str:
        """`holds`, `FAILS`, or the condition under which the published form fails."""
        return (self.unless or "holds") if self.holds else "FAILS"

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "verdict": self.verdict, "holds": self.holds}


def below(claim: str, equation: str, measured: float, bound: float) -> Row:
    """An error that must not exceed a bound."""
    return Row(claim, equation, measured, bound, relation="<=")


def near(claim: str, equation: str, measured: float, expected: float, tolerance: float) -> Row:
    """A number that must lie within a tolerance."""
    return Row(claim, equation, measured, expected, tolerance)
