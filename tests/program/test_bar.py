"""How long work goes on: nothing is said until it is known, and what happened once, at the start, is not in it."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from meanstep.program import bar
from meanstep.program.data import Cache
from meanstep.program.runs.config import Config
from meanstep.program.training import events
from meanstep.program.training.ranks import Ranks


def test_the_time_left_is_by_the_rate_since_the_first_progress(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    pace, said = bar.Pace(1000, 100), []
    for at, done in ((30.0, 100), (60.0, 200), (61.0, 201), (62.0, 202), (70.0, 300), (140.0, 1000)):
        now[0] = at
        said.append(pace.left(done))
    assert said == ["", "", "", "", "about 1 min 10 s left", ""]  # 100 in 10 s after the first progress, 700 to go


def test_a_phase_is_heard_by_the_innermost_bar_and_ends_after_an_error(monkeypatch: pytest.MonkeyPatch):
    outer: list[str] = []
    inner: list[str] = []
    monkeypatch.setattr(bar, "listeners", [outer.append, inner.append])
    with pytest.raises(ZeroDivisionError), bar.phase("evaluating"):
        raise ZeroDivisionError
    assert (outer, inner) == ([], ["evaluating", ""])


def test_the_bar_of_a_training_names_what_it_does_beside_the_steps(monkeypatch: pytest.MonkeyPatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(events, "err", console)
    with events.progress(Config(), SimpleNamespace(seen=0), Ranks(0, 1, torch.device("cpu"))) as show:  # type: ignore[arg-type]
        show(SimpleNamespace(seen=100), {"samples_per_second": 50.0, "loss": 1.0})  # type: ignore[arg-type]
        with bar.phase("evaluating"):
            pass
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.index("starting") < told.index("evaluating") < told.rindex("50/s, loss 1")


def test_training_says_what_it_does_beside_the_steps(
    cache: Cache, tmp_path: Path, ran: Callable[..., int], monkeypatch: pytest.MonkeyPatch
):
    heard: list[str] = []
    monkeypatch.setattr(bar, "listeners", [heard.append])
    words = ("--network.width", 8, "--network.depth", 1, "--network.heads", 1, "--batch", 16, "--samples", 16, "--evaluate-count", 16)
    assert ran("train", "--out", tmp_path / "run", "--data.source", cache.path, "--device", "cpu", *words) == 0
    assert heard == ["evaluating", "", "making pictures", "", "saving", ""]
