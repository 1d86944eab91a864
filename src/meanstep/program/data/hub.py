"""Data sets of the Hugging Face hub, or saved in a folder, through `datasets`, which is imported when one is asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from meanstep.program.console import UserError
from meanstep.program.data import ragged
from meanstep.program.data.conditions import conditioned, known
from meanstep.program.data.formats import decoded
from meanstep.program.data.ragged import Like
from meanstep.program.data.request import Ragged, listed
from meanstep.program.data.source import Source, numbered, one_split

SAVED, SAVED_SPLITS = "dataset_info.json", "dataset_dict.json"
"""Files of a folder that `save_to_disk` wrote, of one data set or of one by split."""
HUB, USUAL = "hub:", "image"
"""How a spec begins, and the column that is read where none is named."""


def reads(spec: str) -> bool:
    """Whether a source is one of the hub, or a folder that `save_to_disk` wrote."""
    return spec.startswith(HUB) or _saved(spec)


def _saved(spec: str) -> bool:
    path = Path(spec).expanduser()
    return ((path / SAVED).is_file() and (path / "state.json").is_file()) or (path / SAVED_SPLITS).is_file()


def _labels(spec: str, name: str, column: Any) -> np.ndarray:
    """A column of class labels as int64; `UserError` for what is no whole number."""
    labels = np.asarray(column)
    if labels.ndim != 1 or (len(labels) and labels.dtype.kind not in "biu"):
        remedy = f"name it as a condition (--data.condition {name}; --condition of meanstep cache), or another --label-column"
        raise UserError(f"{spec}, column {name}: labels are whole numbers, and these are not: {remedy}")
    return labels.astype(np.int64)


def dataset(
    spec: str, split: str, image: str, label: str, conditions: Sequence[str] = (), how: Ragged = "refuse", like: Like = Like()
) -> Source:
    """`hub:owner/name[:config]`, or a folder: the column `image` holds pictures, or rows of numbers; without one of that name, the only
    column of arrays does. `label`, if it is there, holds class labels or whole numbers; `conditions`: columns. `how`, `like`: see
    `ragged.fitted`."""
    held = _loaded(spec, split)
    columns: list[str] = list(held.features)
    rows = image if image in columns or image != USUAL else _only(held) or image
    if rows not in columns:
        raise UserError(f"{spec} has no column {image!r}: it has {listed(columns)}; give --image-column")
    if label not in columns and label != "label":
        raise UserError(f"{spec} has no column {label!r}: it has {listed(columns)}; give another --label-column")
    known(conditions, columns, spec, "column")
    labels = _labels(spec, label, held[label]) if label in columns and not conditions else None
    names = tuple(getattr(held.features.get(label), "names", None) or ())
    parts = [f"{spec if spec.startswith(HUB) else ''}:{split}:{rows}:{label}", str(held._fingerprint)]

    def hashing() -> list[str]:
        return [hashlib.sha256(part.encode()).hexdigest() for part in parts]

    def where(i: int) -> str:
        return f"{spec}, row {i}"

    classes = () if labels is None else names or numbered(labels)
    if not _numbers(held.features[rows]):
        pictures = Source(spec, classes, labels, len(held), lambda i: _picture(held[i][rows]), where, hashing)
        return _beside(pictures, held, conditions)
    table = held.select_columns([rows]).with_format("numpy")
    first = [] if how != "refuse" or not len(held) else [_row(table[0][rows], where(0)).shape]

    def read(i: int) -> np.ndarray:
        row = _row(table[i][rows], where(i))
        if first and row.shape != first[0]:
            remedy = "cut or pad them to one shape, or give --data.ragged pad or crop (--ragged of meanstep cache)"
            raise UserError(f"{where(i)} is {ragged.sides(row.shape)}, the first {ragged.sides(first[0])}: {remedy}")
        return row

    found = replace(Source(spec, classes, labels, len(held), read, where, hashing), plain=True)
    found = _beside(found, held, conditions)
    if how == "refuse":
        return found
    along, lengths = ragged.alongside([read(i).shape for i in range(len(held))], list(map(where, range(len(held)))), like)
    return ragged.fitted(found, lengths, along, how, like)


def _loaded(spec: str, split: str) -> Any:
    """The split of a data set; `UserError` for one that cannot be had."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{spec} needs datasets: pip install 'meanstep[hub]'") from None
    try:
        if not _saved(spec):
            name, _, config = spec.removeprefix(HUB).partition(":")
            return datasets.load_dataset(name, config or None, split=split)
        held: Any = datasets.load_from_disk(str(Path(spec).expanduser()))
    except Exception as error:  # the library raises some twenty kinds, of its own and of the network's
        raise UserError(f"cannot load {spec}, split {split!r}: {' '.join(str(error).split())[:160]}") from error
    if not isinstance(held, dict):
        one_split(spec, split)
        return held
    if split not in held:
        raise UserError(f"{spec} has no split {split!r}: it has {listed(list(held))}")
    return held[split]


def _beside(source: Source, held: Any, conditions: Sequence[str]) -> Source:
    def column(name: str) -> np.ndarray:
        try:
            found = np.asarray(held.with_format("numpy")[name] if _numbers(held.features[name]) else held[name])
        except ValueError:
            found = np.zeros(0, object)
        names = getattr(held.features[name], "names", None)
        if not names:
            return found
        for i, k in enumerate(found.tolist()):
            if not isinstance(k, int) or not 0 <= k < len(names):
                what = f"{k!r:.40} is none of its {len(names):,} classes"
                raise UserError(f"{source.where(i)}, column {name}: {what}: drop the row, or name another condition")
        return np.array(names)[found]

    return conditioned(source, {name: column(name) for name in conditions}, lambda i, name: f"{source.where(i)}, column {name}")


def _only(held: Any) -> str:
    """The only column of arrays of numbers; empty if there is none, or more than one."""
    found = [name for name, feature in held.features.items() if _numbers(feature)]
    return found[0] if len(found) == 1 else ""


def _numbers(feature: Any) -> bool:
    """Whether a column holds arrays of floats: lists of floats, lists of those, or arrays of a fixed shape."""
    inner, deep = feature, 0
    while (part := inner[0] if isinstance(inner, list) and inner else getattr(inner, "feature", None)) is not None:
        inner, deep = part, deep + 1
    fixed = hasattr(inner, "shape") and str(getattr(inner, "dtype", "")).startswith("float")
    return fixed or (deep > 0 and str(getattr(inner, "dtype", "")).startswith("float"))


def _row(value: Any, where: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            return np.asarray(np.stack(value) if np.asarray(value).dtype == object else value, dtype=np.float32)
    except (ValueError, TypeError):
        raise UserError(f"{where} is no array of numbers: its lists are of different lengths") from None


def _picture(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, dict) and value.get("bytes"):
        return decoded(value["bytes"])
    if isinstance(value, bytes):
        return decoded(value)
    raise UserError(f"the column of images holds {type(value).__name__}, no pictures; give another --image-column")
