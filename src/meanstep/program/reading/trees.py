"""YAML and JSON as plain trees of bounded depth and size, and JSON lines. Knows no file's entries."""

import copy
import functools
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import yaml

from meanstep.program.errors import UserError, shown

R = TypeVar("R")
DEEP, NODES, LONG = 64, 100_000, 1 << 18
"""Most nesting, most nodes of YAML with its aliases written out, most characters of YAML."""
FAULTS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What PyYAML and json raise of a text that is none."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """The plain values of JSON only; 1e-3 is a number, as in YAML 1.2. Aliases are counted as if they were written out."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            node = self.anchors.get(self.peek_event().anchor)
            if node is not None and not hasattr(node, "weight"):
                raise yaml.YAMLError("an alias stands inside of what it repeats: write it out")
        node = super().compose_node(parent, index)
        inside = node.value if isinstance(node, yaml.CollectionNode) else ()
        node.weight = 1 + sum(part.weight for item in inside for part in (item if isinstance(item, tuple) else (item,)))
        if node.weight > NODES:
            raise yaml.YAMLError(f"its aliases make more than {NODES:,} values: write out what is meant")
        return node


_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag.rpartition(":")[2] in _PLAIN
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in there if not tag.endswith(":timestamp")]
    for first, there in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def from_yaml(text: str, where: str) -> Any:
    """The tree of a YAML text, None for an empty one; `UserError` begins with `where` and says what is wrong."""
    if len(text) > LONG:
        raise UserError(f"{where} is no YAML that is read: it has {len(text):,} characters, at most {LONG:,} are")
    try:
        return copy.deepcopy(_loaded(text))
    except FAULTS as error:
        raise UserError(f"{where} is no YAML: {_told(error)}") from None


@functools.lru_cache(8)
def _loaded(text: str) -> Any:
    """A command reads its run's configuration several times, and parsing takes a hundred times as long as copying."""
    return _bounded(yaml.load(text, _Loader))


def from_json(text: str | bytes, *, lenient: bool = False) -> Any:
    """The tree of a JSON text; `ValueError` for anything else, and for what is deeper or longer than we write.

    So are Infinity and NaN; `lenient` reads them as None, no value.
    """
    constant = (lambda word: None) if lenient else _refused
    try:
        return _bounded(json.loads(text, parse_constant=constant, parse_float=lambda w: x if math.isfinite(x := float(w)) else constant(w)))
    except FAULTS as error:
        raise ValueError(_told(error)) from None


def entries(text: str | bytes) -> dict[str, Any]:
    """The entries of a JSON object; `ValueError` for anything else."""
    found = from_json(text)
    if not isinstance(found, dict):
        raise ValueError(f"it holds no entries but {shown(found, 60)}")
    return found


def lines(text: bytes, valid: Callable[[Any], R], where: str, remedy: str) -> list[R]:
    """The records of JSON lines, each as `valid` returns it; a last line that was cut is skipped, another damaged one is a `UserError`.

    Infinity and NaN are None. `valid` may raise what a tree of another form makes of itself: the line is then damaged.
    """
    parts, found = text.split(b"\n"), []
    for number, line in enumerate(parts, 1):
        if line.strip():
            try:
                found.append(valid(from_json(line, lenient=True)))
            except FAULTS:
                if number < len(parts):
                    raise UserError(f"{where}, line {number} is damaged: {remedy}") from None
    return found


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _told(error: Exception) -> str:
    """What is wrong in a line."""
    if isinstance(error, RecursionError):
        return f"it is nested more than {DEEP} deep"
    if isinstance(error, KeyError | AttributeError):
        return f"a value is not of the kind that it is said to be ({type(error).__name__})"
    return " ".join(str(error).split())[:120] or type(error).__name__


def _bounded(tree: Any) -> Any:
    """The tree, or `ValueError` if it is too deep, or holds a number or a text that no file of ours can."""
    level, depth = [tree], 0
    while level:
        for value in level:
            if isinstance(value, int) and abs(value) >= 1 << 64:
                raise ValueError(f"a whole number of more than 64 bits: {shown(value, 30)}")
            if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise ValueError(f"half a character: {ascii(value)[:60]}")
        level, depth = [inside for value in level for inside in _inside(value)], depth + 1
        if depth > DEEP:
            raise ValueError(f"it is nested more than {DEEP} deep")
    return tree


def _inside(value: Any) -> Iterable[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
