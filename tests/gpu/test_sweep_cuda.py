"""The sweep as one captured ensemble: equal to the processor's, one model at a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meanstep.program.reproduce.points.jobs import Job, train
from meanstep.program.reproduce.points.settings import Settings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def test_a_captured_ensemble_trains_as_the_processor_does(tmp_path: Path):
    arms = ("paper", "posterior-both@1", "own@0.5", "matrix", "flow_matching", "shortcut")
    settings = Settings(("two_moons", "pinwheel"), (0.0, 0.5, 1.0), (0, 1), arms, 64, batch=64, samples=1000, directions=16)
    pairs = tuple((data, seed) for data in settings.sets for seed in settings.seeds)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cuda").mkdir()

    def quiet(what: str, *values: object) -> bool:
        return False

    alone = [record for pair in pairs for record in train(Job((pair,)), settings, tmp_path / "cpu", quiet)]
    together = train(Job(pairs), replace(settings, ensemble=True), tmp_path / "cuda", quiet, "cuda")
    found = {(r["set"], r["seed"], r["id"]): r for r in together}
    assert len(found) == len(alone)
    for record in alone:
        other = found[record["set"], record["seed"], record["id"]]
        assert other["ema"]["sw1"]["1"] == pytest.approx(record["ema"]["sw1"]["1"], rel=1e-3, abs=1e-3)
