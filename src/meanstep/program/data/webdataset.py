"""The members of a webdataset's tar file, sample by sample. Knows no pixels.

A key is a member's name up to the first dot of its last part, as in the webdataset package; there, too, one name twice is an error.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanstep.program.data.formats import readable
from meanstep.program.data.source import CLASSES
from meanstep.program.errors import UserError, first_line, shown
from meanstep.program.reading import trees
from meanstep.program.reading.archives import FAULTS
from meanstep.program.reading.files import opened, regular

LABEL = "label"
"""The usual key of a label; one that is named goes before `.cls`."""
NAMED, SMALL = 3, 1 << 20
"""Endings that a complaint lists; most bytes of a member that holds a label."""
Members = dict[str, tarfile.TarInfo]


@dataclass(frozen=True)
class Sample:
    """An image of the tar file with the number `file`: where its bytes lie, what it is called, its label if there is one."""

    file: int
    offset: int
    size: int
    name: str
    label: int | None


def samples(path: Path, file: int, chosen: str, label: str, left_out: Counter[str]) -> Iterator[Sample]:
    """The images of a tar file in the order of their keys; `left_out` counts the members that are not read, by ending.

    `chosen`: the ending of the images, such as `.mask.png`; empty: a key has one image, and several are a `UserError`.
    """
    try:
        with opened(path) as file_held, tarfile.open(fileobj=file_held, mode="r:") as held:
            for key, parts in _keyed(path, held, left_out).items():
                image = _image(parts, chosen, f"{path}, {key}")
                read = {image} if image else set()
                if image:
                    found, used = _label(held, parts, label, f"{path}, {key}")
                    read |= used
                    member = parts[image]
                    yield Sample(file, member.offset_data, member.size, member.name, found)
                left_out.update(end or "no ending" for end in parts if end not in read)
    except FAULTS as error:
        raise UserError(f"cannot read {path}: {first_line(error)}; it is cut short, compressed or no tar file") from error


def split_name(name: str) -> tuple[str, str]:
    """Key and ending, in small letters with its dot: `a.b/frame_0.00.PNG` is `a.b/frame_0` and `.00.png`."""
    start = name.rfind("/") + 1
    dot = name.find(".", start)
    return (name, "") if dot < 0 else (name[:dot], name[dot:].lower())


def _keyed(path: Path, held: tarfile.TarFile, left_out: Counter[str]) -> dict[str, Members]:
    """The files of each key by their endings, also where they do not lie side by side."""
    found: dict[str, Members] = {}
    size = regular(path).st_size
    for member in held:
        if not 0 <= member.size <= size - member.offset_data:
            raise UserError(f"{path} is damaged: {member.name} has {shown(member.size)} bytes, of which not all are there")
        if member.isdir():
            continue
        key, end = split_name(member.name)
        if key.endswith("/") or not key:
            left_out["hidden"] += 1
        elif not member.isfile():
            left_out["link"] += 1
        elif end in found.setdefault(key, {}):
            raise UserError(f"{path} holds {member.name} twice: which is meant?")
        else:
            found[key][end] = member
    return found


def _image(parts: Members, chosen: str, where: str) -> str | None:
    """The ending of the sample's image, None if it has none."""
    if chosen:
        return chosen if chosen in parts else None
    images = [end for end in parts if readable(end)]
    if len(images) > 1:
        ends = ", ".join(images[:NAMED]) + (" ..." if len(images) > NAMED else "")
        remedy = (
            f"choose one ending (--image-column {min(images, key=len)[1:]}), or rename images of their own: a key ends at the first dot"
        )
        raise UserError(f"{where}: {len(images)} images under one key ({ends}): {remedy}")
    return images[0] if images else None


def _label(held: tarfile.TarFile, parts: Members, label: str, where: str) -> tuple[int | None, set[str]]:
    """The label, and the endings of the members that it was looked up in."""
    try:
        if ".cls" in parts and label == LABEL:
            return _number(_bytes(held, parts[".cls"])), {".cls"}
        if ".json" in parts:
            value: Any = trees.entries(_bytes(held, parts[".json"])).get(label)
            return (None, set()) if value is None else (_number(value), {".json"})
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: its label is no whole number from 0 below {CLASSES:,}") from error
    return None, set()


def _number(value: Any) -> int:
    found = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and value != found) or not 0 <= found < CLASSES:
        raise ValueError
    return found


def _bytes(held: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > SMALL:
        raise ValueError
    file = held.extractfile(member)
    return b"" if file is None else file.read()
