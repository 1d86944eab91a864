"""`meanstep reproduce latents`: arms, what they cost, common random numbers, going on after kills, and every mistake in one line."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meanstep.program.console import UserError
from meanstep.program.data import Cache, ensure
from meanstep.program.reproduce.folder import note
from meanstep.program.reproduce.images import KIND, jobs
from meanstep.program.reproduce.images.arms import GROUPS, SINGLES, arms, from_yaml
from meanstep.program.reproduce.images.command import Latents
from meanstep.program.reproduce.images.compute import counted
from meanstep.program.reproduce.images.settings import Compute, Job, Sizes
from meanstep.program.reproduce.images.study import Study, completed
from meanstep.program.reproduce.study import held
from meanstep.program.runs.config import Config, NetworkConfig
from meanstep.program.training.events import progress
from meanstep.program.training.loop import Failure
from meanstep.program.training.presets import PRESETS
from meanstep.program.training.ranks import Ranks

from .conftest import PLAIN, stay_home
from .damages import BOMB
from .studied import call, measured

SIZES = "--measure.count 64 --measure.rows 64 --measure.rows-at 16 --measure.times 2 --measure.steps 1 2"
NET = "--network.width 16 --network.depth 1 --network.heads 2 --batch 16"
FIXED = f"reproduce latents {SIZES} {NET} --samples 256 --moments 2".split()
WORDS = [*FIXED, "--seeds", "0:2", "--arms", "beta@0", "rising"]
ONE = [*FIXED, "--seeds", "0", "--arms"]
ALONE = Ranks(0, 1, torch.device("cpu"))
TINY = NetworkConfig(options={"patch": 4, "width": 16, "depth": 1, "heads": 2})
DIGITS = PRESETS["digits"].config
BASE = replace(DIGITS, network=TINY, optimiser=replace(DIGITS.optimiser, schedule="constant"))


@pytest.fixture(scope="module")
def study(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms and two seeds. In this process: the study that is stopped below has processes of its own, and the same numbers."""
    out = tmp_path_factory.mktemp("study") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        stay_home(patch)
        call(*WORDS, "--out", str(out))
    return out


def planned(*names: str, config: Config = BASE, seeds: tuple[int, ...] = (0, 1, 2), **compute: Compute) -> Study:
    return Study(config, arms(names), seeds, 4, Sizes(), compute)


# Arms --------------------------------------------------------------------------------------------------------------------------------


def test_groups_are_arms_each_once():
    found = [arm.name for arm in arms(["constants", "beta@0.50", "anchors", "rising", "constants"])]
    assert found == [*GROUPS["constants"], *GROUPS["anchors"], "rising"]


@pytest.mark.parametrize("name", [*SINGLES, *(name for group in GROUPS.values() for name in group), "own@0.3", "posterior-both@1"])
def test_every_arm_can_be_counted(name: str, cache: Cache):
    (arm,) = arms([name])
    cost = counted(replace(BASE, method=arm.of(BASE.method)), cache)
    assert cost.forwards >= cost.backwards - cost.tangents >= 0 and cost.backwards >= 1


HALF = BASE.method.options["diagonal_share"]


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("beta@0", (1, 1, 1 - HALF)),
        ("beta@0.5", (1 + 1 - HALF, 1, 1 - HALF)),  # the EMA copy on rows with r < t
        ("beta@1", (1 + 1 - HALF, 1, 1 - HALF)),
        ("anchored@1", (1.25 + 1 - HALF, 1.25, 1 - HALF)),
        ("posterior@1", (1, 1, 1 - HALF)),
        ("falling-half", (1 + (1 - HALF) / 2, 1, 1 - HALF)),
        ("flow_matching", (1, 1, 0)),
        ("running", (1 + 1 - HALF + 64 / 16 / 128, 1, 1 - HALF + 32 / 16 / 128)),  # 32 rows by the copy and by a derivative, every 16 steps
        ("terminal_velocity", (3, 3, 1)),  # its derivative is passed backward too
        ("shortcut", (1.25, 1, 0)),
    ],
)
def test_what_a_step_costs_in_closed_form(name: str, cost: tuple[float, ...], cache: Cache):
    (arm,) = arms([name])
    assert counted(replace(BASE, method=arm.of(BASE.method)), cache) == Compute(*map(pytest.approx, cost))


def test_a_head_is_counted_with_the_pass_that_it_is_read_off(cache: Cache):
    headed = replace(BASE, network=replace(TINY, options=TINY.options | {"head": True}))
    method = replace(BASE.method, recipe="improved_meanflow", options={"times": "uniform", "diagonal_share": HALF})
    apart = counted(replace(headed, method=replace(method, options=method.options | {"proxy": "own"})), cache)
    assert counted(replace(headed, method=method), cache) == apart == Compute(2 - HALF, 1, 1 - HALF)


