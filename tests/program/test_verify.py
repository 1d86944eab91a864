"""`meanstep verify`: every claim holds, a broken claim fails, files are whole, mistakes get one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.disk import put, write
from meanstep.program.verify import command, equivalences, noise, theorems
from meanstep.program.verify.groups import GROUPS, measure
from meanstep.program.verify.rows import Row, below, near


def code(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(args)
    return int(stop.value.code or 0)


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "table"])
@pytest.mark.parametrize("seed", [0, pytest.param(7, marks=pytest.mark.slow)])
def test_every_claim_holds(group: str, seed: int):
    rows = list(measure(group)(seed))
    assert rows
    assert not [(row.claim, row.measured, row.expected) for row in rows if not row.holds]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_noise_table_holds(seed: int):
    assert not [(row.claim, row.measured, row.expected) for row in noise.table(seed) if not row.holds]


def test_the_carried_jacobian_is_the_solvers():
    """RK4 of the table against DOP853 of the field: another integrator and another form of the equation."""
    data = noise.ring(2, 0.3)
    g = torch.Generator().manual_seed(0)
    z, r, t = torch.randn(20, 2, generator=g).double(), torch.full((20,), 0.1).double(), torch.full((20,), 0.8).double()
    landed, jacobian = noise.carry(data, z, t, r)
    torch.testing.assert_close(landed, data.field().flow(z, r, t), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(jacobian, data.field().flow_jacobian(z, r, t), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["Exact", "Backward"])
def test_a_wrong_derivative_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch):
    """The claims are measured: a rate that is off by a percent makes them fail."""
    for module in (theorems, equivalences):
        if hasattr(module, name):
            rate = getattr(module, name)

            class Off(rate):  # type: ignore[valid-type, misc]
                def query(self, field, b, w):
                    asked, finish = super().query(field, b, w)

                    def off(found):
                        u, change = finish(found)
                        return u, 1.01 * change

                    return asked, off

            monkeypatch.setattr(module, name, Off)
    group = theorems.decomposition if name == "Exact" else equivalences.equivalences
    assert any(not row.holds for row in group(0))


def test_verdicts():
    assert near("a", "1", 1.0, 1.05, 0.1).verdict == "holds"
    assert near("a", "1", 1.0, 1.2, 0.1).verdict == "FAILS"
    assert below("a", "1", 2.0, 1.0).verdict == "FAILS"
    assert below("a", "1", float("nan"), 1.0).verdict == "FAILS"
    assert Row("a", "1", 2.0, 1.0, relation=">=", unless="only for x").verdict == "only for x"
    assert Row("a", "1", 0.5, 1.0, relation=">=", unless="only for x").verdict == "FAILS"


def test_the_command_writes_json_and_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    target = tmp_path / "claims.json"
    assert code("verify", "--only", "rates", "equivalences", "--seed", "3", "--json", str(target)) == 0
    record = json.loads(target.read_text())
    assert record["seed"] == 3 and {claim["group"] for claim in record["claims"]} == {"rates", "equivalences"}
    assert all(claim["holds"] and claim["verdict"] for claim in record["claims"])
    assert [path.name for path in tmp_path.iterdir()] == ["claims.json"]
    shown = capsys.readouterr().out
    assert "Backward rate: order in the ratio" in shown and f"all {len(record['claims'])} claims hold" in shown


def test_json_on_standard_output_is_json_alone(capsys: pytest.CaptureFixture[str]):
    assert code("verify", "--only", "rates", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["command"] == "verify"


def test_a_claim_that_fails_gives_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(command, "measure", lambda name: lambda seed: iter([near("two is three [sic]", "1", 2.0, 3.0, 0.1)]))
    assert code("verify", "--only", "rates") == 1
    shown = capsys.readouterr().out
    assert "1 of 1 claims FAIL" in shown and "two is three [sic]" in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--only", "xyz"), "there is no group 'xyz': choose among identities"),
        (("--only", "rate"), "there is no group 'rate': did you mean rates?"),
        (("--json", "/nonexistent/x.json"), "cannot write /nonexistent/x.json"),
        (("--json", "."), "is a folder"),
        (("--json", "~nosuchuser/x.json"), "cannot write"),
    ],
)
def test_mistakes_get_one_line(args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]):
    assert code("verify", *args) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.parametrize("args", [(), ("nope",), ("verify", "--bogus")])
def test_unknown_words_exit_with_2(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert code(*args) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_version_and_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert code("--version") == 0
    assert capsys.readouterr().out.startswith("meanstep 0.")

    def stop(seed: int):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure", lambda name: stop)
    assert code("verify", "--only", "rates") == 130


def test_a_reader_that_went_away_ends_a_process_in_silence():
    run = subprocess.Popen(
        [sys.executable, "-m", "meanstep", "completion", "bash"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None and run.stderr is not None
    run.stdout.close()
    assert run.wait(timeout=60) == 141
    assert "Traceback" not in run.stderr.read()
    run.stderr.close()


@pytest.mark.parametrize("args", [("--json", "-"), ()])
def test_a_reader_that_went_away_ends_the_command(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In this process, whose end is not looked at."""
    end, start = os.pipe()
    os.close(end)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", os.fdopen(start, "w"))
        assert code("verify", "--only", "rates", *args) == 141
        sys.stdout.close()
    assert code("--version") == 0
    assert capsys.readouterr().out.startswith("meanstep 0.")  # and nothing of before


def test_links_are_followed_and_pipes_stay_pipes(tmp_path: Path):
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    real.write_text("old")
    link.symlink_to(real)
    put(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    put(pipe, "through")
    assert reader.communicate(timeout=10)[0] == "through" and pipe.is_fifo()


def test_an_interrupted_command_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(seed: int):
        raise KeyboardInterrupt

    kept = tmp_path / "kept.json"
    kept.write_text("old")
    monkeypatch.setattr(command, "measure", lambda name: stop)
    assert code("verify", "--only", "rates", "--json", str(kept)) == 130
    assert kept.read_text() == "old"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "kept.json"
    write(target, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write(target, "new")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["kept.json"]
