"""Images or rows in files: a folder, or webdataset tar files. Knows no sizes."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from glob import glob
from pathlib import Path

import numpy as np
from PIL import Image

from meanstep.program.data import folders, webdataset
from meanstep.program.data.formats import counted, decoded, ending, endings, readable
from meanstep.program.data.manifest import sha256
from meanstep.program.data.ragged import Like
from meanstep.program.data.request import SOURCES, Ragged
from meanstep.program.data.source import Source, numbered, one_split
from meanstep.program.errors import UserError, shown
from meanstep.program.reading.files import content
from meanstep.program.reading.images import BYTES

FILES = 100_000
"""Most files of a range of names."""
HIDDEN = "hidden"
"""How files and folders are counted whose names begin with a dot."""
SPLITS = ("train", "test", "val")
"""Sub-folders that are splits, whichever is asked for."""


def folder(spec: str, split: str, how: Ragged = "refuse", like: Like = Like()) -> Source:
    """Images of a folder, else its rows in .npy, else in .wav; its sub-folders, if they lie in them, are the labels: 2 before 10.

    A sub-folder named like the split is the split; beside other splits there has to be one. `how`, `like`: what becomes of rows of
    different lengths, see `ragged.fitted`.
    """
    top = Path(spec).expanduser()
    if not top.is_dir():
        what = f"is no source: give {SOURCES}" if top.exists() else "does not exist"
        raise UserError(f"{top} {what}")
    root = next((top / s for s in ((split, "val") if split == "test" else (split,)) if (top / s).is_dir()), top)
    if root.name not in (split, "val") and split != "train":
        raise UserError(f"{root} has no split {split!r}: it has no sub-folder of that name")
    if root == top and split == "train" and (others := [s for s in SPLITS if (top / s).is_dir()]):
        raise UserError(f"{top} has {' and '.join(others)}, and no train: put what is to be trained on into {top / split}")
    left_out = _beside(top, split) if root != top else Counter[str]()
    paths = _alike(sorted(_files(root, left_out)), left_out)
    if not paths:
        known = f"({', '.join(sorted(endings()))}) and no rows ({', '.join(folders.READERS)})"
        raise UserError(f"{root} holds no images {known}" + (f" but {counted(left_out)}" if left_out else ""))
    tops = [path.partition("/")[0] if "/" in path else "" for path in paths]
    classes = tuple(sorted({name for name in tops if name}, key=natural))
    if classes and "" in tops:
        at = paths[tops.index("")]
        noun = "images" if readable(at) else "files"
        raise UserError(f"{root} has {noun} beside sub-folders of {noun} ({at}, {classes[0]}/): which label do they have?")
    number = {name: k for k, name in enumerate(classes)}
    labels = np.array([number[name] for name in tops], dtype=np.int64) if classes else None

    def read(i: int) -> Image.Image:
        return decoded(content(root / paths[i], BYTES))

    def hashing() -> list[str]:
        return [f"{path} {sha256(root / path)}" for path in paths]

    name = top.resolve().name
    if not readable(paths[0]):
        found = folders.rows(name, classes, labels, [root / path for path in paths], hashing, left_out, how, like)
    else:
        found = Source(name, classes, labels, len(paths), read, lambda i: str(root / paths[i]), hashing, left_out=left_out)
    return replace(found, names=[os.path.splitext(path)[0] for path in paths])


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """A key that sorts the numbers in names by value: `2` before `10`, `class2` before `class10`."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(False, int(part), "") if part[0] in "0123456789" else (True, 0, part) for part in parts], name


def _beside(top: Path, split: str) -> Counter[str]:
    """What lies in a folder beside its splits, which nothing reads."""
    others = [p for p in top.iterdir() if not (p.is_dir() and p.name in (*SPLITS, split))]
    return Counter(HIDDEN if p.name.startswith(".") else "folder beside the splits" if p.is_dir() else ending(p.name) for p in others)


def _kind(name: str) -> str:
    """What a file of this name is: an image, a row by its ending, empty for neither."""
    return "image" if readable(name) else end if (end := ending(name)) in folders.READERS else ""


