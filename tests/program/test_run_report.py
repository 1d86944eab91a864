"""The report of a run on synthetic folders with known curves: words, page, pictures, partial and damaged runs."""

import json
import re
import shutil
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import meanstep as ms
from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.data import previews as pictures
from meanstep.program.data.manifest import Manifest, Shard
from meanstep.program.runs.config import AveragesConfig, Config, MethodConfig, RunConfig, to_yaml
from meanstep.program.runs.report import prose
from meanstep.program.runs.report.answer import answer, floor
from meanstep.program.runs.report.figures import FIGURES, MOST, short, thinned
from meanstep.program.runs.report.history import History, read
from meanstep.program.runs.report.page import SIDE, build, wanted
from meanstep.program.training.command import Train

pytestmark = pytest.mark.figures


@dataclass(frozen=True)
class Plan:
    """What a synthetic run holds: an evaluation, a picture and a checkpoint every tenth record."""

    steps: int = 40
    of: int = 40
    evaluated: bool = True
    pictured: bool = True
    stopped: int = 20
    best: int = 30
    noise: float = 0.0
    cells: bool = False


CONFIG = Config(method=MethodConfig("coefficient", {"beta": 0.5}), averages=AveragesConfig((0.99,)))
MANIFEST = Manifest(
    *("digits", "0" * 64, "train", 0, 100, 0, (1, 8, 8), (1, 8, 8), "none", "none", False, "none", ("<0>", "1"), "identity", "0" * 64),
    *(1.0, 0.0, "uint8", (0.0,), (1.0,), "own", (Shard("shard-00000.safetensors", 100, 9, "0" * 64),)),
)


def folder(here: Path, plan: Plan) -> Path:
    """A run's folder."""
    (here / "samples").mkdir(parents=True)
    (here / "config.yaml").write_text(to_yaml(replace(CONFIG, run=RunConfig(samples=100 * plan.of, batch=10))))
    (here / "data.json").write_text(MANIFEST.text())
    (here / "env.json").write_text(json.dumps({"device": "cpu", "command": "meanstep train --out here"}))
    lines = [{"kind": "start", "seen": 0, "time": 0.0}]
    for k in range(1, plan.steps + 1):
        seen = 100 * k
        lines.append(
            {"kind": "train", "seen": seen, "seconds": float(k if k <= plan.stopped else k - plan.stopped), "samples_per_second": 100.0}
            | {"loss": 1.0, "rate": 1e-3, "gradient_norm": 1 + 1 / k, "saturated": 1.0, "effective_rows": 0.9, "change_ratio": None}
            | {"residual_diagonal": 1 / k, "residual_gap": 2 / k, "residual_gap_1": 3 / k, "tangent_noise": plan.noise}
        )
        if k % 10 == 0:
            lines += _events(here, plan, k, seen)
        if k == plan.stopped:
            lines.append({"kind": "start", "seen": seen, "time": 9.0})
    (here / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if plan.cells:
        (here / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cells()))
    return here


