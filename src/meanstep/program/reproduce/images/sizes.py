"""Numbers of a study: what a measurement takes, what a step costs. Measures nothing, and needs no torch."""

from dataclasses import dataclass
from typing import Annotated

from meanstep.program.ranges import Count, Ranged, Rows, ranged


@dataclass(frozen=True)
class Sizes(Ranged):
    """What a measurement takes; the defaults are for small images on a CPU.

    `count`, `steps`: samples of a distance, and steps of the sampler; `rows`: of the parabola; `times`, `rows_at`: of the loss over t;
    `references`: most rows of the data behind the center "data".
    """

    PREFIX = "measure."

    count: Annotated[int, ranged("INT from 2 to 10000000")] = 2048
    steps: tuple[Annotated[int, ranged("INT from 1 to 100000")], ...] = (1, 2, 4)
    rows: Rows = 2048
    times: Annotated[int, ranged("INT from 1 to 100000")] = 10
    rows_at: Rows = 256
    references: Count = 20_000


@dataclass(frozen=True)
class Compute:
    """Rows through a network for one row of training: passes forward, passes backward, tangents."""

    forwards: float
    backwards: float
    tangents: float

    @property
    def passes(self) -> float:
        """In passes forward: a pass backward counts two, a tangent one."""
        return self.forwards + 2 * self.backwards + self.tangents