def test_an_arm_takes_of_the_study_what_its_recipe_knows():
    base = replace(BASE.method, options={"times": "uniform", "diagonal_share": 0.25, "power": 0.5}, dropout=0.2)
    (beta, tvm) = arms(["beta@0.5", "terminal_velocity"])
    assert beta.of(base).options == base.options | {"beta": 0.5, "anchor": 0.0}
    assert tvm.of(base).options == {"times": "uniform"} and tvm.of(base).proxy_decay == 0.99 and tvm.of(base).dropout == 0.2


def test_arms_of_ones_own():
    own = from_yaml("late: {options: {beta: {over_t: [0, 1, 8]}, anchor: 0}, proxy_decay: 0.9, about: near t = 1}", "mine.yaml")
    (arm,) = arms(["late"], own)
    assert arm.about == "near t = 1" and arm.of(BASE.method).proxy_decay == 0.9 and arm.recipe == "coefficient"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "no YAML"),
        (f"late: {{recipe: coefficient, options: {BOMB}}}", "its aliases make more than 100,000 values"),
        ("late: &a {options: *a}", "an alias stands inside of what it repeats"),
        ("late: {about: !!int abc}", "no YAML"),
        ("[]", "expected entries"),
        ("late: 3", "late: expected entries"),
        ("late: {opts: {}}", "there is no entry 'opts'"),
        ("rising: {}", "the name of an arm is new"),
        ("'a/b': {}", "made of letters"),
        ("late: {recipe: mean}", "there is no recipe 'mean'"),
        ("late: {references: lots}", "late, method, references: a whole number, got 'lots'"),
    ],
)
def test_a_mistake_in_the_file_of_arms(text: str, told: str):
    with pytest.raises(UserError, match=told):
        for arm in from_yaml(text, "mine.yaml").values():
            arm.of(BASE.method)


# Equal compute -----------------------------------------------------------------------------------------------------------------------


def test_constants_train_on_to_where_dearer_arms_can_be_met():
    costs = {"beta@0": Compute(1, 1, 0.5), "rising": Compute(1.5, 1, 0.5), "terminal_velocity": Compute(3, 3, 1)}
    whole = planned("beta@0", "rising", "terminal_velocity", **costs)
    zero, rising, tvm = whole.arms
    end = whole.moments * whole.spacing
    assert whole.samples(rising) == whole.samples(tvm) == end
    assert whole.samples(zero) * 3.5 >= end * 4.0 > (whole.samples(zero) - whole.spacing) * 3.5  # the dearest within reach, no more
    cosine = replace(BASE, optimiser=replace(BASE.optimiser, schedule="cosine"))
    assert planned("beta@0", "rising", config=cosine, **costs).samples(zero) == end  # a rate that falls has one end


def test_a_mistake_inside_an_arm_names_the_arm(cache: Cache, tmp_path: Path):
    own = from_yaml("twice: {options: {beta: 2}}", "mine.yaml")
    with pytest.raises(UserError, match=r"the arm twice: recipe coefficient: beta must lie in \[0, 1\], got 2"):
        completed(replace(planned("beta@0"), arms=arms(["twice"], own)), None, cache, tmp_path)


def test_a_dearer_arm_makes_the_constants_longer(cache: Cache, tmp_path: Path):
    def whole(asked: Study, *runs: tuple[str, int]) -> Study:
        before = held(tmp_path, KIND) or {}
        asked_so_far = {*runs, *map(tuple, before.get("asked", []))}
        found = replace(completed(asked, before or None, cache, tmp_path), floor={"1": 0.1}, asked=tuple(asked_so_far))
        note(tmp_path, found, "cpu")
        return found

    first = whole(planned("beta@0"), ("beta@0", 0))
    second = whole(planned("anchored@0", "rising", seeds=(7,)), ("rising", 7))
    assert [arm.name for arm in second.arms] == ["beta@0", "anchored@0", "rising"] and second.seeds == (0, 1, 2, 7)
    assert second.samples(second.arms[0]) > first.samples(first.arms[0])
    assert json.loads((tmp_path / "study.json").read_text())["asked"] == [["beta@0", 0], ["rising", 7]]
    other = replace(cache, manifest=replace(cache.manifest, source_digest="0" * 64))
    with pytest.raises(UserError, match="holds a study on other data"):
        completed(planned("beta@0"), held(tmp_path, KIND), other, tmp_path)


# The study ---------------------------------------------------------------------------------------------------------------------------


