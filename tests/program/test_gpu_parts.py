"""benchmarks/gpu.py: parts end in time, go on where they stopped, name what is missing, and lose nothing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

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
    assert all("--data" in job.missing for job in gpu.jobs("cuda", None, False) if job.part == "train")


def test_the_verdict_of_pytest_is_read(gpu: ModuleType, tmp_path: Path):
    output = "FAILED tests/x.py::test_a - AssertionError\n1 failed, 12 passed, 3 skipped in 4.00s\n"
    assert gpu.verdicts(tmp_path, output) == {"failed": 1, "passed": 12, "skipped": 3, "names": ["tests/x.py::test_a"]}


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
    ],
)
def test_bad_input_gets_one_line(
    tmp_path: Path, flags: list[str], words: str, gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
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
