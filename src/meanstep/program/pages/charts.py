"""The charts of a page as numbers, and the library that draws them. Knows no figures and no subject.

uPlot (MIT licence, see the folder uplot) is written into a page that has charts; without JavaScript the picture is shown.
"""

from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

Numbers = list[float | None]


@dataclass(frozen=True)
class Curve:
    """One curve: its name and colour, points in order of x, and its interval where it has one; `bars`: as bars, not as a band."""

    name: str
    colour: str
    x: list[float]
    y: Numbers
    low: Numbers
    high: Numbers
    dashed: bool = False
    dots: bool = False
    bars: bool = False


@dataclass(frozen=True)
class Guide:
    """A line across a panel at a value of x or y, or a stretch where `to` differs from `at`."""

    axis: str
    at: float
    to: float
    dashed: bool


@dataclass(frozen=True)
class Axis:
    """Its words, its ends, whether it is logarithmic, and ticks with their words where they were set."""

    label: str
    low: float
    high: float
    log: bool
    ticks: list[float]
    words: list[str]


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x: Axis
    y: Axis
    curves: list[Curve]
    guides: list[Guide]


@dataclass(frozen=True)
class Chart:
    """All panels of a figure."""

    panels: list[Panel]

    @property
    def json(self) -> dict[str, Any]:
        """For the page's script."""
        return asdict(self)


@dataclass(frozen=True)
class Library:
    """What a page with charts has in it."""

    script: str
    style: str
    licence: str


@cache
def library() -> Library:
    """uPlot with its licence, and the script that gives it our charts."""
    here = files(__package__ or "")
    read = [here.joinpath("uplot", name).read_text(encoding="utf-8") for name in ("uPlot.iife.min.js", "uPlot.min.css", "LICENSE")]
    own = here.joinpath("charts.js").read_text(encoding="utf-8")
    return Library(f"{read[0]}\n{own}", read[1], read[2].replace("*/", ""))
