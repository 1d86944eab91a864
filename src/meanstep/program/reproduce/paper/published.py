"""Every number that the authors of arXiv 2605.09235 printed in their public drafts, tables and reports, one a row: published.csv.

Columns: part (toy, mixtures, latents, history), quantity, where (a set, a step), arm, beta, value, spread with its kind, seeds, source
(path and commit in PurdueDigitalTwin/research), note.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("published.csv")
TRAINED = ("toy", "mixtures", "latents")
PARTS = (*TRAINED, "history")


@dataclass(frozen=True)
class Published:
    """One number. `value`: as printed, a word where it is not one number; `deviation`: over `seeds` runs, None where none is printed."""

    part: str
    quantity: str
    where: str
    arm: str
    beta: float | None
    value: str
    deviation: float | None
    seeds: int
    source: str
    note: str

    @property
    def number(self) -> float | None:
        """The value where it is one number."""
        try:
            return float(self.value)
        except ValueError:
            return None

    @property
    def name(self) -> str:
        """What it is, in words: for a table's first column."""
        arm = " ".join(part for part in (self.arm, "" if self.beta is None else f"beta {self.beta:g}") if part)
        return ", ".join(part for part in (self.quantity, self.where, arm) if part)


def numbers(path: Path = FILE) -> list[Published]:
    """All of them, in the order of the file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_number(row) for row in csv.DictReader(file)]


def _number(row: dict[str, str]) -> Published:
    seeds = int(row["seeds"])
    deviation = float(row["spread"]) * (seeds**0.5 if row["spread_of"] == "standard error" else 1.0) if row["spread"] else None
    beta = float(row["beta"]) if row["beta"] else None
    return Published(
        row["part"], row["quantity"], row["where"], row["arm"], beta, row["value"], deviation, seeds, row["source"], row["note"]
    )
