"""`notebook.py [NAME=VALUE ...]`: run docs/tutorial.py cell by cell and write docs/tutorial.md with what the cells print and draw.

With values for names of the notebook, such as `steps=4`, it only runs: then nothing is written.
"""

import ast
import contextlib
import hashlib
import io
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

DOCS = Path(__file__).parents[1]
NOTEBOOK = DOCS / "tutorial.py"
NOT_RUN = "<!-- not run: the blocks of this page are cells of tutorial.py, which a test runs in order -->"


class Cell(NamedTuple):
    """`text`: of a cell that only says something; or else `code`, without the `return` that marimo needs."""

    text: str
    code: str


class Result(NamedTuple):
    """A cell with what it printed, and the figure that it ends in, if it does."""

    cell: Cell
    printed: str
    figure: Any


def cells(source: str) -> Iterator[Cell]:
    """The notebook's cells, in the order of the file."""
    for node in ast.parse(source).body:
        if not (isinstance(node, ast.FunctionDef) and any("cell" in ast.unparse(mark) for mark in node.decorator_list)):
            continue
        body = node.body[:-1] if isinstance(node.body[-1], ast.Return) else node.body
        call = body[0].value if isinstance(body[0], ast.Expr) else None
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "mo.md":
            yield Cell(textwrap.dedent(ast.literal_eval(call.args[0])).strip(), "")
        else:
            lines = source.splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
            yield Cell("", textwrap.dedent("\n".join(lines)))


def results(source: str, values: Mapping[str, object] = {}) -> Iterator[Result]:
    """Run the cells in one namespace; `values` replace what the cells give those names."""
    space: dict[str, Any] = {"__name__": "tutorial"}
    for cell in cells(source):
        printed, shown = io.StringIO(), None
        if cell.code:
            tree = ast.parse(cell.code)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) and not cell.code.splitlines()[-1].startswith("print(") else None
            with contextlib.redirect_stdout(printed):
                exec(compile(tree, NOTEBOOK.name, "exec"), space)
                space.update({name: value for name, value in values.items() if name in space})
                if isinstance(last, ast.Expr):
                    shown = eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), space)
        yield Result(cell, printed.getvalue().rstrip(), shown)


def stamp(source: str) -> str:
    """The first line of the page: of which code it is. What the cells say is compared by itself."""
    digest = hashlib.sha256("\n".join(cell.code for cell in cells(source)).encode()).hexdigest()[:16]
    return f"<!-- written by docs/site/notebook.py of tutorial.py {digest}: `make tutorial` writes it again -->"


def page(source: str, figures: Path) -> str:
    """The page; its figures are written to the folder as tutorial-1.png and so on."""
    parts, number = [stamp(source)], 0
    for cell, printed, figure in results(source):
        parts += [cell.text] if cell.text else [f"{NOT_RUN}\n```python\n{cell.code}\n```"]
        if printed:
            parts.append(f"```text\n{printed}\n```")
        if figure is not None:
            number += 1
            name = f"tutorial-{number}.png"
            figure.savefig(figures / name, dpi=110, metadata={"Software": None})
            parts.append(f"![{_first_title(figure)}](figures/{name})")
    return "\n\n".join(parts) + "\n"


def _first_title(figure: Any) -> str:
    """What a figure shows, for those who cannot see it."""
    axes = figure.axes
    titles = [axis.get_title() for axis in axes if axis.get_title()]
    return "; ".join(titles) or f"{axes[0].get_ylabel()} over {axes[0].get_xlabel()}"


def main(words: list[str]) -> None:
    """Write the page, or only run with other values."""
    source = NOTEBOOK.read_text(encoding="utf-8")
    if words:
        values = {name: ast.literal_eval(value) for name, _, value in (word.partition("=") for word in words)}
        print("\n".join(result.printed for result in results(source, values) if result.printed))
        return
    (DOCS / "tutorial.md").write_text(page(source, DOCS / "figures"), encoding="utf-8")
    print(DOCS / "tutorial.md")


if __name__ == "__main__":
    main(sys.argv[1:])
