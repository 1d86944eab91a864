"""What a folder names lies in it: a run, a study or a sweep may come from anybody."""

from pathlib import Path


def inside(folder: Path, name: str | Path) -> Path | None:
    """What `name` means in a folder, links followed; None if it is not there or leads out of the folder."""
    try:
        found = (folder / name).resolve(strict=True)
        return found if found.is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError, ValueError):  # absent, a circle of links, no name at all
        return None
