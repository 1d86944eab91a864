"""Tables of parts, read off the source: a part is one function or class with one decorator, and listing it imports nothing.

So a command line can name and check recipes, samplers, paths, metrics and networks before PyTorch is there, and a new part is written in
one place. A decorator's facts are literals.
"""

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T", bound=Callable[..., Any])
PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Option:
    """An argument of a part: `kind` is its annotation, `default` its default as the source writes it, None for one that is required.

    `about`: the text below a dataclass's field, empty if there is none.
    """

    name: str
    kind: str
    default: str | None
    about: str = ""

    @property
    def value(self) -> Any:
        """The default, if it is a literal; else None."""
        try:
            return ast.literal_eval(self.default or "None")
        except (ValueError, SyntaxError):
            return None

    @property
    def type(self) -> Any:
        """The annotation itself, if it is made of plain types, unions, tuples and words; `TypeError` for another."""
        return _type(ast.parse(self.kind, mode="eval").body)


PLAIN = {kind.__name__: kind for kind in (bool, int, float, str)}


def _type(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name) if name in PLAIN:
            return PLAIN[name]
        case ast.Constant(value=value) if value is None or value is ...:
            return value
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(left) | _type(right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inside):
            return Literal[ast.literal_eval(inside)]
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=inside)):
            return tuple[tuple(_type(part) for part in inside)]  # type: ignore[misc]
    raise TypeError(f"an option is of plain types, a union, a tuple or a Literal of them, not {ast.unparse(node)}")


@dataclass(frozen=True)
class Entry:
    """A part: the first line of its documentation, its options, its decorator's facts, and where it is."""

    name: str
    about: str
    options: tuple[Option, ...]
    facts: Mapping[str, Any]
    module: str
    attribute: str = field(repr=False)

    def load(self) -> Any:
        """The function or class itself."""
        return getattr(import_module(self.module), self.attribute)


def marked(**facts: Any) -> Callable[[T], T]:
    """What a decorator returns: the part as it is, with its facts in `facts` for those who hold it and not its source."""

    def mark(part: T) -> T:
        part.facts = facts  # type: ignore[attr-defined]
        return part

    return mark


@cache
def declared(module: str, decorator: str) -> Mapping[str, Entry]:
    """The parts of a module or a package of this package that carry a decorator, by name, in order.

    A name is the decorator's first argument if it has one, else the part's own. A package offers its parts under its own name too.
    """
    path = PACKAGE.joinpath(*module.split(".")[1:])
    files = [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.glob("*.py"))
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    found = [entry for node in nodes if (entry := _entry(node, module, decorator))]
    return {entry.name: entry for entry in found}


def _entry(node: ast.stmt, module: str, decorator: str) -> Entry | None:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return None
    call = next((d for d in node.decorator_list if isinstance(d, ast.Call) and ast.unparse(d.func) == decorator), None)
    if call is None:
        return None
    facts = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    name = ast.literal_eval(call.args[0]) if call.args else node.name
    about = (ast.get_docstring(node) or "").split("\n")[0]
    options = _arguments(node.args) if isinstance(node, ast.FunctionDef) else _fields(node)
    return Entry(name, about, options, facts, module, node.name)


def _arguments(given: ast.arguments) -> tuple[Option, ...]:
    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    return tuple(_option(a.arg, a.annotation, d) for a, d in zip([*plain, *given.kwonlyargs], defaults, strict=True))


def _fields(node: ast.ClassDef) -> tuple[Option, ...]:
    lines = [(line, below) for line, below in zip(node.body, [*node.body[1:], None], strict=True) if isinstance(line, ast.AnnAssign)]
    return tuple(_option(ast.unparse(line.target), line.annotation, line.value, _text(below)) for line, below in lines)


def _text(node: ast.stmt | None) -> str:
    """What a line says that is a text and nothing else."""
    found = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else ""
    return inspect.cleandoc(found) if isinstance(found, str) else ""


def _option(name: str, kind: ast.expr | None, default: ast.expr | None, about: str = "") -> Option:
    return Option(name, ast.unparse(kind) if kind else "", None if default is None else ast.unparse(default), about)
