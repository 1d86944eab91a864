"""Guidance of samples by a network that lost labels on r = t rows alone: one line says that it was never taught such jumps."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meanstep as ms
from meanstep.program.export import subject as subjects
from meanstep.program.export.subject import Choice
from meanstep.program.runs import facts
from meanstep.program.runs.config import Config
from meanstep.program.runs.method import MethodConfig

LINE = (
    r"the field without a condition was never trained where r < t \(--method\.dropout-rows instant\), and walk jumps by it: leave guidance"
)


@pytest.fixture
def run(exportable: Callable[..., Path]) -> Path:
    """A run of `--method.dropout-rows instant`, as training writes it down."""
    folder = exportable()
    facts.keep(folder, Config(method=MethodConfig(dropout_rows="instant")), "average")
    return folder


def edited(folder: Path, **entries: Any) -> Path:
    """The run with other entries of method.json; None takes one away."""
    path = folder / "method.json"
    found = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    return folder


def test_samples_in_python_warn(run: Path):
    with pytest.warns(UserWarning, match=rf"^guidance 2: {LINE}") as told:
        ms.Run(run).sample(2, guidance=2.0)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    with pytest.warns(UserWarning, match=LINE):
        ms.load(run).sample(2, steps=2, guidance=0.5)


@pytest.mark.parametrize(
    ("entries", "how", "guidance"),
    [
        ({}, {}, 1.0),
        ({"rows": "all"}, {}, 2.0),
        ({"rows": None}, {}, 2.0),  # a run from before it was written: unknown
        ({}, {"sampler": "euler"}, 2.0),  # asks for r = t alone
        ({"learns": "instantaneous"}, {}, 2.0),
    ],
    ids=["unguided", "all rows", "an older run", "euler", "flow matching"],
)
def test_nothing_is_said_where_nothing_is_known_to_be_wrong(run: Path, entries: dict[str, Any], how: dict[str, Any], guidance: float):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.Run(edited(run, **entries)).sample(2, guidance=guidance, **how)


def test_the_command_says_it_in_one_line(run: Path, ran: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ("sample", run, "--count", 4, "--chunk", 2, "--device", "cpu", "--out", tmp_path / "made.npz")
    assert ran(*words, "--guidance", 2) == 0
    assert sum("never trained where r < t" in line for line in "".join(capsys.readouterr()).splitlines()) == 1
    assert ran(*words) == 0 and "never trained" not in "".join(capsys.readouterr())


def test_an_evaluation_says_it_in_one_line(run: Path, ran: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.savez(tmp_path / "reference.npz", images=np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8))
    words = ("evaluate", run, "--count", 16, "--reference", tmp_path / "reference.npz", "--extractor", "pixels", "--device", "cpu")
    assert ran(*words, "--guidance", 1, 2, "--average", "all") == 0
    assert sum("--guidance: the field without a condition" in line for line in capsys.readouterr().err.splitlines()) == 1
    assert ran(*words) == 0 and "never trained" not in capsys.readouterr().err


def test_an_export_says_it_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]):
    subjects.of(run, Choice(guidance=2.0), target="torch")
    assert re.fullmatch(rf"guidance 2: {LINE}.*\n", capsys.readouterr().err)
    subjects.of(run, Choice(), target="torch")
    assert capsys.readouterr().err == ""


def test_words_that_no_run_writes_are_refused(run: Path):
    with pytest.raises(ms.UserError, match=r"method\.json is damaged"):
        ms.load(edited(run, rows="some"))
