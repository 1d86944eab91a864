"""A study of images by its command, and what it measured: for the tests of both protocols."""

import json
from pathlib import Path
from typing import Any

import pytest

from meanstep.cli import main


def call(*words: str) -> int:
    """The command's exit code."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def measured(out: Path) -> dict[str, list[dict[str, Any]]]:
    """What was measured of each run, but for the time it took."""
    found = {}
    for path in sorted(out.glob("runs/*/measures.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.parent.name] = [{k: v for k, v in r.items() if k not in ("seconds", "measuring")} for r in records]
    return found
