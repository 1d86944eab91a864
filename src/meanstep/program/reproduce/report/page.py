"""From a study's folder to its page, by the workload that it is of."""

from importlib import import_module
from pathlib import Path
from typing import Any

from meanstep.program.reproduce.study import read


def build(folder: Path) -> Path:
    """Write figures/*.png, summary.csv and report.html into the study's folder and return the page's path."""
    page: Path = _page(folder).build(folder)
    return page


def spoken(folder: Path) -> list[str]:
    """The headline numbers of a study's folder, a line each, and what is missing."""
    lines: list[str] = _page(folder).spoken(folder)
    return lines


def _page(folder: Path) -> Any:
    return import_module(f"{read(folder).kind.package}.report.page")