def _events(here: Path, plan: Plan, k: int, seen: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if plan.evaluated:
        distance = 1 + abs(k - plan.best)
        details = {"average": "0.99", "extractor": "pixels", "count": 64, "steps": {"1": distance, "2": 2 * distance, "4": None}}
        found.append({"kind": "evaluation", "seen": seen, **details})
    if plan.pictured:
        images = (torch.rand(4, 1, 8, 8, generator=ms.key(k)) * 255).to(torch.uint8)
        pictures.save(here / f"samples/{seen:012d}.png", pictures.grid(images, 2))
        found.append({"kind": "picture", "seen": seen, "file": f"samples/{seen:012d}.png"})
    place = here / f"checkpoints/{seen:012d}"
    place.mkdir(parents=True)
    (place / "state.json").write_text("{}")
    return [*found, {"kind": "checkpoint", "seen": seen, "folder": f"checkpoints/{seen:012d}"}]


def cells() -> list[dict[str, Any]]:
    """Evaluations of one table: two cells, one of them twice, one failed, and a floor."""
    about = {"kind": "cell", "average": "0.99", "guidance": 1.0, "count": 64, "distance": "FD-pixels", "extractor": "pixels"}
    about |= {"extractor_digest": "a", "reference": "digits, 100 images", "reference_digest": "b", "metrics": ["frechet"], "steps": 1}
    values = [{"frechet": d, "frechet_low": d - 1, "frechet_high": d + 1, "count": 64} for d in (9.0, 4.0, 7.0)]
    rows = [about | {"seen": seen, "values": v} for seen, v in zip((1000, 2000, 1000), values, strict=True)]
    failed = about | {"seen": 3000, "values": None, "failed": "not finite"}
    return [*rows, failed, about | {"kind": "floor", "data": "test: 20 images", "values": {"frechet": 0.5, "count": 20}}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with its report."""
    here = folder(tmp_path_factory.mktemp("report") / "whole", Plan(cells=True))
    build(here)
    return here


@pytest.fixture(scope="module")
def page(whole: Path) -> str:
    return (whole / "report.html").read_text(encoding="utf-8")


def history(here: Path, plan: Plan) -> History:
    return read(folder(here / "run", plan))


# Words -------------------------------------------------------------------------------------------------------------------------------


def test_the_speed_is_that_of_most_records_whatever_the_last_one_is(whole: Path):
    run = read(whole)
    slow = [record | {"samples_per_second": 1.0} if record.get("seen", 0) > 3000 else record for record in run.records]
    (_, state, _) = answer(replace(run, records=slow), ()).tiles
    assert "100 samples a second, the median of the records" in state.sure


def test_what_is_best_and_what_was_measured(whole: Path):
    run = read(whole)
    assert run.best is not None and (run.best["seen"], run.seen, run.finished, run.resumed) == (3000, 4000, True, [2000])
    assert run.seconds == 40.0, "both starts together"
    assert list(run.distances()) == [1, 2], "a distance that is none has no curve"
    samples, state, residual = answer(run, ()).tiles
    assert samples.words == (
        "Frechet distance of one-step samples: 21.0 at 1,000 samples seen, 1.00 at best, at 3,000. Real rows score 0.500, the floor."
    )
    assert (samples.state, state.head, residual.state) == ("better", "Training: finished", "better")
    assert residual.words == "Mean squared residual where r < t: 2.00 at 100 samples, 0.0500 now, the least was 0.0500."
    assert prose.lead(run) == "4,000 of 4,000 samples seen: 40 passes over 100 images of 1 x 8 x 8, with 2 labels."


@pytest.mark.parametrize("stated", [True, False])
def test_best_is_what_training_kept_in_the_steps_that_decided(stated: bool, tmp_path: Path):
    """Records of before do not state the steps; then they are those by which the one that was kept is the least."""
    run = read(folder(tmp_path / "run", Plan(evaluated=False)))
    found = {1000: (9.0, 5.0, 8.0), 2000: (7.0, 3.0, 2.0), 3000: (4.0, 1.0, 3.0), 4000: (2.0, 6.0, 6.0)}
    about = {"kind": "evaluation", "average": "0.99", "extractor": "pixels", "count": 64} | ({"by": "32"} if stated else {})
    told = [
        about | {"seen": seen, "steps": dict(zip(("1", "4", "32"), values, strict=True)), "best": seen <= 2000}
        for seen, values in found.items()
    ]
    run = replace(run, records=[*run.records, *told])
    assert run.by == "32" and run.best is told[1]
    said = answer(run, ())
    assert said.title == "Training has brought 32-step samples nearer to the data, and then away from them again."
    assert "Use the checkpoint at 2,000 samples seen: it was kept." in [step.words for step in said.steps]
    assert said.tiles[0].words.startswith("Frechet distance of 32-step samples: 8.00 at 1,000 samples seen, 2.00 at best, at 2,000.")
    assert prose.gaps(run) == [
        "32-step samples were nearer to the data earlier: 6 at 4,000 against 2 at 2,000. The best checkpoint was kept."
    ]
    assert [row["seen"] for row in prose.checkpoints(run) if row["best"]] == [2000]
    ring = next(line for line in FIGURES["distances"](run).axes[0].lines if line.get_label() == "best")
    assert (ring.get_xdata(), ring.get_ydata()) == ([2000], [2.0])


def test_a_floor_is_of_the_same_data_and_count(tmp_path: Path):
    """The last that was measured of the run's own data and as many samples, or of halves; others are of other distances."""
    run = read(folder(tmp_path / "run", Plan(cells=True)))
    base = run.cells[-1]

    def told(**changed: Any) -> float | None:
        return floor(replace(run, cells=[base, base | {"values": {"frechet": 7.0}} | changed]))

    assert told() == told(data="halves: the one half of the reference", count=9) == 7.0
    assert told(count=50_000) == told(reference="other, train, 100 images") == told(extractor="inception") == 0.5


def test_what_a_reader_must_know_first(tmp_path: Path):
    assert prose.gaps(history(tmp_path / "a", Plan(best=40))) == []
    (earlier,) = prose.gaps(history(tmp_path / "b", Plan(best=20)))
    assert "were nearer to the data earlier: 21 at 4,000 against 1 at 2,000" in earlier
    (none,) = prose.gaps(history(tmp_path / "c", Plan(evaluated=False)))
    assert "No evaluation was made" in none
    assert prose.gaps(history(tmp_path / "d", Plan(steps=0))) == ["There is no record of a step yet."]


def test_a_loss_that_a_weight_has_flattened_says_nothing(whole: Path):
    assert prose.loss(read(whole)) == (
        "The loss itself read 1 all the time: its adaptive weight divides each row's residual by itself, so it says nothing."
    )
    assert "tangent noise is 0" in prose.tangent(read(whole))


def test_only_what_is_not_the_default_is_marked(whole: Path):
    marked = {f"{part}.{name}" for part, rows in prose.settings(read(whole)) for name, _, mark in rows if mark}
    assert marked == {"Method.recipe", "Method.options", "Averages.decays", "Run.samples", "Run.batch"}


def test_a_table_of_evaluations_has_each_cell_once_and_the_least_marked(whole: Path):
    (table,) = prose.evaluations(read(whole))
    assert table["heads"] == ["seen", "average", "steps", "guidance", "FD-pixels", "count"]
    assert [row["cells"][0] for row in table["rows"]] == ["1,000", "2,000", "3,000", ""]
    assert [row["cells"][4] for row in table["rows"]] == ["7 ± 1", "4 ± 1", "none: not finite", "0.5"]
    assert [row["best"] for row in table["rows"]] == [False, True, False, False]


def test_a_cell_has_all_that_was_measured_of_it_and_other_seeds_and_labels_are_other_cells(tmp_path: Path):
    here = folder(tmp_path / "run", Plan(steps=1))
    cell, floor = cells()[0] | {"seed": 0, "labels": "data", "weights": "w"}, cells()[-1] | {"seed": 0}
    kid = {"metrics": ["kid"], "values": {"kid": 0.02, "kid_error": 0.01, "count": 64}}

    def shown(*rows: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
        (here / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (table,) = prose.evaluations(read(here))
        return table["heads"], [row["cells"] for row in table["rows"]]

    heads, lines = shown(cell, floor, cell | kid, floor | kid)
    assert heads == ["seen", "average", "steps", "guidance", "FD-pixels", "kernel x 1000", "count"]
    assert [line[4:] for line in lines] == [["9 ± 1", "20 ± 10", "64"], ["0.5", "20 ± 10", "64"]]
    heads, lines = shown(cell, cell | {"seed": 7}, cell | {"labels": "uniform"})
    assert heads[4:6] == ["class shares", "seed"] and [line[4:6] for line in lines] == [["data", "0"], ["data", "7"], ["uniform", "0"]]
    heads, lines = shown(cell | {"autoencoder": "c" * 64}, cell | {"autoencoder": "d" * 64})
    assert heads[4] == "autoencoder" and [line[4] for line in lines] == ["c" * 8, "d" * 8]
    _, lines = shown(cell, cell | kid | {"weights": "written anew"})
    assert [line[4] for line in lines] == ["20 ± 10"], "what was measured of weights that are gone is not mixed in"


def test_a_long_curve_is_thinned_and_keeps_its_ends_and_extremes():
    x = np.arange(10_000.0)
    y = np.sin(x)
    y[1234] = 50.0
    mx, my, low, high = thinned(x, y)
    assert len(mx) == len(my) == MOST and high.max() == 50.0 and low.min() == y.min() and (low <= my).all() and (my <= high).all()
    assert all(np.array_equal(p, q) for p, q in zip(thinned(x[:9], y[:9]), (x[:9], y[:9], y[:9], y[:9]), strict=True))
    assert [short(n) for n in (0, 500, 2500, 2e6, 1e9)] == ["0", "500", "2.5k", "2M", "1G"]


def test_samplers_are_shown_where_there_are_several(tmp_path: Path):
    """A row that names none is of the run's own."""
    here = folder(tmp_path / "run", Plan(steps=1, cells=True))
    (table,) = prose.evaluations(read(here))
    assert table["heads"][:4] == ["seen", "average", "steps", "guidance"]
    rows = [*cells(), cells()[1] | {"sampler": "heun", "values": {"frechet": 3.0, "count": 64}}, cells()[0] | {"sampler": "walk"}]
    (here / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (table,) = prose.evaluations(read(here))
    assert table["heads"][:5] == ["seen", "average", "sampler", "steps", "guidance"]
    shown = [(line["cells"][0], line["cells"][2], line["best"]) for line in table["rows"]]
    assert shown == [("1,000", "walk", False), ("2,000", "heun", True), ("2,000", "walk", False), ("3,000", "walk", False), ("", "", False)]
    assert {len(line["cells"]) for line in table["rows"] if line["cells"][0] != "3,000"} == {len(table["heads"])}


# The page ----------------------------------------------------------------------------------------------------------------------------

SECTIONS = ("quality", "residuals", "signals", "evaluations", "checkpoints", "configuration", "environment", "again")
PART = re.compile(r'<details class="part" id="(\w+)">')


def test_the_page_has_every_section_in_order_and_loads_nothing(page: str):
    assert PART.findall(page) == [*SECTIONS]
    assert re.findall(r'<a href="#(\w+)">', page) == ["answer", "next", *SECTIONS, "glossary"]
    assert not re.search(r"(src|href)=.https?://|<link|@import|fetch\(|XMLHttpRequest|<iframe", page)
    assert page.count('src="data:image/png;base64,') == 3 + 1 + 4, "figures, the picture that is shown, one for each moment"
    assert "Training: finished" in page and "went on at 2,000 samples" in page
    assert "Frechet distance: 1 step 11, 2 steps 22" in page


def test_the_page_is_whole(page: str):
    open_tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "img", "input", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Tags().feed(page)
    assert open_tags == []


PARTIAL = {
    "no step": Plan(steps=0),
    "one record": Plan(steps=1),
    "nothing beside": Plan(steps=12, of=40, evaluated=False, pictured=False, noise=0.3),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_partial_runs_have_a_report(name: str, tmp_path: Path):
    here = folder(tmp_path / "run", PARTIAL[name])
    for optional in ("data.json", "env.json"):
        (here / optional).unlink()
    text = build(here).read_text(encoding="utf-8")
    assert "% of the way" in text and "meanstep train --out" in text and "There is no env.json" in text
    assert ("no noise out" in text) is (name == "one record")


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time."""
    monkeypatch.setattr("meanstep.program.runs.report.figures.FIGURES", {})


@pytest.mark.usefixtures("without_figures")
def test_a_large_picture_is_made_smaller_and_a_missing_one_is_said(tmp_path: Path):
    here = folder(tmp_path / "run", Plan(steps=30))
    noise = torch.randint(0, 256, (1500, 1500, 3), generator=ms.key(0)).to(torch.uint8).numpy()
    Image.fromarray(noise).save(here / "samples/000000001000.png")
    (here / "samples/000000002000.png").unlink()
    (here / "samples/000000003000.png").write_bytes(b"no picture")
    text = build(here).read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 2 and "not there any more: 1." in text
    assert len(text) < 4 * SIDE**2


@pytest.mark.usefixtures("without_figures")
def test_names_are_escaped(tmp_path: Path):
    here = folder(tmp_path / "<b>", Plan(steps=1))
    (here / "env.json").write_text(json.dumps({"device": "<script>alert(1)</script>"}))
    assert "<script>alert" not in build(here).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"), [("config.yaml", "run: ["), ("records.jsonl", "{\n{}\n"), ("env.json", "{"), ("evaluations.jsonl", "{\n{}\n")]
)
def test_damaged_files_are_named(name: str, content: str, tmp_path: Path):
    here = folder(tmp_path / "run", Plan(steps=1))
    (here / name).write_text(content)
    with pytest.raises(UserError, match=name) as mistake:
        build(here)
    assert "\n" not in str(mistake.value)
    assert wanted(here).startswith("no report.html: ")


# The commands ------------------------------------------------------------------------------------------------------------------------


def code(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(args)
    return int(stop.value.code or 0)


@pytest.mark.usefixtures("without_figures")
def test_the_command_knows_runs_from_other_folders(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(whole, tmp_path / "run")
    assert code("report", str(tmp_path / "run")) == 0
    assert capsys.readouterr().out.strip() == f"report: {tmp_path / 'run' / 'report.html'}"
    assert code("report", str(tmp_path)) == 2
    assert "holds no run and no sweep" in capsys.readouterr().err


@pytest.mark.usefixtures("without_figures")
def test_training_writes_it_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("sklearn", reason="the embedded digits need the extra digits")
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "cache"))
    args = f"--out {tmp_path / 'run'} --device cpu --network.width 16 --network.depth 1 --network.heads 2 --evaluate-every 0"
    run = Train.parse([*args.split(), "--batch", "16", "--samples", "32"])
    assert run.run() == 0 and (tmp_path / "run" / "report.html").is_file()
    (tmp_path / "run" / "report.html").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    capsys.readouterr()
    assert run.run() == 0 and not (tmp_path / "run" / "report.html").exists()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "no report.html: the report needs matplotlib: pip install 'meanstep[report]'"
