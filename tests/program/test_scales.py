"""Runs of networks that take their guidance scale as an input: trained, sampled and evaluated by the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import meanstep as ms
from meanstep.fields import told_scale
from meanstep.program.at_scale import AtScale
from meanstep.program.console import UserError
from meanstep.program.export import subject as subjects
from meanstep.program.export import to_web
from meanstep.program.export.checks import compared
from meanstep.velocities import Condition, at_scale

from .conftest import run

NETWORK = """
import torch
from torch import nn
class Told(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.shape, self.label, self.layer = shape, nn.Embedding(classes + 1, 8), nn.Linear(64 + 13, 64)
    def forward(self, z, r, t, y):
        told = torch.stack([r, t, y.omega.log(), y.low, y.high], -1)
        return self.layer(torch.cat([z.flatten(1), told, self.label(y.label)], -1)).view_as(z)
def net(shape, classes):
    return Told(shape, classes)
"""
WORDS = ("--data.source=digits", "--network.name=told:net", "--method.recipe=improved_meanflow", "--method.options={proxy: own}")
SHORT = ("--samples=64", "--batch=32", "--evaluate-count=32", "--evaluate-every=64", "--sample-every=64", "--device=cpu")


@pytest.fixture
def trained(here, monkeypatch: pytest.MonkeyPatch) -> Path:
    Path("told.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    run("train", "--out=run", *WORDS, "--method.scales", "1", "4", *SHORT)
    return Path("run")


def test_the_scale_is_what_the_network_is_told(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert json.loads((trained / "method.json").read_text())["scales"] == [1, 4]
    model, labels, seeds = ms.load(trained, network="told:net"), torch.tensor([3, 1, 4]), range(5, 8)
    for scale in (1.0, 2.5):
        y = at_scale(labels, scale, trained=(1.0, 4.0))
        with torch.no_grad():
            wanted = ms.walk(model.field, ms.noise(seeds, (1, 8, 8)), (1, 0.5, 0), y=y)
        torch.testing.assert_close(model.latents(seeds, 2, labels, scale), wanted)
    assert not torch.equal(model.latents(seeds, 1, labels, 1.0), model.latents(seeds, 1, labels, 4.0))
    run("sample", "run", "--network=told:net", "--guidance=2.5", "--seeds=5:8", "--labels=3,1,4", "--steps=2", "--out=made.npz")
    with np.load("made.npz") as held:
        assert np.array_equal(held["images"], model.sample(seeds, 2, labels, 2.5).movedim(1, -1).numpy())
    run("evaluate", "run", "--network=told:net", "--guidance", "1", "4", "--steps=1", "--count=32", "--metrics=frechet", "--json=-")
    capsys.readouterr()


@pytest.mark.parametrize("words", [("sample", "--out=no.png"), ("evaluate", "--count=32")])
def test_a_scale_that_was_not_trained_is_refused(words: tuple[str, ...], trained: Path, capsys: pytest.CaptureFixture[str]):
    run(words[0], "run", "--network=told:net", "--guidance=4.5", *words[1:], code=2)
    assert "was trained at scales from 1 to 4, and 4.5 is none of them: choose one that is" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match=r"guidance 0.5: .* scales from 1 to 4"):
        ms.load("run", network="told:net").sample(2, guidance=0.5)


OURS = {
    "dit": ("--network.patch=4", "--network.width=16", "--network.depth=1", "--network.heads=2", "--network.head"),
    "unet": (
        "--network.name=unet",
        "--network.width=8",
        "--network.multipliers",
        "1",
        "1",
        "--network.blocks=1",
        "--network.attention=1",
        "--network.head",
    ),
    "mlp": ("--network.name=mlp", "--network.width=16", "--network.depth=1", "--network.head"),
}


class Heard(torch.nn.Module):
    """Keeps the condition that it was given."""

    def forward(self, z, r, t, y):
        self.y = y
        return z

    def with_head(self, z, r, t, y):
        return self(z, r, t, y), z

    def head(self, z, r, t, y):
        return self(z, r, t, y)


def test_what_our_networks_are_told_is_label_log_scale_and_interval():
    net, labels, t, z = Heard(), torch.tensor([3, 1]), torch.tensor([0.5, 0.7]), torch.zeros(2, 4)
    field = told_scale.ToldScale(net, 10)
    told = Condition(labels, torch.tensor([1.0, 4.0]), torch.tensor([0.1, 0.2]), torch.tensor([0.8, 0.9]))
    plain = [[0.0, 0.0, 1.0]] * 2
    for y, label, numbers in (
        (told, [3, 1], [[0.0, 0.1, 0.8], [math.log(4), 0.2, 0.9]]),
        (labels, [3, 1], plain),
        (None, [10, 10], plain),
    ):
        for call in (field, field.with_head, field.head):
            net.y = None
            call(z, t, t, y)
            assert net.y["label"].tolist() == label
            torch.testing.assert_close(net.y["guidance"], torch.tensor(numbers))


@pytest.mark.parametrize("name", [pytest.param(k, marks=[pytest.mark.slow] * (k == "dit")) for k in OURS])
def test_our_networks_are_told_the_scale_and_every_command_reads_them(name: str, here, capsys: pytest.CaptureFixture[str]):
    words = ("--data.source=digits", "--method.recipe=improved_meanflow", "--method.scales", "1", "4", "--rate=0.02", "--warmup=0")
    run("train", "--out=run", *words, *OURS[name], *SHORT)
    model, seeds = ms.load("run"), range(5)
    labels = torch.tensor([3, 1, 4, 1, 5])
    low, high = (model.latents(seeds, 1, labels, scale) for scale in (1.0, 4.0))
    assert not torch.allclose(low, high, atol=1e-5)
    z, one = ms.noise(seeds, (1, 8, 8)), torch.ones(5)
    with torch.no_grad():  # a plain label is told scale 1, and no label the null
        u = model.field(z, 0 * one, one, at_scale(labels, 1.0))
        assert torch.equal(u, model.field(z, 0 * one, one, labels))
        assert torch.equal(model.field(z, 0 * one, one), model.field(z, 0 * one, one, torch.full((5,), 10)))
        fixed, told = AtScale(model.field, 2.5), at_scale(labels, 2.5)  # as diagnose and export see it
        assert torch.equal(fixed(z, 0 * one, one, labels), model.field(z, 0 * one, one, told))
        assert torch.equal(fixed.head(z, 0 * one, one, labels), model.field.head(z, 0 * one, one, told))
        for mine, theirs in zip(fixed.with_head(z, 0 * one, one, labels), model.field.with_head(z, 0 * one, one, told), strict=True):
            assert torch.equal(mine, theirs)
    run("export", "run", "--to=torch", "--out=made", "--guidance=2.5")
    whole = torch.export.load(next(Path("made").glob("*.pt2"))).module()
    torch.testing.assert_close(
        whole(z, labels)[0], model.manifest.moments(z)[1] * model.latents(seeds, 1, labels, 2.5) + model.manifest.moments(z)[0]
    )
    assert json.loads(Path("made/card.json").read_text())["guidance"] == 2.5
    run("export", "run", "--to=torch", "--out=no", "--guidance=5", code=2)
    run("export", "run", "--to=hub", "--out=no", "--guidance=2", code=2)
    said = " ".join(capsys.readouterr().err.split())
    assert "scales from 1 to 4, and 5 is none" in said and "--to hub: the network takes its guidance scale as an input" in said


@pytest.fixture
def small(here) -> Path:
    words = ("--data.source=digits", "--method.recipe=improved_meanflow", "--method.scales", "1", "4", "--rate=0.02", "--warmup=0")
    run("train", "--out=run", *words, *OURS["mlp"], *SHORT)
    return Path("run")


def test_an_export_has_the_scale_as_an_input(small: Path, capsys: pytest.CaptureFixture[str]):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, seeds = ms.load(small), range(5)
    z, labels = ms.noise(seeds, model.shape), torch.tensor([3, 1, 4, 1, 5])
    run("export", "run", "--to=torch", "--out=torch", "--steps=2")
    run("export", "run", "--to=onnx", "--out=onnx", "--steps=2", "--field")
    run("export", "run", "--to=torch", "--out=one", "--labels=3", "--batch=5")
    whole, one = (torch.export.load(Path(name, "model.pt2")).module() for name in ("torch", "one"))
    opened, field = (onnxruntime.InferenceSession(Path("onnx", name).read_bytes()) for name in ("model.onnx", "field.onnx"))
    assert [each.name for each in opened.get_inputs()] == ["noise", "label", "guidance"]
    assert [each.name for each in field.get_inputs()] == ["z", "r", "t", "y", "guidance"]
    mean, std = model.manifest.moments(z)
    for scale in (1.0, 2.3, 4.0):
        wanted, full = mean + std * model.latents(seeds, 2, labels, scale), torch.full((5,), scale)
        torch.testing.assert_close(whole(z, labels, full)[0], wanted)
        theirs = opened.run(None, {"noise": z.numpy(), "label": labels.numpy(), "guidance": full.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(theirs), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one(z, full)[0], mean + std * model.latents(seeds, 1, 3, scale))
    mixed = torch.tensor([1.0, 2.0, 3.0, 4.0, 2.5])  # each row its own
    rows = torch.cat([model.latents([k], 2, [int(labels[k])], float(mixed[k])) for k in seeds])
    torch.testing.assert_close(whole(z, labels, mixed)[0], mean + std * rows)
    card = json.loads(Path("onnx/card.json").read_text())
    assert card["scales"] == [1, 4] and card["guidance"] is None and card["inputs"] == "noise, label, guidance"
    assert "guidance from 1 to 4, an input" in Path("onnx/README.md").read_text()
    subject = subjects.of(small, subjects.Choice(steps=2), target="web")  # the page's slider
    parts = to_web.graphs(subject)
    assert compared(subject, to_web.stepping(subject, parts), 1e-4, "the page").largest < 1e-4
    assert (
        to_web.facts(subject)["scales"] == [1, 4]
        and to_web.facts(subjects.of(small, subjects.Choice(guidance=2), target="web"))["scales"] == []
    )
    for target in ("hub", "diffusers"):
        run("export", "run", f"--to={target}", "--out=no", code=2)
        assert f"--to {target}: the network takes its guidance scale as an input" in " ".join(capsys.readouterr().err.split())


def test_diagnose_reads_a_network_of_ours_at_a_scale(small: Path):
    found = {scale: ms.diagnose(small, guidance=scale, budget=20, rows=64, progress=False) for scale in (None, 1.0, 3.0)}
    assert repr(found[None].measures) == repr(found[1.0].measures) != repr(found[3.0].measures)


def test_the_code_in_a_card_runs(small: Path):
    for target in ("torch", "onnx"):
        ms.export(small, to=target, out=target)
        code = Path(target, "README.md").read_text().split("```python")[1].split("```")[0]
        found = {}
        exec(code.replace("model.", f"{target}/model."), found)
        assert found["images"].shape == (16, 1, 8, 8)


def test_diagnose_reads_a_network_at_a_scale(trained: Path, capsys: pytest.CaptureFixture[str]):
    how = {"network": "told:net", "budget": 20, "rows": 64, "progress": False}
    found = {scale: ms.diagnose(trained, guidance=scale, **how) for scale in (None, 1.0, 3.0)}
    assert repr(found[None].measures) == repr(found[1.0].measures) != repr(found[3.0].measures)
    assert "at guidance scale 3 against the velocity without guidance" in repr(found[3.0].record)
    run("diagnose", "run", "--network=told:net", "--guidance=5", code=2)
    assert "the run was trained at scales from 1 to 4: choose one of them" in " ".join(capsys.readouterr().err.split())


def test_what_is_read_at_a_scale_is_the_network_told_it(trained: Path):
    net, z, labels = ms.load(trained, network="told:net").field, torch.randn(3, 1, 8, 8), torch.tensor([3, 1, 4])
    one = torch.ones(3)
    assert torch.equal(AtScale(net, 2.5)(z, 0 * one, one, labels), net(z, 0 * one, one, at_scale(labels, 2.5)))
    assert torch.equal(AtScale(net, 2.5)(z, 0 * one, one, at_scale(labels, 1.0)), net(z, 0 * one, one, at_scale(labels, 1.0)))


def test_what_cannot_be_trained_is_one_line(here, capsys: pytest.CaptureFixture[str]):
    for words, said in (
        ((*WORDS, "--method.scales", "4", "1"), "two, the first at most the second, got 4 1"),
        ((*WORDS, "--method.scales", "2", "4"), "the scales of improved_meanflow begin at 1, got 2"),
        ((*WORDS, "--method.scales", "1", "4", "--method.omega=2"), "--method.scales makes guidance an input of the network"),
        ((*WORDS, "--method.scales", "1", "4", "--method.dropout=0"), "some must be hidden: give 0.1"),
        (("--data.source=digits", "--method.scales", "1", "4"), "the recipe meanflow gives the network no guidance scale"),
        ((*WORDS, "--method.scales", "1", "4", "--data.no-conditional"), "a network is told a scale beside a label, and here is none"),
    ):
        Path("told.py").write_text(NETWORK)
        run("train", "--out=no", *words, *SHORT, code=2)
        assert said in " ".join(capsys.readouterr().err.split())
