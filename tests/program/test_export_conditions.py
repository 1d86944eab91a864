"""Exports of runs whose networks are given conditions, or whose flow starts at rows of the data, against `ms.load(run).sample`."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.export import subject as subjects
from meanstep.program.export.subject import Choice
from meanstep.program.export.targets import TARGETS
from meanstep.program.export.to_web import graphs, stepping

ONNX = pytest.mark.skipif(not all(map(find_spec, TARGETS["onnx"].needs)), reason="needs pip install 'meanstep[export]'")
SHORT = {"samples": 48, "batch": 16, "evaluate_every": 0, "sample_every": 48, "device": "cpu", "progress": False}
SEEDS = range(20, 27)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("conditions")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw = np.random.default_rng(6)
        arrays = {"x": 3 + 2 * draw.normal(size=(40, 2, 8)), "seen": 5 + draw.normal(size=(40, 3)), "low": draw.normal(size=(40, 2, 8))}
        kind = np.array(["grasp", "push"])[draw.integers(2, size=40)]
        np.savez("a.npz", **{name: values.astype(np.float32) for name, values in arrays.items()}, kind=kind)
        yield folder


NETWORKS = {"mlp": {"network_width": 16, "network_depth": 1}, "unet": {"network_width": 8, "network_blocks": 1}}


@pytest.fixture(scope="module")
def runs(here) -> Callable[[str], Path]:
    """The run of a network: signals given a category and three numbers."""

    def run(name: str) -> Path:
        if not Path(name).exists():
            ms.train(data="a.npz", data_condition=["kind", "seen"], net=name, out=name, **NETWORKS[name], **SHORT)
        return Path(name)

    return run


@pytest.fixture(scope="module")
def told(runs) -> Path:
    return runs("mlp")


@pytest.fixture(scope="module")
def moved(here) -> Path:
    """Signals that a flow makes of others."""
    ms.train(data="a.npz", data_pair="low", data_pair_as="source", method_coupling="pairs:data", net="mlp", out="moved", **SHORT)
    return Path("moved")


def given(count: int) -> dict[str, torch.Tensor]:
    return {"kind": torch.arange(count) % 2, "seen": 5 + ms.noise(range(count), (3,))}


def near(found: np.ndarray, wanted: torch.Tensor) -> None:
    assert np.abs(found - wanted.numpy()).max() < 1e-5 * float(wanted.std())


@pytest.mark.parametrize(("network", "steps", "guidance"), [("mlp", 2, 1.5), pytest.param("unet", 1, 1.0, marks=pytest.mark.slow)])
def test_conditions_are_arguments_of_a_program(network: str, steps: int, guidance: float, runs, tmp_path: Path):
    told = runs(network)
    record = ms.export(told, to="torch", out=tmp_path / "out", steps=steps, guidance=guidance)
    y, z = given(7), ms.noise(SEEDS, (2, 8))
    (found,) = torch.export.load(tmp_path / "out" / "model.pt2").module()(z, y["kind"], y["seen"])
    near(found.detach().numpy(), ms.load(told).sample(SEEDS, steps, y, guidance))
    assert record["difference"]["largest"] == 0 and record["inputs"] == "noise, kind, seen"
    assert "torch.randn(16, 2, 8), kind, seen)" in (tmp_path / "out" / "README.md").read_text()


@ONNX
@pytest.mark.parametrize("network", ["mlp", pytest.param("unet", marks=pytest.mark.slow)])
def test_conditions_are_named_inputs_of_a_graph(network: str, runs, tmp_path: Path, ran):
    told = runs(network)
    assert ran("export", told, "--to", "onnx", "--out", tmp_path / "out", "--field", "--half") == 0
    from onnxruntime import InferenceSession

    made, y, model = InferenceSession(tmp_path / "out" / "model.onnx"), given(7), ms.load(told)
    inputs = {"noise": ms.noise(SEEDS, (2, 8)), **y}
    assert [entry.name for entry in made.get_inputs()] == list(inputs)
    found = made.run(None, {name: x.numpy() for name, x in inputs.items()})[0]
    with torch.no_grad():
        for p in model.field.parameters():
            p.copy_(p.half().float())
    near(found, model.sample(SEEDS, 1, y))
    assert [e.name for e in InferenceSession(tmp_path / "out" / "field.onnx").get_inputs()] == ["z", "r", "t", "kind", "seen"]


def test_a_condition_that_is_always_meant_is_no_input(told: Path, tmp_path: Path, ran):
    np.save(tmp_path / "seen.npy", np.array([5.0, 4.0, 6.0], np.float32))
    fixed = ("--condition", "kind=push", f"seen={tmp_path / 'seen.npy'}")
    assert ran("export", told, "--to", "torch", "--out", tmp_path / "all", *fixed) == 0
    y = {"kind": torch.ones(7, dtype=torch.int64), "seen": torch.tensor([5.0, 4.0, 6.0]).expand(7, 3)}
    z, wanted = ms.noise(SEEDS, (2, 8)), ms.load(told).sample(SEEDS, 1, y)
    near(torch.export.load(tmp_path / "all" / "model.pt2").module()(z)[0].detach().numpy(), wanted)
    assert json.loads((tmp_path / "all" / "card.json").read_text())["fixed"] == {"kind": "push", "seen": [5.0, 4.0, 6.0]}
    assert "| fixed | kind = push, seen = [5.0, 4.0, 6.0] |" in (tmp_path / "all" / "README.md").read_text()
    ms.export(told, to="torch", out=tmp_path / "one", condition={"kind": 1})
    near(torch.export.load(tmp_path / "one" / "model.pt2").module()(z, y["seen"])[0].detach().numpy(), wanted)


def test_guidance_of_0_is_the_field_without_its_conditions(told: Path):
    subject = subjects.of(told, Choice(guidance=0.0), target="torch")
    z, y = ms.noise(SEEDS, (2, 8)), given(7)
    near(subject.whole()(z, y["kind"], y["seen"])[0].detach().numpy(), ms.load(told).sample(SEEDS, 1, y, 0.0))


@ONNX
@pytest.mark.parametrize("network", ["mlp", pytest.param("unet", marks=pytest.mark.slow)])
def test_a_page_has_the_conditions_that_are_fixed(network: str, runs):
    told = runs(network)
    condition = {"kind": 0, "seen": torch.tensor([5.0, 4.0, 6.0])}
    subject = subjects.of(told, Choice(steps=2, guidance=2.0), target="web", condition=condition)
    (found,) = stepping(subject, graphs(subject))(subject.noise(SEEDS))
    near(found, ms.load(told).sample(SEEDS, 2, condition, 2.0))


@ONNX
def test_where_a_flow_starts_is_the_first_input(moved: Path, tmp_path: Path):
    ms.export(moved, to="onnx", out=tmp_path / "onnx", steps=2)
    ms.export(moved, to="torch", out=tmp_path / "torch", steps=2)
    from onnxruntime import InferenceSession

    made, low = InferenceSession(tmp_path / "onnx" / "model.onnx"), ms.noise(range(7), (2, 8))
    assert [entry.name for entry in made.get_inputs()] == ["pair"]
    wanted = ms.load(moved).sample(7, 2, {"pair": low})
    near(made.run(None, {"pair": low.numpy()})[0], wanted)
    near(torch.export.load(tmp_path / "torch" / "model.pt2").module()(low)[0].detach().numpy(), wanted)
    said = {to: (tmp_path / to / "README.md").read_text() for to in ("onnx", "torch")}
    assert (
        'session.run(None, {"pair": pair})' in said["onnx"]
        and "= generate(pair)" in said["torch"]
        and "randn" not in "".join(said.values())
    )
    with pytest.raises(UserError, match=r"a page draws noise, and this flow starts at pair"):
        subjects.of(moved, Choice(), target="web")
    with pytest.raises(UserError, match="the flow starts there"):
        subjects.of(moved, Choice(), target="torch", condition={"pair": low[0]})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "web"], "--to web has no inputs for the conditions kind, seen: fix them with --condition NAME=VALUE"),
        (["--to", "web", "--condition", "kind=push"], "the condition seen: fix it with"),
        (["--to", "hub"], "--to hub has labels alone, and this network is given kind, seen"),
        (["--to", "torch", "--condition", "kind=hold"], "--condition kind: 'hold' was not in the training data"),
        (["--to", "torch", "--condition", "colour=red"], "a name among kind, seen"),
        (["--to", "torch", "--labels", "push"], "trained without labels"),
    ],
)
def test_what_cannot_leave_is_one_line(words, said, told: Path, ran, tmp_path: Path, capsys):
    if not all(map(find_spec, TARGETS[words[1]].needs)):
        pytest.skip("needs the target's packages")
    assert ran("export", told, "--out", tmp_path / "new", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and not (tmp_path / "new").exists()


def test_conditions_that_there_are_not_are_refused(told: Path, exportable, tmp_path: Path):
    for condition, said in (({"colour": 1}, "takes the conditions kind, seen, got colour"), ({"kind": 2}, "categories 0 to 1")):
        with pytest.raises(UserError, match=said):
            ms.export(told, to="torch", out=tmp_path / "new", condition=condition)
    with pytest.raises(UserError, match="without conditions: --labels chooses classes"):
        ms.export(exportable(), to="torch", out=tmp_path / "new", condition={"kind": 1})
