"""Structure: public names are documented, cited equations exist, and importing is cheap."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from meanstep.catalogue import declared

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "meanstep"
PROGRAM = {"program", "cli"}

CITED = re.compile(r"\beqs?\. ((?:\(\d+[a-z]?\)(?:, | and | to )?)+)")
TAG = re.compile(r"\\tag\{(\d+[a-z]?)\}")


def mathematics(package: Path = PACKAGE) -> Iterator[tuple[str, ast.Module]]:
    """Name and syntax tree of every module of the maths layer."""
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        if name.split(".")[0] not in PROGRAM:
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def undocumented(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    """Public functions, classes and methods without a docstring; an overload's signature needs none, `__call__` is public."""
    if ast.get_docstring(node) is None:
        yield name
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from undocumented(child, f"{name}.{child.name}")
        elif isinstance(child, ast.FunctionDef) and (not child.name.startswith("_") or child.name == "__call__"):
            overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in child.decorator_list)
            if not overload and ast.get_docstring(child) is None:
                yield f"{name}.{child.name}"


def citations(package: Path = PACKAGE) -> dict[str, set[str]]:
    """Equation numbers cited in the package, each with the files that cite it."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
        for numbers in CITED.findall(text):
            for number in re.findall(r"\d+[a-z]?", numbers):
                found.setdefault(number, set()).add(path.relative_to(package).as_posix())
    return found


# Documentation -----------------------------------------------------------------------------------------------------------------------


def test_public_names_are_documented():
    modules = list(mathematics())
    assert len(modules) > 15
    assert [missing for name, tree in modules for missing in undocumented(tree, name)] == []


def test_the_public_names_exist():
    import meanstep

    assert len(set(meanstep.__all__)) == len(meanstep.__all__)
    assert [name for name in meanstep.__all__ if not hasattr(meanstep, name)] == []


def test_cited_equations_exist():
    tags = TAG.findall((ROOT / "docs" / "theory.md").read_text(encoding="utf-8"))
    assert [tag for tag, n in Counter(tags).items() if n > 1] == [], "equation numbers of docs/theory.md are not unique"
    cited = citations()
    assert len(cited) > 20
    missing = {number: sorted(files) for number, files in cited.items() if number not in tags}
    assert missing == {}, f"cited, but without a \\tag in docs/theory.md: {missing}"


# Imports -----------------------------------------------------------------------------------------------------------------------------


def run(code: str) -> str:
    """Standard output of a fresh interpreter that finds this checkout."""
    start = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    done = subprocess.run([sys.executable, "-c", start + code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTED = """
import time
start = time.process_time()
import torch
middle, before = time.process_time(), torch.get_rng_state()
import meanstep
loaded = [getattr(meanstep, name) for name in meanstep.__all__ if not meanstep._HOME.get(name, "").startswith("program")]
print((time.process_time() - middle) / (middle - start))
print(torch.equal(before, torch.get_rng_state()))
print(sorted({name.split(".")[0] for name in sys.modules} & {"scipy", "tyro", "rich", "yaml"}))
print("meanstep.program" in sys.modules, callable(meanstep.doctor))
"""


def test_importing_costs_little_loads_no_scipy_draws_nothing_and_leaves_the_program_until_it_is_used():
    """The mathematics take at most half of torch's own processor time in the same process."""
    shares = []
    for _ in range(3):
        share, *rest = run(IMPORTED).split("\n")
        assert rest[:3] == ["True", "[]", "False True"]
        shares.append(float(share))
        if shares[-1] <= 0.5:
            break
    assert min(shares) <= 0.5, f"import meanstep takes {shares} of import torch"


def test_importing_the_package_alone_loads_no_torch_and_still_lists_its_names():
    code = "import meanstep; assert set(meanstep.__all__) <= set(dir(meanstep)); print('torch' in sys.modules)"
    code += "; print(meanstep.tangents.__name__)"
    assert run(code).split("\n")[:2] == ["False", "meanstep.tangents"]
    assert run("import meanstep; print(hasattr(meanstep, 'nothing'), hasattr(meanstep, '_nothing'))").strip() == "False False"


# Names of parts ----------------------------------------------------------------------------------------------------------------------

TABLES = {
    "meanstep.recipes": "method",
    "meanstep.samplers": "sampler",
    "meanstep.paths": "path",
    "meanstep.program.runs.families": "network",
}
NAMES = {name for module, decorator in TABLES.items() for name in declared(module, decorator)}
OWNERS = {"registry", "methods"}  # of the program: the only modules that may know a part by its name


def compared(tree: ast.AST, names: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name wherever one of the names is compared with: `==`, `in (...)`, `startswith` or `match`."""
    for node in ast.walk(tree):
        sides: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("startswith", "endswith"):
            sides = list(node.args)
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        found = [c for side in sides for c in ast.walk(side) if isinstance(c, ast.Constant) and c.value in names]
        yield from ((c.lineno, str(c.value)) for c in found)


def test_no_module_of_the_program_compares_the_name_of_a_part():
    found = []
    for path in sorted([*(PACKAGE / "program").rglob("*.py"), PACKAGE / "cli.py"]):
        if path.stem not in OWNERS:
            found += [f"{path.relative_to(PACKAGE)}, line {n}: {name}" for n, name in compared(ast.parse(path.read_text()), NAMES)]
    assert found == []


def test_a_compared_name_is_found():
    names = {"meanflow", "walk"}
    for source in ("x == 'meanflow'", "x in ('a', 'walk')", "'walk' != x", "x.startswith('walk')", "match x:\n    case 'walk': pass"):
        assert [name for _, name in compared(ast.parse(source), names)], source
    assert not list(compared(ast.parse("TABLE['meanflow']; Method('walk'); x == 'other'"), names))


# The checkers themselves -------------------------------------------------------------------------------------------------------------


def test_a_missing_docstring_is_found():
    methods = "    def f(self): ...\n    def _g(self): ...\n    def __call__(self): ...\n"
    source = f'"""m"""\nclass A:\n    """a"""\n{methods}def h(): ...\nclass _B: ...\n'
    assert list(undocumented(ast.parse(source), "m")) == ["m.A.f", "m.A.__call__", "m.h"]
    assert list(undocumented(ast.parse("x = 1"), "m")) == ["m"]


def test_citations_are_read_in_every_form(tmp_path: Path):
    (tmp_path / "a.py").write_text('"""eq. (1), (2b).\n\nWhat eq.\n(31) and eqs. (4) and (5) say; not (6), not eq. 7, not eq. (8c2)."""')
    assert set(citations(tmp_path)) == {"1", "2b", "31", "4", "5"}


def test_the_performance_page_is_what_the_records_say():
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "summarise.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
