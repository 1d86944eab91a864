"""What training says at its start, in one line each, and the run's page shows: data off scale, labels that are not read."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import meanstep as ms
from meanstep import times as at_times
from meanstep import weights
from meanstep.program import methods
from meanstep.program.runs.config import Config, from_yaml, to_yaml
from meanstep.program.runs.records import load
from meanstep.program.runs.report import prose
from meanstep.program.runs.report.history import read
from meanstep.program.runs.weighting import FEW
from meanstep.program.training.cautions import ignores, lossy, rounded, unseen
from meanstep.terms import Recipe
from meanstep.types import Times

NETS = """
from torch import nn
import torch
class Deaf(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.layer = nn.Linear(shape[0] + 2, shape[0])
    def forward(self, z, r, t, y=None):
        return self.layer(torch.cat([z, r[:, None], t[:, None]], 1))
class Gated(Deaf):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.label, self.gate = nn.Embedding(classes + 1, shape[0]), nn.Parameter(torch.zeros(shape[0]))
        nn.init.zeros_(self.layer.weight)
    def forward(self, z, r, t, y=None):
        return super().forward(z, r, t) + self.gate * self.label(y)
"""
WORDS = "--device cpu --batch 16 --evaluate-every 0 --sample-every 0 --averages.decays 0.5"
SHORT = WORDS.split()
IGNORED, LARGE, SMALL = "the network ignores its labels", "root mean square of 96", "standard deviation of 0.0"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "caution_nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    yield tmp_path


CASES: dict[str, tuple[float, str, tuple[str, ...]]] = {
    "all is well": (1.0, "caution_nets:Gated", ()),
    "data a hundred times too large": (100.0, "mlp", (LARGE,)),
    "data all alike": (0.01, "mlp", (SMALL,)),
    "labels ignored": (1.0, "caution_nets:Deaf", (IGNORED,)),
    "both": (100.0, "caution_nets:Deaf", (LARGE, IGNORED)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_says_what_is_odd_once_and_its_page_shows_it(
    case: str, here: Path, ran: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    scale, network, expected = CASES[case]
    x = scale * np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    np.savez("x.npz", x=x, y=np.arange(64) % 4)
    assert ran("cache", "x.npz", "--out", "data", "--no-normalise") == 0
    command = ["train", "--out", "run", "--data.source", "data", "--network.name", network, *SHORT, "--samples"]
    assert ran(*command, 64) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("caution: ")]
    assert len(said) == len(expected) and all(words in line for words, line in zip(expected, said, strict=True))
    noted = [record["words"] for record in load(Path("run/records.jsonl")) if record["kind"] == "caution"]
    assert [f"caution: {words}" for words in noted] == said
    assert [f"Said at the start: {words}." for words in noted] == prose.gaps(read(Path("run")))[: len(noted)]
    if case == "both":  # a dry run says the same
        assert ran(*[word if word != "run" else "no" for word in command], 64, "--dry-run") == 0 and not Path("no").exists()
        assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("caution: ")] == said
    if case == "both":  # a run that goes on has them once, and keeps them
        assert ran(*command, 128) == 0 and "caution" not in capsys.readouterr().err
        assert noted == [r["words"] for r in load(Path("run/records.jsonl")) if r["kind"] == "caution"]
        shutil.rmtree("run/checkpoints")  # as a kill before the first one leaves it
        assert ran(*command, 64) == 0 and capsys.readouterr().err.count("caution: ") == len(said)
        assert noted == [r["words"] for r in load(Path("run/records.jsonl")) if r["kind"] == "caution"]


class Odd(nn.Module):
    """A network that cannot be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("not today")


def test_whether_labels_are_read_is_asked_of_a_copy_and_never_raises():
    x, y = ms.noise(range(8), (2,)), torch.arange(8) % 3
    net = ms.fields.DiT(size=4, channels=1, patch=2, width=8, depth=1, heads=1, classes=3)
    before, state = [p.clone() for p in net.parameters()], torch.get_rng_state()
    assert not ignores(net, ms.noise(range(8), (1, 4, 4)), y, 3)  # its last layer starts at 0
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True)) and torch.equal(state, torch.get_rng_state())
    assert net.training
    assert ignores(ms.MLP(2), x, y, 3) and not ignores(Odd(), x, y, 3)


def own_recipe(times: Times = at_times.uniform) -> Recipe:
    """A recipe of a user's own, whose times nobody published."""
    return ms.recipes.meanflow(at_times.capped(times, 0.25))


