"""`meanstep.train` called by every rank of torchrun, several times: the runs of one process, rows in memory, one writer of records."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import meanstep as ms

SCRIPT = """
import torch
import meanstep as ms

x = torch.randn(96, 2, generator=ms.key(0, "rows"))
how = dict(net="mlp", network_width=8, network_depth=1, samples=128, batch=16, chunk=4, log_every=32, save_every=64, evaluate_every=64)
how |= dict(sample_every=0, evaluate_count=32, averages_decays=(0.5,), device="cpu", progress=False)
for seed in (0, 1):
    part = ms.train(data={"x": x}, out=f"run{seed}", seed=seed, callback=lambda m: m.stop() if seed and m.seen >= 64 else None, **how)
    assert part.seen == (64 if seed else 128)
    run = ms.train(data={"x": x}, out=f"run{seed}", seed=seed, **how)
    assert run.seen == 128 and run.load().sample(3).shape == (3, 2)
"""
GROUPS = """
import os, time
import torch, torch.distributed as dist
from meanstep.program.training.ranks import ranks

rank = int(os.environ["RANK"])
for k in range(3):
    time.sleep(1.5 * (1 - rank))  # the other is there first, and reads what the store holds by then
    with ranks("cpu", timeout=30) as here:
        assert here.largest(10 * k + rank) == 10 * k + 1
dist.init_process_group("gloo")  # a caller's own
for k in range(2):
    with ranks("cpu") as here:
        assert here.told(f"{k} of {rank}") == f"{k} of 0"
    assert dist.is_initialized()
dist.destroy_process_group()
"""


def called(ranks: int, folder: Path, script: str = SCRIPT) -> None:
    """The script, run in a folder of its own."""
    folder.mkdir()
    (folder / "script.py").write_text(script)
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"] if ranks > 1 else []
    env = os.environ | {"OMP_NUM_THREADS": "1", "MEANSTEP_CACHE": str(folder / "cache")}
    command = [sys.executable, *launcher, "script.py"]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=250, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_groups_one_after_the_other_do_not_read_the_addresses_of_the_one_before(tmp_path: Path):
    called(2, tmp_path / "groups", GROUPS)


@pytest.mark.slow
def test_two_ranks_that_call_train_make_the_runs_of_one(tmp_path: Path):
    for ranks in (1, 2):
        called(ranks, tmp_path / str(ranks))
    for run in ("run0", "run1"):
        one, two = (load_file(tmp_path / n / run / "checkpoints" / f"{128:012d}" / "model.safetensors") for n in "12")
        for name, values in one.items():
            torch.testing.assert_close(two[name], values, rtol=1e-5, atol=1e-6)
        kinds = {n: [(r["kind"], r["seen"]) for r in ms.Run(tmp_path / n / run).records if r["kind"] != "caution"] for n in "12"}
        assert kinds["1"] == kinds["2"], "the first rank alone writes records"
