"""Comparisons of runs and of studies with known numbers: what is decided, what is not compared and why, and the page."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meanstep.program.compare import answer, page, runs, studies
from meanstep.program.compare.command import Compare
from meanstep.program.compare.page import Pictures
from meanstep.program.compare.samples import Sampling, apart, drawn
from meanstep.program.console import UserError
from meanstep.program.data import Opened, Request, make
from meanstep.program.data.beside import Condition
from meanstep.program.data.previews import encoded, grid
from meanstep.program.pages import look
from meanstep.program.runs.config import RunConfig, to_yaml
from meanstep.program.sampling import model as models
from meanstep.program.training.command import Train

from . import test_latents_report, test_report
from .conftest import asked_again, code, printed
from .rendered import Reader, measure, sentences, taken, words
from .test_run_report import CONFIG, MANIFEST, Plan, cells, folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of half the size."""
    monkeypatch.setattr(look, "SCALE", 0.5)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return folder(tmp_path / "one", Plan(cells=True)), folder(tmp_path / "two", Plan(cells=True, steps=30))


def compared(*folders: Path) -> runs.Distances:
    return runs.distances(runs.sides(folders))


# Runs --------------------------------------------------------------------------------------------------------------------------------


def test_a_run_is_nearer_only_where_its_interval_lies_apart(pair: tuple[Path, Path]):
    measure(pair[0], 9.0)
    for value, nearest in ((4.0, "two"), (6.9, "two"), (7.1, None), (9.0, None), (11.1, "one")):
        measure(pair[1], value)
        sides = runs.sides(pair)
        found = runs.distances(sides)
        best = answer.nearest(sides, found)
        assert [d.value for d in found.found] == [9.0, value] and [d.floor for d in found.found] == [0.5, 0.5]
        said = answer.answer(sides, found, (), None)
        assert (best.name if best else None) == nearest
        assert said.tiles[0].state == ("better" if nearest else "open") and ("cannot be told" in said.title) is (nearest is None)