GAPS: dict[str, tuple[tuple[str, ...], str]] = {
    "published times, which hardly ever draw it": (
        ("--method.options", "{times: logit-normal}"),
        "draw longer gaps, such as uniform times",
    ),
    "uniform times": (("--method.options", "{times: uniform}"), ""),
    "a cap that leaves it": (("--method.largest-gap", "0.95", "--method.options", "{times: uniform}"), ""),
    "a cap": (("--method.largest-gap", "0.5"), "sample with --steps 2, or leave --method.largest-gap out"),
    "a lower cap": (
        ("--method.largest-gap", "0.3", "--method.recipe", "curriculum_meanflow"),
        "sample with --steps 4, or leave --method.largest-gap out",
    ),
    "times of one's own": (("--method.recipe", f"{__name__}:own_recipe"), "draw longer gaps, such as uniform times"),
}


@pytest.mark.parametrize("case", GAPS)
def test_jumps_that_are_not_trained_are_named(case: str, here: Path, ran: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    words, remedy = GAPS[case]
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32))
    assert ran("cache", "x.npz", "--out", "data", "--no-normalise") == 0
    capsys.readouterr()
    assert ran("train", "--out", "run", "--data.source", "data", "--network.name", "mlp", *SHORT, *words, "--samples", 16) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("caution: samples")]
    seen = "2" if case.startswith("published") else "none"
    expected = (
        f"caution: samples are one jump of gap 1, and {seen} of 131,072 rows with r < t that training draws have a gap of 0.9 or more: "
    )
    assert said == ([expected + remedy] if remedy else [])


@pytest.mark.parametrize("numbers", [3, FEW + 1])
def test_a_dry_run_says_what_the_run_will(numbers: int, here: Path, ran: Callable[..., int]):
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(64, numbers)).astype(np.float32))
    words = ["train", "--data.source", "x.npz", "--network.name", "mlp", *SHORT, "--method.largest-gap", 0.5, "--samples", 16]
    assert ran(*words, "--dry-run", "--json", "dry.json") == 0 and ran(*words, "--out", "run") == 0
    said = [record["words"] for record in load(Path("run/records.jsonl")) if record["kind"] == "caution"]
    assert json.loads(Path("dry.json").read_text())["cautions"] == said and said[-1].endswith("or leave --method.largest-gap out")


def test_rows_of_few_numbers_are_trained_by_the_squared_error_and_a_run_keeps_its_weight(
    here: Path, ran: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    def options(run: str) -> dict[str, object]:
        found: dict[str, object] = yaml.safe_load(Path(run, "config.yaml").read_text())["method"]["options"]
        return found

    np.savez("few.npz", x=np.random.default_rng(0).normal(size=(64, FEW)).astype(np.float32))
    np.savez("many.npz", x=np.random.default_rng(0).normal(size=(64, FEW + 1)).astype(np.float32))
    plain = ["train", "--network.name", "mlp", *SHORT, "--method.options", "{times: uniform}"]
    assert ran(*plain, "--data.source", "few.npz", "--out", "few", "--samples", 16) == 0
    told = capsys.readouterr().err
    assert "rows of few numbers: meanflow with the squared error" in told and "caution" not in told
    assert options("few") == {"times": "uniform", "power": 0}
    assert all(term.weight is weights.constant for term in built("few"))
    assert ran(*plain, "--data.source", "few.npz", "--out", "few", "--samples", 32) == 0  # the same command goes on
    assert options("few") == {"times": "uniform", "power": 0} and "squared error" not in capsys.readouterr().err
    assert ran(*plain, "--data.source", "many.npz", "--out", "many", "--samples", 16) == 0
    assert options("many") == {"times": "uniform"}
    asked = ["{power: 1, times: uniform}" if word == "{times: uniform}" else word for word in plain]
    capsys.readouterr()
    assert ran(*asked, "--data.source", "few.npz", "--out", "asked", "--samples", 16) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("caution: "))
    assert "rows are 16 numbers and the weight falls like the squared error to the power 1, which loses modes" in line
    assert options("asked")["power"] == 1


def test_a_run_of_few_numbers_from_before_keeps_its_weight(here: Path, ran: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32))
    command = ["train", "--network.name", "mlp", *SHORT, "--data.source", "x.npz", "--out", "run"]
    assert ran(*command, "--method.options", "{power: 1}", "--samples", 16) == 0
    config = Path("run/config.yaml")
    config.write_text(config.read_text().replace("    power: 1\n", "").replace("options:\n  largest", "options: {}\n  largest"))
    assert ran(*command, "--samples", 32) == 0
    assert "power" not in yaml.safe_load(config.read_text())["method"]["options"]
    assert built("run")[0].weight == weights.adaptive(1.0, 1e-2)


