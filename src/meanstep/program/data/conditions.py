"""What a source's columns or keys are as conditions: categories, numbers or arrays, in order and without a hole. Knows no files."""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data.beside import Condition
from meanstep.program.data.partners import PAIR
from meanstep.program.data.ragged import sides
from meanstep.program.data.request import listed
from meanstep.program.data.source import CLASSES, Source
from meanstep.program.reading.tables import number

Place = Callable[[int, str], str]
"""Where the entry of a row in a column stands, for complaints."""


def known(asked: Sequence[str], there: Collection[str], where: str, noun: str) -> None:
    """`UserError` for a name that is asked for twice, and one that is not there."""
    for k, name in enumerate(asked):
        if name in asked[:k]:
            raise UserError(f"the condition {name} is named twice: once is enough")
        if name not in there:
            raise UserError(f"{where} has no {noun} {name!r}: it has {listed(list(there)) or 'none'}; name one among them")


def conditioned(source: Source, raw: Mapping[str, np.ndarray], where: Place) -> Source:
    """The source with conditions, an array of a row each, by name: one of categories alone is its labels.

    Whole numbers and words `[N]` are categories, named in their order; floats `[N]` numbers; `[N, ...]` arrays. `UserError` for what has
    not an entry for each row, or one that is missing or not finite.
    """
    if not raw:
        return source
    made = {name: _one(name, column, source, where) for name, column in raw.items()}
    conditions, words = {name: values for name, (values, _) in made.items()}, {name: w for name, (_, w) in made.items() if w}

    def hashing() -> list[str]:
        own = [
            f"{name} {x.dtype} {x.shape} {hashlib.sha256(x.tobytes()).hexdigest()} {words.get(name, '')}" for name, x in conditions.items()
        ]
        return [*source.hashing(), *own]

    found = replace(source, conditions=conditions, words=words, hashing=hashing)
    return labelled(found) if len(words) == len(raw) == 1 else found


def labelled(source: Source) -> Source:
    """The source whose only condition, of categories, is its labels."""
    ((name, values),) = source.conditions.items()
    return replace(source, labels=values, classes=source.words[name])


def _one(name: str, column: np.ndarray, source: Source, where: Place) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 `[N]` and the categories' names, or float32 `[N, ...]` and none."""
    if not column.ndim or len(column) != len(source):
        n = len(column) if column.ndim else 1
        raise UserError(f"{where(0, name)}: {n:,} entries of {name} for {len(source):,} {source.noun}: give one for each")
    column = column.reshape(len(column)) if column.ndim == 2 and column.shape[1] == 1 and column.dtype.kind != "f" else column
    if column.dtype.kind in "biuUS" and column.ndim == 1:
        return _categories(name, column.astype(np.str_) if column.dtype.kind == "S" else column, where)
    if column.dtype.kind not in "biuf":
        raise UserError(f"{where(0, name)}: {name} is of type {column.dtype}: give whole numbers, words or floats")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(column, dtype=np.float32)
    bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if bad.any():
        raise UserError(f"{where(int(np.argmax(bad)), name)}: the condition is not finite in float32: correct or drop the row")
    return values, ()


def _categories(name: str, column: np.ndarray, where: Place) -> tuple[np.ndarray, tuple[str, ...]]:
    if column.dtype.kind == "U" and (column == "").any():
        raise UserError(f"{where(int(np.argmax(column == '')), name)}: the condition is missing: fill it in, or drop the row")
    there, at = np.unique(column, return_inverse=True)
    if len(there) > CLASSES:
        raise UserError(f"{where(0, name)}: {len(there):,} categories, at most {CLASSES:,} are taken: give floats, which are numbers")
    return at.reshape(len(column)).astype(np.int64), tuple(map(str, there.tolist()))


def renamed(source: Source, theirs: Sequence[Condition]) -> Source:
    """The source with its conditions as the training data have them: categories numbered as there, whole numbers as numbers if they are.

    `UserError` for one that is not there, of another kind or shape, and for a category that is not among theirs, with those that are.
    """
    made, words = dict(source.conditions), dict(source.words)
    for c in theirs:
        if c.name not in made:
            remedy = "give its partners (--pair)" if c.name == PAIR else "name it too"
            remedy += f", or label the rows by {listed(c.words)}" if c.words else ""
            raise UserError(f"{source.name} has no condition {c.name}, which the training data have: {remedy}")
        made[c.name], words[c.name] = _as_theirs(source, c), c.words
    found = replace(source, conditions=made, words={name: w for name, w in words.items() if w})
    return labelled(found) if len(found.words) == len(made) == 1 else found


def _as_theirs(source: Source, c: Condition) -> np.ndarray:
    """The values of a condition, int64 numbers of their categories or float32 `[N, *shape]`."""
    values, own = source.conditions[c.name], source.words.get(c.name, ())
    if c.words and not own:
        there = f"numbers here and categories in the training data, {listed(c.words)}"
        raise UserError(f"{source.where(0)}: {c.name} is {there}: write one of these words in each row")
    read = {word: value for word in own if (value := number(word)) is not None and math.isfinite(value)}
    numbers: Mapping[str, float] = {word: k for k, word in enumerate(c.words)} or read
    for k, word in enumerate(own):
        if word not in numbers:
            i = int(np.argmax(values == k))
            what = f"which was not in the training data: they have {listed(c.words)}" if c.words else "and a number in the training data"
            raise UserError(f"{source.where(i)}: {c.name} is {word!r}, {what}")
    if own:
        values = np.array([numbers[word] for word in own], np.int64 if c.words else np.float32)[values]
    if values.shape[1:] != c.shape:
        here, there = (sides(shape) or "one number" for shape in (values.shape[1:], c.shape))
        raise UserError(f"{source.name} holds {c.name} of {here}, the run's is {there}")
    return values
