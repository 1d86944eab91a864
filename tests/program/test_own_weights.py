"""Starting from a file of a network's own weights: whatever wrapped it, whatever lies beside it, and what does not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import meanstep as ms
from meanstep.cli import main
from meanstep.fields import MLP, UNet, with_gap
from meanstep.program.console import UserError
from meanstep.program.runs.own_weights import load

State = dict[str, Tensor]


def net(seed: int = 0, width: int = 8) -> UNet:
    made = UNet((1, 8), width, (1,), 1, (), 1)
    with torch.no_grad():
        for k, p in enumerate(made.parameters()):
            p.copy_(torch.randn(p.shape, generator=ms.key(seed, k)))
    return made


def before(start: str, state: State) -> State:
    return {start + name: value for name, value in state.items()}


def lightning(state: State) -> dict[str, Any]:
    """What Lightning writes, as far as it is plain."""
    return {
        "epoch": 3,
        "global_step": 9,
        "pytorch-lightning_version": "2.5",
        "state_dict": state,
        "callbacks": {},
        "loops": {"a": {"b": 1}},
    }


FILES = {
    "plain": lambda s: s,
    "module.": lambda s: before("module.", s),
    "net.": lambda s: before("net.", s),
    "_orig_mod.": lambda s: before("_orig_mod.", s),
    "module.model._orig_mod.": lambda s: before("module.model._orig_mod.", s),
    "lightning": lambda s: lightning(before("model.", s)),
    "lightning, compiled, with others": lambda s: lightning(
        before("model._orig_mod.", s) | {"loss.scale": torch.ones(2), "seen": torch.ones(())}
    ),
    "average and weights": lambda s: lightning(before("net.", {k: 0 * v for k, v in s.items()}) | before("ema_net.module.", s)),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_network_is_found_in_the_file(kind: str, tmp_path: Path):
    there, here = net(1), net(2)
    torch.save(FILES[kind](there.state_dict()), tmp_path / "a.ckpt")
    load(here, tmp_path / "a.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(there.state_dict().values(), here.state_dict().values(), strict=True))
    save_file(before("net.", there.state_dict()), tmp_path / "a.safetensors")
    load(torch.compile(inner := net(3)), tmp_path / "a.safetensors")  # type: ignore[arg-type]
    assert torch.equal(inner.out.weight, there.out.weight)  # type: ignore[arg-type]


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.layer(torch.cat([z, t[:, None]], 1))


def test_a_flow_matching_network_with_a_gap_starts_as_it_was(tmp_path: Path):
    there, field = Velocity(), with_gap(Velocity())
    torch.save(lightning(before("net.", there.state_dict())), tmp_path / "a.ckpt")
    notes = load(field, tmp_path / "a.ckpt")
    z, r, t = torch.randn(4, 2), torch.rand(4), torch.ones(4)
    assert torch.equal(field(z, r, t), there(z, t)) and any("gap" in note for note in notes)


class Opener:
    """What a pickle could run."""

    def __reduce__(self) -> Any:
        return open, ("opened", "w")


REFUSED: dict[str, tuple[Any, str]] = {
    "wider": (lambda: before("net.", net(1, 16).state_dict()), "another architecture: .* in this network"),
    "another": (lambda: MLP(2, 8, 1).state_dict(), "another architecture: .* is missing there"),
    "two": (
        lambda: before("a.", net(1).state_dict()) | before("b.", net(2).state_dict()),
        r"several networks like this one, a\., b\.: save one",
    ),
    "no numbers": (lambda: before("net.", {k: v * torch.nan for k, v in net(1).state_dict().items()}), "finite"),
    "a pickle": (lambda: {"state_dict": net(1).state_dict(), "hyper_parameters": Opener()}, "a pickle that holds more than tensors"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_one_line_and_changes_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    content, message = REFUSED[kind]
    torch.save(content(), tmp_path / "a.ckpt")
    here = net(5)
    with pytest.raises(UserError, match=message) as told:
        load(here, tmp_path / "a.ckpt")
    assert "\n" not in str(told.value) and not (tmp_path / "opened").exists()
    assert all(torch.equal(a, b) for a, b in zip(net(5).parameters(), here.parameters(), strict=True))


def test_the_command_starts_from_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    x = torch.randn(40, 1, 8)
    save_file({"x": x}, "x.safetensors")
    torch.save(lightning(before("model.", net(1).state_dict())), "a.ckpt")
    words = ["train", "--data.source=x.safetensors", "--device=cpu", "--samples=32", "--batch=32", "--rate=1e-9", "--evaluate-every=0"]
    words += ["--sample-every=0", "--network.name=unet", "--network.width=8", "--network.multipliers", "1", "--network.blocks=1"]
    words += ["--network.options={attention: []}", "--network.heads=1", "--clip=1"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out=run", "--network.start=a.ckpt"])
    assert ended.value.code == 0 and "weights model of a.ckpt" in capsys.readouterr().err
    torch.testing.assert_close(ms.load("run").field.out.bias, net(1).out.bias, rtol=0, atol=1e-6)
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out=none", "--network.start=b.ckpt"])
    assert ended.value.code == 2 and "there is no folder or file b.ckpt" in capsys.readouterr().err
