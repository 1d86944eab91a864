"""`meanstep diagnose` of a run: everything is read as it was trained, and what the command line says goes first."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import meanstep as ms
from meanstep.cli import main
from meanstep.coefficients import Running
from meanstep.objectives import Eulerian
from meanstep.program.data import ensure
from meanstep.program.diagnose import arrays
from meanstep.program.diagnose.command import Diagnose
from meanstep.program.diagnose.history import history
from meanstep.program.diagnose.measures import Measure
from meanstep.program.diagnose.networks import admit
from meanstep.program.diagnose.rules import CLEAR, FIRES, MISSING, verdicts
from meanstep.program.diagnose.runs import Trained, trained
from meanstep.program.diagnose.session import _case
from meanstep.program.runs.saved import found
from meanstep.program.training.command import Train

CPU = torch.device("cpu")
SHORT = "--device cpu --network.width 16 --network.depth 1 --network.heads 2 --batch 16 --evaluate-every 0"
AVERAGES = "--averages.decays 0.5 --method.proxy-decay 0.75"
OPTIONS = {"coefficient": "{beta: {linear: [0, 1]}, times: uniform, power: 0}", "learner": "{beta: {running: {bins: 2}}}"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run for each of `OPTIONS`, of four steps, and of sixteen, after which the learner has seen rows."""
    pytest.importorskip("sklearn", reason="the embedded digits need the extra digits")
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEANSTEP_CACHE", str(folder / "cache"))
        for name, options in OPTIONS.items():
            words = f"--out {folder / name} {SHORT} {AVERAGES} --method.recipe coefficient".split()
            words += ["--method.options", options, "--save-every", "32", "--samples", "64" if name == "coefficient" else "256"]
            assert Train.parse(words).run() == 0
        yield folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def code(*args: str, json: bool = True) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["diagnose", *args, "--rows", "16", "--budget", "300s", *(["--json", "d.json"] if json else [])])
    return int(stop.value.code or 0)


def opened(path: Path) -> Trained:
    run = trained(str(path))
    assert run is not None
    return run


def test_a_run_is_read_as_it_was_trained(runs: Path):
    assert code(str(runs / "coefficient")) == 0
    held: dict[str, Any] = json.loads(Path("d.json").read_text(encoding="utf-8"))
    assert held["center"] == "ema" and held["recipe"].startswith("coefficient(beta={'linear': [0, 1]}, times=uniform, power=0), the run's")
    assert "000000000064/model.safetensors" in held["probed"] and "ema_0.75.safetensors" in held["probed"], "the proxy's copy"
    assert "data digits, 1,797 rows of 1x8x8" in held["probed"] and (runs / "coefficient" / "diagnose" / "report.html").is_file()
    assert not Path("diagnose").exists(), "nothing is left in the current folder"


def test_a_report_lies_beside_its_run_and_replaces_nothing_unsaid(runs: Path, capsys: pytest.CaptureFixture[str]):
    run = shutil.copytree(runs / "coefficient", Path("run"), ignore=shutil.ignore_patterns("diagnose*"))
    last = str(found(run)[-1])
    for target, folder in ((str(run), "diagnose"), (last, "diagnose-2"), (str(run), "diagnose-3")):
        assert Diagnose(target)._checked()[1] == run / folder
        (run / folder).mkdir()
    Path("mine").mkdir()
    Path("mine/report.html").write_text("old", encoding="utf-8")
    assert code(str(run), "--out", "mine", json=False) == 0
    assert "report: mine/report.html (it replaces the one that was there)" in capsys.readouterr().out


def test_a_folder_without_the_optimisers_state_is_read(runs: Path):
    run, slim = (
        runs / "coefficient",
        shutil.copytree(runs / "coefficient", Path("slim"), ignore=shutil.ignore_patterns("state.*", "diagnose*")),
    )
    assert not list(slim.rglob("state.*")) and code(str(slim)) == 0
    held = json.loads(Path("d.json").read_text(encoding="utf-8"))
    assert "the run's" in held["recipe"] and held["measures"]["noise_0"][0] > 0 and held["report"] == "slim/diagnose/report.html"
    assert (opened(slim).progress, opened(slim).copy) == (opened(run).progress, opened(run).copy)
    data = opened(slim).data(None)
    assert not opened(slim).method(admit(opened(slim).found(None, None), data, "", CPU), data, {}).restored


