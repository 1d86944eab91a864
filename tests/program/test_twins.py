"""A recipe and a network that only this file knows train, sample, evaluate, are diagnosed and reported like their shipped twins.

And what was trained by them is read where their code is not.
"""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

import meanstep as ms
from meanstep.cli import main
from meanstep.program.runs.facts import NAME, Facts, known

TWINS = """
import torch
from meanstep import times as at_times
from meanstep.fields import DiT
from meanstep.objectives import Eulerian, Matching
from meanstep.paths import Linear
from meanstep.terms import Term, method
from meanstep.types import Coefficient, Times
from meanstep.velocities import conditional, mix, of
from meanstep.velocities import LabelDropout, shown
from meanstep.weights import adaptive


@method(slot="copy", proxies=("ema",), idle=("share",), coefficient="share")
def mine(share: Coefficient = 1.0, copy=None, times: Times = at_times.uniform, velocity=conditional):
    \"\"\"The coefficient family, written out once more.\"\"\"
    given = shown(velocity)
    proxy = velocity if copy is None else (lambda field, b: copy(field, given(b)))
    moving = Eulerian(mix(velocity, proxy, share, "share"), velocity, given=given)
    still = Matching(velocity, given)
    return Term(moving, times, adaptive(), 0.5), Term(still, at_times.diagonal(times), adaptive(), 0.5)


def matching(velocity=conditional):
    return (Term(Matching(velocity, shown(velocity)), at_times.diagonal(at_times.instants(-0.4, 1.0))),)


def net(size, channels, classes, width=16):
    seed = torch.Generator().manual_seed(torch.initial_seed())  # the seed that networks of the program's own are drawn from
    return DiT(size, channels=channels, classes=classes, patch=4, width=width, depth=1, heads=2, generator=seed)


class Straight(Linear):
    pass
"""
NETWORK = {"name": "dit", "patch": 4, "width": 16, "depth": 1, "heads": 2}
OWN_NETWORK = {"name": "twin_parts:net", "options": {"width": 16}}
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "coefficient": (
        {"recipe": "coefficient", "options": {"beta": {"linear": [0, 1]}, "anchor": 0.0, "times": "uniform", "diagonal_share": 0.5}},
        {"recipe": "twin_parts:mine", "options": {"share": {"linear": [0, 1]}, "times": "uniform"}},
    ),
    "flow matching": ({"recipe": "flow_matching"}, {"recipe": "twin_parts:matching"}),
}


def called(*args: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in args])
    return int(end.value.code or 0)


def trained(folder: Path, network: dict[str, Any], method: dict[str, Any]) -> Path:
    every = {"sample_every": 256, "evaluate_every": 256, "save_every": 256, "log_every": 64}
    run = {"samples": 256, "batch": 32, "device": "cpu", "evaluate_count": 64, **every}
    whole = {
        "data": {"source": "digits"},
        "network": network,
        "method": method | {"proxy_decay": 0.9},
        "averages": {"decays": [0.8]},
        "run": run,
    }
    folder.with_suffix(".yaml").write_text(yaml.safe_dump(whole), encoding="utf-8")
    assert called("train", "--out", folder, "--config", folder.with_suffix(".yaml")) == 0
    return folder


