"""Which numbers an option takes: a few words after its kind, such as `INT from 1` or `FLOAT from 0 below 1`, read by people and here.

The words are the metavar that --help shows. They hold for a dataclass that is a `Ranged` however it is made: by a command line, of a
file, or in Python. A number without such words is finite, and a whole one has at most 63 bits. Needs no torch.
"""

import dataclasses
import math
import operator
import re
import typing
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar

import tyro

from meanstep.program.errors import LARGEST, UserError, shown

BOUNDS = {
    "from": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "to": ("at most", operator.le),
    "below": ("less than", operator.lt),
}
DIGITS = 24
"""Most digits of a whole number in a word: Python reads thousands only to complain."""
BOUND = re.compile(rf"\b({'|'.join(BOUNDS)}) (-?[\d.]+)")


def natural(word: str) -> int | None:
    """The whole number from 0 that a word of digits is; None for any other word, and for more digits than any number here has."""
    return int(word) if word.isdecimal() and len(word) <= DIGITS else None


def ranged(words: str) -> Any:
    """The mark of a field whose numbers lie in a range: INT or FLOAT, `from` or `above` a number, `to` or `below` another, `or inf`."""
    return tyro.conf.arg(metavar=words)


Count = Annotated[int, ranged("INT from 1")]
Whole = Annotated[int, ranged("INT from 0")]
Seed = Annotated[int, ranged("INT from 0 to 1000000000000000")]
Rows = Annotated[int, ranged("INT from 1 to 1048576")]
"""Rows that are held at once."""
Amount = Annotated[float, ranged("FLOAT from 0")]
Share = Annotated[float, ranged("FLOAT from 0 to 1")]
Below = Annotated[float, ranged("FLOAT from 0 below 1")]


def wrong(value: Any, kind: type, words: str) -> str:
    """What a number should be and is not, empty for one that may be. `words`: its range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and not isinstance(value, int)):
        return "a whole number" if kind is int else "a number"
    found = [(*BOUNDS[word], edge) for word, edge in BOUND.findall(words)]
    if kind is float and abs(value) > 1.7e308 and not (math.isinf(value) and "or inf" in words):
        return f"a finite number {_said(found, value)}".strip()
    if value != value:
        return f"a number {_said(found, value)}".strip()
    if not any(said in ("at most", "less than") for said, _, _ in found) and kind is int:
        found.append((*BOUNDS["to"], str(LARGEST)))
    return "" if all(holds(value, _number(edge)) for _, holds, edge in found) else _said(found, value)


def _said(found: list[tuple[str, Any, str]], value: float) -> str:
    """The bounds in words; the one that was made up is named only where it is broken."""
    told = [f"{said} {edge}" for said, holds, edge in found if edge != str(LARGEST) or not holds(value, _number(edge))]
    return " and ".join(told)


def _number(word: str) -> float:
    return float(word) if "." in word else int(word)


def check(value: Any, kind: type, words: str, flag: str) -> None:
    """`UserError` names the flag, the range and the value; a tuple's values are checked one by one, None is not."""
    for one in value if isinstance(value, tuple) else () if value is None else (value,):
        if what := wrong(one, kind, words):
            raise UserError(f"{flag}: {what}, got {shown(one)}")


class Ranged:
    """A dataclass whose numbers are checked when it is made. `PREFIX`: what stands before its fields' names on the command line."""

    PREFIX: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """`UserError` for the first number out of its range."""
        for name, flag, kind, words in _numbers(type(self)):  # type: ignore[arg-type]
            check(getattr(self, name), kind, words, f"--{self.PREFIX}{flag}")
        for name, kind in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if kind == str | None and value is not None and not value.strip():
                raise UserError(f"--{self.PREFIX}{name.replace('_', '-')}: it is empty: leave it out, or give a value")


@cache
def _numbers(cls: type) -> tuple[tuple[str, str, type, str], ...]:
    """The numbers among the fields: name, flag, int or float, and the words of their range."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return tuple(_of(f.name, hints[f.name]) for f in dataclasses.fields(cls) if _kind(hints[f.name]) is not None)


def _of(name: str, hint: Any) -> tuple[str, str, type, str]:
    marks = [mark for mark in _marks(hint) if hasattr(mark, "metavar")]
    named = next((mark.name for mark in marks if mark.name), name).replace("_", "-")
    kind = _kind(hint)
    assert kind is not None
    return name, named, kind, next((mark.metavar for mark in marks if mark.metavar and BOUND.search(mark.metavar)), "")


def _marks(hint: Any) -> Iterator[Any]:
    """What is noted of a type and of the types in it."""
    yield from reversed(getattr(hint, "__metadata__", ()))
    for inside in typing.get_args(hint):
        yield from _marks(inside)


def _kind(hint: Any) -> type | None:
    """int or float, for a number, for several, or for one that may be left out."""
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return None if any(hasattr(mark, "instance_from_str") for mark in hint.__metadata__) else _kind(inside[0])
    if hint in (int, float):
        return hint
    kinds = {_kind(part) for part in inside if part not in (type(None), ...)} if typing.get_origin(hint) is not dict else {None}
    return kinds.pop() if len(kinds) == 1 else None
