"""The engine of all studies, by a workload that only the tests have: kills, stops, folders of others, and no change elsewhere."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import meanstep
from meanstep.program import disk, workers
from meanstep.program.console import UserError, quiet
from meanstep.program.data import Cache
from meanstep.program.reproduce import folder, pool, records, session, study
from meanstep.program.reproduce.images import KIND as IMAGES
from meanstep.program.reproduce.images.arms import arms
from meanstep.program.reproduce.images.settings import Sizes
from meanstep.program.reproduce.images.study import Study as Images
from meanstep.program.reproduce.points import KIND as POINTS
from meanstep.program.reproduce.points import jobs
from meanstep.program.reproduce.points.settings import Settings
from meanstep.program.reproduce.points.study import Sweep
from meanstep.program.reproduce.report import page, prose, results
from meanstep.program.runs.config import Config, NetworkConfig

from .killing import Fate, Killed
from .quadratic import KIND, report
from .quadratic.study import Job, Quadratic, known

pytestmark = pytest.mark.figures

HERE = Path(__file__).parent
STUDIES = HERE.parents[1] / "studies"
TINY = Settings(("two_moons",), (1.0,), (0,), ("plain",), 4, batch=16, width=8, depth=1, reference=32, samples=64, directions=4, probe=16)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Jobs are done in this process; `SIGINT` among the words that a test leaves here stops the next one that asks."""
    asked: list[str] = []

    def do(
        where: Path, devices: list[str], todo: list[Any], work: Callable[..., Any], given: tuple[Any, ...], board: Any, keep: Any
    ) -> None:
        for job in todo:
            keep(job, work(job, *given))

    def stopped() -> bool:
        return bool(asked) and asked.pop() == "SIGINT"

    monkeypatch.setattr(workers, "do", do)
    monkeypatch.setattr(workers, "stopped", stopped)
    monkeypatch.setattr(workers, "tell", lambda *words: None)
    monkeypatch.setattr(workers, "busy", contextlib.nullcontext)
    monkeypatch.setattr(session, "build", lambda here: built(here) if (here / KIND.file).exists() else here / "report.html")
    monkeypatch.setattr(session, "spoken", lambda here: [])
    monkeypatch.setattr(folder, "environment", lambda device: {"device": device})  # which asks git
    yield asked


