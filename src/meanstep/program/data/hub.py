"""Data sets of the Hugging Face hub, through `datasets`, which is imported when one is asked for."""

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from meanstep.program.console import UserError
from meanstep.program.data.formats import decoded
from meanstep.program.data.source import Source, numbered


def dataset(spec: str, split: str, image: str, label: str) -> Source:
    """`owner/name[:config]`: the column `image` holds pictures; `label`, if it is there, class labels or whole numbers."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"hub:{spec} needs datasets: pip install 'meanstep[hub]'") from None
    name, _, config = spec.partition(":")
    try:
        held: Any = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the library raises some twenty kinds, of its own and of the network's
        raise UserError(f"cannot load hub:{spec}, split {split!r}: {' '.join(str(error).split())[:160]}") from error
    if image not in held.features:
        raise UserError(f"hub:{spec} has no column {image!r}: it has {', '.join(held.features)}; give --image")
    if label not in held.features and label != "label":
        raise UserError(f"hub:{spec} has no column {label!r}: it has {', '.join(held.features)}; give another --label-column")
    labels = np.asarray(held[label], dtype=np.int64) if label in held.features else None
    names = tuple(getattr(held.features.get(label), "names", None) or ())
    parts = [f"hub:{name}:{config}:{split}:{image}:{label}", str(held._fingerprint)]

    def hashing() -> list[str]:
        return [hashlib.sha256(part.encode()).hexdigest() for part in parts]

    classes = () if labels is None else names or numbered(labels)
    return Source(f"hub:{spec}", classes, labels, len(held), lambda i: _picture(held[i][image]), lambda i: f"hub:{spec}, row {i}", hashing)


def _picture(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, dict) and value.get("bytes"):
        return decoded(value["bytes"])
    if isinstance(value, bytes):
        return decoded(value)
    raise UserError(f"the column of images holds {type(value).__name__}, no pictures; give another --image")
