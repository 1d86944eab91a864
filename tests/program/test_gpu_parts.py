"""benchmarks/gpu.py: parts end in time, go on where they stopped, name what is missing, and lose nothing."""

import copy
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from .forked import running

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_parts", BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"{name}_parts"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return loaded("gpu")


def script(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


NUMBERS = {"models": 7, "batches": {}}
WRITES = "import json, sys; json.dump({'models': 7, 'batches': {}}, open(sys.argv[1] + '/out.json', 'w')); print('said')"


def test_a_job_that_is_done_is_not_made_again(gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    job = gpu.Job("sweep", "one", (*script(WRITES), "{out}"))
    found = gpu.run([job], tmp_path, 1.0, {"device": "x", "torch": "y"})
    assert found["sweep/one"]["status"] == "done" and found["sweep/one"]["numbers"] == NUMBERS
    assert (tmp_path / "sweep" / "one" / "log.txt").read_text() == "said\n"
    other = gpu.Job("sweep", "one", script("raise SystemExit(3)"))
    assert gpu.run([other], tmp_path, 1.0, {})["sweep/one"]["numbers"] == NUMBERS
    assert "done before" in capsys.readouterr().out


def test_what_fails_or_is_late_or_missing_says_why_and_the_others_run(gpu: ModuleType, tmp_path: Path):
    jobs = [
        gpu.Job("sweep", "breaks", script("print('the reason'); raise SystemExit(3)")),
        gpu.Job("sweep", "lacks", script(WRITES), needs=("no_such_module",)),
        gpu.Job("sweep", "silent", script("")),
        gpu.Job("sweep", "works", (*script(WRITES), "{out}")),
        gpu.Job("train", "hangs", (*script(WRITES + "; import time; time.sleep(60)"), "{out}")),
        gpu.Job("train", "waits", (*script(WRITES), "{out}")),
    ]
    found = gpu.run([j for j in jobs if j.part == "sweep"], tmp_path, 1.0, {})
    found = gpu.run([j for j in jobs if j.part == "train"], tmp_path, 0.1, {})
    assert {k.partition("/")[2]: r["status"] for k, r in found.items()} == {
        "breaks": "failed", "lacks": "missing", "silent": "failed", "works": "done", "hangs": "late", "waits": "late",
    }  # fmt: skip
    assert "the reason" in found["sweep/breaks"]["output"] and "no_such_module" in found["sweep/lacks"]["why"]
    assert found["train/hangs"]["numbers"] == NUMBERS  # what it had written before its time was over
    assert json.loads((tmp_path / "gpu.json").read_text())["jobs"] == found
    text = (tmp_path / "gpu.md").read_text()
    assert "sweep/lacks: missing, needs no_such_module" in text and "train/waits: late" in text


def test_numbers_that_an_earlier_call_left_are_not_this_ones(gpu: ModuleType, tmp_path: Path):
    job = gpu.Job("sweep", "x", (*script(WRITES + "; raise SystemExit(3)"), "{out}"))
    assert gpu.run([job], tmp_path, 1.0, {"device": "x", "torch": "y"})["sweep/x"]["numbers"] == NUMBERS
    breaks = gpu.Job("sweep", "x", script("raise SystemExit(4)"))
    found = gpu.run([breaks], tmp_path, 1.0, {"device": "other", "torch": "y"})["sweep/x"]
    assert found["why"] == "exit code 4" and found["numbers"] == NUMBERS and found["environment"]["device"] == "x"


def test_an_unreadable_file_lies_aside(gpu: ModuleType, tmp_path: Path):
    (tmp_path / "gpu.json").write_text("{")
    assert gpu.run([], tmp_path, 1.0, {}) == {}
    assert (tmp_path / "gpu.json.unreadable").read_text() == "{"


def test_every_job_of_a_gpu_and_of_the_toy_is_named_once(gpu: ModuleType):
    for device, data, toy in (("cuda", Path("data"), False), ("cuda", None, False), ("cpu", None, True)):
        jobs = gpu.jobs(device, data, toy)
        names = [(job.part, job.name) for job in jobs]
        assert len(set(names)) == len(names) and tuple(dict.fromkeys(part for part, _ in names)) == gpu.PARTS
        assert all(Path(part).is_file() for job in jobs for part in job.command if part.endswith(".py"))
    assert {job.name for job in gpu.jobs("cuda", None, False) if "--data" in job.wants} == {"pixels", "latents"}


@pytest.mark.parametrize(
    "output",
    [
        "tests/x.py::test_a[a b] FAILED [ 50%]\ntests/x.py::test_b PASSED [ 75%]\ntests/x.py::test_c SKIPPED (no card) [100%]\n",
        "[gw1] [ 50%] FAILED tests/x.py::test_a[a b] \n[gw0] [ 75%] PASSED tests/x.py::test_b \n[gw0] [100%] SKIPPED tests/x.py::test_c \n",
    ],
    ids=["alone", "together"],
)
def test_the_verdicts_of_pytest_are_read_as_far_as_it_came(gpu: ModuleType, tmp_path: Path, output: str):
    ends = "FAILED tests/x.py::test_a[a b] - AssertionError\nSKIPPED [1] tests/x.py:3: no card\n1 failed, 1 passed, 1 skipped in 4.00s\n"
    found = {"failed": 1, "passed": 1, "skipped": 1, "names": ["tests/x.py::test_a[a b]"]}
    assert gpu.verdicts(tmp_path, output) == gpu.verdicts(tmp_path, output + ends) == found
    assert gpu.verdicts(tmp_path, output.splitlines()[0]) == {"failed": 1, "names": ["tests/x.py::test_a[a b]"]}
    with pytest.raises(ValueError, match="nothing of a test"):
        gpu.verdicts(tmp_path, "ImportError: no module\n")


def test_a_signal_ends_the_job_at_work_and_keeps_what_it_had(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu, "STOP", threading.Event())
    hangs = gpu.Job("sweep", "hangs", (*script(WRITES + "; import time; time.sleep(60)"), "{out}"))
    after = gpu.Job("sweep", "after", (*script(WRITES), "{out}"))
    numbers = tmp_path / "sweep" / "hangs" / "out.json"

    def stop() -> None:
        while not (numbers.exists() and numbers.read_text().endswith("}}")):
            time.sleep(0.02)
        gpu.STOP.set()

    threading.Thread(target=stop, daemon=True).start()  # a job that writes nothing ends the test, not the thread
    found = gpu.run([hangs, after], tmp_path, 1.0, {})
    assert list(found) == ["sweep/hangs"] and found["sweep/hangs"]["why"] == "stopped by a signal"
    assert found["sweep/hangs"]["numbers"] == NUMBERS and found["sweep/hangs"]["seconds"] < 30


def test_a_job_ends_with_the_process_that_began_it(tmp_path: Path):
    """Even when that one is killed and can do nothing."""
    parent = f"""
import sys, time; from pathlib import Path; sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu
child = "import os, sys, time; open(sys.argv[1] + '/pid', 'w').write(str(os.getpid()) + '.'); time.sleep(60)"
gpu.make(gpu.Job("sweep", "x", (sys.executable, "-c", child, "{{out}}")), Path({str(tmp_path)!r}), 60.0)
"""
    began = subprocess.Popen(script(parent))
    mark, end = tmp_path / "sweep" / "x" / "pid", time.monotonic() + 100
    while not (mark.exists() and mark.read_text().endswith(".")) and time.monotonic() < end:
        time.sleep(0.05)
    child = mark.read_text().strip(".")
    began.kill()
    began.wait()
    while running(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(child)


def test_a_job_goes_on_from_the_one_file_and_what_it_had_is_never_lost(gpu: ModuleType, tmp_path: Path):
    """As on a machine that is given back between two calls."""
    adds = """
import json, os, sys
file = sys.argv[2] + "/out.json"
n = json.load(open(file))["models"] if os.path.exists(file) else 0
json.dump({"models": n + 1, "batches": {}}, open(file, "w"))
raise SystemExit(0 if n else 75)
"""
    job = gpu.Job("sweep", "adds", (*script(adds), "--go-on", "{out}"))
    found = gpu.run([job], tmp_path / "a", 1.0, {"device": "x", "torch": "y"})["sweep/adds"]
    assert found["status"] == "late" and found["numbers"]["models"] == 1
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "gpu.json", tmp_path / "b" / "gpu.json")
    breaks = gpu.Job("sweep", "adds", script("raise SystemExit(3)"))
    found = gpu.run([breaks], tmp_path / "b", 1.0, {"device": "other", "torch": "y"})["sweep/adds"]
    assert found["status"] == "failed" and found["numbers"]["models"] == 1 and found["environment"]["device"] == "x"
    found = gpu.run([job], tmp_path / "b", 1.0, {})["sweep/adds"]
    assert found["status"] == "done" and found["numbers"]["models"] == 2


def test_the_rows_of_a_step_come_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: ModuleType):
    """What fails has its reason, what time had no room for is left, and the next call makes that alone."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    step = loaded("step")

    def fails(error: Exception) -> object:
        def loss(x: torch.Tensor) -> torch.Tensor:
            raise error

        return step.Variant(lambda net, ema: loss, 0.0)

    def run(table: dict[str, object], seconds: float, kept: dict[str, object]) -> tuple[bool, list[dict[str, Any]]]:
        bench = step.Bench(step.CASES["toy"], torch.device("cpu"), autocast=False)
        seen: list[dict[str, Any]] = []
        return step.gone_on(bench, table, "eager", 4, seconds, kept, lambda found: seen.append(copy.deepcopy(found))), seen

    good = {name: step.EAGER[name] for name in ("flow matching", "meanflow")}
    large, wrong = fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")), fails(ValueError("no such shape\nmore"))
    table = {"flow matching": good["flow matching"], "large": large, "wrong": wrong, "meanflow": good["meanflow"]}
    made, seen = run(table, 100.0, {})
    rows = seen[-1]["rows"]
    assert made and list(rows) == list(table) and seen[-1]["rounds"] == 4
    assert rows["large"]["why"] == "out of memory" and rows["wrong"]["why"] == "ValueError: no such shape"
    assert seen[0]["rows"]["large"]["why"] == step.UNENDED  # what a kill would have left
    assert rows["meanflow"]["floor"] == pytest.approx(3.25 / 3) and rows["meanflow"]["peak_mb"] > 0
    page = "\n".join(
        gpu.of_steps({"x": {"runs": {"toy": {"rows": rows | {"graph": rows["meanflow"] | {"peak_mb": None, "peak_ratio": None}}}}}})
    )
    assert "| large | out of memory |" in page and "None" not in page

    made, seen = run(good, -1.0, {})  # no time at all: the base alone
    assert not made and list(seen[-1]["rows"]) == ["flow matching"]
    stuck = {"rounds": 9, "rows": rows | {"wrong": {"why": step.UNENDED}}}
    table["wrong"], table["large"] = good["meanflow"], fails(ValueError("still"))
    made, seen = run(table, 100.0, stuck)
    assert made and seen[-1]["rows"]["meanflow"] == rows["meanflow"] and seen[-1]["rows"]["wrong"]["ratio"] > 0
    assert seen[-1]["rows"]["large"]["why"] == "ValueError: still"


def test_a_record_is_whole_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = loaded("options")
    options.write(tmp_path / "x.json", {"runs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            options.write(tmp_path / "x.json", {"runs": 2})
    parser = options.parser("")
    assert options.kept(parser, tmp_path / "x.json", "runs") == 1 and options.kept(parser, tmp_path / "none.json", "runs") == {}
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SystemExit):
        options.kept(parser, tmp_path / "x.json", "runs")


def test_the_page_of_performance_has_what_a_gpu_measured(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And says so where there is no record, or one at toy size only."""
    monkeypatch.setitem(sys.modules, "gpu", gpu)
    summarise = loaded("summarise")
    job = gpu.Job("sweep", "one", (*script(WRITES.replace("{}", "{'256': {'engine': {'steps_per_second': 1234, 'gflops': 9}}}")), "{out}"))
    late = gpu.Job("train", "waits", script(""))
    for toy, there in ((False, True), (True, False)):
        found = gpu.run([job], tmp_path / str(toy), 1.0, {"device": "a card", "torch": "y", "toy": toy})
        found |= gpu.run([late], tmp_path / str(toy), 0.0, {})
        page = summarise.page({"gpu": {"jobs": found}})
        assert ("| 7 | 256 | engine | 1234 | 9 |" in page and "on a card, torch y" in page and "train/waits: late" in page) is there
        assert ("Not measured: no GPU" in page) is not there
    assert "Not measured: no GPU" in summarise.page({})


def test_a_goal_is_met_or_missed_by_its_second_decimal():
    verdict = loaded("summarise").verdict
    assert verdict({"ratio": 1.124, "floor": 1.083}, 1.12) == verdict({"ratio": 0.4}, 1.0) == "met"
    assert verdict({"ratio": 1.126, "floor": 1.083}, 1.12) == verdict({"ratio": 1.1, "floor": 1.083}, 1.08) == "missed"
    assert "below the floor" in verdict({"ratio": 1.31, "floor": 4 / 3}, 1.3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "{tmp}/x", "--minutes", "0", "--toy"], "--minutes is above 0"),
        (["--out", "{tmp}/x", "--data", "{tmp}/none", "--toy"], "does not exist"),
        (["--out", "{tmp}/x", "--part", "dance"], "invalid choice"),
        (["--out", "{tmp}", "--toy"], "holds results of full size"),
        (["--out", "{tmp}/gpu.json", "--toy"], "gpu.json is no folder"),
    ],
)
def test_bad_input_gets_one_line(
    tmp_path: Path, flags: list[str], words: str, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "gpu.json").write_text(json.dumps({"jobs": {"sweep/one": {"status": "done", "environment": {"toy": False}}}}))
    monkeypatch.setattr(sys, "argv", ["gpu.py", *(flag.format(tmp=tmp_path) for flag in flags)])
    with pytest.raises(SystemExit) as stop:
        gpu.main()
    assert stop.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "x").exists()


@pytest.mark.slow
def test_all_parts_run_at_toy_size(tmp_path: Path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--toy", "--out", str(tmp_path / "out"), "--minutes", "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stdout
    jobs = json.loads((tmp_path / "out" / "gpu.json").read_text())["jobs"]
    assert {r["status"] for r in jobs.values()} == {"done"}, done.stdout
    assert jobs["train/resume"]["numbers"]["largest_difference"] == 0
    assert jobs["train/one-rank"]["numbers"]["largest_difference"] == 0