def test_every_run_is_measured_at_every_moment(study: Path):
    about, found = json.loads((study / "study.json").read_text()), measured(study)
    assert set(found) == {"beta@0-0", "beta@0-1", "rising-0", "rising-1"} and about["moments"] == [128, 256]
    samples = {arm["name"]: arm["samples"] for arm in about["arms"]}
    for name, records in found.items():
        assert [r["seen"] for r in records] == list(range(128, samples[name.rpartition("-")[0]] + 1, 128))
        assert all(set(r["distance"]) == {"raw", "ema"} and r["error"]["data"]["value"] for r in records)
        assert (study / "samples" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert [r["beta"] for r in found["rising-0"]] == pytest.approx([0.5, 1.0])
    assert about["floor"]["1"] > 0 and (study / "report.html").stat().st_size > 10_000


def test_the_same_command_again_trains_nothing(study: Path, capsys: pytest.CaptureFixture[str]):
    before = {p: p.stat().st_mtime_ns for p in study.glob("runs/*/*.jsonl")}
    assert call(*WORDS, "--out", str(study)) == 0
    assert {p: p.stat().st_mtime_ns for p in study.glob("runs/*/*.jsonl")} == before and "report:" in capsys.readouterr().out


def test_a_packed_study_is_the_same_study(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    packs = runpy.run_path(str(Path(__file__).parents[2] / "studies" / "packs.py"))
    packs["pack"](study, tmp_path / "pack")
    assert {path.name for path in (tmp_path / "pack").iterdir()} == {"study.json", "env.json", "records.jsonl.gz"}
    assert not any(str(tmp_path.parent) in path.read_text() for path in (tmp_path / "pack").glob("*.json"))
    again = packs["unpack"](tmp_path / "pack", tmp_path / "again")
    known, found = measured(study), measured(again)
    assert found.keys() == known.keys()
    for name, records in known.items():
        for record, other in zip(records, found[name], strict=True):
            assert other["distance"]["ema"]["1"] == pytest.approx(record["distance"]["ema"]["1"], rel=1e-8)
            assert (other["kind"], other["seen"], other["beta"]) == (record["kind"], record["seen"], record["beta"])
    before = {p: p.stat().st_mtime_ns for p in again.glob("runs/*/*.jsonl")}
    assert call(*WORDS, "--out", str(again)) == 0  # and what was measured is not made again
    assert {p: p.stat().st_mtime_ns for p in again.glob("runs/*/*")} == before and "report:" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds no study"):
        packs["pack"](tmp_path, tmp_path / "none")
    shutil.copytree(study, tmp_path / "fewer", ignore=shutil.ignore_patterns("rising-0", "records.jsonl"))
    kept = (tmp_path / "pack" / "records.jsonl.gz").read_bytes()
    with pytest.raises(SystemExit, match=r"has \d+ records that .*fewer lacks \(rising 0 \d+\)"):  # it would be lost
        packs["pack"](tmp_path / "fewer", tmp_path / "pack")
    assert (tmp_path / "pack" / "records.jsonl.gz").read_bytes() == kept
    with pytest.raises(SystemExit, match="again exists"):
        packs["unpack"](tmp_path / "pack", again)


def test_the_contrasts_of_a_study_are_those_of_its_records_and_a_folder_that_is_read_stays_as_it_is(tmp_path: Path):
    """Another process may write there: it holds a lock."""
    dit = Path(__file__).parents[2] / "studies" / "paper" / "dit"
    packs, script = (runpy.run_path(str(path)) for path in (dit.parents[1] / "packs.py", dit / "contrasts.py"))
    run = packs["unpack"](dit / "records" / "cifar-uniform", tmp_path / "cifar-uniform")
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    said = (dit / "results.md").read_text(encoding="utf-8")
    assert script["ended"](run) and script["told"](run) in said and said.endswith(script["times"]())
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("--out /home/me/out/toys", "--out toys"),
        ("--out=/home/me/toys", "--out=toys"),
        ("/home/me/rows.npz:joints", "rows.npz:joints"),
        ("~/data/cifar/latents", "latents"),
        ("out/dit/cifar-latents", "out/dit/cifar-latents"),
        ("hub:org/name/sub", "hub:org/name/sub"),
        ("https://example.org/a/b", "https://example.org/a/b"),
    ],
)
def test_a_pack_keeps_the_last_name_of_a_path_of_the_machine_and_the_rest_as_it_is(said: str, kept: str):
    packs = runpy.run_path(str(Path(__file__).parents[2] / "studies" / "packs.py"))
    assert packs["ELSEWHERE"].sub(r"\1", f'"{said}"') == f'"{kept}"'


