"""Where images and rows of numbers come from: `open_source` of a spec."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data import arrays, files, hub, tables
from meanstep.program.data.formats import counted
from meanstep.program.data.manifest import NAME, Manifest
from meanstep.program.data.source import Broken, Source


def open_source(spec: str, split: str = "train", image: str = "image", label: str = "label", conditions: Sequence[str] = ()) -> Source:
    """The source that a spec names; `UserError` in one line if there is none, it is empty, or its labels do not fit its classes.

    `split`: for sources that have several; another one is refused. `image`, `label`: the columns of a Hugging Face dataset; the ending
    of a webdataset's images (such as `mask.png`, `image` for the only one) and the key of its json. `conditions`: columns of a table, or
    arrays of a file, that are given to the network beside the rows.
    """
    if arrays.reads(spec):
        source = arrays.file(spec, split, conditions)
    elif spec.endswith(tuple(tables.READERS)):
        source = tables.table(spec, split, conditions)
    elif conditions:
        raise UserError(f"{spec} has no columns or arrays for the condition {conditions[0]}: give a .csv, .parquet, .npz or .safetensors")
    else:
        source = _elsewhere(spec, split, image, label)
    if not len(source):
        lost = f"; left out: {counted(source.left_out)}" if source.left_out else ""
        raise UserError(f"{spec} holds no {source.noun} for the split {split!r}{lost}")
    return _labelled(source)


def _elsewhere(spec: str, split: str, image: str, label: str) -> Source:
    if spec == "digits":
        return arrays.digits(split)
    if spec.startswith("hub:"):
        return hub.dataset(spec.removeprefix("hub:"), split, image, label)
    return files.tars(spec, split, image, label) if spec.endswith(".tar") else files.folder(spec, split)


def plain_shape(spec: str, conditions: Sequence[str] = ()) -> tuple[int, ...] | None:
    """The shape of a row of a cache, a file or a folder of numbers; None for pictures, what is elsewhere, and what cannot be read."""
    try:
        if (manifest := Path(spec).expanduser() / NAME).is_file():
            held = Manifest.read(manifest)
            return held.shape if held.codec == "plain" else None
        if spec == "digits" or spec.startswith("hub:") or spec.endswith(".tar"):
            return None
        source = open_source(spec, conditions=conditions)
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


__all__ = ["Broken", "Source", "open_source", "plain_shape"]
