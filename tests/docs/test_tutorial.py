"""The tutorial's cells run at a small size, its page is that of the notebook, and in full it shows what its text says."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from .pages import ROOT

SOURCE = (ROOT / "docs" / "tutorial.py").read_text(encoding="utf-8")
SMALL = {"steps": 3, "rows": 16, "count": 64, "probed": 64, "budget": "1s"}


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    pytest.importorskip("marimo", reason="the tutorial needs the extra docs")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    import notebook

    yield notebook
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def test_the_tutorial_runs_at_a_small_size(notebook: ModuleType):
    found = list(notebook.results(SOURCE, SMALL))
    text = "\n".join(result.printed for result in found)
    assert sum(result.figure is not None for result in found) == 6
    assert re.search(r"^floor +0\.\d+$", text, re.MULTILINE) and "beta of least noise" in text
    assert "read as meanflow(times=uniform, power=0, diagonal_share=0.5)" in text


def test_the_page_is_of_this_notebook(notebook: ModuleType):
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    assert page.splitlines()[0] == notebook.stamp(SOURCE), "docs/tutorial.py changed: make tutorial"
    for cell in notebook.cells(SOURCE):
        assert (cell.text or cell.code) in page
    shown = re.findall(r"\]\((figures/[^)]+)\)", page)
    assert len(shown) == 6 and all((ROOT / "docs" / name).is_file() for name in shown)


def test_the_cells_are_ones_that_marimo_takes(notebook: ModuleType):
    """No name is defined twice, none is missing: marimo orders cells by their names."""
    asked = [sys.executable, "-m", "marimo", "check", "--strict", str(ROOT / "docs" / "tutorial.py")]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_whole_tutorial_shows_what_it_says(notebook: ModuleType, tmp_path: Path):
    (tmp_path / "figures").mkdir()
    text = notebook.page(SOURCE, tmp_path)
    near = {name: float(value) for name, value in re.findall(r"^(\w+) +(\d\.\d+)$", text, re.MULTILINE)}
    assert near["floor"] < near["meanflow_1"] < near["flow_matching_1"] / 3
    assert near["flow_matching_32"] < near["flow_matching_1"] / 3
