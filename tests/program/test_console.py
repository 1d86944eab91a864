"""How commands speak: results, chatter and errors apart; JSON alone where a program reads; tables no wider than the terminal."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from meanstep import cli
from meanstep.program import console
from meanstep.program.console import UserError, chat, err, out, quiet, stage
from meanstep.program.data import Cache
from meanstep.program.doctor import command as doctor
from meanstep.program.doctor.findings import FAIL, Finding, Report
from meanstep.program.evaluation.table import table
from meanstep.program.tables import fitted, put
from meanstep.program.verify import command as verify
from meanstep.program.verify.rows import near

NET = "--device cpu --network.width 16 --network.depth 1 --network.heads 2 --batch 16 --evaluate-every 0 --save-every 32 --samples 32"


def told(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line."""
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    return int(stop.value.code or 0), *capsys.readouterr()


@pytest.fixture(scope="module")
def run(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("quiet") / "run"
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--quiet", "--out", str(folder), *NET.split()])
    assert not stop.value.code
    return folder


# Quiet and JSON ----------------------------------------------------------------------------------------------------------------------


def test_quiet_training_says_nothing_and_works(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["train", "--out", str(tmp_path / "run"), *NET.split()]
    assert told(capsys, "--quiet", *words) == (0, "", "")
    assert (tmp_path / "run" / "report.html").is_file() and len(list((tmp_path / "run" / "checkpoints").iterdir())) >= 1
    code, said, notices = told(capsys, *words)
    assert code == 0 and "go on: meanstep sample" in said and "goes on at 32 samples" in notices


def test_quiet_sampling_writes_its_file_and_json_is_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["sample", str(run), "--seeds", "0:3,7", "--out", str(tmp_path / "x.png")]
    assert told(capsys, *words, "--quiet") == (0, "", "")
    code, said, notices = told(capsys, *words, "--json", "-")
    record = json.loads(said)
    assert (code, notices) == (0, "") and (record["images"], record["seen"], record["file"]) == (4, 32, str(tmp_path / "x.png"))
    assert told(capsys, *words)[1].startswith(f"{tmp_path / 'x.png'}: 4 samples in 1 step")


def test_quiet_keeps_what_was_asked_for(cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, said, notices = told(capsys, "cache", "digits", "--out", str(tmp_path / "made"), "--dry-run", "--quiet")
    assert (code, notices) == (0, "") and "1,797 images of digits" in said
    code, said, notices = told(capsys, "--quiet", "verify", "--only", "rates")
    assert (code, notices) == (0, "") and "claims hold" in said
    code, said, notices = told(capsys, "--quiet", "sample", "nowhere")
    assert (code, said) == (2, "") and notices.startswith("meanstep: there is no folder nowhere")
    assert not chat.quiet and not err.quiet and not out.quiet


def test_json_of_a_cache_a_dry_run_presets_and_a_report(cache: Cache, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = json.loads(told(capsys, "cache", "digits", "--out", str(tmp_path / "made"), "--json", "-")[1])
    assert (made["images"], made["shape"], made["made"]) == (1797, [1, 8, 8], True) and Path(made["folder"]).is_dir()
    dry = json.loads(told(capsys, "train", "--out", str(tmp_path / "no"), *NET.split(), "--dry-run", "--json", "-")[1])
    assert dry["config"]["run"]["batch"] == 16 and dry["parameters"] > 0 and dry["seconds_a_step"] > 0
    done = json.loads(told(capsys, "train", "--out", str(run), "--json", "-")[1])
    assert (done["folder"], done["seen"], done["best_distance"]) == (str(run), 32, None)
    presets = json.loads(told(capsys, "train", "--preset", "list", "--json", "-")[1])
    assert presets[0]["preset"] == "digits"
    report = json.loads(told(capsys, "report", str(run), "--json", "-")[1])
    assert Path(report["report"]).is_file() and not (tmp_path / "no").exists()


def test_quiet_ends_with_an_error_too():
    with pytest.raises(UserError), quiet(True):
        assert chat.quiet and err.quiet and not out.quiet
        raise UserError("x")
    assert not chat.quiet and not err.quiet


def test_a_stage_is_named_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with stage("importing PyTorch"):
        pass
    assert capsys.readouterr() == ("", "")
    screen = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=True, width=60))
    with stage("importing PyTorch"):
        pass
    assert "importing PyTorch ..." in screen.getvalue()
    screen.truncate(0)
    console.err.quiet = True
    with stage("importing PyTorch"):
        pass
    assert screen.getvalue().strip("\0") == ""


# Narrow terminals --------------------------------------------------------------------------------------------------------------------

VALUES = {"frechet": 12.345, "frechet_low": 11.9, "frechet_high": 13.0, "kid": 0.01, "kid_error": 0.002, "precision": 0.51}
VALUES |= {"recall": 0.52, "density": 0.43, "coverage": 0.34, "count": 50_000}
CELL = {"kind": "cell", "seen": 123_456_789, "average": "0.9999", "steps": 4, "guidance": 1.5, "values": VALUES}
METRICS = ("frechet", "kid", "precision-recall", "density-coverage")


def drawn(made: Table, width: int) -> str:
    screen = Console(width=width, file=io.StringIO())
    screen.print(fitted(made, screen))
    return screen.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 160])
def test_a_table_of_distances_is_no_wider_than_the_terminal_and_loses_no_value(width: int):
    text = drawn(
        table([CELL, {**CELL, "values": None, "failed": "no numbers"}], {**CELL, "data": "held out: x"}, METRICS, "FD-pixels"), width
    )
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    words = " ".join(text.split())
    for value in (
        "123,456,789",
        "0.9999",
        "1.5",
        "12.35 ± 0.65",
        "10 ± 2",
        "0.510",
        "0.520",
        "0.430",
        "0.340",
        "50,000",
        "none: no numbers",
    ):
        assert value in words, value
    assert ("─" in text) == (width == 160) or width == 120


def test_a_table_that_is_piped_has_a_line_a_row_however_wide(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    metrics = (*METRICS, "sliced", "energy", "nearest")
    values = VALUES | {"sliced": 0.123, "sliced_high": 0.13, "energy": 0.1, "energy_half": 0.01, "nearest": 1.0, "nearest_half": 0.1}
    piped = Console(width=120, file=io.StringIO())
    put(table([{**CELL, "values": values}], {**CELL, "values": values, "data": "held out: x"}, metrics, "FD-pixels"), piped)
    lines = piped.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (row,) = [line for line in lines if "123,456,789" in line]
    assert len(row) > 120 and "12.35 ± 0.65" in row and row.rstrip().endswith("50,000") and "…" not in "".join(lines)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_claims_and_findings_are_no_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch):
    screen = Console(width=width, file=io.StringIO())
    for module in (verify, doctor):
        monkeypatch.setattr(module, "out", screen)
    claim = "a claim of some length, as those of the paper are, with a number such as 0.123"
    verify.Verify()._show({"rates": [near(claim, "19b", 0.41834567, 0.4183, 1e-5), near("another", "2", 2.0, 2.0, 0.1)]}, 1.0, 0)
    found = Finding(
        "forward-mode", FAIL, "the operation aten::some_long_operation_name has no forward derivative", "use another one", "a.b"
    )
    doctor.show(Report((found,), "Net with 12 parameters", "net", 0.1))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    words = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert all(value in words for value in ("0.4183 ± 1e-05", "forward-mode", "19b", "holds")) and (width < 60 or claim.split()[0] in words)
