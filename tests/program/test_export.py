"""Exports against PyTorch: their pieces, conditions, options, what is refused. `test_export_suite` has every kind of run."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import meanstep as ms
from meanstep.cli import main
from meanstep.fields import DiT
from meanstep.program.console import UserError
from meanstep.program.export import subject as subjects
from meanstep.program.export.card import card
from meanstep.program.export.checks import compared
from meanstep.program.export.conditioned import of_net
from meanstep.program.export.modules import Guided, Plain, Step, Whole
from meanstep.program.export.quicker import quicker
from meanstep.program.export.subject import Choice
from meanstep.program.export.targets import TARGETS
from meanstep.program.export.to_onnx import examples, graph
from meanstep.program.export.to_onnx import session as opened
from meanstep.program.export.to_torch import call

HAS = {name: all(map(find_spec, target.needs)) for name, target in TARGETS.items()}
ONNX = pytest.mark.skipif(not HAS["onnx"], reason="needs onnx, onnxscript and onnxruntime: pip install 'meanstep[export]'")


def session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


# torch ---------------------------------------------------------------------------------------------------------------------------------


def test_half_precision_halves_the_file_and_says_what_it_costs(exportable, tmp_path: Path):
    description = {"network": "dit", "options": {"size": 8, "channels": 1, "patch": 2, "width": 64, "depth": 2, "heads": 2, "classes": 3}}
    run = exportable(description=description)
    sizes = {half: ms.export(run, to="torch", out=tmp_path / str(half), half=half)["files"]["model.pt2"] for half in (False, True)}
    assert sizes[True] < 0.7 * sizes[False]
    said = json.loads((tmp_path / "True" / "card.json").read_text())["difference"]
    assert said["largest"] == 0 and 0 < said["half"] < 2e-2
    assert "half precision" in (tmp_path / "True" / "README.md").read_text()


# The pieces ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [ms.walk, ms.samplers.euler, ms.samplers.heun])
def test_steps_one_by_one_are_the_sampler(sampler):
    net = DiT(8, 1, 4, 16, 1, 2, classes=3, generator=ms.key(0, "net"))
    nn.init.normal_(net.last.out.weight, generator=ms.key(1, "net"))
    nn.init.normal_(net.blocks[0].modulation.weight, generator=ms.key(2, "net"))
    field, z, y, one = Guided(net, 1.7, 3), ms.noise(range(4), (1, 8, 8)), torch.tensor([0, 1, 2, 3]), torch.ones(4)
    step, x = Step(field, sampler), z
    with torch.no_grad():
        for t, r in ((1, 0.6), (0.6, 0.1), (0.1, 0)):
            x = step(x, r * one, t * one, y)
        wanted = sampler(lambda z, r, t, y: torch.lerp(net(z, r, t, torch.full_like(y, 3)), net(z, r, t, y), 1.7), z, (1, 0.6, 0.1, 0), y)
        assert torch.allclose(x, wanted, atol=1e-5) and not torch.allclose(x, z, atol=0.1)
        (found,) = Whole(Guided(net, 1.7, 3), sampler, (1, 0.6, 0.1, 0), Plain(torch.zeros(1), torch.ones(1)))(z, y)
        fixed = Guided(net, 1.7, 3, label=2)(z, 0 * one, one)
        assert torch.allclose(found, wanted, atol=1e-5) and torch.equal(fixed, field(z, 0 * one, one, torch.full((4,), 2)))


def test_a_difference_above_the_bound_is_refused(exportable):
    subject = subjects.of(exportable(), Choice(), target="torch")
    for wrong in (1e-3, float("nan")):
        with pytest.raises(UserError, match=r"differs from PyTorch by \S+ of the spread"):
            compared(subject, lambda z, y, by=wrong: [part + by for part in subject.whole()(z, y)], 1e-4, "it")
    with pytest.raises(UserError, match="and PyTorch"):
        compared(subject, lambda z, y: [part[:1] for part in subject.whole()(z, y)], 1e-4, "it")
    with torch.no_grad():
        assert compared(subject, subject.whole(), 0.0, "it").largest == 0


# Conditions ----------------------------------------------------------------------------------------------------------------------------


class Told(nn.Module):
    """A field of rows of three numbers, told a tree of conditions."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.kinds, self.net = nn.Embedding(5, 4), nn.Linear(9, 3)

    def forward(self, z, r, t, y):
        return torch.tanh(self.net(torch.cat([z, self.kinds(y["kind"]), y["text"]["vector"] * r[:, None]], -1))) + t[:, None]


