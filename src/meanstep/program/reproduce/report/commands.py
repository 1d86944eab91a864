"""A command as words: one of its options replaced; and the folder beside one. Knows no command."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from meanstep.program.flags import shown_seeds


def put(command: str, option: str, *values: object) -> str:
    """The command with these values of an option, in its place or at the end; without any the option goes."""
    words = shlex.split(command)
    at = words.index(option) if option in words else len(words)
    after = next((k for k in range(at + 1, len(words)) if words[k].startswith("--")), len(words))
    new = [option, *map(str, values)] if values else []
    return shlex.join([*words[:at], *new, *words[after:]])


def value(command: str, option: str) -> str:
    """The first value that a command has for an option."""
    words = shlex.split(command)
    return words[words.index(option) + 1]


def beside(folder: Path, word: str) -> Path:
    """NAME-WORD in the folder that holds NAME; of `.` and `..`, which say no name, relative to where one is, as they are."""
    if folder.name not in ("", ".."):
        return folder.with_name(f"{folder.name}-{word}")
    whole = folder.resolve()
    there = whole.with_name(f"{whole.name}-{word}")
    return there if folder.is_absolute() else Path(os.path.relpath(there))


def seeded(command: str, seeds: Sequence[int], more: int) -> str:
    """The command with so many more seeds: the first that it does not have."""
    unused = (seed for seed in range(len(seeds) + more) if seed not in seeds)
    return put(command, "--seeds", shown_seeds((*seeds, *(next(unused) for _ in range(more)))))
