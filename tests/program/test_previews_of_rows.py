"""What rows that are no pictures look like: which kind they are, files that read back, and a run's page with a player."""

import csv
import io
import re
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.data import Manifest, views, waves
from meanstep.program.data.look import Look, asked

from .conftest import run

pytestmark = pytest.mark.usefixtures("here")

SHORT = ("--samples=64", "--batch=32", "--evaluate-count=24", "--device=cpu", "--network.width=8", "--network.depth=1")


def levels(data: bytes) -> tuple[int, np.ndarray]:
    with wave.open(io.BytesIO(data)) as file:
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels()).T


def test_sound_of_16_bits_comes_back_exactly():
    whole = torch.randint(-32768, 32768, (2, 50), generator=ms.key(0))
    rate, found = levels(waves.encoded(whole / 32768, 8000))
    assert rate == 8000 and np.array_equal(found, whole.numpy())
    assert levels(waves.encoded(torch.tensor([2.0, -2.0]), 8000))[1].tolist() == [[32767, -32768]]
    assert waves.in_turn(torch.zeros(3, 1, 80), 40, 5.0).shape == (1, 2 * 80 + 10) and waves.loud(torch.tensor([[2.0], [1.0]])) == 1


@pytest.mark.parametrize(
    ("shape", "kind"), [((1,), "table"), ((2,), "points"), ((9,), "signals"), ((2, 9), "signals"), ((2, 3, 3), "grids")]
)
def test_the_kind_follows_from_the_shape_and_data_are_shown_beside(shape: tuple[int, ...], kind: str):
    rows = torch.randn(6, *shape, generator=ms.key(0))
    assert Look().of(shape).kind == kind
    alone, beside = views.shown(rows, Look()), views.shown(rows, Look(), None, rows + 1)
    assert beside.width * beside.height > alone.width * alone.height


@pytest.mark.parametrize(
    ("words", "what"), [("sound", "samples a second"), ("sound:0", "got"), ("cubes", "got"), ("points", "two or three")]
)
def test_a_look_that_does_not_fit_is_refused(words: str, what: str):
    with pytest.raises(UserError, match=what):
        asked(words, Look(), (7,), "--preview")


def test_sound_is_heard_on_the_page_and_in_files(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "speech").mkdir()
    for k in range(12):
        (here / "speech" / f"{k}.wav").write_bytes(waves.encoded(torch.linspace(-0.5, 0.5, 200) * (k + 1) / 12, 400))
    run("train", "--out=run", "--data.source=speech", *SHORT)
    assert Manifest.read(here / "run" / "data.json").look == Look("sound", 400)
    page = (here / "run" / "report.html").read_text()
    assert page.count("<audio") == 2 and page.count("data:audio/wav") == 3 and not re.search(r'(src|href)="(https?:)?//', page)
    assert "floor" in capsys.readouterr().err and "Sliced W1" in page
    run("sample", "run", "--out=made", "--seeds=3:5")
    rate, found = levels((here / "made" / "000004.wav").read_bytes())
    row = ms.load("run").sample([4])[0]
    assert rate == 400 and np.abs(found / 32768 - row.clamp(-1, 1).numpy()).max() < 1e-4 and (here / "made" / "preview.png").is_file()
    run("sample", "run", "--out=made.csv", code=2)


def test_a_table_is_a_table_again(here: Path, capsys: pytest.CaptureFixture[str]):
    lines = [f"{k},{1000 * (k % 7)},{'ab'[k % 2]}" for k in range(60)]
    (here / "t.csv").write_text("\n".join(["age,income,kind", *lines]) + "\n")
    run("train", "--out=run", "--data.source=t.csv", "--data.condition", "kind", *SHORT)
    run("sample", "run", "--out=made.png", "--seeds=0:5")
    rows = list(csv.DictReader((here / "made.csv").read_text().splitlines()))
    with np.load(here / "made.npz") as held:
        assert np.array_equal(
            np.array([[int(r["age"]), int(r["income"])] for r in rows]), held["x"].round()
        )  # whole numbers, as in the data
    assert [r["kind"] in "ab" for r in rows] == [True] * 5
    before = (here / "t.csv").read_bytes()
    run("sample", "run", "--out=made.png", "--seeds=0:5")  # again over one's own
    for name, words in {"t.png": "t.csv would be written over, which", "t.csv": "t.csv would be written over, which"}.items():
        for there in (False, True):
            (here / "t.png").touch() if there else (here / "t.png").unlink(missing_ok=True)
            run("sample", "run", f"--out={name}", "--seeds=0:5", code=2)
            assert words in " ".join(capsys.readouterr().err.split()) and (here / "t.csv").read_bytes() == before
    (here / "made.png").unlink()
    run("sample", "run", "--out=made.png", "--seeds=0:5", code=2)
    assert "made.npz would be written beside made.png, and is there already" in " ".join(capsys.readouterr().err.split())
    (here / "made.npz").unlink(), (here / "made.csv").unlink()
    run("evaluate", "run", "--count=30", "--steps", "1", "--json=rows.json")