def test_an_average_goes_before_the_weights_and_the_last_evaluation_before_the_first(pair: tuple[Path, Path]):
    measure(pair[0], 9.0)
    first = cells()[1] | {"values": {"frechet": 5.0, "frechet_low": 4.0, "frechet_high": 6.0, "count": 64}}
    again = first | {"values": first["values"] | {"frechet": 4.5}}
    raw = first | {"average": "raw", "values": first["values"] | {"frechet": 2.0, "frechet_low": 1.0}}
    for rows in ((raw, first, again), (first, again, raw)):
        (pair[1] / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert [d.value for d in compared(*pair).found] == [9.0, 4.5] and "weights 0.99" in compared(*pair).about


def test_a_floor_of_another_count_is_none_of_a_cell(pair: tuple[Path, Path]):
    for here in pair:
        measure(here, 9.0)
        other = cells()[-1] | {"count": 50_000, "values": {"frechet": 0.02, "count": 50_000}}
        with (here / "evaluations.jsonl").open("a") as file:
            file.write(json.dumps(other) + "\n")
    assert [d.floor for d in compared(*pair).found] == [0.5, 0.5]


def test_of_three_the_nearest_must_lie_below_all(pair: tuple[Path, Path], tmp_path: Path):
    third = folder(tmp_path / "three", Plan(steps=10))
    for here, value, half in zip((*pair, third), (2.0, 9.0, 4.0), (0.5, 1.0, 1.6), strict=True):
        measure(here, value, half)
    sides = runs.sides((*pair, third))
    assert answer.nearest(sides, runs.distances(sides)) is None, "2.5 lies above 2.4"
    measure(third, 4.0, 1.4)
    sides = runs.sides((*pair, third))
    best = answer.nearest(sides, runs.distances(sides))
    assert best is not None and best.name == "one"


def test_rows_are_drawn_in_order_about_the_floor_where_it_is_near(pair: tuple[Path, Path]):
    """On a logarithmic scale: equal ratios lie equally far apart. The floor is 0.5."""
    for far, values in ((True, (9.0, 4.0)), (False, (0.72, 0.6))):
        for here, value in zip(pair, values, strict=True):
            measure(here, value, 0.05 * value)
        sides = runs.sides(pair)
        found = answer.rows(sides, runs.distances(sides))
        assert found is not None and (found.none is None) is far and [bar.state for bar in found.bars] == ["open", "better"]
        first, second = found.bars
        assert first.low < first.x < first.high and second.high < first.low and ("floor" in found.left) is not far
        if found.none is not None:
            assert (first.x - second.x) / (second.x - found.none) == pytest.approx(1, rel=2e-3), "0.72 / 0.6 = 0.6 / 0.5"
    measure(pair[0], 0.0)
    assert answer.rows(sides, compared(*pair)) is None, "a logarithm needs a distance above 0"


def test_without_intervals_nothing_is_decided(tmp_path: Path):
    here = folder(tmp_path / "a", Plan()), folder(tmp_path / "b", Plan(best=5))
    sides = runs.sides(here)
    found = runs.distances(sides)
    assert [(d.value, d.interval) for d in found.found] == [(11, None), (36, None)]
    said = answer.answer(sides, found, (), None)
    assert said.tiles[0].state == "open" and "No intervals" in said.tiles[0].sure and said.steps[0].command.count("meanstep evaluate") == 2


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"count": 128}, "count 64 and two with 128: run meanstep evaluate on both with the same --count"),
        ({"extractor": "pca", "extractor_digest": "c"}, "extractor 'pixels' and two with 'pca'"),
        ({"reference": "others", "reference_digest": "c"}, "reference 'digits, 100 images' and two with 'others'"),
        ({"steps": 2}, "steps 1 and two with 2: run meanstep evaluate on both with the same --steps"),
    ],
)
def test_distances_of_other_samples_or_features_are_not_compared(about: dict[str, Any], why: str, tmp_path: Path):
    pair = folder(tmp_path / "one", Plan(evaluated=False)), folder(tmp_path / "two", Plan(evaluated=False))
    measure(pair[0], 9.0)
    measure(pair[1], 4.0, **about)
    found = compared(*pair)
    assert found.found == () and why in found.why and "\n" not in found.why
    said = answer.answer(runs.sides(pair), found, (), None)
    assert "cannot be compared" in said.title and said.tiles[0].state == "open"