def built(here: Path) -> Path:
    """The page of a folder, whose workload is found as if it were in the package; without figures, which take the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "kinds", lambda found=(*study.kinds(), KIND): found)
        patch.setattr(report, "FIGURES", {})
        return page.build(here)


def conducted(asked: study.Study, here: Path) -> list[records.Record]:
    with quiet(True):
        session.conduct(asked, here, ["cpu"])
    return records.load(here, asked.kind)


def contents(here: Path) -> dict[str, bytes]:
    return {str(p.relative_to(here)): p.read_bytes() for p in sorted(here.rglob("*")) if p.is_file()}


# What it computes --------------------------------------------------------------------------------------------------------------------


def test_every_number_is_the_closed_forms_and_nothing_is_done_twice(inside: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = conducted(Quadratic((1, 2)), tmp_path / "s")
    assert len(found) == 8 and [r["value"] for r in found] == pytest.approx([known(r) for r in found])
    assert not list((tmp_path / "s" / "state").iterdir())
    monkeypatch.setattr(Quadratic, "do", None)
    assert conducted(Quadratic((1, 2)), tmp_path / "s") == found
    monkeypatch.undo()
    assert study.held(tmp_path / "s", KIND) is not None


def test_seeds_that_come_later_are_added(inside: list[str], tmp_path: Path):
    first = conducted(Quadratic((1,)), tmp_path / "s")
    assert conducted(Quadratic((1, 2)), tmp_path / "s")[: len(first)] == first


def timeless_models(found: list[records.Record]) -> list[records.Record]:
    return sorted(
        ({**r, "seconds": 0, "measuring": 0} for r in found), key=lambda r: (r["kind"], r["set"], r.get("seed", 0), r.get("id", ""))
    )


def test_a_sweep_that_grew_has_the_models_of_a_fresh_one(inside: list[str], tmp_path: Path):
    few, many = replace(TINY, seeds=(7, 0), arms=("plain", "shortcut")), replace(TINY, seeds=(7, 0, 2), arms=("plain", "shortcut"))
    first = conducted(Sweep("toy", few), tmp_path / "grown")
    grown = conducted(Sweep("toy", many), tmp_path / "grown")
    assert all(record in grown for record in first)  # to the second that it took: nothing is made twice
    assert timeless_models(grown) == timeless_models(conducted(Sweep("toy", many), tmp_path / "fresh"))
    about = [json.loads((tmp_path / name / "sweep.json").read_text()) for name in ("grown", "fresh")]
    assert about[0] == about[1] and about[0]["settings"]["seeds"] == [7, 0, 2]
    conducted(Sweep("toy", replace(few, seeds=(0,))), tmp_path / "grown")
    assert json.loads((tmp_path / "grown" / "sweep.json").read_text()) == about[0]  # fewer seeds take none away
    assert "holds a study with --updates 4, now 5" in refused(Sweep("toy", replace(many, steps=5)), tmp_path / "grown")


@pytest.mark.parametrize("after", range(8))
def test_a_stop_loses_nothing(after: int, inside: list[str], tmp_path: Path):
    straight = conducted(Quadratic((1,)), tmp_path / "straight")
    inside += ["SIGINT", *[""] * after]
    with pytest.raises(UserError, match="nothing is lost: the same command goes on"):
        conducted(Quadratic((1,)), tmp_path / "s")
    assert sorted(conducted(Quadratic((1,)), tmp_path / "s"), key=str) == sorted(straight, key=str)


def test_the_board_counts_what_was_resumed_as_no_work_of_this_start(tmp_path: Path):
    board = pool.Board(Quadratic((1, 2)), [Job("flat", 1)])
    assert (board.bar.pace.total, board.done) == (32, 24)
    said = [("resumed", 4.0), ("steps", 2.0), ("best", "flat", "beta 0.1", 3.0), ("best", "flat", "beta 0.5", 2.0)]
    board.read(SimpleNamespace(get_nowait=lambda: said.pop(0) if said else empty()))
    assert (board.done, board.bar.pace.begun) == (30, 28) and str(board._best()).split() == ["flat", "2.0000", "beta", "0.5"]


def empty() -> None:
    import queue

    raise queue.Empty


# Kills -------------------------------------------------------------------------------------------------------------------------------


def timeless(found: list[records.Record]) -> list[records.Record]:
    return [{name: value for name, value in record.items() if name not in ("seconds", "measuring")} for record in found]


@pytest.mark.parametrize(
    ("asked", "stride"),
    [(Quadratic((1,), steps=1), 1), (Sweep("toy", TINY), 3), pytest.param(Sweep("toy", TINY), 1, marks=pytest.mark.slow)],
    ids=["quadratic", "toy", "toy, all"],
)
def test_killed_at_every_operation_on_a_file_a_study_goes_on(
    asked: study.Study, stride: int, inside: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    straight = tmp_path / "straight"
    count = Fate(2**30)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "before", count)
        expected = timeless(conducted(asked, straight))
    names = sorted(contents(straight))
    assert count.done > 40
    made: dict[str, Any] = {}
    law = jobs.describe
    monkeypatch.setattr(jobs, "describe", lambda name, settings: made.setdefault(name, law(name, settings)))  # the same each time, and slow
    kills = set()
    for at in range(0, count.done, stride):
        fate, here = Fate(at), tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "before", fate)
            with pytest.raises(Killed):
                conducted(asked, here)
        kills.add(fate.what.split()[0])
        assert sorted(timeless(conducted(asked, here)), key=str) == sorted(expected, key=str), fate.what
        assert sorted(contents(here)) == names, fate.what
        shutil.rmtree(here)
    every = {"make", "lock", "create", "write", "sync", "rename", "remove"}
    assert len(kills) > 4 and (stride > 1 or kills >= every)


@pytest.mark.slow
def test_a_study_of_images_killed_at_operations_on_files_goes_on(
    inside: list[str], cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every fifth of some hundred: training's own are killed one by one in test_kills."""
    network = NetworkConfig(options={"patch": 4, "width": 8, "depth": 1, "heads": 1})
    config = replace(Config(), network=network, run=replace(Config().run, samples=32, batch=16, device="cpu"))
    sizes = Sizes(count=64, steps=(1,), rows=64, times=2, rows_at=16)
    asked = Images(config, arms(["beta@0"]), (0,), 2, sizes, {}, rows=cache.path)

    def numbers(here: Path) -> list[records.Record]:
        return timeless(conducted(asked, here))

    count = Fate(2**30)
    numbers(tmp_path / "first")  # which keeps the statistics of the data beside them
    with monkeypatch.context() as patch:
        patch.setattr(disk, "before", count)
        expected = numbers(tmp_path / "straight")
    assert [record["seen"] for record in expected] == [16, 32]
    for at in range(0, count.done, 5):
        fate, here = Fate(at), tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr(disk, "before", fate)
            with pytest.raises(Killed):
                conducted(asked, here)
        assert numbers(here) == expected, fate.what
        shutil.rmtree(here)


# Folders -----------------------------------------------------------------------------------------------------------------------------


def refused(asked: study.Study, here: Path) -> str:
    """The one line of a refusal that leaves the folder as it is."""
    before = contents(here)
    with pytest.raises(UserError) as mistake:
        conducted(asked, here)
    assert contents(here) == before and "\n" not in str(mistake.value) and str(here) in str(mistake.value) and mistake.value.code != 0
    return str(mistake.value)