def built(run: str) -> Recipe:
    """The recipe of a run's configuration."""
    config = from_yaml(Path(run, "config.yaml").read_text(), run)
    return methods.build(config.method.recipe, ms.MLP(3), **config.method.options)


@pytest.mark.parametrize(
    ("weight", "shape", "expected"),
    [
        (weights.constant, (2,), 0.0),
        (weights.adaptive(1.0, 1e-2), (2,), 2 / 2.01),
        (weights.adaptive(0.5, 1.0), (3,), 0.5 * 3 / 4),
        (weights.adaptive(1.0, 10.0, "mean"), (2, 3), 1 / 11),
        (weights.times_factor(weights.adaptive(0.75, 1e-3), weights.tangent_gap), (1,), 0.75 / 1.001),
        (weights.alpha(0.5), (2,), 1 / (1 + 4e-3)),
        (weights.Cauchy(), (2,), 1 / 1.01),
    ],
)
def test_how_fast_a_weight_falls(weight: ms.types.Weight, shape: tuple[int, ...], expected: float):
    """`p q / (q + c)` at a mean squared error of 1, by hand; and the caution says it above a quarter, on few numbers only."""
    recipe = ms.recipes.meanflow(weight=weight)
    assert methods.falls(recipe, shape) == pytest.approx(expected, abs=2e-3)
    assert len(list(lossy(recipe, shape))) == (expected > 0.25) and not list(lossy(recipe, (17,)))


def test_a_weight_that_asks_the_field_is_left_out():
    assert methods.falls(ms.recipes.meanflow(weight=weights.trace()), (2,)) == 0


def test_a_run_that_learns_no_gap_is_not_told():
    assert not list(unseen(ms.recipes.flow_matching(), None))
    (line,) = unseen(ms.recipes.meanflow(at_times.logit_normal()), None)
    assert "2 of 131,072 rows with r < t" in line and line.endswith("or more: draw longer gaps, such as uniform times")


def test_bf16_is_named_where_a_difference_of_rounded_outputs_is_divided():
    still, moving = ms.recipes.flow_matching(), ms.recipes.meanflow
    warmed = [ms.rates.Warmed(rate, 0.5) for rate in (ms.rates.Backward(0.1), ms.rates.Exact())]
    told = [ms.recipes.solution_flow(), ms.recipes.discrete_meanflow(), ms.recipes.alpha_flow(), moving(rate=ms.rates.Backward(0.1))]
    quiet = [still, moving(), ms.recipes.transition(), ms.recipes.shortcut(ms.MLP(2)), moving(rate=ms.rates.Backward(1.0))]
    for recipe, expected in [*((r, 1) for r in (*told, moving(rate=warmed[0]))), *((r, 0) for r in (*quiet, moving(rate=warmed[1])))]:
        assert len(list(rounded(recipe, "bf16"))) == expected and not list(rounded(recipe, "float32"))


def test_a_run_in_bf16_is_told(here: Path, ran: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(64, 17)).astype(np.float32))
    words = ["train", "--data.source", "x.npz", "--network.name", "mlp", *SHORT, "--precision", "bf16", "--samples", 16]
    for recipe, dry, expected in (("solution_flow", ["--dry-run"], 1), ("solution_flow", [], 1), ("meanflow", [], 0)):
        assert ran(*words, *dry, "--out", recipe, "--method.recipe", recipe) == 0
        assert capsys.readouterr().err.count("so take --precision float32") == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method.largest-gap", "0"), "--method.largest-gap: more than 0 and at most 1, got 0"),
        (("--method.largest-gap", "1.5"), "--method.largest-gap: more than 0 and at most 1, got 1.5"),
        (("--method.largest-gap", "0.5", "--method.recipe", "shortcut"), "recipe shortcut draws its own times"),
        (("--method.largest-gap", "0.5", "--method.recipe", "flow_matching"), "recipe flow_matching has no gaps, all its rows have r = t"),
    ],
)
def test_a_cap_that_cannot_be_is_one_line(
    words: tuple[str, ...], message: str, ran: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert ran("train", "--dry-run", *words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_file_from_before_there_were_caps_has_none():
    text = to_yaml(Config())
    assert "largest_gap: null" in text
    assert from_yaml(text.replace("  largest_gap: null\n", ""), "here") == Config()
    capped = from_yaml("method: {largest_gap: 0.5}", "here")
    assert capped.method.largest_gap == 0.5 and from_yaml(to_yaml(capped), "here") == capped
