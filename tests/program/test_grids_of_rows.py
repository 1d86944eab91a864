"""Signals, rectangles and video by name from a file to samples and distances; which network a shape gets; what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import meanstep as ms
from meanstep.program.runs.config import NetworkConfig
from meanstep.program.runs.suited import TOKENS, patches, suited
from meanstep.program.training.presets import PRESETS

from .conftest import run

pytestmark = pytest.mark.usefixtures("here")

DRAW = np.random.default_rng(4)
DIT = ("--network.name=dit", "--network.width=16", "--network.depth=1", "--network.heads=2")
UNET = ("--network.name=unet", "--network.width=8", "--network.multipliers", "1", "2", "--network.blocks=1", "--network.attention", "1")
PRESET = PRESETS["digits"].config.network


SHORT = ("--samples=32", "--batch=16", "--evaluate-count=20", "--device=cpu")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        pytest.param((2, 12), (*DIT, "--network.patch=3"), marks=pytest.mark.slow),
        pytest.param((1, 4, 6), (*DIT, "--network.patches", "2", "3"), marks=pytest.mark.slow),
        ((1, 2, 4, 6), (*DIT, "--network.patches", "1", "2", "2")),
        ((2, 9), UNET),
        pytest.param((1, 6, 5), UNET, marks=pytest.mark.slow),
    ],
)
def test_rows_on_a_grid_are_trained_on_sampled_evaluated_and_diagnosed(shape: tuple[int, ...], words: tuple[str, ...]):
    np.save("x.npy", DRAW.normal(size=(30, *shape)).astype(np.float32))
    run("train", "--out=run", "--data.source=x.npy", *words, *SHORT)
    model = ms.load("run")
    assert model.shape == shape and model.sample(3).shape == (3, *shape)
    run("sample", "run", "--seeds=0:3", "--out=s.png")
    run("evaluate", "run", "--count=20", "--metrics", "frechet", "--json=e.json")
    assert json.loads(Path("e.json").read_text())[0]["distance"] == "FD-rows"
    run("diagnose", "run", "--budget=1s", "--rows=32")
    run("report", "run")


@pytest.mark.slow
def test_pictures_that_are_no_squares_are_pictures():
    np.savez("a.npz", images=DRAW.integers(0, 256, (30, 6, 8), dtype=np.uint8))
    run("train", "--out=run", "--data.source=a.npz", *DIT, *SHORT)
    model = ms.load("run")
    assert model.manifest.codec == "pixels" and model.sample(2).shape == (2, 1, 6, 8)
    run("sample", "run", "--seeds=0:2", "--out=s.png")
    run("evaluate", "run", "--count=20", "--metrics", "frechet")


def test_a_low_resolution_picture_is_a_condition():
    x = DRAW.normal(size=(30, 1, 8, 8)).astype(np.float32)
    np.savez("a.npz", x=x, low=x.reshape(30, 1, 4, 2, 4, 2).mean((3, 5)))
    run("train", "--out=run", "--data.source=a.npz", "--data.condition", "low", *UNET, *SHORT)
    model = ms.load("run")
    assert model.field.stem.in_channels == 2 and model.sample(2).shape == (2, 1, 8, 8)


# Which network -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "name", "options"),
    [
        ((2,), "mlp", {}),
        ((16, 2), "mlp", {}),
        ((2, 16), "dit", {"patch": 1}),
        ((1, 256), "dit", {"patch": 4}),
        ((1, 16_001), "unet", {}),
        ((1, 5, 5), "dit", {"patch": 1}),
        ((3, 32, 48), "dit", {"patches": (4, 6)}),
        ((3, 8, 32, 32), "dit", {"patches": (2, 8, 8)}),
        ((1, 101, 103, 107, 109), "mlp", {}),
    ],
)
def test_the_shape_of_a_row_chooses(shape: tuple[int, ...], name: str, options: dict[str, object]):
    assert suited(PRESET, shape) == NetworkConfig(name, options)


def test_square_rows_that_the_presets_patch_divides_keep_the_preset():
    assert suited(PRESET, (1, 8, 8)) is PRESET and suited(PRESET, (1, 7, 7)) is not PRESET
    model = NetworkConfig("dit", {"model": "S/4"})
    assert suited(model, (4, 8, 8)) is model and suited(model, (4, 6, 6)) is not model


def test_patches_divide_and_there_are_few_tokens():
    for grid in [(n,) for n in range(1, 300)] + [(n, m) for n in (7, 12, 60) for m in (8, 36, 41)]:
        if (sides := patches(grid)) is not None:
            assert all(n % p == 0 for n, p in zip(grid, sides, strict=True))
            assert math.prod(n // p for n, p in zip(grid, sides, strict=True)) <= TOKENS
        else:
            assert len(grid) == 2 or all(grid[0] % p for p in range(-(-grid[0] // TOKENS), 17))


# What is refused -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "words", "told"),
    [
        ((1, 9), (*DIT, "--network.patch=2"), "--network.patch: patch divides every axis of the grid, which is 9, got 2: give 1, 3, 9"),
        ((3,), DIT, "the network dit takes rows of 2 axes and more, channels first, and the rows are 3: give --network.name mlp"),
        ((3,), UNET, "the network unet takes rows of 2 to 4 axes, channels first, and the rows are 3: give --network.name mlp"),
        ((1, 8), (*UNET, "--network.heads=3"), "--network.heads: heads divide the width"),
        ((1, 8), (*UNET, "--network.depth=3"), "--network.depth: the network unet has no option 'depth'; it takes width, multipliers"),
        ((1, 8), ("--network.name=unet", "--network.width=65536"), "choose a smaller --network.width"),
        ((1, 8), (*DIT, "--network.patches", "2", "--network.patch=2"), "--network.patch: --network.patches"),
        ((1, 8), ("--network.name=mlp", "--network.activation=step"), "activation"),
    ],
)
def test_what_a_network_cannot_take_is_one_line(
    shape: tuple[int, ...], words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
):
    np.save("x.npy", DRAW.normal(size=(8, *shape)).astype(np.float32))
    run("train", "--out=run", "--data.source=x.npy", *words, *SHORT, code=2)
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
    assert not Path("run", "checkpoints").exists()


def test_help_teaches_the_options_of_the_network_that_is_named(capsys: pytest.CaptureFixture[str]):
    run("train", "--network.name", "unet", "--help")
    shown = capsys.readouterr().out
    assert "--network.multipliers" in shown and "--network.attention" in shown and "--network.depth" not in shown
