"""`meanstep launch`: the batch script, run by commands that stand in for Slurm's; signals and requeues; every mistake in one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meanstep import cli
from meanstep.program.console import UserError
from meanstep.program.runs.records import load
from meanstep.program.training.launch import Launch

SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
ids=()
for k in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$k SLURM_LOCALID=$k "$@" & ids+=($!)
done
echo "${ids[@]}" > "$FAKE/ids"
worst=0
for id in "${ids[@]}"; do wait "$id"; code=$?; ((code > worst)) && worst=$code; done
exit $worst
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; echo 127.0.0.2; else echo "$@" >> "$FAKE/requeued"; fi
"""
SBATCH = """#!/bin/bash
cat > "$FAKE/submitted"; echo Submitted batch job 7; exit "${FAKE_CODE:-0}"
"""
RANK = """#!/bin/bash
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS $*" >> "$FAKE/ranks"
exit "$FAKE_CODE"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with commands of Slurm's names; what they are told is written there."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "sbatch": SBATCH, "rank": RANK}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("FAKE", str(tmp_path))
    for name, value in {"JOB_ID": "7", "JOB_NODELIST": "n[1-2]", "NTASKS": "2", "CPUS_PER_TASK": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return tmp_path


def launch(*words: str) -> Launch:
    """Options as on the command line."""
    return Launch.parse(words)


def test_the_script_is_bash_with_the_settings(tmp_path: Path):
    words = ("--nodes", "2", "--gpus-per-node", "4", "--partition", "long", "--time", "2-12", "--sbatch", "account=abc", "--requeue")
    text = launch(*words, "--", "train", "--method.options", "{beta: 0.5}", "--method.recipe", "coefficient").script()
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    for line in (
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=4",
        "partition=long",
        "time=2-12",
        "account=abc",
        "requeue",
        "signal=USR1@300",
    ):
        assert f"#SBATCH --{line}\n" in text
    assert "train --method.options '{beta: 0.5}'" in text and "torchrun" not in text
    settings = [k for k, line in enumerate(text.splitlines()) if line.startswith("#SBATCH")]
    assert settings == list(range(1, 1 + len(settings))), "Slurm reads settings before the first command only"


@pytest.mark.parametrize("requeue", [True, False])
@pytest.mark.parametrize("code", [0, 1, 138, 143])
def test_ranks_get_their_place_and_the_job_its_code(code: int, requeue: bool, slurm: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", str(slurm / "rank"))
    monkeypatch.setenv("FAKE_CODE", str(code))
    text = launch("--gpus-per-node", "2", *["--requeue"] * requeue, "--", "train", "--out", "a b").script()
    done = subprocess.run(["bash"], input=text, text=True, check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (code, "")
    ranks = sorted((slurm / "ranks").read_text().splitlines())
    assert ranks == [f"{k} {k} 2 127.0.0.1 20007 1 -m meanstep train --out a b" for k in (0, 1)]
    assert (slurm / "requeued").exists() == (requeue and code == 138)


def test_it_is_printed_or_submitted(slurm: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    words = ("--gpus-per-node", "0", "--", "train", "--preset", "digits")
    assert launch("--dry-run", *words).run() == 0
    printed = capfd.readouterr().out
    assert printed.startswith("#!/bin/bash\n#SBATCH") and "gpus" not in printed and not (slurm / "submitted").exists()
    assert launch(*words).run() == 0
    assert (slurm / "submitted").read_text() == printed and "Submitted" in capfd.readouterr().out
    monkeypatch.setenv("FAKE_CODE", "3")
    assert launch(*words).run() == 3


def test_the_jobs_of_an_array_have_a_part_each():
    made = launch("--array", "3", "--gpus-per-node", "1", "--", "reproduce", "latents", "--out", "runs/some where").script()
    assert "#SBATCH --array=1-3" in made
    assert "reproduce latents --out 'runs/some where' --part \"$SLURM_ARRAY_TASK_ID/3\"" in made


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give the command to launch after --"),
        (["--", "sample", "runs/digits"], "give the command to launch after --"),
        (["--nodes", "0", "--", "train"], "--nodes: at least 1 and at most 100000, got 0"),
        (["--signal", "5", "--", "train"], "--signal: at least 30 and at most 65535, got 5"),
        (["--time", "24:00", "--", "train"], "24:00:00, or days-hours such as 2-12, got '24:00'"),
        (["--partition=--x", "--", "train"], "without dashes before them"),
        (["--nodes", "3", "--", "train"], "a batch of 128 in chunks of 5 cannot be dealt to 24 ranks"),
        (["--", "train", "--samples", "0"], "--samples: at least 1"),
        (["--", "train", "--preset", "digit"], "there is no preset 'digit'"),
        (["--array", "4", "--", "train"], "--array: an array does the parts of a study"),
        (["--array", "4", "--", "reproduce", "latents", "--part", "1/4"], "it gives each job its part"),
        (["--array", "4", "--", "reproduce", "latents", "--part=1/4"], "it gives each job its part"),
        (["--", "reproduce", "toy"], "give the command to launch after --"),
        (["--", "reproduce", "latents", "--arms", "beta"], "there is no arm 'beta'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], told: str):
    with pytest.raises(UserError, match=told) as mistake:
        launch(*words).run()
    assert "\n" not in str(mistake.value)


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        cli.main(["launch", "--", "train"])
    assert stop.value.code == 2 and "there is no sbatch on this machine" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("all_ranks", [True, False], ids=["all ranks", "one rank"])
def test_a_job_at_its_end_saves_asks_for_another_and_goes_on(all_ranks: bool, slurm: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn", reason="the embedded digits need the extra digits")
    monkeypatch.setenv("MEANSTEP_CACHE", str(slurm / "cache"))
    run, tiny = slurm / "run", "--device cpu --network.width 16 --network.depth 1 --network.heads 2 --evaluate-every 0"
    words = ["train", "--out", str(run), *tiny.split(), "--samples", "256000", "--log-every", "1280"]
    script = launch("--gpus-per-node", "2", "--requeue", "--", *words).script()
    job = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while job.poll() is None and not any(r["kind"] == "train" for r in load(run / "records.jsonl")):
        time.sleep(0.05)
    for rank in (slurm / "ids").read_text().split()[0 if all_ranks else 1 :]:
        os.kill(int(rank), signal.SIGUSR1)
    said = job.communicate(timeout=120)[1]
    assert job.returncode == 138, said
    assert "the same command goes on" in said and (slurm / "requeued").read_text() == "requeue 7\n"
    saved = [r["seen"] for r in load(run / "records.jsonl") if r["kind"] == "checkpoint"]
    assert len(saved) == 1 and 0 < saved[0] < 256_000
    again = script.replace("--samples 256000", f"--samples {saved[0] + 1280}")
    done = subprocess.run(["bash", "-c", again], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [r["seen"] for r in load(run / "records.jsonl") if r["kind"] == "start"] == [0, saved[0]]
