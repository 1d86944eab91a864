"""Names of weights under torch.compile, DDP, averaged copies and Lightning: every path into and out of a network knows them alike."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import meanstep as ms
from meanstep.cli import main
from meanstep.fields import DiT
from meanstep.program.console import UserError
from meanstep.program.evaluation.pretrained import loaded
from meanstep.program.runs import public_weights
from meanstep.program.runs.restored import put, put_part
from meanstep.program.runs.saved import found
from meanstep.program.training.averages import Average
from meanstep.program.training.command import Train
from meanstep.program.wrapped import bare, matched, uncompiled, unwrapped

NETS = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, n, classes):
        super().__init__()
        self.label, self.blocks = nn.Embedding(classes + 1, n), nn.ModuleList([nn.Linear(n + 2, 16), nn.Linear(16, n)])
    def forward(self, z, r, t, y):
        h = z.flatten(1) + self.label(y)
        return self.blocks[1](self.blocks[0](torch.cat([h, r[:, None], t[:, None]], 1)).tanh()).view_as(z)
def plain(size, channels, classes): return Net(channels * size * size, classes)
def whole(**sizes):
    return torch.compile(plain(**sizes), backend="eager")
def blocks(**sizes):
    net = plain(**sizes)
    net.blocks[0] = torch.compile(net.blocks[0], backend="eager")
    return net
"""
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
SHORT = ["--device", "cpu", "--batch", "32", "--save-every", "64", "--sample-every", "0", "--seed", "3", "--method.recipe", "flow_matching"]
EXAMINED = ["--only", "arguments", "gradients", "times", "forward-mode", "--device", "cpu"]


def state(net: nn.Module) -> dict[str, Tensor]:
    return {bare(name): value for name, value in net.state_dict().items()}


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def uneven() -> nn.Module:
    net = small()
    net[0] = torch.compile(net[0])  # type: ignore[index, operator]
    return net


class Holder(nn.Module):
    """A network that holds another under a name that wrappers use."""

    def __init__(self, name: str) -> None:
        super().__init__()
        setattr(self, name, small())


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "plain": small,
    "compiled": lambda: torch.compile(small()),  # type: ignore[dict-item, return-value]
    "compiled block": uneven,
    "module": lambda: Holder("module"),
    "Lightning": lambda: Holder("model"),
    "Lightning, compiled inside": lambda: held("model"),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(small()),
}


def held(name: str) -> nn.Module:
    net = Holder(name)
    setattr(net, name, torch.compile(getattr(net, name)))
    return net


@pytest.mark.parametrize("there", list(WRAPPED))
@pytest.mark.parametrize("here", [name for name in WRAPPED if name != "averaged"])
def test_weights_go_from_every_wrapper_into_every_other(there: str, here: str):
    source, target = WRAPPED[there](), WRAPPED[here]()
    put(target, dict(source.state_dict()), Path("file"))
    values = [value for name, value in source.state_dict().items() if name != "n_averaged"]
    assert all(torch.equal(a, b) for a, b in zip(values, target.state_dict().values(), strict=True))
    part = {f"learner.{name}": value for name, value in source.state_dict().items()}
    put_part(target, part, "learner.", Path("file"))
    loaded(target, dict(source.state_dict()), "file")


def test_what_is_no_wrapper_keeps_its_name():
    one, two = torch.zeros(1), torch.ones(1)
    assert matched({"a.model.x": one, "b": two}, ["a.model.x", "b"]) == {"a.model.x": one, "b": two}
    assert set(matched({"module.a": one, "b": two}, ["a", "b"])) == {"module.a", "b"}, "not before all of them"
    assert bare("x_orig_mod.a") == "x_orig_mod.a" and bare("_orig_mod.a._orig_mod.b") == "a.b"
    with pytest.raises(UserError, match=r"holds another architecture: module\.extra is \(1,\) there and unknown"):
        put(small(), {f"module.{k}": v for k, v in {**small().state_dict(), "extra": one}.items()}, Path("file"))


def test_compiling_is_taken_off_in_place_and_a_copy_is_the_same_network():
    net = held("model")
    inner = unwrapped(net.model)
    assert uncompiled(net) is net and net.model is inner and "_orig_mod" not in " ".join(net.state_dict())
    assert uncompiled(torch.compile(net)) is net  # type: ignore[arg-type]


