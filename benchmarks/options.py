"""The options that every benchmark has: how many rounds, and a file for the numbers, which is whole at any moment."""

import argparse
import json
from pathlib import Path
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """An empty one, with a benchmark's own words about itself."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def file(found: argparse.ArgumentParser, what: str = "write the numbers here too") -> None:
    """`--json`."""
    found.add_argument("--json", type=Path, metavar="FILE", help=what)


def rounds(found: argparse.ArgumentParser, default: int, what: str = "of all variants in turn") -> None:
    """`--rounds`."""
    found.add_argument("--rounds", type=int, default=default, help=f"rounds {what} (default: {default})")


def read(found: argparse.ArgumentParser, *least: str) -> argparse.Namespace:
    """What was asked; ends with one line where the folder of `--json` does not exist, or an option of `least` is below 1."""
    asked = found.parse_args()
    if asked.json and not asked.json.parent.is_dir():
        found.error(f"--json: the folder {asked.json.parent} does not exist")
    if asked.json and asked.json.is_dir():
        found.error(f"--json: {asked.json} is a folder")
    for name in least:
        if (value := getattr(asked, name)) is not None and value < 1:
            found.error(f"--{name} is at least 1, got {value}")
    return asked


def write(path: Path, record: dict[str, Any]) -> None:
    """Renamed into place when it is whole: a process that is killed leaves the file that was there."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def kept(found: argparse.ArgumentParser, path: Path | None, key: str) -> dict[str, Any]:
    """What a file that is added to holds under `key`; ends with one line where it is no record of this benchmark."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key] if path and path.exists() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.error(f"--json: {path} is no record that can be added to ({type(error).__name__}): move it away, or name another file")
