"""The five published FID histories of DiT-B/4 on ImageNet-256, and what two runs of one configuration can and cannot say about them.

fid_histories.csv: FID of 50,000 samples every 5,000 steps, rounded to 0.001. Read from the authors' public repository
(docs/generative/vamf/wandb_export at commits c631fa8 and b0c0af3): beta_0 is the run hde9iaqj that the tables print, beta_0_replication
the run fidpdet7 of the same configuration, beta_0.25 884l3avm, beta_0.5 milo2x6t, beta_1 hrnr0uvz. The last differs from the others in
the adaptive weight (p = 0, not 1) and in the anchor.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from statistics import median

from scipy.stats import t as student

FILE = Path(__file__).with_name("fid_histories.csv")
FIRST = 30_000
"""Where the authors' count begins: before it is the transient that their claim leaves out."""
ZERO, AGAIN, OTHERS = "beta_0", "beta_0_replication", ("beta_0.25", "beta_0.5", "beta_1")
LEVEL = 0.05


@dataclass(frozen=True)
class Checkpoint:
    """The FIDs of one step: `at[name]` for every column of the file."""

    step: int
    at: dict[str, float]

    def ordered(self, zero: str, others: Sequence[str] = OTHERS) -> bool:
        """Whether FID rises strictly from `zero` over the `others`."""
        found = [self.at[name] for name in (zero, *others)]
        return all(low < high for low, high in pairwise(found))


def histories(path: Path = FILE) -> list[Checkpoint]:
    """All checkpoints, in order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Checkpoint(int(row["step"]), {name: float(fid) for name, fid in row.items() if name != "step"}) for row in rows]


def counted(found: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints that the authors count: from 30,000 steps on."""
    return [point for point in found if point.step >= FIRST]


def windows(found: Sequence[Checkpoint], better: str, worse: str) -> Iterator[tuple[int, int]]:
    """First and last step of every stretch of checkpoints at which `better` has the lower FID."""
    for wins, stretch in groupby(found, key=lambda point: point.at[better] < point.at[worse]):
        if wins:
            steps = [point.step for point in stretch]
            yield steps[0], steps[-1]


@dataclass(frozen=True)
class Effect:
    """One column against beta = 0 at a step: `difference` to the mean of its two runs, and the smallest that could have been told.

    `detectable`: half the 95 percent interval of a difference between one run and the mean of two, with a standard deviation that two
    runs estimate (one degree of freedom). It takes every configuration to spread as beta = 0 does.
    """

    name: str
    step: int
    difference: float
    detectable: float

    @property
    def told(self) -> bool:
        """Whether the difference is larger than what chance could do."""
        return abs(self.difference) > self.detectable


def effects(point: Checkpoint) -> list[Effect]:
    """Every other column against beta = 0 at one checkpoint."""
    one, two = point.at[ZERO], point.at[AGAIN]
    spread = abs(one - two) / 2**0.5
    detectable = float(student.ppf(1 - LEVEL / 2, 1)) * spread * (1 + 1 / 2) ** 0.5
    return [Effect(name, point.step, point.at[name] - (one + two) / 2, detectable) for name in OTHERS]


@dataclass(frozen=True)
class Summary:
    """What the histories say, from 30,000 steps on.

    `ordered`, `ordered_again`: checkpoints in the published order with either run of beta = 0; `without_zero`: of .25, .5, 1 alone;
    `seeds`, `effect`: medians of the distance of the two runs, and of the effect of .25; `behind`, `stretches`: checkpoints at which .25
    is below the second run; `told`: how many checkpoints tell each column from beta = 0.
    """

    checkpoints: int
    ordered: int
    ordered_again: int
    without_zero: int
    seeds: float
    effect: float
    behind: int
    stretches: tuple[tuple[int, int], ...]
    told: dict[str, int]


def summary(found: Sequence[Checkpoint]) -> Summary:
    """Of all checkpoints, those that the authors count."""
    points = counted(found)
    quarter = OTHERS[0]
    return Summary(
        checkpoints=len(points),
        ordered=sum(point.ordered(ZERO) for point in points),
        ordered_again=sum(point.ordered(AGAIN) for point in points),
        without_zero=sum(point.ordered(quarter, OTHERS[1:]) for point in points),
        seeds=median(abs(point.at[ZERO] - point.at[AGAIN]) for point in points),
        effect=median(abs(point.at[quarter] - point.at[ZERO]) for point in points),
        behind=sum(point.at[quarter] < point.at[AGAIN] for point in points),
        stretches=tuple(windows(points, quarter, AGAIN)),
        told={name: sum(next(e for e in effects(point) if e.name == name).told for point in points) for name in OTHERS},
    )