CONDITION = {"kind": torch.arange(5), "text": {"vector": torch.linspace(-1, 2, 10).reshape(5, 2)}}


def told(seeds: range) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs under their names, and what the network makes of them in two steps."""
    k = torch.tensor([(3 * seed) % 5 for seed in seeds])
    y = {"kind": k, "text": {"vector": ms.noise(range(100, 100 + len(seeds)), (2,))}}
    z, net = ms.noise(seeds, (3,)), Told()
    with torch.no_grad():
        return {"noise": z, "kind": k, "text.vector": y["text"]["vector"]}, ms.walk(net, z, (1, 0.5, 0), y)


def test_conditions_of_any_form_are_arguments_of_a_program(tmp_path: Path):
    record = ms.export(Told(), to="torch", out=tmp_path / "torch", steps=2, shape=(3,), condition=CONDITION)
    assert record["difference"]["largest"] == 0 and record["inputs"] == "noise, kind, text.vector"
    inputs, wanted = told(range(7))
    assert torch.equal(torch.export.load(tmp_path / "torch" / "model.pt2").module()(*inputs.values())[0], wanted)


@ONNX
def test_a_field_that_is_zero_is_exported_too(tmp_path: Path):
    class Zero(torch.nn.Module):
        def forward(self, z, r, t, y=None):
            return 0 * z

    ms.export(Zero(), to="onnx", out=tmp_path / "onnx", shape=(1,), batch=1, field=True, half=True)
    inputs = {entry.name: np.ones([1] * len(entry.shape), np.float32) for entry in session(tmp_path / "onnx" / "field.onnx").get_inputs()}
    assert not session(tmp_path / "onnx" / "field.onnx").run(None, inputs)[0].any()


@ONNX
def test_conditions_of_any_form_are_named_inputs_of_a_graph(tmp_path: Path):
    ms.export(Told(), to="onnx", out=tmp_path / "onnx", steps=2, shape=(3,), condition=CONDITION, field=True)
    inputs, wanted = told(range(7))
    made = session(tmp_path / "onnx" / "model.onnx")
    assert [entry.name for entry in made.get_inputs()] == list(inputs)
    assert np.abs(made.run(None, {name: x.numpy() for name, x in inputs.items()})[0] - wanted.numpy()).max() < 1e-5
    names = [entry.name for entry in session(tmp_path / "onnx" / "field.onnx").get_inputs()]
    assert names == ["z", "r", "t", "kind", "text.vector"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"to": "web"}, "--to web makes a run's samples and has no inputs for conditions"),
        ({"to": "hub"}, "--to onnx or --to torch has"),
        ({"shape": None}, "give shape"),
        ({"decode": False}, "a network alone has no autoencoder"),
        ({"guidance": 2.0}, "put guidance into the network"),
        ({"sampler": "renoise"}, "draws noise on its way"),
        ({"condition": {"a": torch.ones(3), "b": torch.ones(2)}}, "one row for each sample, and b is"),
        ({"condition": {"a": 3}}, "a tree of tensors, and a is int"),
        ({"condition": {"noise": torch.ones(3)}}, "cannot be called noise"),
    ],
)
def test_a_network_that_cannot_leave_is_one_line(asked, said, tmp_path: Path):
    if not HAS.get(asked.get("to", "torch"), True):
        pytest.skip("needs the target's packages")
    with pytest.raises(UserError, match=said):
        ms.export(Told(), **{"to": "torch", "out": tmp_path / "new", "shape": (3,), "condition": CONDITION, **asked})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("labels", "said", "of_torch", "of_numpy"),
    [
        (None, {}, "torch.randint(3, (16,))", "np.arange(16) % 3"),
        ((2, 0), {"offered": ["fox", "cat"]}, "torch.tensor([2, 0])[torch.randint(2, (16,))]", "np.array([2, 0])[np.arange(16) % 2]"),
        ((1,), {"label": "dog"}, "", ""),
    ],
)
def test_a_card_has_the_labels_that_are_offered_and_its_example_draws_from_them(labels, said, of_torch, of_numpy, exportable):
    subject = subjects.of(exportable(), Choice(labels=labels), target="torch")
    assert {name: subject.facts[name] for name in ("label", "offered") if name in subject.facts} == said
    assert call(subject) == f"values, images = generate(torch.randn(16, 1, 8, 8){', ' * bool(of_torch)}{of_torch})"
    assert examples(subject, ("noise", "label")[: 2 if of_numpy else 1]).get("label", "") == of_numpy
    text = card(
        {"name": "a", "meanstep": "0", "target": "torch", "difference": {"largest": 0, "bound": 0, "draws": 1}, **subject.facts}, ""
    )
    assert ("| offered | fox, cat |" in text) == (labels == (2, 0)) and ("| label | dog |" in text) == (labels == (1,))


# onnx ----------------------------------------------------------------------------------------------------------------------------------


@ONNX
def test_a_graph_makes_the_pictures_of_any_batch(exportable, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("meanstep.program.export.to_onnx.SMALL", 1)  # constants are looked at as well as weights
    run = exportable()
    record = ms.export(run, to="onnx", out=tmp_path / "onnx", guidance=2.0, labels=[2, 0], half=True, field=True)
    assert record["difference"]["largest"] < 1e-5 and record["difference"]["levels"] <= 1
    model = ms.load(run)
    made = session(tmp_path / "onnx" / "model.onnx")
    assert [i.name for i in made.get_inputs()] == ["noise", "label"] and [o.name for o in made.get_outputs()] == ["values", "images"]
    for seeds in (range(1), range(3, 10)):
        y = torch.tensor([k % 3 for k in seeds])
        values, images = made.run(None, {"noise": ms.noise(seeds, (1, 8, 8)).numpy(), "label": y.numpy()})
        wanted = model.latents(seeds, 1, y, 2.0)
        assert np.abs(values - wanted.numpy()).max() < 2e-2 * wanted.std() and images.dtype == np.uint8
    field = session(tmp_path / "onnx" / "field.onnx")
    assert [i.name for i in field.get_inputs()] == ["z", "r", "t", "y"]
    assert [p.name for p in (tmp_path / "onnx").glob("*.data")] == [], "one file"


class Layers(nn.Module):
    """Norms with and without a scale and a shift, and layers of rows of tokens."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)
            self.plain, self.shifted = nn.LayerNorm(16, elementwise_affine=False), nn.LayerNorm(16, eps=1e-3)
            nn.init.normal_(self.shifted.weight)
            nn.init.normal_(self.shifted.bias)

    def forward(self, z, r, t, y=None):
        return self.last(self.shifted(self.plain(self.first(z)) ** 2)) + t[:, None, None]


