"""The examples: each runs by itself in its quick mode and draws its picture; the one without the program computes the program's numbers."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import meanstep as ms

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
ALONE = {"accelerate_loop": "accelerate", "lightning_module": "lightning", "optuna_search": "optuna"}
"""Those that need what the tests do not install, and that package. It keeps state of the process, so each gets one of its own."""


def run(path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The script as from a shell, in a folder of its own; in this process, which has imported torch already, where that is possible."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "cache"))
    if path.stem in ALONE:
        pytest.importorskip(ALONE[path.stem], reason=f"{path.name} needs pip install {ALONE[path.stem]}")
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, path, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        print(done.stdout)
        return
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    state = torch.get_rng_state()
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        assert not end.code
    assert torch.equal(torch.get_rng_state(), state), "an example draws from torch's global generator"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_draws_its_picture(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    run(path, ["--quick", "--out", str(tmp_path / "made.png")], monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert re.search(r"sliced W1", printed) and not re.search(r"\bnan\b|\binf\b", printed)
    low, high = Image.open(tmp_path / "made.png").convert("L").getextrema()
    assert high - low > 100
    left = {entry.name for entry in tmp_path.iterdir()} - {"made.png", "cache"}
    assert all(re.fullmatch(r"made-\w\.wav", name) for name in left), f"{path.name} leaves {left} where it was started"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_helps(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    run(path, ["--help"], monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("--quick", "--out", "Shows: ", "Needs: ", "Takes: "))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_has_its_place(path: Path):
    text = path.read_text(encoding="utf-8")
    docstring = len(ast.get_docstring(ast.parse(text)).splitlines())
    lines = [
        line for line in text.splitlines() if line.strip() and (path.stem == "meanflow_in_one_file" or not line.lstrip().startswith("#"))
    ]
    assert len(lines) - docstring <= (80 if path.stem == "meanflow_in_one_file" else 70)
    page = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    assert f"(../examples/{path.name})" in page
    picture = ROOT / f"docs/figures/examples/{path.stem}.png"
    assert picture.is_file() == (f"(figures/examples/{picture.name})" in page)
    assert not picture.is_file() or picture.stat().st_size < 150_000


def one_file() -> dict:
    return runpy.run_path(str(ROOT / "examples/meanflow_in_one_file.py"))


def test_meanflow_in_one_file_is_at_most_eighty_lines_without_the_program():
    text = (ROOT / "examples/meanflow_in_one_file.py").read_text(encoding="utf-8")
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 80
    tree = list(ast.walk(ast.parse(text)))
    imported = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in tree if isinstance(node, ast.ImportFrom)}
    assert imported == {"argparse", "math", "torch", "matplotlib.figure"}


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_the_loss_and_gradient_of_one_file_are_those_of_the_recipe(power: float):
    names = one_file()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = names["Net"](16).double()
    x, e = (torch.randn(32, 2, generator=ms.key(k), dtype=torch.float64) for k in range(2))
    loss = ms.Loss(ms.recipes.meanflow(times=ms.times.uniform, diagonal_share=0.25, weight=ms.weights.adaptive(power, 1e-2)))
    drawn = [bridge for _, bridge in loss.draw(x, noise=e, generator=ms.key(2))]
    r, t = (torch.cat([getattr(bridge, name) for bridge in drawn]) for name in "rt")
    theirs = loss(ms.as_field(net, ("z", "r", "t")), x, noise=e, generator=ms.key(2)).loss
    mine = names["meanflow_loss"](net, x, e, r, t, power)
    assert (r < t).sum() == 24 and (mine - theirs).abs() < 1e-10 * theirs.abs()
    for a, b in zip(*(torch.autograd.grad(value, list(net.parameters())) for value in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_times_samples_and_distance_of_one_file_are_those_of_the_program():
    names = one_file()
    r, t = names["draw_times"](64, 0.25, ms.key(0))
    assert (r == t).sum() == 16 and (r == t)[:16].all() and (r >= 0).all() and (r <= t).all() and (t <= 1).all()
    net, e = ms.MLP(2, 16, generator=ms.key(0)), ms.noise(range(8), (2,))
    torch.testing.assert_close(names["sample"](net, e), ms.jump(net, e))
    torch.testing.assert_close(names["sample"](net, e, 4), ms.walk(net, e, ms.samplers.grid(4)))
    a, b = (names["clouds"](64, ms.key(k)) for k in range(2))
    assert names["sliced_w1"](a, b) == pytest.approx(ms.metrics.sliced_wasserstein(a, b, ms.metrics.directions(2)), rel=1e-6)
