"""Where images and rows of numbers come from: `open_source` of a spec."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data import arrays, files, hub, tables
from meanstep.program.data.column import Column
from meanstep.program.data.formats import counted
from meanstep.program.data.manifest import NAME, Manifest
from meanstep.program.data.ragged import Like
from meanstep.program.data.request import Ragged, Table
from meanstep.program.data.source import Broken, Source


@dataclass(frozen=True)
class Alike:
    """How rows come to be alike: of different lengths by `ragged`, to the length of rows that they are `like` or the one they need; of a
    table's columns by `table`, or as `columns` did in other data."""

    ragged: Ragged = "refuse"
    like: Like = Like()
    table: Table = "numbers"
    columns: Sequence[Column] = ()

    @staticmethod
    def to(manifest: Manifest, ragged: Ragged = "refuse", table: Table = "numbers") -> "Alike":
        """As the rows of another cache are."""
        like = Like(manifest.shape, manifest.length.along if manifest.length else None)
        return Alike(manifest.ragged if ragged == "refuse" else ragged, like, table, manifest.columns)


def open_source(
    spec: str,
    split: str = "train",
    image: str = "image",
    label: str = "label",
    conditions: Sequence[str] = (),
    alike: Alike = Alike(),
) -> Source:
    """The source that a spec names; `UserError` in one line if there is none, it is empty, or its labels do not fit its classes.

    `split`: for sources that have several; another one is refused. `image`, `label`: the columns of a Hugging Face dataset; the ending
    of a webdataset's images (such as `mask.png`, `image` for the only one) and the key of its json. `conditions`: columns of a table, or
    arrays of a file, that are given to the network beside the rows. `alike`: how rows of different lengths, and columns, become rows.
    """
    if arrays.reads(spec):
        source = arrays.file(spec, split, conditions, alike.ragged, alike.like)
    elif spec.endswith(tuple(tables.READERS)):
        source = tables.table(spec, split, conditions, alike.table, alike.columns)
    elif hub.reads(spec):
        source = hub.dataset(spec, split, image, label, conditions, alike.ragged, alike.like)
    elif conditions:
        raise UserError(f"{spec} has no columns or arrays for the condition {conditions[0]}: give a .csv, .parquet, .npz or .safetensors")
    elif spec == "digits":
        source = arrays.digits(split)
    elif spec.endswith(".tar"):
        source = files.tars(spec, split, image, label)
    else:
        source = files.folder(spec, split, alike.ragged, alike.like)
    if alike.ragged != "refuse" and (not source.plain or source.columns):
        raise UserError(
            f"{spec} holds {'a table' if source.columns else 'pictures'}, and --data.ragged (--ragged) is for arrays: leave it out"
        )
    if alike.table != "numbers" and not source.columns:
        raise UserError(f"{spec} is no table of named columns, which --data.table (--table) is for: leave it out")
    if not len(source):
        lost = f"; left out: {counted(source.left_out)}" if source.left_out else ""
        raise UserError(f"{spec} holds no {source.noun} for the split {split!r}{lost}")
    return _labelled(source)


def plain_shape(spec: str, conditions: Sequence[str] = (), alike: Alike = Alike()) -> tuple[int, ...] | None:
    """The shape of a row of a cache, a file or a folder of numbers; None for pictures, what is elsewhere, and what cannot be read."""
    try:
        if (manifest := Path(spec).expanduser() / NAME).is_file():
            held = Manifest.read(manifest)
            return held.shape if held.codec == "plain" else None
        if spec == "digits" or spec.startswith("hub:") or spec.endswith(".tar"):
            return None
        source = open_source(spec, conditions=conditions, alike=alike)
        return source[0][0].shape if source.plain else None
    except UserError:
        return None


def _labelled(source: Source) -> Source:
    """The source, if every label names a class."""
    if source.labels is not None:
        bad = np.flatnonzero((source.labels < 0) | (source.labels >= len(source.classes)))
        if len(bad):
            at, n = int(bad[0]), len(source.classes)
            raise UserError(f"{source.where(at)} has the label {source.label(at)}; with {n} classes labels are 0 to {n - 1}")
    return source


__all__ = ["Alike", "Broken", "Source", "open_source", "plain_shape"]