@pytest.mark.slow
def test_parts_on_one_process_measure_the_same_to_the_bit(study: Path, tmp_path: Path):
    for part in ("2/2", "1/2"):
        assert call(*WORDS, "--workers", "1", "--part", part, "--out", str(tmp_path / "parts")) == 0
        if part == "2/2":
            assert len(measured(tmp_path / "parts")) == 2
    assert measured(tmp_path / "parts") == measured(study)


@pytest.mark.usefixtures("at_home")
def test_arms_of_a_seed_share_everything_but_the_method(study: Path, tmp_path: Path):
    """A schedule that stays at 0 is beta@0, and MeanFlow is too."""
    file = tmp_path / "mine.yaml"
    file.write_text("still: {options: {beta: {linear: [0, 0]}, anchor: 0}}\nplain: {recipe: meanflow}\n")
    assert call(*ONE, "still", "plain", "--arms-file", str(file), "--out", str(tmp_path / "mine")) == 0
    found, like = measured(tmp_path / "mine"), measured(study)["beta@0-0"]
    for name in ("still-0", "plain-0"):
        assert [r["distance"]["ema"] for r in found[name]] == [r["distance"]["ema"] for r in like[:2]]


def stopped(out: Path, kind: int) -> int:
    """Start the study, signal its whole group once it has measured something, and return its exit code."""
    process = subprocess.Popen([*PLAIN, *WORDS, "--workers", "2", "--out", str(out)], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(measured(out).values()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, kind)
    return process.wait(timeout=120)


@pytest.mark.slow  # one interruption is always tested: of the toys, which have the same engine
@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9), (signal.SIGUSR1, 138)])
@pytest.mark.usefixtures("at_home")
def test_a_study_that_was_stopped_goes_on_with_the_same_numbers(kind: int, code: int, study: Path, tmp_path: Path):
    assert stopped(tmp_path / "again", kind) == code
    if kind != signal.SIGKILL:
        begun = [name for name, moments in measured(tmp_path / "again").items() if moments]  # another may not have made a step yet
        assert begun and all(any((tmp_path / "again" / "runs" / name).glob("checkpoints/*/state.json")) for name in begun)  # saved
    for _ in range(40):  # workers that lost their parent save and end
        if call(*WORDS, "--workers", "2", "--out", str(tmp_path / "again")) == 0 and measured(tmp_path / "again") == measured(study):
            return
        time.sleep(1)
    assert measured(tmp_path / "again") == measured(study)