@ONNX
def test_the_graph_of_a_page_is_the_same_function(tmp_path: Path):
    """Norms over four numbers at a time and layers as one operation, with the values of the graph that was changed."""
    import onnx

    net, z, half = Layers(), 3 * ms.noise(range(5), (6, 8)), torch.full((5,), 0.5)
    inputs = {"z": z, "r": 0 * half, "t": half}
    subject = of_net(net, Choice(), target="onnx", shape=(6, 8))
    made = {name: graph(net, inputs, ("u",), subject, *change) for name, change in (("as it is", ()), ("changed", (quicker,)))}
    kinds = {name: [node.op_type for node in onnx.load_from_string(data).graph.node] for name, data in made.items()}
    assert "LayerNormalization" in kinds["as it is"] and "LayerNormalization" not in kinds["changed"] and "Gemm" in kinds["changed"]
    given = {name: x.numpy() for name, x in inputs.items()}
    first, second = (opened(data).run(None, given)[0] for data in made.values())
    assert np.abs(first - second).max() < 1e-5 * first.std()
    assert np.abs(second - net(*inputs.values()).detach().numpy()).max() < 1e-5 * first.std()


@ONNX
def test_one_label_is_no_input_and_a_fixed_batch_is_one(exportable, tmp_path: Path):
    run = exportable()
    ms.export(run, to="onnx", out=tmp_path / "onnx", labels=[1], batch=4)
    made = session(tmp_path / "onnx" / "model.onnx")
    assert [(i.name, i.shape) for i in made.get_inputs()] == [("noise", [4, 1, 8, 8])]
    images = made.run(None, {"noise": ms.noise(range(4), (1, 8, 8)).numpy()})[1]
    assert '{"noise": np.random.randn(4, 1, 8, 8).astype("float32")}' in (tmp_path / "onnx" / "README.md").read_text()
    assert np.abs(images.astype(int) - ms.load(run).sample(4, 1, 1).numpy()).max() <= 1


