"""A folder of samples: which of its files an earlier call wrote, and how those of another call take their place. Knows no samples."""

import csv
import io
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from meanstep.program import disk
from meanstep.program.errors import UserError, shown
from meanstep.program.reading import files

LIST, PICTURE = "samples.csv", "preview.png"
"""The list of a folder's files of one sample each, and the picture of all."""
LARGE = 1 << 28
"""Most bytes of a list."""
EACH = re.compile(r"\d{6,}\.(png|wav)")
NEW, NAMES = ".samples", ".names"
"""Where files lie in the folder until all are written, and a list there of all names in the folder that are samples'."""
ASIDE = re.compile(r"\.samples(\.incomplete\d*)?")
"""Such folders that a kill left."""


def checked(folder: Path, names: Collection[str]) -> None:
    """`UserError` for a folder that holds anything and no samples, and for a file of others that one of these names would write over."""
    if not folder.is_dir():
        return
    mine = own(folder, names)
    others = _shown(folder) - mine
    if lost := sorted(others.intersection(names) if mine else others):
        raise UserError(f"--out: {folder} holds {shown(lost[0])}, which is none of its samples: give a new or an empty folder")


def own(folder: Path, names: Collection[str]) -> set[str]:
    """The files of a folder that an earlier call wrote: those on its list; without one those
    that a call of these `names` writes, if all are there."""
    mine = _listed(folder / LIST).union(*(_kept(aside / NAMES) for aside in _asides(folder)))
    if not any(map(EACH.fullmatch, names)) and _shown(folder) >= set(names):
        mine |= set(names)
    return {name for name in mine if (folder / name).is_file()}


def _shown(folder: Path) -> set[str]:
    """The names in a folder, but for hidden ones: those of the system, and what a kill left aside."""
    return {p.name for p in folder.iterdir() if not p.name.startswith(".")}


def placed(folder: Path, made: Mapping[str, bytes]) -> None:
    """Write files in place of those of an earlier call. All are written aside first, and a call after a kill finds what to take away.

    `UserError` if that cannot be done; what was there is then as it was, but for a disk that fails between two renames.
    """
    mine = own(folder, made)
    try:
        disk.tree(folder / NEW, [*made.items(), (NAMES, "\n".join(mine.union(made)).encode())])
        for name in made:
            disk.before("rename", folder / name)
            (folder / NEW / name).replace(folder / name)
        for name in mine.difference(made):
            disk.remove(folder / name)
        for aside in _asides(folder):
            disk.remove(aside)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error


def _asides(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if ASIDE.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]


def _kept(path: Path) -> set[str]:
    """The names that a call wrote down before a kill; none of a folder outside."""
    try:
        return {name for name in files.text(path, LARGE).split("\n") if name == Path(name).name}
    except UserError:
        return set()


def _listed(path: Path) -> set[str]:
    """The names on a list of samples, its own, and that of the picture of all; none of a file that is no such list."""
    try:
        first, *lines = csv.reader(io.StringIO(files.text(path, LARGE), newline=""))
    except (UserError, ValueError, csv.Error):
        return set()
    whole = first[:2] == ["file", "seed"] and all(line and EACH.fullmatch(line[0]) for line in lines)
    return {LIST, PICTURE, *(line[0] for line in lines)} if whole else set()