@pytest.mark.usefixtures("at_home")
def test_a_run_that_breaks_off_is_noted_and_the_others_go_on(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "mine.yaml"
    file.write_text("broken: {recipe: coefficient, options: {beta: 0, anchor: 1.0e+38, delta: [0, 0.001]}}\n")
    out = tmp_path / "study"
    assert call(*ONE, "broken", "beta@0", "--arms-file", str(file), "--workers", "2", "--out", str(out)) == 1
    assert "broken-0: its loss was not finite" in capsys.readouterr().out
    assert [r["kind"] for r in measured(out)["broken-0"]] == ["failure"] and len(measured(out)["beta@0-0"]) >= 2
    assert call(*ONE, "broken", "beta@0", "--arms-file", str(file), "--out", str(out)) == 1  # it would break off again, and is not tried


def test_a_run_that_breaks_off_later_keeps_what_was_measured(study: Path, tmp_path: Path):
    shutil.copytree(study, tmp_path / "study")
    place = tmp_path / "study" / "runs" / "rising-0"
    job = Job(arms(["rising"])[0], 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "train", fails)
        config = Latents.parse(["--out", str(tmp_path / "study")])
        whole = completed(config.study(), held(tmp_path / "study", KIND), ensure("digits"), tmp_path / "study")
        kept = (place / "measures.jsonl").read_text()
        assert jobs.work(job, whole, tmp_path / "study", ensure("digits"), ALONE, progress) == ("failed", 0)
    lines = (place / "measures.jsonl").read_text().splitlines()
    assert "\n".join(lines[:-1]) == kept.strip() and json.loads(lines[-1])["kind"] == "failure" and json.loads(lines[-1])["seen"] == 256
    assert jobs.work(job, whole, tmp_path / "study", ensure("digits"), ALONE, progress) == ("failed", 0)  # not tried again
    assert len((place / "measures.jsonl").read_text().splitlines()) == len(lines)


def fails(*args: Any) -> None:
    raise Failure("no number")


@pytest.mark.slow
def test_two_ranks_do_what_one_does(study: Path, tmp_path: Path):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "meanstep"]
    words = [*WORDS, "--chunk", "8", "--device", "cpu"]
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert call(*words, "--out", str(alone)) == 0
    subprocess.run([*run, *words, "--out", str(both)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    for name, records in measured(alone).items():
        for one, two in zip(records, measured(both)[name], strict=True):
            assert two["distance"]["ema"]["1"] == pytest.approx(one["distance"]["ema"]["1"], rel=1e-3)


# Mistakes ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--arms beta", "there is no arm 'beta'; did you mean beta@BETA?"),
        ("--arms schedule", "did you mean schedules?"),
        ("--arms beta@1.5", "the coefficient lies in \\[0, 1\\], got '1.5'"),
        ("--arms beta@x", "the coefficient lies in \\[0, 1\\], got 'x'"),
        ("--arms-file nowhere.yaml", "--arms-file: cannot read nowhere.yaml"),
        ("--seeds -1", "--seeds: 0:64 \\(without 64\\), 3,5,8 or 0:4,7, from 0 on, got '-1'"),
        ("--moments 0", "--moments: at least 1 and at most 1000, got 0"),
        ("--moments 99", "--moments: at most one a step, and 128 samples are 1 steps, got 99"),
        ("--part 3/2", "--part: K/N with 1 <= K <= N"),
        ("--workers 0", "--workers: at least 1 and at most 4096, got 0"),
        ("--measure.steps 2 4", "--measure.steps: 1 and whatever else, got 2 4"),
        ("--measure.count 3", "--measure.count: at least 64, got 3"),
        ("--extractor inceptoin", "there is no extractor 'inceptoin'; did you mean"),
        ("--extractor efficientnet-lite0", "needs its weights"),
        ("--network.patch 3", "patch"),
        ("--data.source nowhere", "nowhere"),
        ("--preset digit", "there is no preset 'digit'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words: str, told: str, cache: Cache, tmp_path: Path):
    moments = [] if "--moments" in words else ["--moments", "1"]
    asked = ["--samples", "128", *moments, "--out", str(tmp_path / "study"), *words.split()]
    with pytest.raises(UserError, match=told) as mistake:
        Latents.parse(asked).run()
    assert "\n" not in str(mistake.value) and not (tmp_path / "study" / "runs").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--moments", "3"], "holds a study with --moments 2, now 3"),
        (["--network.width", "32"], "holds a study with --network.width 16, now 32"),
        (["--measure.count", "128"], "holds a study with --measure.count 64, now 128"),
    ],
)
def test_a_folder_belongs_to_one_study(change: list[str], told: str, study: Path):
    with pytest.raises(UserError, match=told):
        at = WORDS.index(change[0])
        Latents.parse([*WORDS[2:at], *change, *WORDS[at + 2 :], "--out", str(study)]).run()


def test_a_folder_that_holds_something_else(cache: Cache, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no study"):
        Latents.parse([*WORDS[2:], "--out", str(tmp_path)]).run()
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        Latents.parse([*WORDS[2:], "--out", str(tmp_path)]).run()


@pytest.mark.usefixtures("at_home")
def test_few_seeds_are_told_what_they_cannot_see(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert call(*ONE, "beta@0", "--out", str(tmp_path / "one")) == 0
    assert "one seed: differences have no interval" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert call(*WORDS, "--dry-run", "--out", str(tmp_path / "study")) == 0
    said = capsys.readouterr().out
    assert "3.50" in said and "4 of 4 runs are left" in said and not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("part", "workers", "left"),
    [("1/2", "4", "2 of 2 runs are left"), ("4/4", "8", "1 of 1 runs are left"), ("5/5", "1", "nothing is left")],
)
def test_a_dry_run_is_of_its_part_and_of_workers_that_have_a_run(
    part: str, workers: str, left: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("meanstep.program.training.estimate.a_step", lambda *a: 16.0)  # a second a row, of batches of 16
    assert call(*WORDS, "--dry-run", "--part", part, "--workers", workers, "--out", str(tmp_path / "study")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert left in said
    if "runs are left" in left:
        one, all_, n = re.search(r"takes about (.+?) of one worker here, (.+?) on (\d+);", said).groups()  # type: ignore[union-attr]
        runs = int(left[0])
        assert int(n) == runs and (one == all_) is (runs == 1)


def test_the_study_goes_on_without_its_options(study: Path):
    """The configuration is the folder's own."""
    found = Latents.parse(["--out", str(study)])
    assert found.network.options["width"] == 16 and found.run_.batch == 16 and found.optimiser.schedule == "constant"
    assert found.arms == ("beta@0", "rising") and found.seeds == (0, 1) and found.moments == 2 and found.measure.count == 64
    assert found.run() == 0
