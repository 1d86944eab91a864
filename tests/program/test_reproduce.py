"""`meanstep reproduce` from the outside: a run, a kill, a resume, and every mistake in one line."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from meanstep.cli import main
from meanstep.program.pages.form import drawn

from .conftest import PLAIN

TINY = ("--scale", "smoke", "--updates", "40", "--batch", "32", "--seeds", "0:2", "--workers", "1")
SWEEP = ("reproduce", "toy", "--sets", "two_moons", "--arms", "paper@0,1", "flow_matching", *TINY)


def code(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(args)
    return int(stop.value.code or 0)


def numbers(folder: Path) -> list[dict]:
    """The records without what a clock wrote."""
    found = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return sorted(
        ({**r, "seconds": 0, "measuring": 0} for r in found), key=lambda r: (r["kind"], r["set"], r.get("seed", 0), r.get("id", ""))
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meanstep.program.pages.form.drawn", drawn)
        assert code(*SWEEP, "--out", str(folder)) == 0
    return folder


def test_a_sweep_leaves_records_numbers_figures_and_a_report(finished: Path):
    records = numbers(finished)
    assert [r["kind"] for r in records] == ["model"] * 6 + ["set"]
    assert {(r["seed"], r["id"]) for r in records[:-1]} == {(s, i) for s in (0, 1) for i in ("beta 0", "ema 1 anchor", "flow_matching")}
    for name in ("report.html", "summary.csv", "sweep.json", "env.json", "samples/two_moons-0.npz"):
        assert (finished / name).stat().st_size > 0
    assert list((finished / "figures").glob("*.png"))
    assert not list((finished / "state").iterdir())


def test_the_same_command_again_computes_nothing(finished: Path):
    before = (finished / "records.jsonl").stat().st_mtime_ns
    assert code(*SWEEP, "--out", str(finished)) == 0
    assert (finished / "records.jsonl").stat().st_mtime_ns == before


def test_the_report_can_be_made_again(finished: Path, capsys: pytest.CaptureFixture[str]):
    (finished / "report.html").unlink()
    assert code("report", str(finished)) == 0
    assert str(finished / "report.html") in capsys.readouterr().out.replace("\n", "")
    assert (finished / "report.html").exists()


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(finished: Path, tmp_path: Path):
    args = [a if a != "1" or SWEEP[k - 1] != "--workers" else "2" for k, a in enumerate(SWEEP)]
    assert code(*args, "--out", str(tmp_path / "toy")) == 0
    assert numbers(tmp_path / "toy") == numbers(finished)


LONGER = ["900" if word == "40" else word for word in SWEEP]


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PLAIN, *LONGER, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow  # test_study.py kills a study at every operation, test_sweep.py stops and resumes this one
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("at_home")
def test_interrupted_at_any_moment_the_same_command_goes_on(how: signal.Signals, tmp_path: Path):
    broken, straight = tmp_path / "broken", tmp_path / "straight"
    run = start(broken)
    wait_for((broken / "records.jsonl").exists, 60)  # the set's own record is there, the models are training
    time.sleep(1.0)
    os.killpg(run.pid, how) if how is signal.SIGINT else os.kill(run.pid, how)  # a terminal sends Ctrl-C to the whole group
    _, err = run.communicate(timeout=60)
    if how is not signal.SIGKILL:
        assert run.returncode == 128 + how, err
        assert "Traceback" not in err and "the same command goes on" in err.replace("\n", " ")
    wait_for(lambda: gone(run.pid), 30)  # no worker stays behind
    for folder in (broken, straight):
        assert code(*LONGER, "--out", str(folder)) == 0
    assert numbers(broken) == numbers(straight)
    assert not list((broken / "state").iterdir())


@pytest.mark.slow
def test_the_readmes_two_commands_of_points_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    np.savetxt("mine.csv", np.random.default_rng(0).normal(size=(200, 3)), delimiter=",")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    commands = [line.partition("#")[0].split()[1:] for line in readme.splitlines() if line.startswith(".venv/bin/meanstep reproduce toy")]
    assert len(commands) == 2 and "--points" in commands[1]
    for command in commands:  # each in the folder that it chooses itself
        assert code(*command, "--scale", "smoke", "--workers", "2") == 0
    assert sorted(path.parent.name for path in Path("runs").glob("*/report.html")) == ["toy", "toy-2"]


@pytest.mark.slow
def test_ctrl_c_before_anything_has_started(tmp_path: Path):
    run = start(tmp_path / "toy")
    wait_for((tmp_path / "toy" / "sweep.json").exists, 60)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in err, err
    wait_for(lambda: gone(run.pid), 30)


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def gone(group: int) -> bool:
    """Whether no process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.usefixtures("at_home")
def test_a_model_that_diverges_is_reported_and_the_others_go_on(tmp_path: Path):
    assert code(*SWEEP, "--rate", "999", "--out", str(tmp_path / "toy")) == 0
    scores = [r["ema"]["sw1"]["1"] for r in numbers(tmp_path / "toy") if r["kind"] == "model"]
    assert len(scores) == 6 and None in scores
    assert "did not end with finite scores" in (tmp_path / "toy" / "report.html").read_text(encoding="utf-8")