# Bad input -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "onix"], "--to: one of web, onnx, torch, diffusers, hub"),
        (["--to", "torch", "--labels", "wolf"], "names, or numbers in 0 to 2, got 'wolf'"),
        (["--to", "torch", "--labels", "3"], "names, or numbers in 0 to 2, got '3'"),
        (["--to", "torch", "--checkpoint", "64"], "has no checkpoint at 64 samples"),
        (["--to", "torch", "--average", "0.5"], "has no average '0.5'"),
        (["--to", "torch", "--steps", "0"], "--steps: at least 1"),
        (["--to", "torch", "--batch", "-1"], "--batch: dynamic, or a number of rows"),
        (["--to", "torch", "--field"], "--field belongs to --to onnx"),
        (["--to", "torch", "--runtime", "."], "--runtime belongs to --to web"),
        (["--to", "torch", "--guidance", "nan"], "--guidance: a number at least 0"),
        (["--to", "torch", "--sampler", "renoise"], "draws noise on its way, which an export cannot: --sampler walk"),
        (["--to", "hub", "--guidance", "2"], "--to hub exports the network, which takes every label"),
        (["--to", "hub", "--sampler", "euler"], "--to hub: the folder does not keep a sampler"),
        (["--to", "hub", "--no-decode"], "trained without an autoencoder: leave it out"),
        (["--to", "web", "--batch", "4"], "a page makes any number of samples"),
    ],
)
def test_bad_input_is_one_line(words, said, exportable, ran, tmp_path: Path, capsys):
    if not HAS.get(words[1], True):
        pytest.skip(f"needs meanstep[{TARGETS[words[1]].extra}]")
    assert ran("export", exportable(), "--out", tmp_path / "new", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and not (tmp_path / "new").exists()


def test_a_run_that_is_not_finished_says_where_it_stands(exportable, ran, tmp_path: Path, capsys):
    run = exportable(samples=1000)
    assert ran("export", run, "--to", "torch", "--out", tmp_path / "new") == 2
    assert "it stands at 128 of 1,000 samples" in capsys.readouterr().err
    assert ran("export", run, "--to", "torch", "--out", tmp_path / "new", "--checkpoint", "128") == 0
    assert ran("export", run, "--to", "torch", "--out", tmp_path / "new", "--checkpoint", "128") == 2
    assert "exists: give the name of a new folder" in capsys.readouterr().err


def test_without_labels_there_is_nothing_to_choose(exportable):
    run = exportable(classes=0)
    for asked, said in (({"labels": [0]}, "trained without labels"), ({"guidance": 2.0}, "nothing to guide it by")):
        with pytest.raises(UserError, match=said):
            ms.export(run, to="torch", out="nowhere", **asked)


def test_a_network_is_guided_where_labels_were_hidden_in_training(exportable):
    run = exportable()
    assert subjects.of(run, Choice(), target="torch").guided and not subjects.of(exportable(classes=0), Choice(), target="torch").guided
    (run / "method.json").write_text(json.dumps(json.loads((run / "method.json").read_text()) | {"dropout": 0.0}))
    assert not subjects.of(run, Choice(), target="torch").guided


def test_what_a_loaded_model_or_a_network_cannot_take_is_not_ignored(exportable, tmp_path: Path):
    run = exportable()
    asked = [
        (ms.load(run), {"average": "raw"}, "average: this model is loaded already: say these to meanstep.load"),
        (ms.load(run), {"sampler": "euler", "checkpoint": 999}, "checkpoint, sampler: this model is loaded already"),
        (ms.load(run), {"stepps": 2}, "stepps: this model is loaded already"),
        (ms.load(run), {"shape": (3,)}, "shape: a run says itself"),
        (run, {"shape": (3,)}, "shape: a run says itself"),
        (Told(), {"shape": (3,), "condition": CONDITION, "checkpoint": "best"}, "checkpoint: a network alone has none"),
        (run, {"field": True}, "--field belongs to --to onnx"),
        (run, {"runtime": "ort"}, "--runtime belongs to --to web"),
    ]
    for source, how, said in asked:
        with pytest.raises(UserError, match=said):
            ms.export(source, to="torch", out=tmp_path / "new", **how)
    assert not (tmp_path / "new").exists()
    assert ms.export(ms.load(run, average="raw"), to="torch", out=tmp_path / "raw")["weights"] == "raw"


def test_a_missing_extra_is_named(exportable, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "onnxscript" else find_spec(name, *a))
    with pytest.raises(UserError, match=r"--to onnx needs onnxscript: pip install 'meanstep\[export\]'"):
        ms.export(exportable(), to="onnx", out=tmp_path / "new")


@pytest.fixture
def odd(exportable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose network, in a file of the current folder, has an operation that few targets have."""
    monkeypatch.chdir(tmp_path)
    source = "import torch\nclass Net(torch.nn.Module):\n    def __init__(self, size, channels, classes):\n        super().__init__()\n"
    source += "        self.w = torch.nn.Parameter(torch.ones(1))\n"
    source += "    def forward(self, z, r, t, y=None):\n        return self.w * torch.special.bessel_j0(z)\n"
    (tmp_path / "odd.py").write_text(source)
    return exportable(classes=0, description={"network": "odd:Net", "options": {"size": 8, "channels": 1, "classes": 0}})


def test_what_a_target_cannot_take_names_one_that_can(odd: Path, tmp_path: Path):
    with pytest.raises(UserError, match="this network is a Net: --to onnx or torch can"):
        ms.export(odd, to="diffusers", out=tmp_path / "a", network="odd:Net")
    assert ms.export(odd, to="torch", out=tmp_path / "b", network="odd:Net")["difference"]["largest"] == 0


@ONNX
def test_an_operation_that_onnx_has_not_is_named(odd: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"bessel_j0.*--to torch may take it"):
        ms.export(odd, to="onnx", out=tmp_path / "c", network="odd:Net")


def test_help_names_every_target(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    said = " ".join(re.sub("[│╭╰─]", "", capsys.readouterr().out).split())
    assert [name for name, target in TARGETS.items() if f"{name}: {target.about}" not in said] == []


def test_weights_in_bfloat16_are_written_as_they_are_worth():
    from safetensors.torch import load

    from meanstep.program.export.to_diffusers import _weights

    state = {"a": torch.tensor([1.5, -2.0]).bfloat16(), "b": torch.tensor([[0.1]]), "c": torch.arange(3)}
    found = load(_weights(state))
    assert (
        torch.equal(found["a"], torch.tensor([1.5, -2.0])) and torch.equal(found["b"], state["b"]) and torch.equal(found["c"], state["c"])
    )
    assert load(_weights(state, ["a"]))["a"].dtype == torch.float16 and load(_weights(state, ["a"]))["b"].dtype == torch.float32