def test_runs_of_other_data_are_compared_in_configuration_alone(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    other = replace(MANIFEST, source="letters", source_digest="1" * 64)
    (pair[1] / "data.json").write_text(other.text())
    found = compared(*pair)
    assert found.found == () and "trained on digits" in found.why and "letters" in found.why and other.digest[:8] in found.why
    other = replace(MANIFEST, conditions=(Condition("seen", shape=()),))
    (pair[1] / "data.json").write_text(other.text())
    assert (
        "given other conditions beside the rows of digits: train both on the same rows with the same --data.condition"
        in compared(*pair).why
    )
    np.savez("rows.npz", x=np.eye(8, 3, dtype=np.float32), y=np.arange(8) % 2, low=np.ones((8, 3), np.float32))
    for one, partner in zip(pair, ("", "low"), strict=True):  # what were labels is a condition where there are partners
        made = make(Opened.of(Request("rows.npz", pair=partner)), Path("cache", partner))
        (one / "data.json").write_text(made.manifest.text())
    assert "given other conditions beside the rows of rows.npz" in compared(*pair).why
    (pair[1] / "data.json").unlink()
    assert "two has no data.json" in compared(*pair).why


def test_a_run_without_evaluation_says_how_to_measure_one(tmp_path: Path):
    here = folder(tmp_path / "a", Plan()), folder(tmp_path / "b", Plan(evaluated=False, of=100))
    found = compared(*here)
    assert f"b has no evaluation with a finite distance: meanstep evaluate {here[1]}" in found.why
    lines = [json.loads(line) for line in (here[0] / "records.jsonl").read_text().splitlines()]
    last = max(k for k, line in enumerate(lines) if line["kind"] == "evaluation")
    lines[last]["steps"] = dict.fromkeys(lines[last]["steps"])
    (here[0] / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "a has no finite distance at its last evaluation" in compared(here[0], folder(tmp_path / "c", Plan())).why, "diverged since"


def test_only_entries_that_differ_are_listed(pair: tuple[Path, Path]):
    assert dict(runs.differences(runs.sides(pair))) == {}
    changed = replace(CONFIG, run=RunConfig(samples=4000, batch=20), method=replace(CONFIG.method, options={"beta": 1.0}))
    (pair[1] / "config.yaml").write_text(to_yaml(changed))
    assert dict(runs.differences(runs.sides(pair))) == {"run.batch": ["10", "20"], "method.options": ["beta: 0.5", "beta: 1.0"]}


def test_a_checkpoint_is_the_run_up_to_it(pair: tuple[Path, Path]):
    place = pair[0] / "checkpoints/000000002000"
    for path in pair[0].glob("checkpoints/*/state.json"):
        path.unlink()
    (place / "network.json").write_text("{}")
    whole, cut = runs.sides((pair[0], place))
    assert (whole.name, cut.name, cut.at, cut.history.seen) == ("one", "one at 2,000", 2000, 2000)
    assert [d.value for d in compared(pair[0], place).found] == [4.0, 4.0]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (("one",), "give two to 8 folders"),
        (("one", "one"), "is given twice"),
        (("one", "nowhere"), "there is no folder"),
        (("one", "empty"), "holds no config.yaml"),
        (("one", "toy"), "is a study and"),
        (("one", "two", "--out", "one"), "--out: "),
    ],
)
def test_what_cannot_stand_beside_one_another_is_one_line(
    made: tuple[str, ...], why: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "empty").mkdir()
    if "toy" in made:
        test_report.sweep(tmp_path / "toy", test_report.Plan(sets=("pinwheel",), pictures=False))
    before = sorted(tmp_path.rglob("*"))
    args = [word if word.startswith("--") else tmp_path / word for word in made]
    assert code("compare", *args, "--count", 0) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


# Samples -----------------------------------------------------------------------------------------------------------------------------


def test_the_same_weights_make_the_same_picture_and_other_shapes_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn", reason="the embedded digits need the extra digits")
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "cache"))
    small = "--device cpu --network.width 16 --network.depth 1 --network.heads 2 --evaluate-every 0 --batch 16 --samples 32"
    assert Train.parse(["--out", str(tmp_path / "a"), *small.split()]).run() == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    how = Sampling(4, 1, "cpu")
    sides = runs.sides([tmp_path / name for name in "ab"])
    (one, two), why = drawn(sides, how)
    first = models.load(tmp_path / "a")
    assert why == "" and one == two == encoded(grid(first.sample(range(4))))
    path, said = page.build(sides, runs.distances(sides), Pictures((one, two), "", "Words."), tmp_path / "page")
    assert path.read_text().count('<img src="data:image/png') == 2 and "no evaluation" in said.tiles[0].words
    wide = replace(first, manifest=replace(first.manifest, shape=(1, 9, 9)))
    assert "rows of 1x8x8 and b of 1x9x9" in apart(sides, [first, wide]) and apart(sides, [first, first]) == ""
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    images, why = drawn(runs.sides([tmp_path / "a", tmp_path / "b"]), how)
    assert images == [] and "holds no checkpoint" in why


# Studies -----------------------------------------------------------------------------------------------------------------------------


