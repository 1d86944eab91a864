"""Where images and rows of numbers come from: `open_source` of a spec."""

from pathlib import Path

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data import arrays, files, hub
from meanstep.program.data.formats import counted
from meanstep.program.data.manifest import NAME, Manifest
from meanstep.program.data.source import Broken, Source


def open_source(spec: str, split: str = "train", image: str = "image", label: str = "label") -> Source:
    """The source that a spec names; `UserError` in one line if there is none, it is empty, or its labels do not fit its classes.

    `split`: for sources that have several; another one is refused. `image`, `label`: the columns of a Hugging Face dataset; the ending
    of a webdataset's images (such as `mask.png`, `image` for the only one) and the key of its json.
    """
    if spec == "digits":
        source = arrays.digits(split)
    elif spec.startswith("hub:"):
        source = hub.dataset(spec.removeprefix("hub:"), split, image, label)
    elif spec.endswith(tuple(arrays.READERS)):
        source = arrays.file(spec, split)
    elif spec.endswith(".tar"):
        source = files.tars(spec, split, image, label)
    else:
        source = files.folder(spec, split)
    if not len(source):
        lost = f"; left out: {counted(source.left_out)}" if source.left_out else ""
        raise UserError(f"{spec} holds no {source.noun} for the split {split!r}{lost}")
    return _labelled(source)


def plain_shape(spec: str) -> tuple[int, ...] | None:
    """The shape of a row of a cache or a file of numbers; None for pictures, for what is elsewhere, and for what cannot be read."""
    try:
        if (manifest := Path(spec).expanduser() / NAME).is_file():
            held = Manifest.read(manifest)
            return held.shape if held.codec == "plain" else None
        source = arrays.file(spec, "train") if spec.endswith(tuple(arrays.READERS)) else None
        return source[0][0].shape if source is not None and source.plain and len(source) else None
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