def test_a_folder_belongs_to_one_study_of_one_kind_and_version(inside: list[str], tmp_path: Path):
    here, sweep = tmp_path / "s", Sweep("toy", TINY)
    conducted(Quadratic((1,)), here)
    assert "holds a study with --betas 0.1 0.5, now 0.9" in refused(Quadratic((1,), betas=(0.9,)), here)
    assert "holds a study with --steps 4, now 5" in refused(Quadratic((1,), steps=5), here)
    assert "is of a study 'quadratic', which no workload here makes" in refused(sweep, here)  # it is a test's
    about = json.loads((here / "study.json").read_text())
    for change, told in (
        ({"version": 2}, "is of version 2, and this program reads 1: use a newer meanstep"),
        ({"study": "latents"}, "holds the study 'latents', not quadratic"),
        ({"lines": 3}, "is damaged: it holds no lines"),
        ({"lines": [{"arm": "x"}]}, "is damaged: it holds no line with 'beta'"),
        ({"settings": None}, "is damaged: it holds no settings"),
    ):
        (here / "study.json").write_text(json.dumps(about | change))
        assert told in refused(Quadratic((1,)), here)
    for damaged in ("[]", "{", "null", "[" * 100_000):
        (here / "study.json").write_text(damaged)
        assert "is damaged" in refused(Quadratic((1,)), here)


def test_each_workload_refuses_the_others_folders(inside: list[str], tmp_path: Path):
    images = Images(Config(), (), (0,), 1, Sizes(), {})
    sweep, other = tmp_path / "sweep", tmp_path / "images"
    shutil.copytree(STUDIES / "plane" / "records" / "base", sweep)
    shutil.copytree(STUDIES / "latents" / "records" / "digits", other)
    assert "holds a study of toy or mixtures, not latents" in refused(images, sweep)
    assert "holds a study of toy or mixtures, not quadratic" in refused(Quadratic((1,)), sweep)
    assert "holds a study of latents, not toy" in refused(Sweep("toy", TINY), other)
    assert "holds the study 'latents', not quadratic" in refused(Quadratic((1,)), other)
    assert "holds the study 'toy', not 'mixtures'" in refused(Sweep("mixtures", TINY), sweep)