def test_an_average_of_a_compiled_network_takes_weights_of_either_name():
    net = torch.compile(small())
    average = Average("0.9", net)  # type: ignore[arg-type]
    other = small()
    put(average.exact, other.state_dict(), Path("file"))
    assert all(torch.equal(a, b) for a, b in zip(state(average.exact).values(), other.state_dict().values(), strict=True))


def test_public_weights_start_a_compiled_network_and_may_be_written_by_a_wrapped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(public_weights, "converted", lambda held, net, source, relabel: (dict(held), ()))
    net = DiT(8, 1, 4, 16, 1, 2, generator=ms.key(1))
    for start in ("", "module.", "_orig_mod.", "model.", "module._orig_mod."):
        save_file({f"{start}{k}": v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "public.safetensors")
        other = torch.compile(DiT(8, 1, 4, 16, 1, 2, generator=ms.key(2)))
        public_weights.load(other, f"sit:{tmp_path / 'public.safetensors'}")  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for a, b in zip(state(other).values(), net.state_dict().values(), strict=True))  # type: ignore[arg-type]


# A factory that compiles ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of the three factories, of four steps each; the compiled one stops after two and goes on."""
    pytest.importorskip("sklearn", reason="the embedded digits need the extra digits")
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "compiling_nets.py").write_text(NETS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEANSTEP_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for name in ("plain", "whole", "blocks"):
            words = ["--out", name, *SHORT, "--evaluate-every", "0", "--network.name", f"compiling_nets:{name}", "--averages.decays", "0.5"]
            for samples in ("64", "128") if name == "whole" else ("128",):
                torch.compiler.reset()
                assert Train.parse([*words, "--samples", samples]).run() == 0
        yield folder


def values(folder: Path, name: str, file: str) -> dict[str, Tensor]:
    return load_file(found(folder / name)[-1] / f"{file}.safetensors")


def test_checkpoints_have_the_names_of_the_network_itself_and_training_goes_on(folder: Path):
    for file in ("model", "ema_0.5", "state"):
        for name in ("whole", "blocks"):
            assert values(folder, name, file).keys() == values(folder, "plain", file).keys()
            for key, value in values(folder, name, file).items():
                torch.testing.assert_close(value, values(folder, "plain", file)[key], rtol=1e-4, atol=1e-5)


def test_another_run_starts_from_compiled_weights(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    words = ["--out", "started", "--evaluate-every", "0", "--network.name", "compiling_nets:blocks", "--samples", "32"]
    assert Train.parse([*words, *SHORT, "--rate", "1e-12", "--network.start", "whole"]).run() == 0
    for name, value in values(folder, "started", "model").items():
        torch.testing.assert_close(value, values(folder, "whole", "ema_0.5")[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["whole", "blocks"])
def test_a_compiled_run_is_loaded_sampled_evaluated_diagnosed_and_examined(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(folder)
    torch.compiler.reset()
    allowed = f"compiling_nets:{name}"
    ours = ms.load("plain", network="compiling_nets:plain")
    model = ms.load(name, network=allowed)
    assert state(model.field).keys() == ours.field.state_dict().keys()
    assert model.sample(2).shape == (2, 1, 8, 8)
    for words in (
        ()
        if name == "blocks"
        else (
            ["sample", name, "--network", allowed, "--seeds", "0:2", "--out", str(tmp_path / "s.png")],
            ["evaluate", name, "--network", allowed, "--count", "32", "--device", "cpu", "--extractor", "pixels"],
            ["diagnose", name, "--network", allowed, "--rows", "16", "--budget", "300s", "--json", str(tmp_path / "d.json")],
            ["doctor", allowed, "--options", "{size: 8, channels: 1, classes: 10}", "--shape", "1,8,8", "--classes", "10", *EXAMINED],
        )
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert (stop.value.code or 0) == 0, words
    assert name == "blocks" or "center" in json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))


def test_the_doctor_looks_at_what_was_compiled():
    net = ms.MLP(2, 8, 1, generator=ms.key(0))
    kept = copy.deepcopy(net)
    report, plain = (ms.doctor(n, (2,), only=("arguments", "gradients", "times")) for n in (torch.compile(net), kept))  # type: ignore[arg-type]
    assert report.findings == plain.findings and report.network == plain.network and "_orig_mod" not in str(report)
