"""The code of the pages runs: a page's blocks in order and in one folder, but those marked `not run`; those marked `slow` at leisure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .pages import PAGES, ROOT, Block, blocks

CODE = {
    path.relative_to(ROOT).as_posix(): [b for b in blocks(path.read_text(encoding="utf-8")) if b.kind in ("python", "sh")] for path in PAGES
}
SHORT = [name for name, code in CODE.items() if any(not b.marker for b in code)]
LONG = [name for name, code in CODE.items() if any(b.marker == "slow" for b in code)]


SHORTER = {"README.md": ("for step in range(2000):", "for step in range(100):")}
"""What the plain suite makes shorter; at leisure all of it runs as it is printed."""


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages have no figures, as most that the program's tests make."""
    monkeypatch.setattr("meanstep.program.pages.form.drawn", lambda figures: {})


def run(name: str, block: Block) -> None:
    """Run a block in the working folder; a shell's `meanstep` and `python` are those of this interpreter."""
    if block.kind == "python":
        with torch.random.fork_rng(devices=[]):
            exec(compile("\n" * (block.line - 1) + block.code, ROOT / name, "exec"), {"__name__": "__main__"})
        return
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    code = block.code.replace(".venv/bin/", "")
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}, line {block.line}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.usefixtures("plain")
def test_the_blocks_of_a_page_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "cache"))
    long, short = SHORTER.get(name, ("", ""))
    assert sum(block.code.count(long) for block in CODE[name]) == 1 or not long
    for block in CODE[name]:
        if not block.marker:
            run(name, block._replace(code=block.code.replace(long, short)) if long else block)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(dict.fromkeys([*LONG, *SHORTER])))
def test_the_long_blocks_of_a_page_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After `meanstep train` where they read its run, which is made shorter here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "cache"))
    if any("runs/digits" in block.code for block in CODE[name] if block.marker == "slow"):
        run(name, Block("sh", 1, "meanstep train --samples 8000 --out runs/digits", "", ""))
    for block in CODE[name]:
        if block.marker != "not run":
            run(name, block)


def test_there_is_code_of_every_kind():
    """Or a test above is empty because the blocks are no longer found."""
    assert {"README.md", "docs/start.md", "docs/conventions.md"} <= set(SHORT) and {"docs/start.md", "docs/training.md"} <= set(LONG)
    assert sum(block.kind == "python" and not block.marker for code in CODE.values() for block in code) > 20


def test_only_languages_that_are_run_or_never_run_are_used():
    """A block of another kind would be run by nothing: `py`, `bash` and `console` are spelled `python` and `sh` here."""
    kinds = {(path.name, b.line): b.kind for path in PAGES for b in blocks(path.read_text(encoding="utf-8"))}
    assert {place: kind for place, kind in kinds.items() if kind not in ("python", "sh", "text", "yaml", "")} == {}


def test_a_marker_of_another_form_is_a_mistake():
    wrong = re.compile(r"<!--\s*(?:not[ -]?run|slow|skip|no[ -]?run)\b(?!: \S)", re.IGNORECASE)
    right = re.compile(r"<!-- (?:not run|slow): \S")
    for path in PAGES:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert right.search(line) or not wrong.search(line), f"{path.name}: {line}"


def test_blocks_are_found_with_their_lines_and_markers():
    text = "a\n```python\nx = 1\n```\n\n<!-- not run: it waits -->\n<!-- tests -->\n```sh\nls\n```\n"
    text += "- b\n\n  <!-- slow: c -->\n  ```sh\n  ls\n  ```\n"
    found = blocks(text)
    assert [(b.kind, b.line, b.marker, b.reason) for b in found] == [
        ("python", 3, "", ""),
        ("sh", 9, "not run", "it waits"),
        ("sh", 15, "slow", "c"),
    ]
    assert blocks("<!-- not run: far -->\n\n```sh\nls\n```\n")[0].marker == ""


def test_a_failing_block_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run("README.md", Block("sh", 1, "python -c 'import meanstep; print(meanstep.__file__)' >where", "", ""))
    assert (tmp_path / "where").read_text().startswith(str(ROOT / "src"))
    with pytest.raises(AssertionError, match="line 7"):
        run("README.md", Block("sh", 7, "meanstep train --no-such-option\ntrue", "", ""))
    with pytest.raises(ZeroDivisionError):
        run("README.md", Block("python", 1, "1 / 0", "", ""))
