"""Structure: who may import whom, what the mathematics may import from outside, and the size and names of files."""

import ast
import functools
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "meanstep"

ROOT = "__init__"  # the public names: only the program and the command line may go through them
BASE = {"types", "shapes", "paths", "catalogue", "boundary", "calls", "conditions", "modulation", "precise", "values", "keys"}
PARTS = {"times", "velocities", "coefficients", "rates", "weights"}
MATHS = (
    BASE
    | PARTS
    | {
        "auxiliary",
        "averages",
        "couplings",
        "tangents",
        "joint_pass",
        "objectives",
        "terms",
        "recipes",
        "loss",
        "samplers",
        "fields",
        "attention",
        "probes",
        "metrics",
    }
)

# a module or a package of meanstep -> what it may import of meanstep; a package may always import itself
MAY_IMPORT: dict[str, set[str]] = {
    "boundary": set(),
    "catalogue": set(),
    "shapes": set(),
    "values": set(),
    "paths": {"catalogue", "shapes", "values"},
    "types": {"paths", "values"},
    "calls": {"types"},
    "conditions": {"keys"},
    "modulation": set(),
    "precise": set(),
    "averages": BASE,
    "couplings": BASE,
    "keys": set(),
    "times": BASE,
    "coefficients": BASE | {"tangents"},
    "velocities": BASE | {"coefficients"},
    "tangents": BASE | {"attention"},
    "joint_pass": BASE | {"tangents", "velocities"},
    "rates": BASE | {"coefficients", "tangents", "joint_pass"},
    "weights": BASE | {"coefficients"},
    "auxiliary": BASE | {"weights"},
    "objectives": BASE | PARTS | {"tangents", "joint_pass"},
    "terms": BASE | PARTS | {"auxiliary", "objectives"},
    "recipes": BASE | PARTS | {"auxiliary", "objectives", "terms"},
    "loss": BASE | PARTS | {"auxiliary", "objectives", "joint_pass", "terms"},
    "samplers": BASE,
    "fields": BASE,
    "attention": BASE,
    "metrics": BASE,
    "probes": BASE | {"tangents", "coefficients", "weights", "auxiliary", "terms", "loss"},
    ROOT: MATHS,
    "program": MATHS | {ROOT},
    "cli": MATHS | {ROOT, "program"},
    "__main__": {"cli"},
}
LAZY = {ROOT: {"program"}}  # named for type checkers only, and loaded when a public name is used
OUTSIDE = {"torch"}  # what the mathematics may import from other distributions
OUTSIDE_OF = {
    "fields.analytic": {"torch", "numpy", "scipy"},  # the ODE solver's arrays
    "metrics.distances": {"torch", "numpy"},  # numpy's sort, several times faster than torch's
    "couplings": {"torch", "scipy", "ot"},  # the exact assignment, and an entropic plan
    "attention.kernel": {"torch", "triton"},
}
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc"}
LONGEST = 300


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    """Dotted name below the package (`ROOT` for the package itself) and file of every module."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        yield ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts), path


@functools.cache
def nodes(source: str) -> tuple[ast.AST, ...]:
    """All of a file's syntax, parsed once for all tests of a process."""
    return tuple(ast.walk(ast.parse(source)))