def test_a_checkpoint_has_its_own_moment(runs: Path):
    first, last = (opened(path) for path in found(runs / "coefficient"))
    assert (first.progress, last.progress) == (0.5, 1.0) and first.run == last.run
    assert opened(runs / "coefficient").saved.path == last.saved.path
    for run, beta in ((first, 0.5), (last, 1.0)):
        data = run.data(None)
        assert run.method(admit(run.found(None, None), data, "", CPU), data, {}).beta == beta


def test_rows_and_labels_are_those_of_the_training(runs: Path):
    data, cache = opened(runs / "learner").data(None), ensure("digits")
    index = torch.tensor([5, 0, 1796])
    b = data.rows(index, torch.float32, CPU)
    assert torch.equal(b.x, cache.rows(index)[0]) and torch.equal(b.y, cache.rows(index)[1])


def test_what_the_loss_had_learned_is_restored(runs: Path):
    run = opened(runs / "learner")
    data = run.data(None)
    probed = admit(run.found(None, None), data, "", CPU)
    held = run.saved.tensors("state")["learner.seen"]
    for changed, kept in (({}, True), ({"power": 0.0}, False)):
        method = run.method(probed, data, changed)
        learner = _learner(method.recipe)
        assert method.restored is kept and method.beta is None
        assert torch.equal(learner.seen, held) is kept and held.any()


def _learner(recipe: ms.Recipe) -> Running:
    """The one in the tangent."""
    (tangent,) = {term.objective.tangent for term in recipe if isinstance(term.objective, Eulerian) and term.objective.tangent}
    waiting, met = [tangent], list[object]()
    while waiting:
        f = waiting.pop()
        if any(f is other for other in met):
            continue
        met.append(f)
        if isinstance(f, Running):
            return f
        held = [cell.cell_contents for cell in getattr(f, "__closure__", None) or ()]
        waiting += [part for part in (*held, *getattr(f, "__dict__", {}).values()) if callable(part)]
    raise AssertionError("no learner")