@pytest.fixture(scope="module", params=list(PAIRS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """The run of a shipped recipe on the shipped network and of its twin on the twin's, and what the twin's code is allowed by."""
    folder = tmp_path_factory.mktemp("twins")
    (folder / "twin_parts.py").write_text(TWINS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        shipped, own = PAIRS[request.param]
        return trained(folder / "shipped", NETWORK, shipped), trained(folder / "own", OWN_NETWORK, own), ["--network", "twin_parts:net"]


@pytest.fixture
def here(pair: tuple[Path, Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, list[str]]:
    monkeypatch.chdir(pair[0].parent)
    return pair


def checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").iterdir())


def test_twins_learn_the_same_weights(here: tuple[Path, Path, list[str]]):
    shipped, own, _ = here
    names = {p.name for p in checkpoint(shipped).glob("*.safetensors")}
    assert names == {p.name for p in checkpoint(own).glob("*.safetensors")} and len(names) >= 3
    for name in names:
        theirs = load_file(checkpoint(own) / name)
        for key, value in load_file(checkpoint(shipped) / name).items():
            assert (value == theirs[key]).all(), (name, key)
    assert [p.read_bytes() for p in sorted((shipped / "samples").iterdir())] == [
        p.read_bytes() for p in sorted((own / "samples").iterdir())
    ]


def test_twins_sample_alike(here: tuple[Path, Path, list[str]]):
    found = []
    for run, allowed in ((here[0], []), (here[1], here[2])):
        assert called("sample", run, "--seeds", "0:8", "--steps", 3, "--out", run.with_suffix(".npz"), *allowed) == 0
        found.append(np.load(run.with_suffix(".npz"))["images"])
    assert np.array_equal(*found) and len(found[0]) == 8


def test_twins_are_evaluated_alike(here: tuple[Path, Path, list[str]]):
    found = []
    for run, allowed in ((here[0], []), (here[1], here[2])):
        assert called("evaluate", run, "--count", 64, "--metrics", "frechet", "--json", run.with_suffix(".json"), *allowed) == 0
        found.append([row["values"] for row in json.loads(run.with_suffix(".json").read_text())])
    assert found[0] == found[1] and found[0][0]["frechet"] > 0


def test_twins_are_diagnosed_alike(here: tuple[Path, Path, list[str]]):
    found = []
    for run, allowed in ((here[0], []), (here[1], [*here[2], "--recipe", recipe(here[1])])):
        out = ["--rows", 64, "--budget", "300s", "--out", run.with_suffix(".diagnosis"), "--json", run.with_suffix(".probe.json")]
        assert called("diagnose", run, *out, *allowed) == 0
        found.append(json.loads(run.with_suffix(".probe.json").read_text()))
    one, other = ({k: v for k, v in numbers(record).items() if "second" not in k and "/s" not in k} for record in found)
    assert one.keys() == other.keys() and len(one) > 20
    assert {k: (v, other[k]) for k, v in one.items() if v != other[k] and not (v != v and other[k] != other[k])} == {}


def recipe(run: Path) -> str:
    return str(yaml.safe_load((run / "config.yaml").read_text())["method"]["recipe"])


def numbers(record: Any, place: str = "") -> dict[str, float]:
    """Every number of a record by its place; times and sizes of files aside."""
    if isinstance(record, dict):
        return {k: v for name, part in record.items() for k, v in numbers(part, f"{place}.{name}").items()}
    if isinstance(record, list):
        return {k: v for i, part in enumerate(record) for k, v in numbers(part, f"{place}.{i}").items()}
    return {place: record} if isinstance(record, int | float) else {}


def test_twins_are_reported_alike(here: tuple[Path, Path, list[str]]):
    pages = []
    for run in here[:2]:
        assert called("report", run) == 0
        text = (run / "report.html").read_text()
        pages.append(re.findall(r"<h\d[^>]*>(.*?)</h\d>", text))
    shipped = [head.replace(recipe(here[0]), "X") for head in pages[0]]
    assert shipped == [head.replace(recipe(here[1]), "X") for head in pages[1]] and len(shipped) > 3


def test_a_run_says_what_its_recipe_taught(here: tuple[Path, Path, list[str]]):
    one, other = (known(run) for run in here[:2])
    assert (one.learns, one.path) == (other.learns, other.path) and one.recipe != other.recipe
    (here[0] / NAME).rename(here[0] / "aside")  # a run from before it was written
    try:
        assert known(here[0]) == dataclasses.replace(one, rows="")  # which rows lost their labels is not known then
    finally:
        (here[0] / "aside").rename(here[0] / NAME)
    assert Facts(**json.loads((here[1] / NAME).read_text())).learns == ("instantaneous" if "matching" in other.recipe else "average")


def test_diagnose_builds_no_recipe_of_others_unasked(here: tuple[Path, Path, list[str]], capsys: pytest.CaptureFixture[str]):
    assert called("diagnose", here[1], "--rows", 64, *here[2]) == 2
    assert "code that would run" in capsys.readouterr().err


READ = """
import sys
import meanstep as ms
for run, sampler in zip(sys.argv[1::2], sys.argv[2::2]):
    model = ms.load(run)
    assert model.sample(2).shape[0] == 2 and model.sampler == sampler, model.sampler
assert not any(name.startswith("twin_parts") for name in sys.modules)
"""


def test_a_run_is_read_where_its_recipe_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The network is ours, the recipe is not at hand: sampled with the right sampler, and no module of the user's imported."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "twin_parts.py").write_text(TWINS, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "code")
    asked = []
    for recipe, sampler in (("mine", "walk"), ("matching", "euler")):
        asked += [trained(tmp_path / recipe, NETWORK, {"recipe": f"twin_parts:{recipe}", "path": "twin_parts:Straight"}), sampler]
    monkeypatch.chdir(tmp_path)
    source = str(Path(ms.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r})" + READ, *asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(called("sample", run, "--sampler", "renoise", "--steps", 2) == 2 for run in asked[::2])  # asks for the path


def test_a_field_of_the_instantaneous_velocity_refuses_jumps(here: tuple[Path, Path, list[str]], capsys: pytest.CaptureFixture[str]):
    still = known(here[1]).learns == "instantaneous"
    assert called("sample", here[0], "--sampler", "walk", "--seeds", "0:2", "--out", here[0].with_suffix(".png")) == (2 if still else 0)
    assert ("instantaneous one only: take euler, heun" in capsys.readouterr().err) == still
    assert called("sample", here[0], "--sampler", "heun", "--seeds", "0:2", "--out", here[0].with_suffix(".png")) == 0