def imports(package: Path, path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import in the file, those inside functions included."""
    here = (package.name, *path.relative_to(package).parent.parts)
    for node in nodes(path.read_text(encoding="utf-8")):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else ()
            base = ".".join((*start, *filter(None, [node.module])))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def for_typing(path: Path) -> set[int]:
    """The lines under `if TYPE_CHECKING:`."""
    blocks = [n for n in nodes(path.read_text(encoding="utf-8")) if isinstance(n, ast.If)]
    typing = [n for n in blocks if isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING"]
    return {line for n in typing for part in n.body for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)}


def layer(package: Path, name: str) -> str:
    """The row of the table for an absolute name: its module or package, or `ROOT` for a name of the package itself."""
    first = (*name.split(".")[1:], ROOT)[0]
    exists = first in MAY_IMPORT or (package / first).is_dir() or (package / f"{first}.py").is_file()
    return first if exists else ROOT


def forbidden_arrows(package: Path) -> list[str]:
    found = []
    for module, path in modules(package):
        source = module.split(".")[0]
        if source not in MAY_IMPORT:
            found.append(f"{module} has no row in the table")
            continue
        for line, name in imports(package, path):
            target = layer(package, name)
            if target in LAZY.get(source, ()) and line in for_typing(path):
                continue
            if name.split(".")[0] == package.name and target != source and target not in MAY_IMPORT[source]:
                found.append(f"{module}, line {line}: {source} must not import {target}")
    return found


def forbidden_packages(package: Path) -> list[str]:
    found = []
    for module, path in modules(package):
        if module.split(".")[0] in {"program", "cli"}:
            continue
        known = {package.name} | sys.stdlib_module_names | OUTSIDE_OF.get(module, OUTSIDE)
        found += [f"{module}, line {n}: {name}" for n, name in imports(package, path) if name.split(".")[0] not in known]
    return found


def lines_of_code(source: str) -> int:
    """Lines that are neither blank nor part of a docstring."""
    prose: set[int] = set()
    for node in nodes(source):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            prose |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return sum(bool(line.strip()) for n, line in enumerate(source.splitlines(), 1) if n not in prose)


def test_import_arrows_point_one_way():
    assert list(modules(PACKAGE)), f"no modules under {PACKAGE}"
    assert forbidden_arrows(PACKAGE) == []


def test_mathematics_imports_torch_only():
    assert forbidden_packages(PACKAGE) == []


def drawn_past_keys(package: Path) -> list[str]:
    """Calls `torch.NAME(..., generator=...)` of the mathematics outside `keys`, which alone knows where a generator lives.

    One whose `generator` is made in the call is seeded by itself and lives on the processor.
    """
    found = []
    for module, path in modules(package):
        if module.split(".")[0] in {"program", "cli", "keys"}:
            continue
        for node in nodes(path.read_text(encoding="utf-8")):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                given = [k.value for k in node.keywords if k.arg == "generator"]
                if node.func.value.id == "torch" and any(not isinstance(value, ast.Call) for value in given):
                    found.append(f"{module}, line {node.lineno}: torch.{node.func.attr}")
    return found


def test_random_numbers_are_drawn_where_the_generator_lives():
    assert drawn_past_keys(PACKAGE) == []


def test_no_file_is_a_drawer_for_anything():
    names = {part.strip("_") for module, _ in modules(PACKAGE) for part in module.split(".")}
    assert names & DRAWERS == set()


def test_files_are_short():
    sizes = {module: lines_of_code(path.read_text(encoding="utf-8")) for module, path in modules(PACKAGE)}
    assert {module: size for module, size in sizes.items() if size > LONGEST} == {}


def test_files_are_short_with_their_prose():
    counted = dict(modules(PACKAGE))
    sizes = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in counted.items()}
    assert {module: size for module, size in sizes.items() if size > LONGEST} == {}


def file_cycle(package: Path) -> list[str]:
    """Modules that import each other in a circle, wherever in them the import stands; empty if there is none."""
    known = dict(modules(package))
    dotted = {f"{package.name}.{module}" if module != ROOT else package.name: module for module in known}
    arrows: dict[str, set[str]] = {}
    for module, path in known.items():
        typing = for_typing(path)
        named = [name for line, name in imports(package, path) if line not in typing]
        targets = [dotted.get(name) or dotted.get(name.rpartition(".")[0]) for name in named]
        arrows[module] = {target for target in targets if target and target not in (module, ROOT)}
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other():
    assert file_cycle(PACKAGE) == []


def test_a_circle_of_files_is_found(tmp_path: Path):
    package = tree(tmp_path, program__a="from meanstep.program import b", program__b="def f():\n    from meanstep.program.a import x")
    assert sorted(set(file_cycle(package))) == ["program.a", "program.b"]
    (package / "program" / "b.py").write_text("if TYPE_CHECKING:\n    from meanstep.program.a import x")
    assert file_cycle(package) == []


def test_the_table_has_no_cycle():
    assert set(TopologicalSorter(MAY_IMPORT).static_order()) == set(MAY_IMPORT)


# The checker itself, on small trees.


def tree(folder: Path, **sources: str) -> Path:
    """A package called meanstep under `folder`; `a__b` is the module `a/b.py`."""
    package = folder / "meanstep"
    for name, source in {ROOT: "", **sources}.items():
        path = package / (ROOT if name == ROOT else name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(source, encoding="utf-8")
    return package


def test_allowed_arrows_pass(tmp_path: Path):
    package = tree(
        tmp_path,
        __init__="from .loss import Loss\nfrom .fields.mlp import MLP\nif TYPE_CHECKING:\n    from .program.doctor import doctor",
        types="import math, torch\nfrom torch import Tensor",
        fields__dit="from . import mlp\nfrom .mlp import MLP\nfrom ..types import Field",
        fields__analytic="import numpy as np\nfrom scipy.integrate import solve_ivp",
        objectives="from meanstep import rates, types\nimport meanstep.velocities as v",
        program__loop="import yaml\nimport meanstep\nfrom meanstep import Loss, objectives\nfrom . import config",
        cli="import tyro\nfrom meanstep.program.loop import train",
    )
    assert forbidden_arrows(package) == []
    assert forbidden_packages(package) == []


@pytest.mark.parametrize(
    ("module", "source", "arrow"),
    [
        ("types", "from meanstep.objectives import Eulerian", "types must not import objectives"),
        ("fields__mlp", "from meanstep.objectives import Eulerian", "fields must not import objectives"),
        ("fields__mlp", "from .. import objectives", "fields must not import objectives"),
        ("fields__deep__mlp", "from ...samplers import jump", "fields must not import samplers"),
        ("objectives", "import meanstep.fields.mlp", "objectives must not import fields"),
        ("rates", "def f():\n    from .velocities import own", "rates must not import velocities"),
        ("times", "if TYPE_CHECKING:\n    from meanstep import samplers", "times must not import samplers"),
        ("weights", "from meanstep import Loss", "weights must not import __init__"),
        ("weights", "import meanstep", "weights must not import __init__"),
        ("weights", "from . import *", "weights must not import __init__"),
        ("__init__", "from .program.loop import train", "__init__ must not import program"),
        ("__init__", "from meanstep import cli", "__init__ must not import cli"),
        ("__init__", "if TYPE_CHECKING:\n    from meanstep import cli", "__init__ must not import cli"),
        ("__init__", "if DEBUG:\n    from meanstep.program import loop", "__init__ must not import program"),
        ("fields", "if TYPE_CHECKING:\n    from meanstep.program import loop", "fields must not import program"),
        ("program__loop", "from meanstep.cli import main", "program must not import cli"),
        ("loss", "from meanstep.strange import x", "loss must not import __init__"),
        ("strange", "", "strange has no row in the table"),
    ],
)
def test_a_forbidden_arrow_is_found(tmp_path: Path, module: str, source: str, arrow: str):
    (found,) = forbidden_arrows(tree(tmp_path, **{module: source}))
    assert found.endswith(arrow)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("loss", "import numpy as np"),
        ("fields__mlp", "from scipy import stats"),
        ("rates", "def f():\n    import torchvision.transforms"),
        ("__init__", "import rich"),
    ],
)
def test_a_forbidden_package_is_found(tmp_path: Path, module: str, source: str):
    assert len(forbidden_packages(tree(tmp_path, **{module: source}))) == 1


def test_docstrings_and_blank_lines_are_not_counted():
    source = '"""One\n\ntwo."""\n\nx = """a\nb"""  # counts, twice\n\n\ndef f():\n    """Doc."""\n    return x\n'
    assert lines_of_code(source) == 4
