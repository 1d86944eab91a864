"""Images in files: a folder, or webdataset tar files. Knows no sizes."""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from glob import glob
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from meanstep.program.console import UserError
from meanstep.program.data.cache import sha256
from meanstep.program.data.kinds import SOURCES
from meanstep.program.data.source import Source, decoded, numbered

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")


def folder(spec: str, split: str) -> Source:
    """Images of a folder; its sub-folders, if the images lie in them, are the labels. A sub-folder named like the split is the split."""
    root = Path(spec).expanduser()
    if not root.is_dir():
        what = f"is no source: give {SOURCES}" if root.exists() else "does not exist"
        raise UserError(f"{root} {what}")
    name = root.resolve().name
    root = next((root / s for s in ((split, "val") if split == "test" else (split,)) if (root / s).is_dir()), root)
    if root.name not in (split, "val") and split != "train":
        raise UserError(f"{root} has no split {split!r}: it has no sub-folder of that name")
    paths = sorted(_images(root))
    if not paths:
        raise UserError(f"{root} holds no images ({', '.join(ENDINGS)})")
    tops = [path.partition("/")[0] if "/" in path else "" for path in paths]
    classes = tuple(sorted({top for top in tops if top}))
    if classes and "" in tops:
        at = paths[tops.index("")]
        raise UserError(f"{root} has images beside sub-folders of images ({at}, {classes[0]}/): which label do they have?")
    number = {top: k for k, top in enumerate(classes)}
    labels = np.array([number[top] for top in tops], dtype=np.int64) if classes else None

    def read(i: int) -> Image.Image:
        return decoded((root / paths[i]).read_bytes())

    def hashing() -> list[str]:
        return [f"{path} {sha256(root / path)}" for path in paths]

    return Source(name, classes, labels, len(paths), read, lambda i: str(root / paths[i]), hashing)


def _images(root: Path) -> Iterator[str]:
    """Names below the root, with slashes; links to folders are followed, once each."""
    seen: set[str] = set()
    for here, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = [] if real in seen else [f for f in folders if not f.startswith(".")]
        if real not in seen:
            inside = Path(here).relative_to(root)
            yield from ((inside / n).as_posix() for n in names if n.lower().endswith(ENDINGS) and not n.startswith("."))
        seen.add(real)


def tars(spec: str, label: str) -> Source:
    """Samples of webdataset tar files: members with one name and several endings; an image, and a label in `.cls` or a `.json`'s key."""
    files = [Path(p).expanduser() for p in expand(spec)]
    for path in files:
        if not path.is_file():
            raise UserError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'there is no such file'}")
    if not files:
        raise UserError(f"no file fits {spec}")
    samples = [sample for k, path in enumerate(files) for sample in _samples(path, k, label)]
    values = [value for *_, value in samples]
    if any(v is None for v in values) and any(v is not None for v in values):
        at = samples[[v is None for v in values].index(True)]
        raise UserError(f"{files[at[0]]}: {at[3]} has no label, others have one")
    labels = None if not samples or values[0] is None else np.array(values, dtype=np.int64)
    where = [(k, offset, size) for k, offset, size, _, _ in samples]

    def read(i: int) -> Image.Image:
        k, offset, size = where[i]
        with files[k].open("rb") as held:
            held.seek(offset)
            return decoded(held.read(size))

    name = files[0].name if len(files) == 1 else f"{files[0].stem}...{files[-1].name}"
    classes = () if labels is None else numbered(labels)

    def hashing() -> list[str]:
        return [sha256(path) for path in files]

    return Source(name, classes, labels, len(where), read, lambda i: f"{files[where[i][0]]}, {samples[i][3]}", hashing)


def expand(spec: str) -> list[str]:
    """`a-{000..002}.tar` and `a-*.tar` as names of files, in order."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", spec)
    if found:
        first, last = found.groups()
        names = [f"{spec[: found.start()]}{k:0{len(first)}d}{spec[found.end() :]}" for k in range(int(first), int(last) + 1)]
        return [name for inner in names for name in expand(inner)]
    return sorted(glob(os.path.expanduser(spec))) if any(c in spec for c in "*?[") else [spec]


def _samples(path: Path, k: int, label: str) -> Iterator[tuple[int, int, int, str, int | None]]:
    """File, offset, size, name and label of every image."""
    try:
        with tarfile.open(path, "r:") as held:
            members = [m for m in held if m.isfile()]
            for key, group in groupby(members, key=lambda m: _key(m.name)):
                parts = {m.name[len(key) :].lower(): m for m in group}
                image = next((parts[e] for e in parts if e.endswith(ENDINGS)), None)
                if image is not None:
                    yield k, image.offset_data, image.size, image.name, _label(held, parts, label, f"{path}, {key}")
    except tarfile.TarError as error:
        raise UserError(f"cannot read {path}: {error}; it is cut short, compressed or no tar file") from error


def _key(name: str) -> str:
    """The name up to the first dot of its last part."""
    start = name.rfind("/") + 1
    dot = name.find(".", start + 1)
    return name if dot < 0 else name[:dot]


def _label(held: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], label: str, where: str) -> int | None:
    try:
        if ".cls" in parts:
            return int(_bytes(held, parts[".cls"]))
        if ".json" in parts:
            value: Any = json.loads(_bytes(held, parts[".json"])).get(label)
            return None if value is None else int(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: its label is no whole number") from error
    return None


def _bytes(held: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = held.extractfile(member)
    return b"" if file is None else file.read()
