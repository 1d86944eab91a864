"""Completeness of the reference: a public name's docstring names its arguments, and the errors that its own code raises."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from types import FunctionType, ModuleType

import pytest

from meanstep import boundary

from .pages import ROOT

ELSEWHERE = re.compile(r"[Aa]rguments as of `|[Aa]rguments and errors are those of `|arguments are those of `")


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "site"))
        yield import_module("reference")


def functions(place: str) -> Iterator[tuple[str, FunctionType, str]]:
    """The function at a dotted place, or the public ones of a class, each with its docstring and that of the class."""
    module, _, name = place.rpartition(".")
    value = getattr(import_module(module), name)
    if inspect.isfunction(inspect.unwrap(value)) and not inspect.isclass(value):
        yield place, inspect.unwrap(value), inspect.getdoc(value) or ""
    elif inspect.isclass(value):
        about = inspect.getdoc(value) or ""
        for own, method in vars(value).items():
            if inspect.isfunction(method) and (own in ("__init__", "__post_init__", "__call__") or not own.startswith("_")):
                yield f"{place}.{own}", method, f"{inspect.getdoc(method) or ''}\n{about}"


def unnamed(function: FunctionType, doc: str, common: set[str]) -> list[str]:
    """Arguments that the docstring does not name, but those that mean the same everywhere."""
    if ELSEWHERE.search(doc):
        return []
    given = [p.name for p in inspect.signature(function).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [name for name in given if name not in ("self", "cls") and name not in common and not re.search(rf"(?<!\w){name}(?!\w)", doc)]


def unsaid(function: FunctionType, doc: str) -> list[str]:
    """Kinds of error that the function's own code raises and its docstring does not name."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):  # made by a decorator
        return []
    raised = {ast.unparse(n.exc.func) for n in ast.walk(tree) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)}
    looks = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    raised |= {"ValueError"} if looks & {f"boundary.{look}" for look in ("number", "whole", "rising", "spread")} else set()
    return sorted(kind for kind in raised if kind not in doc and not ELSEWHERE.search(doc))


def owner(function: FunctionType) -> str:
    """The module that defines a function, below the package."""
    return function.__module__.removeprefix("meanstep.")


def test_every_public_name_names_its_arguments_and_errors(reference: ModuleType):
    found, seen, common = {}, 0, set(reference.COMMON)
    for place in dict.fromkeys(place for places in reference.places().values() for place in places):
        for name, function, doc in functions(place):
            if not owner(function).startswith("program") and function.__module__.startswith("meanstep"):
                seen += 1
                lacking = [*unnamed(function, doc, common), *unsaid(function, doc)]
                if lacking:
                    found[name] = lacking
    assert found == {} and seen > 150


def test_every_public_name_has_a_docstring(reference: ModuleType):
    bare = []
    for place in {place for places in reference.places().values() for place in places}:
        value = getattr(import_module(place.rpartition(".")[0]), place.rpartition(".")[2])
        if (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
            bare.append(place)
    assert bare == []


def looked(x: float) -> None:
    boundary.number("x", x)


def test_what_is_missing_is_found():
    def f(x: int, steps: int, stepsize: int = 0) -> None:
        """`stepsize` of `y`."""
        if steps:
            raise ValueError("steps")
        raise TypeError

    doc = inspect.getdoc(f) or ""
    assert unnamed(f, doc, {"x"}) == ["steps"] and unnamed(f, doc, set()) == ["x", "steps"]
    assert unnamed(f, "Arguments as of `walk`.", set()) == [] and unsaid(f, doc) == ["ValueError"] and unsaid(f, "`ValueError`") == []
    assert unsaid(looked, "") == ["ValueError"] and unsaid(looked, "`ValueError`") == []
    assert [name for name, _, _ in functions("meanstep.metrics.Statistics")][:1] == ["meanstep.metrics.Statistics.__init__"]