# Mistakes ---------------------------------------------------------------------------------------------------------------------------


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert code(*args) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--sets", "moons"), ["'moons'", "two_moons", "swiss_roll"]),
        (("--arms", "papier"), ["'papier'", "paper", "posterior-both"]),
        (("--arms", "shortcut@1"), ["shortcut", "no beta"]),
        (("--arms", "paper@x"), ["'x'", "not a number"]),
        (("--betas", "0", "2"), ["[0, 1]", "got 2"]),
        (("--betas", "0,2"), ["[0, 1]", "got 2"]),
        (("--betas", "nan"), ["[0, 1]"]),
        (("--updates", "0"), ["--updates", "got 0"]),
        (("--batch", "2"), ["--batch", "got 2"]),
        (("--diagonal-share", "1"), ["--diagonal-share"]),
        (("--largest-gap", "0.01"), ["--largest-gap 0.01", "at most 50", "at least 0.02"]),
        (("--largest-gap", "0.5", "--arms", "shortcut"), ["--largest-gap 0.5", "shortcut has gaps of its own"]),
        (("--rate", "-1"), ["--rate"]),
        (("--seeds", "-3"), ["--seeds", "-3"]),
        (("--workers", "0"), ["--workers"]),
        (("--device", "tpu9"), ["--device"]),
        (("--points", "nowhere.csv"), ["nowhere.csv"]),
        (("--sets", "points"), ["'points'", "--points FILE"]),
        (("--sets", "mixture-²"), ["mixture-²"]),
        (("--sets", "mixture-1"), ["mixture-1"]),
    ],
)
def test_a_mistake_gets_one_line(args: tuple[str, ...], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    line = complaint(capsys, "reproduce", "toy", *args, "--out", str(tmp_path / "toy"))
    assert all(word in line for word in words), line
    assert not (tmp_path / "toy").exists()


def test_a_choice_that_may_be_left_out_does_not_offer_none(capsys: pytest.CaptureFixture[str]):
    line = complaint(capsys, "reproduce", "mixtures", "--centres", "moving")
    assert "one of" in line and "redrawn" in line and "fixed" in line and "None" not in line


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.array([[0.0, 1.0]] * 150 + [[np.nan, 1.0]]), ["nan"]),
        (np.zeros((200, 1)), ["1 column"]),
        (np.eye(3), ["3 rows"]),
    ],
)
def test_points_that_make_no_sense(rows: np.ndarray, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.savetxt(tmp_path / "p.csv", rows, delimiter=",")
    line = complaint(capsys, "reproduce", "toy", "--points", str(tmp_path / "p.csv"), "--out", str(tmp_path / "toy"))
    assert all(word in line for word in (*words, "p.csv")), line


def test_another_sweeps_folder_is_left_alone(finished: Path, capsys: pytest.CaptureFixture[str]):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != ".lock"}
    line = complaint(capsys, *SWEEP, "--rate", "0.01", "--out", str(finished))
    assert "holds a study with --rate 0.001, now 0.01: choose another folder with --out, or ask for the same" in line
    line = complaint(capsys, "reproduce", "mixtures", "--out", str(finished))
    assert "'toy'" in line
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "thesis.tex").write_text("x")
    assert "holds no study" in complaint(capsys, *SWEEP, "--out", str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.usefixtures("at_home")
def test_a_damaged_record_is_named_and_the_rest_is_kept(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import shutil

    copy = tmp_path / "toy"
    shutil.copytree(finished, copy)
    lines = (copy / "records.jsonl").read_text().splitlines()
    damaged = "\n".join([*lines[:2], lines[2][:100], *lines[3:]]) + "\n"
    (copy / "records.jsonl").write_text(damaged)
    line = complaint(capsys, *SWEEP, "--out", str(copy))
    assert "line 3" in line and "records.jsonl" in line
    assert (copy / "records.jsonl").read_text() == damaged
    (copy / "records.jsonl").write_text("\n".join([*lines[:2], *lines[3:]]) + "\n")
    assert code(*SWEEP, "--out", str(copy)) == 0
    assert numbers(copy) == numbers(finished)


def test_a_folder_without_a_sweep_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "sweep.json" in complaint(capsys, "report", str(tmp_path))


@pytest.mark.usefixtures("at_home")
def test_your_own_points_become_a_set(tmp_path: Path):
    np.savetxt(tmp_path / "p.csv", np.random.default_rng(0).normal(size=(400, 3)), delimiter=",", header="a,b,c", comments="")
    args = ("reproduce", "toy", "--points", str(tmp_path / "p.csv"), "--arms", "paper@1", "posterior-both@1", "oracle@1", *TINY)
    assert code(*args, "--out", str(tmp_path / "toy")) == 0
    records = numbers(tmp_path / "toy")
    assert {r["set"] for r in records} == {"points"} and records[-1]["dim"] == 3 and records[-1]["law"] is None
    with (tmp_path / "p.csv").open("a") as file:
        file.write("1,2,3\n")
    assert code(*args, "--out", str(tmp_path / "toy")) == 2  # other points under the same name


@pytest.mark.parametrize(
    ("args", "words"), [(("--dims", "0"), "--dims: at least 2 and at most 256, got 0"), (("--dims",), "--dims is empty")]
)
def test_dimensions_that_make_no_sense(args: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert words in complaint(capsys, "reproduce", "mixtures", *args, "--out", str(tmp_path / "mixtures"))
    assert not (tmp_path / "mixtures").exists()
