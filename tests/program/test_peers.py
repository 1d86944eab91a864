"""benchmarks/peers.py: a checkout is named, what cannot be loaded costs a line, and the table has every number."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LOSS = """
import torch
class SILoss:
    def __call__(self, model, x):
        r, t = self.sample_time_steps(len(x), x.device)
        e = torch.randn_like(x)
        at, v = t.view(-1, 1, 1, 1), e - x
        z = (1 - at) * x + at * e
        _, du = torch.func.jvp(model, (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
        error = model(z, r, t) - (v - FACTOR * (at - r.view(-1, 1, 1, 1)) * du).detach()
        return error.square().sum((1, 2, 3)), None
"""


@pytest.fixture(scope="module")
def peers() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("peers")


Run = Callable[..., str]


@pytest.fixture
def run(peers: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """What a command says."""
    threads = torch.get_num_threads()

    def call(*options: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["peers.py", "--network", "toy", "--rounds", "1", *map(str, options)])
        peers.main()
        return capsys.readouterr().out

    yield call
    torch.set_num_threads(threads)


@pytest.fixture
def checkouts(tmp_path: Path) -> dict[str, Path]:
    """The published loss written out, one whose derivative is doubled, one that lacks a module, and an empty folder."""
    found = {name: tmp_path / name for name in ("right", "wrong", "lacks", "empty")}
    for folder in found.values():
        folder.mkdir()
    (found["right"] / "loss.py").write_text(LOSS.replace("FACTOR", "1"))
    (found["right"] / ".commit").write_text("04d183c02b14973407e3c47215ef4dab2272b576\n")
    (found["wrong"] / "loss.py").write_text(LOSS.replace("FACTOR", "2"))
    (found["wrong"] / ".commit").write_text("abcdef1\n")
    (found["lacks"] / "loss.py").write_text("import no_such_module\n")
    return found


def test_what_cannot_be_measured_costs_a_line_and_the_others_run(run: Run, checkouts: dict[str, Path], tmp_path: Path):
    record = tmp_path / "peers.json"
    entries = [f"py-meanflow={checkouts['empty']}", f"DMF={checkouts['lacks']}", f"zhuyu-cs={checkouts['right']}"]
    said = run("--checkout", *entries, "--json", record).splitlines()
    assert said[0] == (
        f"py-meanflow: {checkouts['empty']} (commit unknown) is no checkout of Gsunshine/py-meanflow, it has no meanflow/models/meanflow.py"
    )
    assert any(line == "DMF: left out, No module named 'no_such_module'; install it to measure this one" for line in said)
    assert [line.split()[0] for line in said[-2:]] == ["theirs", "zhuyu-cs"]
    (row,) = json.loads(record.read_text())["peers"].values()
    assert row["commit"].startswith("04d183c") and row["gradients"] < 1e-12
    assert set(row["rows"]) == {"flow matching", "theirs", "ours"} and row["rows"]["theirs"]["peak_ratio"] > 1
    assert f"{row['pairs']['theirs / ours']:.2f}" == said[-1].split()[2]


def test_another_commit_is_named_and_another_gradient_is_seen(run: Run, checkouts: dict[str, Path], tmp_path: Path):
    record = tmp_path / "peers.json"
    said = run("--checkout", f"zhuyu-cs={checkouts['wrong']}", "--json", record)
    assert f"zhuyu-cs: {checkouts['wrong']} is at commit abcdef1, and the adapter was written for 04d183c" in said
    assert json.loads(record.read_text())["peers"]["zhuyu-cs"]["gradients"] > 1e-3


@pytest.mark.parametrize(
    ("entry", "line"),
    [("zhuyu=.", "'zhuyu=.' is no NAME=FOLDER with a name of py-meanflow"), ("TiM=/no/such", "TiM: the folder /no/such does not exist")],
)
def test_bad_options_are_one_line(run: Run, capsys: pytest.CaptureFixture[str], entry: str, line: str):
    with pytest.raises(SystemExit, match="2"):
        run("--checkout", entry)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("peers.py: error: --checkout: ") and line in said


def test_a_command_that_measured_nothing_fails(run: Run, checkouts: dict[str, Path]):
    with pytest.raises(SystemExit, match="no checkout could be measured"):
        run("--checkout", f"TiM={checkouts['empty']}")