def test_something_else_is_left_alone(inside: list[str], tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    assert "is not empty and holds no study" in refused(Quadratic((1,)), tmp_path)


def test_a_second_process_is_told_to_wait(inside: list[str], tmp_path: Path):
    conducted(Quadratic((1,)), tmp_path / "s")
    with folder.claimed(tmp_path / "s", Quadratic((1,))):
        assert "another process is at work" in refused(Quadratic((1,)), tmp_path / "s")


def test_without_a_name_a_study_has_a_folder_of_its_own(inside: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "runs" / "toy"
    few, many, more = Quadratic((1,)), Quadratic((1,), steps=5), Quadratic((1,), steps=6)
    assert folder.chosen(tmp_path / "named", root, few) == tmp_path / "named"
    for asked, name in ((few, "toy"), (many, "toy-2"), (more, "toy-3"), (few, "toy"), (many, "toy-2")):
        place = folder.chosen(None, root, asked)
        assert place.name == name
        conducted(asked, place)
    assert "holds a study with --steps 4, now 5: this study is in" in " ".join(capsys.readouterr().err.split())


def test_the_sets_and_points_of_ones_own_have_a_folder_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root, own = tmp_path / "runs" / "toy", replace(TINY, points="mine.csv", digest="0" * 64)
    for settings, name in ((TINY, "toy"), (own, "toy-2"), (TINY, "toy"), (own, "toy-2")):
        sweep = Sweep("toy", settings)
        with folder.claimed(folder.chosen(None, root, sweep), sweep) as place:
            folder.note(place, sweep, "cpu")
        assert place == root.with_name(name).resolve()
    assert "runs/toy holds a study with" in "".join(capsys.readouterr().err.split("\n"))
    moved = Sweep("toy", replace(own, points="elsewhere/mine.csv"))
    assert (
        folder.chosen(None, root, moved).name == "toy-2"
        and folder.chosen(None, root, Sweep("toy", replace(own, digest="1" * 64))).name == "toy-3"
    )


def test_a_study_that_goes_on_elsewhere_says_so(inside: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def under(version: str, asked: Quadratic, command: str) -> list[tuple[str, str]]:
        monkeypatch.setattr(folder, "environment", lambda device: {"meanstep": version, "device": device, "command": command})
        conducted(asked, tmp_path / "s")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(study, "kinds", lambda found=(*study.kinds(), KIND): found)
            return prose.environment(results.Results.read(tmp_path / "s"))

    assert under("0.1", Quadratic((1,)), "a") == under("0.1", Quadratic((1, 2)), "b") == [("meanstep", "0.1"), ("device", "cpu")]
    assert under("0.2", Quadratic((1, 2)), "b") == [("meanstep", "0.1"), ("device", "cpu")], "nothing was left to do"
    assert under("0.2", Quadratic((1, 2, 3)), "c") == [("meanstep", "0.1, 0.2"), ("device", "cpu")]
    assert under("0.1", Quadratic((1, 2, 3, 4)), "d") == [("meanstep", "0.1, 0.2"), ("device", "cpu")]
    assert sorted(path.name for path in (tmp_path / "s").glob("env*")) == ["env-2.json", "env.json"]
    assert "made by one version on one machine: meanstep 0.1, 0.2." in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")


def test_damaged_records_are_named(inside: list[str], tmp_path: Path):
    conducted(Quadratic((1,)), tmp_path)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    for damaged in ("{", "[]", "3", '{"kind": "other"}', '{"kind": "model", "set": "flat", "seed": "x", "id": "a", "value": 1}'):
        (tmp_path / "records.jsonl").write_text("\n".join([lines[0], damaged, *lines[1:]]) + "\n")
        assert "records.jsonl, line 2 is damaged" in refused(Quadratic((1,)), tmp_path)
    (tmp_path / "records.jsonl").write_text("\n".join([*lines[:-1], lines[-1][:20]]))  # a kill's
    assert len(conducted(Quadratic((1,)), tmp_path)) == len(lines)


# Folders that there are --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(p.parent for p in STUDIES.glob("*/records/*/s*.json")), ids=lambda p: f"{p.parts[-3]}-{p.name}")
def test_folders_of_before_are_read(path: Path):
    found = study.read(path)
    assert found.kind in (POINTS, IMAGES) and found.name in found.kind.studies
    assert found.lines and found.seeds and found.sets
    assert len({line.id for line in found.lines}) <= len(found.lines) and all(
        line.beta is None or 0 <= line.beta <= 1 for line in found.lines
    )


def test_the_settings_of_before_are_those_of_now():
    """The same command would go on in a folder that is published."""
    found = study.read(STUDIES / "plane" / "records" / "base")
    settings = Settings(**{name: tuple(x) if isinstance(x, list) else x for name, x in found.settings.items()})
    assert folder.examined(STUDIES / "plane" / "records" / "base", Sweep(found.name, settings)) == found.about
    assert Sweep(found.name, settings).described()["lines"] == found.about["lines"]


# Without another change --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_workload_is_a_folder_and_no_other_change(tmp_path: Path):
    """A copy of the package with one more folder in it has one more command, which works, with real workers."""
    package = Path(meanstep.__file__).parent
    shutil.copytree(package, tmp_path / "meanstep", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(HERE / "quadratic", tmp_path / "meanstep" / "program" / "reproduce" / "quadratic")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def called(*words: str) -> str:
        command = [sys.executable, "-m", "meanstep", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Gradient descent on a parabola." in called("reproduce", "--help")
    assert "report: runs/quadratic/report.html" in called("reproduce", "quadratic").replace(f"{tmp_path}/", "")
    assert "runs/quadratic-2" in called("reproduce", "quadratic", "--steps", "7")
    for name, steps in (("quadratic", 4), ("quadratic-2", 7)):
        found = records.load(tmp_path / "runs" / name, KIND)
        assert len(found) == 8 and [r["value"] for r in found] == pytest.approx([known(r, steps) for r in found])
        by = {(r["set"], r["id"], str(r["seed"])): r["value"] for r in found}
        rows = list(csv.DictReader((tmp_path / "runs" / name / "summary.csv").read_text().splitlines()))
        assert [float(x) for row in rows for x in row["values"].split()] == [
            by[r["set"], r["id"], n] for r in rows for n in r["seeds"].split()
        ]
        assert len(rows) == 4 and all(float(row["mean"]) == pytest.approx(sum(map(float, row["values"].split())) / 2) for row in rows)
        text = (tmp_path / "runs" / name / "report.html").read_text()
        assert text.count('id="claim-arrives"') == 1 and 'class="badge fails"' in text and text.count("<tr data-metric") == 4
        assert 'src="data:image/png' in text and (tmp_path / "runs" / name / "figures" / "values.png").read_bytes()[:4] == b"\x89PNG"
    assert "report.html" in called("report", "runs/quadratic")
    measured = "from pathlib import Path; from meanstep.program.reproduce.report.page import measured as m"
    said = "print([(q.metric, q.set, q.line.beta, q.change.n) for q in m(Path('runs/quadratic'))][0])"
    command = [sys.executable, "-c", f"{measured}; {said}"]
    assert (
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
        == "('value', 'flat', 0.1, 2)\n"
    )
