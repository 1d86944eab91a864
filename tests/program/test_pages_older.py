"""Records of older versions, of every kind of page: without any one entry a page renders, or one line says what is missing.

A diagnosis keeps no records: its page is made where it is measured.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meanstep.program.compare import page as compared
from meanstep.program.compare import runs, studies
from meanstep.program.console import UserError
from meanstep.program.reproduce.images import figures as of_images
from meanstep.program.reproduce.images import probes as of_probes
from meanstep.program.reproduce.paper import page as paper
from meanstep.program.reproduce.points import figures as of_points
from meanstep.program.reproduce.points import optima as of_optima
from meanstep.program.reproduce.report.page import build as studied
from meanstep.program.runs.report import figures as of_runs
from meanstep.program.runs.report.page import build as trained

from .rendered import built, edited, taken


def _runs(folder: Path) -> Path:
    found = runs.sides([folder / "first", folder / "second"])
    return compared.build(found, runs.distances(found), compared.Pictures(), folder / "page")[0]


def _studies(folder: Path) -> Path:
    return compared.build_studies(studies.meeting((folder / "first", folder / "second")), folder / "page")[0]


AGAIN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "toy": (studied, ""),
    "mixtures": (studied, ""),
    "latents": (studied, ""),
    "run": (trained, ""),
    "compare": (_runs, "second"),
    "studies": (_studies, "second"),
}
"""How the page of a kind is made again from its folder, and in which folder of it records lose entries."""
FILES = ("sweep.json", "study.json", "env.json", "data.json")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without figures, which take most of the time."""
    for module in (of_images, of_probes, of_points, of_optima, of_runs):
        monkeypatch.setattr(module, "FIGURES", {})


@pytest.fixture(params=AGAIN)
def older(request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A kind, a copy of its decided folder, and that of the records in it."""
    kind = request.param
    page = built(kind, "decided", tmp_path_factory)
    source = page.parent.parent if kind in ("compare", "studies") else page.parent
    here = shutil.copytree(source, tmp_path / "old", ignore=shutil.ignore_patterns("figures", "report.html", ".*"))
    return kind, here, here / AGAIN[kind][1]


def lost(lines: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Every entry of every kind of record."""
    yield from dict.fromkeys((str(line.get("kind")), name) for line in lines for name in line if name != "kind")


def without(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """What is taken out of a folder of records, in words, and how; each call starts from the whole."""
    for path in [*folder.glob("*.jsonl"), *folder.glob("runs/*/measures.jsonl")][:2]:
        text = path.read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        for kind, name in lost(lines):
            kept = [{k: v for k, v in line.items() if k != name or line.get("kind") != kind} for line in lines]
            yield f"{path.name}: {kind} {name}", lambda path=path, kept=kept: path.write_text("".join(json.dumps(x) + "\n" for x in kept))
        path.write_text(text)
    for path in (folder / name for name in FILES if (folder / name).is_file()):
        text = path.read_text()
        entries = json.loads(text)
        yield f"{path.name} itself", path.unlink
        for name in entries:
            yield (
                f"{path.name}: {name}",
                lambda path=path, e=entries, n=name: path.write_text(json.dumps({k: v for k, v in e.items() if k != n})),
            )
        for version in (0, 99):
            if "version" in entries:
                yield (
                    f"{path.name} of version {version}",
                    lambda path=path, e=entries, v=version: path.write_text(json.dumps(e | {"version": v})),
                )
        path.write_text(text)


def rendered(build: Callable[[Path], Path], here: Path) -> str:
    """The page's title, or the one line that says why there is none."""
    try:
        text = build(here).read_text(encoding="utf-8")
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    bare = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL)
    assert not re.search(r"\bNone\b|\bnan\b|\bundefined\b", bare)
    return taken(text).title


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_without_any_one_entry_a_page_renders_or_one_line_says_what_is_missing(every: int, older: tuple[str, Path, Path], undrawn: None):
    kind, here, folder = older
    build = AGAIN[kind][0]
    wrong = {}
    for k, (words, take) in enumerate(without(folder)):
        if k % every and "evaluations.jsonl" not in words and " itself" not in words and "version" not in words:
            continue
        take()
        try:
            said = rendered(build, here)
            if not (said and len(said) < 400):
                wrong[words] = said
        except Exception as error:
            wrong[words] = repr(error)
    assert not wrong, "\n".join(f"{words}: {said}" for words, said in wrong.items())


def test_the_first_records_of_a_sweep_render_and_say_what_they_lack(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    """Without floors, curves, probes and the machine, none of which they had; with figures."""
    folder = tmp_path / "old"
    page = built("toy", "decided", tmp_path_factory)
    shutil.copytree(page.parent, folder, ignore=shutil.ignore_patterns("env.json", "figures"))
    gone = {"curve": None, "probe": None, "seconds": 0.0}
    edited(folder / "records.jsonl", lambda line: line | gone if line["kind"] == "model" else None)
    text = studied(folder).read_text(encoding="utf-8")
    assert "There is no env.json" in text and "the floor was not measured" in taken(text).tiles[0][2]
    assert taken(text).tiles[1][1] == "Training signal: not measured" and taken(text).tiles[0][0] == "better"
    assert 'id="variance"' not in text


def test_the_papers_table_goes_without_studies_that_are_damaged_or_old(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    """A study in its folder that lacks its file, its records or its settings is left out, or named in one line."""
    page = built("toy", "decided", tmp_path_factory)
    for name in ("sweep.json", "records.jsonl"):
        here = tmp_path / name.partition(".")[0]
        shutil.copytree(page.parent, here / "toy", ignore=shutil.ignore_patterns(name, "figures", "report.html", ".*"))
        assert rendered(paper.build, here)