def toys(tmp_path: Path, gain: float, spread: float = 0.01) -> tuple[Path, Path]:
    sets = ("pinwheel", "two_moons")
    plan = test_report.Plan(
        sets=sets, arms=("paper",), betas=(0.0, 1.0), pictures=False, law=False, gain=dict.fromkeys(sets, 1.0), spread=spread
    )
    return test_report.sweep(tmp_path / "x", plan), test_report.sweep(tmp_path / "y", replace(plan, gain=dict.fromkeys(sets, gain)))


def test_studies_are_paired_by_set_arm_and_seed(tmp_path: Path):
    found = studies.meeting(toys(tmp_path, 0.5))
    ratios = {pair.name: pair.change.value for pair in found.pairs}
    assert {name: round(x, 2) for name, x in ratios.items() if "beta 0" in name} == {"pinwheel, beta 0": 1.0, "two_moons, beta 0": 1.0}
    assert all(abs(x - 0.5) < 0.05 for name, x in ratios.items() if "beta 0" not in name) and len(ratios) == 4
    assert {pair.change.n for pair in found.pairs} == {3}
    said = studies.answer(found)
    assert said.tiles[0].state == "better" and "nearer on 2 of 4 arms" in said.title and said.shown and said.shown.rows


def test_an_arm_that_diverged_in_one_study_alone_is_not_nearer_there(tmp_path: Path):
    a, b = toys(tmp_path, 0.5)
    test_report.diverged(b, ("pinwheel", 2, "ema 1 anchor"))
    rows = studies.answer(studies.meeting((a, b))).shown.rows
    assert {bar.name: bar.state for bar in rows.bars} == {
        "pinwheel, beta 0": "open",
        "pinwheel, ema 1 anchor": "open",
        "two_moons, beta 0": "open",
        "two_moons, ema 1 anchor": "better",
    }


def test_the_same_study_again_decides_nothing(tmp_path: Path):
    a, _ = toys(tmp_path, 1.0)
    shutil.copytree(a, tmp_path / "again")
    said = studies.answer(studies.meeting((a, tmp_path / "again")))
    assert said.tiles[0].state == "open" and said.title.startswith("Nothing tells")


def test_studies_of_other_kinds_or_measures_say_why(tmp_path: Path):
    a, b = toys(tmp_path, 0.5)
    latents = test_latents_report.study(tmp_path / "l", test_latents_report.Plan(arms=("beta@0",), moments=(1000,), pictures=False))
    with pytest.raises(UserError, match=r"is a study toy and .* a study latents: compare two of the same kind"):
        studies.meeting((a, latents))
    with pytest.raises(UserError, match="given twice"):
        studies.meeting((a, a))
    with pytest.raises(UserError, match="two at a time, got 3"):
        studies.meeting((a, b, latents))
    about = json.loads((b / "sweep.json").read_text())
    about["settings"]["samples"] = 7
    (b / "sweep.json").write_text(json.dumps(about))
    found = studies.meeting((a, b))
    assert found.pairs == () and "samples" in found.why and "'7'" in found.why and "cannot be compared" in studies.answer(found).title


def entries(folder: Path, file: str, **of: Any) -> Path:
    """Entries of a study's file replaced, those of its settings one by one."""
    about = json.loads((folder / file).read_text())
    about |= of | {"settings": about["settings"] | of.get("settings", {})}
    (folder / file).write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("section", [{"samples": 9}, {"evaluate_count": 9}, {"extractor": "pixels"}])
def test_studies_of_images_may_differ_in_their_training(section: dict[str, Any], tmp_path: Path):
    plan = test_latents_report.Plan(arms=("beta@0",), moments=(1000,), pictures=False)
    a, b = (test_latents_report.study(tmp_path / name, plan) for name in "ab")
    found = studies.meeting((a, entries(b, "study.json", config={"run": section})))
    assert not found.why and len(found.pairs) == 1 and len(found.settings) == 1
    assert "count" in studies.meeting((a, entries(b, "study.json", settings={"count": 7}))).why
    assert "data name" in studies.meeting((a, entries(b, "study.json", settings={"count": None}, data={"rows": 3}))).why


