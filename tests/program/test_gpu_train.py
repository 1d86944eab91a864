"""benchmarks/gpu_train.py: what its jobs need, and that the program takes the commands it gives, none of which a CPU runs at full size."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file

from meanstep.program.data.tiny import Tiny
from meanstep.program.training import estimate

from .conftest import run
from .test_gpu_parts import loaded


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return loaded("gpu")


class Reached(Exception):
    """The last command that is looked at."""


def test_what_a_job_lacks_is_what_it_reads(gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pictures need their files and the digits scikit-learn; latents need no diffusers."""
    known = importlib.util.find_spec
    absent = ("sklearn", "diffusers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else known("json"))

    def missing() -> dict[str, str]:
        return {job.name: job.missing for job in gpu.jobs("cuda", tmp_path, False) if job.part == "train"}

    assert "no cifar10_jpeg.npz in" in missing()["pixels"] and "needs sklearn, not" in missing()["resume"]
    (tmp_path / "cifar10_jpeg.npz").touch()
    assert missing()["pixels"] == "" and "no taesd.safetensors in" in missing()["latents"]
    (tmp_path / "taesd.safetensors").touch()
    assert missing()["latents"] == ""
    digits = gpu.jobs("cpu", None, True)
    assert {job.name for job in digits if "sklearn" in job.missing} == {job.name for job in digits if job.part == "train"}


def test_the_commands_on_pictures_are_ones_that_the_program_takes(
    gpu: ModuleType, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As far as to the first step, with pictures and an autoencoder in place of CIFAR-10's."""
    monkeypatch.setitem(sys.modules, "gpu", gpu)
    train = loaded("gpu_train")
    np.savez(here / "cifar10_jpeg.npz", images=np.zeros((4, 32, 32, 3), np.uint8), labels=np.arange(4))
    save_file(Tiny(4, pooled=False).state_dict(), here / "taesd.safetensors")
    asked = argparse.Namespace(device="cpu", seconds=1.0, out=here / "out", data=here)
    begun: list[tuple[str, ...]] = []

    def call(*words: str) -> None:
        if words[len(train.MEANSTEP)] == "evaluate":
            assert words[words.index("--extractor") + 1] == "pixels"  # other features are of a network whose weights are not here
            raise Reached
        run(*words[len(train.MEANSTEP) :])

    def popen(words: tuple[str, ...], **how: object) -> SimpleNamespace:
        begun.append(words)
        run(*words[len(train.MEANSTEP) :], "--dry-run", *["--network.width", "24", "--network.depth", "1", "--network.heads", "1"])
        return SimpleNamespace(poll=lambda: 0, wait=lambda seconds: 0)

    def reached(*given: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(train, "call", call)
    monkeypatch.setattr(train.subprocess, "Popen", popen)
    monkeypatch.setattr(estimate, "_seconds", reached)
    for kind in ("pixels", "latents"):
        with pytest.raises(Reached):
            train.KINDS[kind](asked)
    assert len(begun) == 2, capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "wanted"), [([2.0], 50.0), ([2.0, 3.0], 100.0), ([2.0, 3.0, 7.0], 40.0)])
def test_a_rate_leaves_the_start_out_where_it_can(gpu: ModuleType, seconds: list[float], wanted: float, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gpu", gpu)
    lines = [json.dumps({"kind": "train", "seen": 100 * (k + 1), "seconds": at}) for k, at in enumerate(seconds)]
    (tmp_path / "records.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert loaded("gpu_train").rate(tmp_path) == {"samples": 100 * len(seconds), "samples_per_second": wanted}