def test_the_command_line_goes_first(runs: Path):
    cache = next((runs / "cache" / "data").iterdir())
    case = _case(Diagnose(str(runs / "learner"), cache, recipe="meanflow", center="own", batch=7, progress=0.25))
    assert case.method.line == "meanflow()" and case.data.name == str(cache) and case.center.kind == "own"
    assert (case.batch, case.progress, _case(Diagnose(str(runs / "learner"))).batch) == (7, 0.25, 16)
    run = opened(runs / "coefficient")
    data = arrays.Dataset(torch.randn(32, 1, 8, 8, generator=ms.key(0)).numpy(), np.arange(32) % 10, "mine")
    method = run.method(admit(run.found(None, None), data, "", CPU), data, {"beta": 0.25})
    assert (method.line, method.beta) == ("coefficient(beta=0.25, times=uniform, power=0), the run's", 0.25)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["{runs}/cache"], "is no run of `meanstep train`: give --network"),
        (["{runs}/coefficient", "--beta", "2"], "--beta: at least 0 and at most 1, got 2"),
        (["{runs}/coefficient", "--diagonal-share", "1.5"], "--diagonal-share: at least 0 and at most 1"),
        (["{runs}/coefficient", "--recipe", "meanflow", "--beta", "0.5"], "--beta: the recipe meanflow has no such setting"),
        (
            ["{runs}/coefficient", "--options", "{{width: 999}}"],
            "--options: the arguments of a factory, and the network of a run has those",
        ),
        (["{runs}/coefficient", "--network", "nowhere:thing"], "nowhere:thing: this network is dit, one of ours: leave it out"),
        (["moved"], "the training data are not there any more"),
        (["empty"], "holds no checkpoint"),
    ],
)
def test_a_mistake_is_one_line(args: list[str], words: str, runs: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("moved", "empty"):
        shutil.copytree(runs / "coefficient", name)
    Path("moved/config.yaml").write_text(re.sub(r"source: .*", "source: nowhere", Path("moved/config.yaml").read_text()), encoding="utf-8")
    Path("moved/data.json").write_text(Path("moved/data.json").read_text().replace('"limit": 0', '"limit": 1797'), encoding="utf-8")
    shutil.rmtree("empty/checkpoints")
    Path("empty/checkpoints").mkdir()
    assert code(*(arg.format(runs=runs) for arg in args)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and words in said[0]


def told(residuals: list[float | None], distance: float | None = None, floor: float | None = 0.1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"kind": "train", "seen": 16 * k, "residual": value} for k, value in enumerate(residuals, 1)]
    evaluation = {"average": "0.5", "extractor": "none", "count": 8, "floor": floor, "steps": {"4": 9.0, "1": distance}}
    return [*found, {"kind": "evaluation", "seen": 16 * len(residuals), **evaluation}]


def statuses(records: list[dict[str, Any]], seen: int = 1000) -> tuple[str, str]:
    values = {name: Measure(value) for name, value in history(records, seen).items()}
    by = {v.rule.name: v for v in verdicts(values, {})}
    return by["residual-jump"].status, by["far-from-floor"].status


def test_a_jump_of_the_residual_and_samples_far_from_the_floor_are_found():
    calm = [2.0, 1.0, None, 1.0, 1.0]
    assert statuses(told([*calm, 10.5, 1.0], 0.51)) == (FIRES, FIRES)
    assert statuses(told([*calm, 9.5, 1.0], 0.49)) == (CLEAR, CLEAR)
    assert statuses(told([*calm, 170.0], 0.7), seen=80) == (CLEAR, MISSING), "of a later checkpoint"
    assert statuses(told([1.0, 170.0], None)) == (MISSING, MISSING) == statuses(told([], 0.7, None))
    assert history(told([*calm, 170.0, 60.0]), 1000)["jump_seen"] == 96
    assert statuses([*told(calm, 0.2), *told([1.0] * 9, None)]) == (CLEAR, MISSING), "the last samples were not finite"
    assert statuses(told([100.0, 10.0, 3.0, 1.0, 0.5], 0.1)) == (CLEAR, CLEAR), "a residual that falls"


def test_a_run_reads_its_own_records_and_not_for_other_weights(runs: Path):
    run = shutil.copytree(runs / "coefficient", Path("run"), ignore=shutil.ignore_patterns("diagnose*"))
    lines = "".join(json.dumps(record) + "\n" for record in told([1.0, 1.0, 1.0, 170.0], 0.7))
    (run / "records.jsonl").write_text(lines, encoding="utf-8")
    assert code(str(run)) == 0
    fired = {v["rule"]: v for v in json.loads(Path("d.json").read_text(encoding="utf-8"))["verdicts"] if v["status"] == FIRES}
    assert {"residual-jump", "far-from-floor"} <= fired.keys() and "170 after 64 samples" in fired["residual-jump"]["means"]
    assert not _case(Diagnose(str(run), weights=found(run)[-1] / "model.safetensors")).history


@pytest.mark.parametrize(
    ("own", "args", "remedy"),
    [
        ("path: evil:make", ["--recipe", "flow_matching"], "--path evil:make, or read the network with --path linear"),
        ("path: evil:make", [], "--path evil:make, or read the network with --path linear"),
        ("recipe: evil:make", [], "--recipe evil:make, or read the network with --recipe meanflow"),
        ("recipe: evil:make", ["--path", "trigonometric"], "--recipe evil:make, or read the network with --recipe meanflow"),
    ],
)
def test_no_code_that_a_run_names_is_imported_unasked(
    own: str, args: list[str], remedy: str, runs: Path, capsys: pytest.CaptureFixture[str]
):
    run = _evil(runs, own)
    assert code(str(run), *args) == 2
    said = capsys.readouterr().err.strip()
    assert not Path("ran").exists(), "evil.py was imported"
    assert said.endswith(f"is evil:make, code that would run: if you trust it, allow it by that name with {remedy}")


@pytest.mark.parametrize(
    ("own", "args", "runs_it"),
    [
        ("path: evil:make", ["--path", "linear"], False),
        ("path: evil:make", ["--path", "evil:make", "--recipe", "flow_matching"], True),
        ("recipe: evil:make", ["--recipe", "meanflow"], False),
    ],
)
def test_the_remedies_for_code_that_a_run_names_do(own: str, args: list[str], runs_it: bool, runs: Path):
    assert code(str(_evil(runs, own)), *args) == 0
    assert Path("ran").exists() is runs_it


def _evil(runs: Path, own: str) -> Path:
    """A copy of a run whose configuration names code of others, which leaves a file when it is imported."""
    run = shutil.copytree(runs / "coefficient", Path("run"))
    config, entry = run / "config.yaml", own.partition(":")[0]
    config.write_text(re.sub(rf"(?m)^  {entry}: .*$", f"  {own}", config.read_text(encoding="utf-8")), encoding="utf-8")
    assert own in config.read_text(encoding="utf-8")
    Path("evil.py").write_text("open('ran', 'w').close()\nfrom meanstep.paths import linear as make\n", encoding="utf-8")
    sys.modules.pop("evil", None)
    return run
