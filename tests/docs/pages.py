"""The repository's pages: which there are, and the fenced blocks on them with the marker above each."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "studies").rglob("*.md")),
]
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- (not run|slow): (\S.*?) -->")


class Block(NamedTuple):
    """`marker`: "" for a block that the plain suite runs, "not run" or "slow" with its `reason`; `line`: that of its first line of code."""

    kind: str
    line: int
    code: str
    marker: str
    reason: str


def blocks(text: str) -> list[Block]:
    """Every fenced block. Its marker is an HTML comment directly above it, of which there may be several."""
    found = []
    for fence in FENCE.finditer(text):
        above = re.search(r"(?:^ *<!--[^\n]*-->\n)*\Z", text[: fence.start()], re.MULTILINE)
        marker = MARKER.search(above[0]) if above else None
        line = text[: fence.start()].count("\n") + 2
        found.append(Block(fence["kind"], line, fence["code"], *(marker.groups() if marker else ("", ""))))
    return found


def outside_code(text: str) -> str:
    """The page without fenced blocks and without code in backticks."""
    return re.sub(r"(`+)[^`].*?\1", "", FENCE.sub("", text))