def test_points_of_ones_own_are_the_same_by_their_digest(tmp_path: Path):
    a, b = toys(tmp_path, 0.5)
    for here, place in ((a, "/one/x.csv"), (b, "/two/x.csv")):
        entries(here, "sweep.json", settings={"points": place, "digest": "0" * 64})
    assert len(studies.meeting((a, b)).pairs) == 4
    assert "digest" in studies.meeting((a, entries(b, "sweep.json", settings={"digest": "1" * 64}))).why
    plan = test_latents_report.Plan(arms=("beta@0",), moments=(1000,), pictures=False)
    c, d = (test_latents_report.study(tmp_path / name, plan) for name in "cd")
    for here in (c, d):
        entries(here, "study.json", data={"name": f"{here}.npz", "digest": "0" * 64})
    assert len(studies.meeting((c, d)).pairs) == 1


# The page ----------------------------------------------------------------------------------------------------------------------------


def test_pages_keep_the_laws_of_every_page(pair: tuple[Path, Path], tmp_path: Path):
    measure(pair[0], 9.0)
    measure(pair[1], 4.0)
    made = []
    for k in range(2):
        sides = runs.sides(pair)
        made.append(page.build(sides, runs.distances(sides), Pictures(), tmp_path / str(k))[0])
        (pair[1] / "data.json").unlink(missing_ok=True)
    made.append(page.build_studies(studies.meeting(toys(tmp_path, 0.5)), tmp_path / "s")[0])
    for path in made:
        text = path.read_text(encoding="utf-8")
        found, read = taken(text), Reader(text)
        assert len(found.tiles) == 3 and all(all(tile) for tile in found.tiles) and found.steps
        assert [s for block in read.blocks for s in sentences(block.text) if len(words(s)) > 25] == []
        assert set(read.links) <= set(read.ids) and len(read.ids) == len(set(read.ids))
        assert not [tile for tile in found.tiles if tile[0] == "open" and re.search(r"\d", tile[1])]


def test_the_command_writes_page_table_and_json(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    measure(pair[0], 9.0)
    measure(pair[1], 4.0)
    out = tmp_path / "page"
    assert code("compare", *pair, "--count", 0, "--out", out) == 0
    told = capsys.readouterr().out
    assert "Samples of two are nearer to the data than those of the other run." in told and "3.00 to 5.00" in told
    assert code("compare", *pair, "--count", 0, "--out", out, "--json", "-") == 0
    record = json.loads(capsys.readouterr().out)
    assert [run["distance"]["value"] for run in record["runs"]] == [9.0, 4.0] and record["report"] == str(out / "report.html")
    assert sorted(path.name for path in out.iterdir()) == ["report.html"]


def test_the_printed_command_is_the_one_that_was_given(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = pair[0].rename(tmp_path / "one of two"), pair[1]
    given = Compare(
        here, tmp_path / "the page", count=3, steps=2, network="mine.nets:build", autoencoder="taesd:a b.safetensors", device="cpu"
    )
    monkeypatch.setattr("meanstep.program.compare.samples.drawn", lambda found, how: ([], "none"))
    assert given.run() == 0
    assert asked_again(printed(given.out / "report.html")[-1], Compare, monkeypatch) == given


def test_two_studies_take_no_option_of_samples_and_quote_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my studies").mkdir()
    given = Compare(toys(tmp_path / "my studies", 0.5), tmp_path / "p")
    for name, value in (("steps", 2), ("count", 0), ("network", "a:b"), ("device", "cpu"), ("autoencoder", "taesd:x")):
        with pytest.raises(UserError, match=f"--{name} {value} is of the samples of runs"):
            replace(given, **{name: value}).run()
    assert given.run() == 0
    *reports, own = printed(given.out / "report.html")
    assert [shlex.split(line) for line in reports] == [["meanstep", "report", str(folder)] for folder in given.folders]
    assert asked_again(own, Compare, monkeypatch) == given