def _alike(paths: list[str], left_out: Counter[str]) -> list[str]:
    """The images, or the rows of the first kind if there are none; `left_out` counts the others."""
    there = {_kind(path) for path in paths}
    chosen = next((kind for kind in ("image", *folders.READERS) if kind in there), "")
    left_out.update(ending(path) for path in paths if _kind(path) != chosen)
    return [path for path in paths if _kind(path) == chosen]


def _files(root: Path, left_out: Counter[str]) -> Iterator[str]:
    """Names below the root, with slashes; links to folders are followed, once each. `left_out` counts what is not read by its ending."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read {error.filename}: {error.strerror}")

    seen: set[str] = set()
    for here, inner, names in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(here)
        if real in seen:
            left_out["folder linked to again"] += 1
            inner[:] = []
            continue
        seen.add(real)
        left_out.update(HIDDEN for name in (*inner, *names) if name.startswith("."))
        inner[:] = [name for name in inner if not name.startswith(".")]
        shown = [name for name in names if not name.startswith(".")]
        left_out.update(ending(name) for name in shown if not _kind(name))
        inside = Path(here).relative_to(root)
        for name in filter(_kind, shown):
            if os.path.isfile(os.path.join(here, name)):
                yield (inside / name).as_posix()
            else:  # a pipe, a device, a link to nothing: never opened
                left_out["no regular file"] += 1


def tars(spec: str, split: str, image: str, label: str) -> Source:
    """Samples of webdataset tar files: members with one key, the name up to its first dot.

    A sample has an image, and a label in `.cls` or under a key of its `.json`.

    `image`: the ending of the member that is the image, where a key has several; `image` itself takes the only one.
    """
    one_split(spec, split)
    files = [Path(p).expanduser() for p in expand(spec)]
    for path in files:
        if not path.is_file():
            raise UserError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'there is no such file'}")
    if not files:
        raise UserError(f"no file fits {spec}")
    left_out = Counter[str]()
    chosen = "" if image == "image" else f".{image.lower().lstrip('.')}"
    samples = [sample for k, path in enumerate(files) for sample in webdataset.samples(path, k, chosen, label, left_out)]
    labels = _labels(files, samples)
    if labels is None and label != "label" and samples:
        raise UserError(f"{spec}: no .json has the key {label!r}; give another --label-column")

    def read(i: int) -> Image.Image:
        with files[samples[i].file].open("rb") as held:
            held.seek(samples[i].offset)
            return decoded(held.read(samples[i].size))

    def hashing() -> list[str]:
        asked = [f"image {chosen}"] * bool(chosen) + [f"label {label}"] * (label != "label")
        return [*(sha256(path) for path in files), *asked]

    name = files[0].name if len(files) == 1 else f"{files[0].stem}...{files[-1].name}"
    classes = () if labels is None else numbered(labels)
    where = lambda i: f"{files[samples[i].file]}, {samples[i].name}"  # noqa: E731
    return Source(name, classes, labels, len(samples), read, where, hashing, left_out=left_out)


def _labels(files: list[Path], samples: list[webdataset.Sample]) -> np.ndarray | None:
    without = [sample for sample in samples if sample.label is None]
    if len(without) == len(samples):
        return None
    if without:
        raise UserError(f"{files[without[0].file]}: {without[0].name} has no label, others have one")
    return np.array([sample.label for sample in samples], dtype=np.int64)


def expand(spec: str) -> list[str]:
    """`a-{000..002}.tar` and `a-*.tar` as names of files, in order."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", spec)
    if found:
        first, last = found.groups()
        if max(len(first), len(last)) > 15 or int(last) - int(first) >= FILES:
            raise UserError(f"{shown(spec)}: a range of more than {FILES:,} files: name fewer")
        names = [f"{spec[: found.start()]}{k:0{len(first)}d}{spec[found.end() :]}" for k in range(int(first), int(last) + 1)]
        return [name for inner in names for name in expand(inner)]
    return sorted(glob(os.path.expanduser(spec))) if any(c in spec for c in "*?[") else [spec]
