"""How long work goes on: nothing is said until it is known, and what happened once, at the start, is not in it."""

import pytest

from meanstep.program import bar


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
