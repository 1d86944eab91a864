"""The report of a study of latents on synthetic records with known effects: comparisons, verdicts, page, partial studies, damage."""

import csv
import dataclasses
import fcntl
import json
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from meanstep.program.console import UserError
from meanstep.program.pages import look, statistics
from meanstep.program.reproduce import records
from meanstep.program.reproduce import study as engine
from meanstep.program.reproduce.images import (
    KIND,
    caveats,
    contests,
    figures,
    optima,
    probes,
    published,
    quantities,
    report,
    rerun,
    results,
)
from meanstep.program.reproduce.images.arms import arms
from meanstep.program.reproduce.images.claims import CLAIMS
from meanstep.program.reproduce.images.command import Latents
from meanstep.program.reproduce.images.settings import held_arms, held_config
from meanstep.program.reproduce.report import page as pages
from meanstep.program.reproduce.report import prose
from meanstep.program.reproduce.report.claims import Stated
from meanstep.program.reproduce.report.page import build, signed, spoken
from meanstep.program.runs.config import AveragesConfig, Config
from meanstep.program.training.command import parts

pytestmark = pytest.mark.figures

ARMS = ("beta@0", "beta@0.25", "beta@0.5", "beta@1", "anchored@0", "anchored@1", "rising", "falling", "alpha_flow")
COSTS = {"constant": (1.0, 1.0, 0.25), "anchored": (1.25, 1.25, 0.25), "schedule": (1.25, 1.0, 0.25), "recipe": (1.5, 1.0, 0.0)}
TIMES = [(k + 0.5) / 10 for k in range(10)]
BETAS = [k / 20 for k in range(21)]


@dataclass(frozen=True)
class Plan:
    """What a synthetic study holds. Log distance: `effects` of arms, else `bend` (beta - best)^2; it falls by `fall` log samples."""

    arms: Sequence[str] = ARMS
    seeds: Sequence[int] = (0, 1, 2)
    moments: Sequence[int] = (1000, 2000, 3000, 4000)
    effects: tuple[tuple[str, float], ...] = (("rising", 0.3), ("falling", 0.4), ("alpha_flow", 0.5))
    best: float = 0.0
    bend: float = 0.8
    anchor: float = 0.0
    fall: float = 0.5
    spread: float = 0.005
    matrix: float = 0.94
    norm: float = 0.48
    times: float = 71.0
    pictures: bool = True
    steps: str = "124"


def family(name: str) -> str:
    kind = {"beta": "constant", "anchored": "anchored"}.get(name.partition("@")[0], "schedule")
    return "recipe" if "_" in name else kind


def coefficient(name: str) -> float | None:
    return float(name.partition("@")[2]) if "@" in name else None


def passes(name: str) -> tuple[float, float, float]:
    forwards, backwards, tangents = COSTS[family(name)]
    return forwards + (0.25 if coefficient(name) else 0.0), backwards, tangents


def cost(name: str) -> float:
    forwards, backwards, tangents = passes(name)
    return forwards + 2 * backwards + tangents


def arm(plan: Plan, name: str) -> dict:
    samples = plan.moments[-1] * (1.5 if family(name) in ("constant", "anchored") else 1)
    return {
        "name": name,
        "about": f"synthetic {name}",
        "family": family(name),
        "beta": coefficient(name),
        "recipe": "coefficient",
        "options": {},
        "samples": int(samples),
        "compute": dict(zip(("forwards", "backwards", "tangents"), passes(name), strict=True)),
    }


def effect(plan: Plan, name: str) -> float:
    """Of the arm on log distance."""
    if name in dict(plan.effects):
        return dict(plan.effects)[name]
    moved = (coefficient(name) or 0.0) - plan.best
    return plan.bend * moved**2 + (plan.anchor if family(name) == "anchored" else 0.0)


def loss(plan: Plan) -> dict:
    conditional = [1e-3 * exp(log(100) * k / 9) for k in range(10)]
    times = [exp(log(plan.times) * t / 0.9) for t in TIMES]
    tables = {"conditional": conditional, "ema": [x / n for x, n in zip(conditional, times, strict=True)]}
    return {"t": TIMES, **{name: {"mean": [1.0] * 10, "variance": x} for name, x in tables.items()}}


def error(plan: Plan, noise: np.random.Generator) -> dict:
    found = {}
    for center in ("data", "ema"):
        c, s = 2.0, 4.0
        d = 0.5 if center == "data" else 0.0
        b = plan.matrix * (c + d) + 0.001 * noise.standard_normal()
        a = 3.0
        value = [(a - 2 * beta * b + beta**2 * (c + d)) / s for beta in BETAS]
        optimum = {"matrix": [b / (c + d), 0.01], "norm": [plan.norm + 0.001 * noise.standard_normal(), 0.01]}
        found[center] = {"betas": BETAS, "value": value, "se": [0.01] * 21, "a": a, "b": b, "c": c, "d": d, "s": s, "optimum": optimum}
    return found


def moment(plan: Plan, name: str, seed: int, seen: int, noise: np.random.Generator) -> dict:
    level = 3 + 0.2 * seed - plan.fall * log(seen / 1000) + effect(plan, name)
    ema = [exp(level + plan.spread * noise.standard_normal()) / n for n in (1, 1.3, 1.5)]
    return {
        "kind": "moment",
        "arm": name,
        "seed": seed,
        "seen": seen,
        "beta": coefficient(name),
        "seconds": seen * cost(name) * 0.001 * (1 + 0.01 * noise.random()),
        "measuring": 1.0,
        "distance": {weights: {n: times * ema["124".index(n)] for n in plan.steps} for weights, times in (("ema", 1.0), ("raw", 1.2))},
        "loss": loss(plan),
        "error": error(plan, noise),
        "bias": {"value": 0.2 * (seen / 1000) ** -0.7 * exp(0.05 * noise.standard_normal()), "se": 0.01, "kind": "exact for the data"},
    }


def study(folder: Path, plan: Plan) -> Path:
    """Write the folder that `meanstep reproduce latents` would have written."""
    folder.mkdir(parents=True)
    arms = [arm(plan, name) for name in plan.arms]
    about = {
        "study": "latents",
        "version": 1,
        "settings": {"arms": list(plan.arms), "seeds": list(plan.seeds), "batch": 64, "width": 128},
        "config": {},
        "data": {"name": "synthetic", "rows": 5000, "shape": [4, 8, 8], "classes": 10},
        "extractor": "pca",
        "floor": {"1": 2.0},
        "seeds": list(plan.seeds),
        "moments": list(plan.moments),
        "arms": arms,
    }
    (folder / "study.json").write_text(json.dumps(about))
    (folder / "env.json").write_text(json.dumps({"commit": "b36a3b8", "device": "cpu", "command": "meanstep reproduce latents --out x"}))
    spacing = plan.moments[-1] - plan.moments[-2] if len(plan.moments) > 1 else plan.moments[0]
    for entry in arms:
        for seed in plan.seeds:
            noise = np.random.default_rng([seed, sum(map(ord, entry["name"]))])
            seen = [*plan.moments, *range(plan.moments[-1] + spacing, entry["samples"] + 1, spacing)]
            run = folder / "runs" / f"{entry['name']}-{seed}"
            run.mkdir(parents=True)
            (run / "measures.jsonl").write_text("".join(json.dumps(moment(plan, entry["name"], seed, n, noise)) + "\n" for n in seen))
    if plan.pictures:
        (folder / "samples").mkdir()
        for name in plan.arms:
            image = np.random.default_rng(len(name)).integers(0, 255, (64, 80), dtype=np.uint8)
            Image.fromarray(image).save(folder / "samples" / f"{name}-{plan.seeds[0]}.png")
    return folder


def decided(folder: Path) -> dict:
    return pages.claims(folder)


def claim(key: str) -> Stated:
    return next(stated for stated in CLAIMS if stated.key == key)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.glob("runs/*/measures.jsonl")) for line in path.read_text().splitlines()]


def changed(folder: Path, change) -> Path:
    """Every record through `change`, which returns a record, or None to drop it."""
    for path in folder.glob("runs/*/measures.jsonl"):
        found = [change(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(record) + "\n" for record in found if record))
    return folder


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Figures of few pixels, as nobody looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(look, "SCALE", 0.4)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("whole") / "study", Plan())


@pytest.fixture(scope="module")
def page(whole: Path) -> str:
    return build(whole).read_text(encoding="utf-8")


def undrawn(folder: Path, *names: str) -> str:
    """The page without its figures, which take the time, but for these."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (figures, probes):
            patch.setattr(module, "FIGURES", {name: draw for name, draw in module.FIGURES.items() if name in names})
        return build(folder).read_text(encoding="utf-8").replace("\xa0", " ")


PLAIN = Plan(pictures=False)
EXACT = replace(PLAIN, spread=0.0)

# Comparisons -------------------------------------------------------------------------------------------------------------------------


def test_ratios_at_equal_steps_and_equal_compute(tmp_path: Path):
    found = results.Results.read(study(tmp_path / "s", EXACT))
    base, arm = found.base, next(a for a in found.arms if a.name == "rising")
    assert quantities.equal_steps(found, arm, base).differences == pytest.approx([0.3] * 3)
    seen = 4000 * cost("rising") / cost("beta@0")  # between 4,000 and 5,000
    at_base = 3 - 0.5 * log(seen / 1000)  # a power law is read exactly: linear in both logarithms
    assert quantities.equal_compute(found, arm, base).differences == pytest.approx([3 - 0.5 * log(4) + 0.3 - at_base] * 3)


def test_a_constant_that_stopped_early_is_not_compared_at_equal_compute(tmp_path: Path):
    folder = changed(study(tmp_path / "s", PLAIN), lambda r: r if r["seen"] <= 4000 else None)
    found = results.Results.read(folder)
    contest = contests.contests(found, quantities.COMPUTE_EQUAL)[0]
    assert not contest.changes[0.0].n and contest.lacking == {0.0: (0, 1, 2)} and contest.p_better is None
    assert "Note on β = 0: not that far at seeds 0, 1, 2." in decided(folder)["schedule-compute"].sentence


def test_a_planted_schedule_beats_every_constant_and_no_other_does(tmp_path: Path):
    folder = study(tmp_path / "s", replace(PLAIN, effects=(("rising", -0.1), ("falling", 0.2), ("alpha_flow", -0.002))))
    found = results.Results.read(folder)
    rows = {contest.arm.name: contest for contest in contests.contests(found, quantities.STEPS_EQUAL)}
    assert {name: row.finding for name, row in rows.items()} == {"rising": "agrees", "falling": "contradicts", "alpha_flow": "open"}
    assert decided(folder)["schedule-steps"].verdict == decided(folder)["schedule-compute"].verdict == "holds"
    largest = {}
    for name in rows:  # the intersection-union test and Holm's correction, anew from the lines
        logs = {a: np.log([r["distance"]["ema"]["1"] for r in lines_of(folder) if (r["arm"], r["seen"]) == (a, 4000)]) for a in ARMS}
        tests = [stats.ttest_1samp(logs[name] - logs[f"beta@{b}"], 0, alternative="less").pvalue for b in ("0", "0.25", "0.5", "1")]
        largest[name] = max(tests)
    order = sorted(largest.values())
    adjusted = np.maximum.accumulate([min(1.0, (3 - k) * p) for k, p in enumerate(order)])
    assert {name: row.p_better for name, row in rows.items()} == pytest.approx({n: adjusted[order.index(p)] for n, p in largest.items()})


def test_a_gain_that_its_own_price_eats_is_none_at_equal_compute(tmp_path: Path):
    plan = replace(PLAIN, spread=0.0005, effects=(("rising", -0.02), ("falling", 0.2), ("alpha_flow", 0.2)))
    found = decided(study(tmp_path / "s", plan))
    assert found["schedule-steps"].verdict == "holds" and found["schedule-compute"].verdict == "does not hold"


def test_no_winner_is_said_with_what_could_have_been_seen(whole: Path):
    found = results.Results.read(whole)
    said = decided(whole)["schedule-steps"].sentence
    rows = contests.contests(found, quantities.STEPS_EQUAL)
    pairs = [change.differences for row in rows for change in row.changes.values()]
    sd = float(np.sqrt(np.mean([np.var(x, ddof=1) for x in pairs])))
    shift = -log(1 - float(re.findall(r"below ([\d.]+) percent", said)[0]) / 100) * 3**0.5 / sd
    assert float(stats.nct.sf(stats.t.ppf(1 - 0.05 / 3, 2), 2, shift)) == pytest.approx(0.8, abs=0.03)  # the percent has two digits
    assert "none beats every constant. 3 of 3 are worse" in said and "With 3 seeds" in said and "over 3 arms by Holm's first step" in said
    assert "To beat all of them at once takes a larger gain." in said


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("level", [0.05, 0.05 / 14])
def test_the_detectable_ratio_of_a_one_sided_test_has_the_stated_power(n: int, level: float):
    """Simulated, within four standard errors."""
    found = statistics.detectable(0.03, n, level=level, side="less")
    assert found is not None
    draws = np.random.default_rng(0).normal(log(found), 0.03, (20_000, n))
    share = float((stats.ttest_1samp(draws, 0.0, axis=1, alternative="less").pvalue < level).mean())
    assert share == pytest.approx(0.8, abs=4 * (0.16 / 20_000) ** 0.5)


WINNER = replace(PLAIN, effects=(("rising", -0.1), ("falling", -0.1), ("alpha_flow", 0.2)), seeds=(0, 1, 2, 3))


def broken(folder: Path, name: str, seed: int, seen: int = 1500) -> None:
    """The run broke off there."""
    path = folder / "runs" / f"{name}-{seed}" / "measures.jsonl"
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["seen"] <= seen]
    failure = {"kind": "failure", "arm": name, "seed": seed, "seen": seen, "error": "the loss was not finite"}
    path.write_text("".join(f"{line}\n" for line in [*kept, json.dumps(failure)]))


@pytest.mark.parametrize("terms", quantities.TERMS)
def test_a_constant_is_beaten_where_it_broke_off_and_an_arm_that_broke_off_cannot_win(tmp_path: Path, terms: str):
    folder = study(tmp_path / "s", WINNER)
    broken(folder, "beta@0.25", 1)
    for seed in WINNER.seeds:
        broken(folder, "beta@1", seed)
    broken(folder, "falling", 3)
    rows = {contest.arm.name: contest for contest in contests.contests(results.Results.read(folder), terms)}
    assert {name: row.finding for name, row in rows.items()} == {"rising": "agrees", "falling": "open", "alpha_flow": "contradicts"}
    assert {beta: change.n for beta, change in rows["rising"].changes.items()} == {0.0: 4, 0.25: 3, 0.5: 4, 1.0: 0}
    assert rows["falling"].p_better == 1.0 and rows["rising"].cell(1.0) == "broke off"
    said, page = decided(folder)["schedule-steps"].sentence, undrawn(folder)
    for words in ("falling: broke off at seed 3, cannot win", "β = 0.25: broke off at seed 1, counts as beaten"):
        assert words in said and words in page


CALMER = replace(PLAIN, arms=("beta@0", "beta@0.5", "beta@1"), effects=(("beta@0.5", -0.3),), moments=(1000, 2000), seeds=(0, 1, 2, 3))


@pytest.mark.parametrize(
    ("name", "states", "title", "advice"),
    [
        (
            "",
            ("better", "worse"),
            "A calmer training signal, by a constant coefficient, makes better",
            "Train with the constant coefficient β = 0.5",
        ),
        ("beta@0.5", ("open", "worse"), "This study cannot tell which way to train", "Add seeds"),
        ("beta@1", ("better", "worse"), "A calmer training signal, by a constant coefficient, makes better", "Train with the constant"),
        ("beta@0", ("better", "open"), "A calmer training signal, by a constant coefficient, makes better", "Train with the constant"),
    ],
)
def test_what_broke_off_alone_is_not_called_better(name: str, states: tuple[str, str], title: str, advice: str, tmp_path: Path):
    """Though it is by the seeds that are left."""
    folder = study(tmp_path / "s", CALMER)
    if name:
        broken(folder, name, 2)
    said = report.answer(results.Results.read(folder), [])
    assert said.title.startswith(title) and said.steps[0].words.startswith(advice)
    assert said.shown and said.shown.rows and tuple(bar.state for bar in said.shown.rows.bars) == states
    rows = {row.where: row for row in decided(folder)["quality-worse"].rows}
    assert rows["β = 1"].finding == ("agrees" if states[1] == "worse" else "open")
    way = {"beta@0.5": "lower", "beta@0": "higher"}.get(name)
    for text in (rows["β = 0.5"].note, said.tiles[1].sure):
        assert re.findall(r"diverged alone in 1 pair, so the ratio is not called (\w+)", text) == ([way] if way else [])


def test_what_broke_off_on_both_sides_decides_neither(tmp_path: Path):
    folder = study(tmp_path / "s", CALMER)
    for name in CALMER.arms:
        broken(folder, name, 2)
    assert report.answer(results.Results.read(folder), []).tiles[1].state == "better"


def test_seeds_of_schedules_alone_are_named_and_block_no_test(tmp_path: Path):
    folder = study(tmp_path / "s", WINNER)
    for path in [*folder.glob("runs/beta@*-3"), folder / "runs" / "alpha_flow-0"]:
        shutil.rmtree(path)
    rows = {contest.arm.name: contest for contest in contests.contests(results.Results.read(folder), quantities.STEPS_EQUAL)}
    logs = [{r["seed"]: log(r["distance"]["ema"]["1"]) for r in lines_of(folder) if (r["arm"], r["seen"]) == (a, 4000)} for a in ARMS]
    largest = max(stats.ttest_1samp([logs[6][k] - each[k] for k in (0, 1, 2)], 0, alternative="less").pvalue for each in logs[:4])
    falling = max(stats.ttest_1samp([logs[7][k] - each[k] for k in (0, 1, 2)], 0, alternative="less").pvalue for each in logs[:4])
    assert rows["rising"].p_better == pytest.approx(largest * 3 if largest < falling else max(largest * 2, falling * 3))
    assert rows["rising"].words == "β = 0, β = 0.25, β = 0.5, β = 1: not that far at seed 3"
    assert rows["alpha_flow"].words.startswith("alpha_flow: not that far at seed 0; β = 0,")


def described(folder: Path, **of: dict) -> Path:
    """Entries of arms in study.json."""
    entries = json.loads((folder / "study.json").read_text())["arms"]
    return asked(folder, arms=[entry | of.get(entry["name"].replace("@", "_"), {}) for entry in entries])


def test_a_contest_says_what_it_mixes_in_and_leaves_out(tmp_path: Path):
    folder = study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "beta@1", "rising", "falling", "alpha_flow"), moments=(1000, 2000)))
    described(folder, rising={"options": {"beta": 1, "proxy": "posterior"}}, falling={"options": {"power": 0}})
    count = "What a posterior compares is not counted in passes, only in the seconds: rising."
    weight = "This arm trains under another weight than the constants: falling. A comparison with the constants mixes the weight in."
    text, found = undrawn(folder), decided(folder)
    assert count in text and weight in text
    assert found["schedule-compute"].sentence.endswith(f"{count} {weight}") and count not in found["schedule-steps"].sentence
    asked(folder, config={"method": {"options": {"power": 0, "proxy": "posterior"}}})
    described(folder, beta_0={"options": {"beta": 0.0}}, alpha_flow={"recipe": "alpha_flow"}, falling={"recipe": "posterior_meanflow"})
    held = results.Results.read(folder)
    assert caveats.mixed(held) == ["alpha_flow"] and caveats.weighed(held).startswith(
        "This arm trains under another weight than the constants"
    )
    assert caveats.uncounted(held).endswith("seconds: beta@1, rising, falling.")
    assert caveats.caveats(results.Results.read(study(tmp_path / "plain", PLAIN)), quantities.COMPUTE_EQUAL) == ""


def test_a_winner_mixes_in_no_weight_of_an_arm_whose_name_holds_its_own(tmp_path: Path):
    names = ("posterior@1", "squared-posterior@1")
    plan = replace(PLAIN, arms=("beta@0", "beta@1", *names), effects=((names[0], -0.3), (names[1], 0.2)), moments=(1000, 2000))
    folder = described(study(tmp_path / "s", plan), **{"squared-posterior_1": {"options": {"power": 0}}})
    found = results.Results.read(folder)
    assert caveats.mixed(found) == [names[1]]
    about = " ".join(report.answer(found, []).about)
    assert f"“{names[0]}” is" in about and "another weight" not in about


def test_a_row_shows_the_constant_that_decides(tmp_path: Path):
    """The one that could least be told apart, though another is nearer to the arm."""

    def noisy(record: dict) -> dict:
        if record["arm"] == "beta@1":
            record["distance"]["ema"]["1"] *= (0.7, 1.0, 1.4)[record["seed"]]
        return record

    plan = replace(PLAIN, arms=("beta@0", "beta@1", "rising"), bend=0.1, effects=(("rising", -0.1),), moments=(1000, 2000))
    folder = changed(study(tmp_path / "s", plan), noisy)
    (row,) = decided(folder)["schedule-steps"].rows
    (contest,) = contests.contests(results.Results.read(folder), quantities.STEPS_EQUAL)
    assert contest.changes[0.0].value > row.change.value and row.where == "rising over β = 1" and row.finding == "open"
    assert f"open (better than all: p = {contest.changes[1.0].p(side='less'):.2g} by Holm)" in undrawn(folder)


def test_the_gain_over_any_constant_is_that_over_the_nearest(tmp_path: Path):
    """Not over the one that decides, which is the one that could least be told apart."""

    def noisy(record: dict) -> dict:
        if record["arm"] == "beta@1":
            record["distance"]["ema"]["1"] *= 1.1 * (0.95, 1.0, 1.05)[record["seed"]]
        return record

    plan = replace(PLAIN, arms=("beta@0", "beta@1", "rising"), bend=0.0, effects=(("rising", -0.1),), moments=(1000, 2000))
    folder = changed(study(tmp_path / "s", plan), noisy)
    (contest,) = contests.contests(results.Results.read(folder), quantities.STEPS_EQUAL)
    gains = {beta: f"{100 * (1 - change.value):.0f}%" for beta, change in contest.changes.items()}
    assert contest.finding == "agrees" and (contest.hardest, contest.nearest) == (1.0, 0.0) and gains[0.0] != gains[1.0]
    page = undrawn(folder)
    assert f"{gains[0.0]} nearer to the data than any constant" in page and f"{gains[1.0]} nearer" not in page


def test_title_tile_figure_and_advice_are_of_one_test(tmp_path: Path):
    """The constant of the least ratio is open and another one is better; in the figure the other arms correct neither."""

    def noisy(record: dict) -> dict:
        if record["arm"] == "beta@1":
            record["distance"]["ema"]["1"] *= 0.8 * (0.8, 1.0, 1.25)[record["seed"]]
        if record["arm"] == "beta@0.5":
            record["distance"]["ema"]["1"] *= (0.88, 0.9, 0.92)[record["seed"]]
        return record

    arms = ("beta@0", "beta@0.5", "beta@1", "anchored@0", "anchored@0.5", "anchored@1")
    plan = replace(PLAIN, arms=arms, bend=0.0, moments=(1000, 2000), spread=0.0001)
    found = results.Results.read(changed(study(tmp_path / "s", plan), noisy))
    answer = report.answer(found, [])
    assert answer.title.startswith("A calmer training signal, by a constant coefficient, makes better")
    assert answer.tiles[1].head == "Coefficient: β = 0.5 is better" and "β = 0.5, the best that is told apart" in answer.tiles[1].words
    assert {bar.name: bar.state for bar in answer.shown.rows.bars}.items() >= {"beta@0.5": "better", "beta@1": "open"}.items()
    assert next(step.words.partition(" on data")[0] for step in answer.steps) == "Train with the constant coefficient β = 0.5"


def test_one_way_that_is_worse_does_not_make_the_others_so(tmp_path: Path):
    """Though it is the nearest by its mean."""

    def noisy(record: dict) -> dict:
        if record["arm"] == "falling":
            record["distance"]["ema"]["1"] *= (0.5, 1.0, 2.0)[record["seed"]]
        return record

    plan = replace(PLAIN, arms=("beta@0", "rising", "falling"), effects=(("rising", 0.1), ("falling", 0.2)), moments=(1000, 2000))
    found = results.Results.read(changed(study(tmp_path / "s", plan), noisy))
    assert {c.arm.name: c.finding for c in contests.contests(found, quantities.STEPS_EQUAL)} == {"rising": "contradicts", "falling": "open"}
    tile = report.answer(found, []).tiles[0]
    assert tile.state == "open" and tile.head == "Other ways: no difference can be told" and "“falling”" in tile.words
    alone = results.Results.read(study(tmp_path / "t", replace(plan, arms=("beta@0", "rising"))))
    assert report.answer(alone, []).tiles[0].head == "Other ways: worse than a constant"


def test_an_arm_that_meets_no_constant_is_named(tmp_path: Path):
    folder = study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "beta@1", "rising", "falling", "alpha_flow"), moments=(1000, 2000)))
    for path in [folder / "runs" / "falling-0", *folder.glob("runs/beta@*-[12]")]:
        shutil.rmtree(path)
    changed(folder, lambda r: r if r["arm"] != "alpha_flow" or r["seen"] < 2000 else None)
    missing = "Note on falling: no seed in common with a constant. Note on alpha_flow: not that far at seeds 0, 1, 2."
    assert decided(folder)["schedule-steps"].sentence.endswith(missing) and f"Not in the table: {missing}" in undrawn(folder)


def test_every_arm_has_its_ratio_to_every_constant(tmp_path: Path):
    names = ("beta@0", "beta@0.25", "beta@1", "posterior-both@0.5", "projected")
    plan = replace(PLAIN, arms=names, effects=(("posterior-both@0.5", -0.1), ("projected", 0.2)), moments=(1000, 2000))
    folder = study(tmp_path / "s", plan)
    text = undrawn(folder)
    assert all(f"<tr><td>{name}</td><td" in text.partition("Against each constant, after the same samples")[2] for name in names[3:])
    rows = list(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    held = {(r["arm"], r["seen"], r["seed"]): r["distance"]["ema"]["2"] for r in lines_of(folder)}
    for name in names[3:]:
        for beta in ("0", "0.25", "1"):
            for terms in quantities.TERMS:
                (row,) = [
                    r
                    for r in rows
                    if (r["arm"], r["metric"], r["weights"], r["steps"]) == (name, f"ratio to beta {beta}", "ema", "2")
                    and r["at"].startswith(terms)
                ]
                assert row["seeds"] == "0 1 2" and float(row["low95"]) < float(row["mean"]) < float(row["high95"])
                if terms == quantities.STEPS_EQUAL:
                    logs = [log(held[name, 2000, seed] / held[f"beta@{beta}", 2000, seed]) for seed in plan.seeds]
                    assert float(row["mean"]) == pytest.approx(exp(np.mean(logs)))
                    assert log(float(row["high95"])) == pytest.approx(stats.ttest_1samp(logs, 0).confidence_interval().high)


# Optima, noise, amplification --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("best", "matrix", "least"), [(0.3, 0.8, 0.3), (-0.2, 0.94, 0.0), (1.4, 1.2, 1.0)])
def test_the_two_optima_and_their_difference(tmp_path: Path, best: float, matrix: float, least: float):
    found = results.Results.read(study(tmp_path / "s", replace(EXACT, best=best, matrix=matrix)))
    for weights in ("ema", "raw"):
        for steps in ("1", "2", "4"):
            assert quantities.distance_optimal(found, 4000, weights, steps) == pytest.approx(dict.fromkeys((0, 1, 2), least), abs=1e-9)
    assert quantities.mismatch(found, 4000, "data").value == pytest.approx(min(matrix, 1.0) - least, abs=2e-3)
    grid = min((0, 0.25, 0.5, 1), key=lambda beta: abs(beta - best))
    assert quantities.best_constant(found, 4000) == dict.fromkeys((0, 1, 2), grid)


def held(logs: np.ndarray, betas: Sequence[float], least: Sequence[float]) -> results.Results:
    """A study in memory of one moment: log distances by constant and seed, and each seed's coefficient of least error."""
    arms = [constant(b) for b in betas]
    optimum = [{center: {"optimum": {"matrix": [x, 0.01]}} for center in ("data", "ema")} for x in least]
    runs = {
        (arm["name"], seed): {1000: {"distance": {"ema": {"1": exp(x)}, "raw": {}}, "error": optimum[seed]}}
        for arm, row in zip(arms, logs, strict=True)
        for seed, x in enumerate(row)
    }
    return results.Results({"moments": [1000], "seeds": list(range(len(least))), "arms": arms}, (), runs)


def constant(beta: float) -> dict:
    compute = {"forwards": 1.0, "backwards": 1.0, "tangents": 0.5}
    about = {"about": "", "recipe": "coefficient", "options": {}}
    return {"name": f"beta@{beta:g}", "family": "constant", "beta": beta, "samples": 1000, "compute": compute} | about


@pytest.mark.parametrize(("least", "n"), [(0.94, 3), (1.4, 3), (0.94, 5)])
def test_noise_makes_no_mismatch(least: float, n: int):
    """200 studies whose distances do not depend on the coefficient."""
    noise = np.random.default_rng(1)
    draws = 3 + 0.2 * noise.standard_normal((200, 1, n)) + 0.02 * noise.standard_normal((200, 4, n))
    errors = least + 0.01 * noise.standard_normal((200, n))
    made = [claim("mismatch").decided(held(x, (0, 0.25, 0.5, 1), list(e))) for x, e in zip(draws, errors, strict=True)]
    assert sum(claim.verdict == "holds" for claim in made) <= 10


SLOPE = np.array([[0.0], [0.2], [0.4], [0.8]]) + 0.01 * np.random.default_rng(0).standard_normal((4, 3))


@pytest.mark.parametrize(("slope", "least", "verdict"), [(1, 1.4, "holds"), (1, -0.5, "cannot tell"), (-1, -0.5, "does not hold")])
def test_optima_at_the_ends_have_no_interval_and_the_distances_decide(slope: int, least: float, verdict: str):
    found = claim("mismatch").decided(held(slope * SLOPE, (0, 0.25, 0.5, 1), [least, least + 0.1, least + 0.3]))
    assert found.verdict == verdict
    change = found.rows[0].change
    assert change.n == 3 and change.interval is None and change.p() is None and change.outside(0.05, np.inf) is None


def test_the_constant_of_least_error_is_compared_with_those_below_it():
    """Between 0.5 and 0.25 the lower one, and only those below it."""
    found = optima.evidence(held(SLOPE, (0, 0.25, 0.5, 1), [0.4, 0.35, 0.375]), "data")
    assert found is not None and found.nearest.beta == 0.25 and found.changes.keys() == {0.0}
    logs = SLOPE[1] - SLOPE[0]
    assert found.p == pytest.approx(stats.ttest_1samp(logs, 0, alternative="greater").pvalue)
    far = optima.evidence(held(SLOPE, (0, 0.25, 0.5, 1), [0.9, 0.9, 0.9]), "data")
    each = [stats.ttest_1samp(SLOPE[3] - SLOPE[k], 0, alternative="greater").pvalue for k in range(3)]
    assert far is not None and far.p == pytest.approx(3 * min(each)) and "Holm's correction over 3 constants" in far.sentence


def test_both_optima_lie_in_the_range_of_the_constants():
    """Without a constant beyond 0.5 none is known to be worse."""
    found = held(-SLOPE[:3], (0.1, 0.25, 0.5), [0.94, 0.95, 0.96])
    runs = found.runs | {("beta@0", s): {1000: {"error": r[1000]["error"]}} for (_, s), r in found.runs.items()}
    whole = results.Results(found.about | {"arms": [*found.about["arms"], constant(0.0)]}, (), runs)
    least, best = quantities.both_optima(whole, 1000, "data")
    assert least == best == dict.fromkeys((0, 1, 2), 0.5)


def test_no_mismatch_is_no_find(tmp_path: Path):
    found = decided(study(tmp_path / "s", replace(PLAIN, best=0.5, matrix=0.5)))
    assert found["mismatch"].verdict == "does not hold" and found["error-matrix"].verdict == "does not hold"
    assert found["quality-worse"].verdict == "does not hold"


def test_amplification_is_the_ratio_of_the_two_growths(tmp_path: Path):
    found = results.Results.read(study(tmp_path / "s", EXACT))
    record = next(r for r in lines_of(tmp_path / "s") if (r["arm"], r["seed"], r["seen"]) == ("beta@0", 1, 4000))
    m = record["error"]["data"]
    expected = 0.8 - log((m["a"] - 2 * m["b"] + m["c"] + m["d"]) / m["a"])
    arm = found.constant(1.0)
    assert arm and quantities.amplification(found, arm, "data").differences[1] == pytest.approx(expected)


def test_the_error_between_tabled_coefficients_comes_from_its_means():
    m = {"betas": [0.0], "value": [0.75], "a": 3.0, "b": 1.5, "c": 2.0, "d": 0.5, "s": 4.0}
    assert quantities.error_at({"error": {"data": m}}, "data", 0.0) == 0.75
    assert quantities.error_at({"error": {"data": m}}, "data", 0.3) == pytest.approx((3 - 0.9 + 0.09 * 2.5) / 4)
    assert quantities.error_at({"error": {"data": m | {"a": None}}}, "data", 0.3) is None
    assert quantities.error_at({"error": None}, "data", 0.3) is None


def test_the_variance_of_the_loss(tmp_path: Path):
    found = results.Results.read(study(tmp_path / "s", replace(PLAIN, times=40.0)))
    assert quantities.tangents_ratio(found, 4000).value == pytest.approx(40.0)
    assert quantities.growth(found, "conditional").value == pytest.approx(100.0)
    assert quantities.growth(found, "ema").value == pytest.approx(100.0 / 40.0)  # t from 0.05 to 0.95
    assert quantities.loss_variance({"loss": loss(PLAIN)}, "ema", 0.99) is None


def test_a_bound_on_the_bias_is_in_no_mean_with_the_bias(tmp_path: Path):
    """Of one seed the kind is another: two rows, each of its own seeds, and both are said."""
    plan = replace(PLAIN, arms=("beta@0", "beta@1"), moments=(1000, 2000))

    def bound(record: dict) -> dict:
        record["bias"] |= {"kind": "upper bound", "value": 100.0} if record["seed"] == 1 else {}
        return record

    folder = changed(study(tmp_path / "s", plan), bound)
    found = results.Results.read(folder)
    assert quantities.kinds(found) == ["exact for the data", "upper bound"]
    assert quantities.bias(found, found.base, 2000, "upper bound") == {1: 100.0}
    assert quantities.bias(found, found.base, 2000, "exact for the data").keys() == {0, 2}
    text = undrawn(folder, "bias")
    assert "Upper bound: E|ema - v_c|² over E|v_c|²" in text and "Exact for the data: E|ema - v" in text
    rows = [row for row in csv.DictReader((folder / "summary.csv").read_text().splitlines()) if row["metric"] == "bias"]
    assert {(row["at"], row["seeds"]) for row in rows} == {("exact for the data", "0 2"), ("upper bound", "1")}


@pytest.mark.parametrize(("bounds", "ours"), [((), "0.200"), ((0, 1, 2), ""), ((1,), "0.200")])
def test_a_bound_on_the_bias_is_not_shown_for_it_beside_the_published_one(bounds: tuple[int, ...], ours: str, tmp_path: Path):
    def theirs(record: dict) -> dict:
        bound = {"kind": "upper bound", "value": 100.0} if record["seed"] in bounds else {"value": 0.2}
        return record | {
            "published": {"kappa": 1.0, "scalar": 0.4, "matrix": 0.9, "gap": 1.0, "square": 4.0},
            "bias": record["bias"] | bound,
        }

    found = results.Results.read(changed(study(tmp_path / "s", replace(PLAIN, arms=("beta@0",), moments=(1000,))), theirs))
    (row,) = [row for row in published.rows(found) if row[0] == "bias over noise"]
    assert [cell.partition(" ")[0] for cell in row[2:]] == ["0.250", ours]


def test_wall_time_decides_no_cost(tmp_path: Path):
    def wall(record: dict) -> dict:
        return record | {"clock": "wall", "seconds": 9 * record["seconds"]} if record["seed"] != 2 or record["seen"] == 1000 else record

    folder = changed(study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "beta@0.5", "beta@1", "anchored@1"))), wall)
    found = decided(folder)["costs-interior"]
    assert found.verdict == "cannot tell" and "wall time was taken" in found.sentence
    assert next((row.where, row.claimed, row.change.n) for row in found.rows) == ("beta@0.5, wall time", None, 3)
    text = undrawn(folder)
    assert "Seconds are measured: wall time." in text and "(wall time)" in text
    rows = [row for row in csv.DictReader((folder / "summary.csv").read_text().splitlines()) if row["metric"] == "seconds"]
    assert {row["at"] for row in rows} == {"wall"}
    mixed = results.Results.read(changed(folder, lambda record: record | ({"clock": "processor"} if record["seed"] == 0 else {})))
    assert quantities.seconds(mixed, mixed.base).keys() == {0} and quantities.seconds(mixed, mixed.base, "wall").keys() == {1, 2}


# Claims ------------------------------------------------------------------------------------------------------------------------------


def test_planted_effects_are_found(whole: Path):
    found = {key: claim.verdict for key, claim in decided(whole).items()}
    beaten = ("anchor", "schedule-steps", "schedule-compute", "costs-anchor")
    assert found == {key: "does not hold" if key in beaten else "holds" for key in found} and len(found) == 18


@pytest.mark.parametrize("key", ["quality-worse", "quality-order", "quality-always"])
def test_some_of_the_four_coefficients_do_not_decide_all_of_them(key: str, tmp_path: Path):
    folder = study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "beta@0.5", "beta@1")))
    claim = decided(folder)[key]
    assert claim.verdict == "cannot tell" and "not measured" in claim.sentence and "β = 0.25" in claim.sentence
    assert {row.finding for row in claim.rows if row.claimed and row.change.n} == {"agrees"}
    falling = changed(folder, lambda r: r | {"distance": {"ema": {"1": 2.0 - (r["beta"] or 0) + 0.01 * r["seed"]}, "raw": {}}})
    assert decided(falling)[key].verdict == "does not hold"


def test_an_anchor_without_its_constant_leaves_the_claim_open(tmp_path: Path):
    arms = ("beta@0", "anchored@0", "anchored@1")
    found = decided(study(tmp_path / "s", replace(PLAIN, arms=arms, anchor=-0.2)))["anchor"]
    assert found.verdict == "cannot tell" and "1 of 2 comparisons is not measured: anchored@1 over β = 1." in found.sentence


def test_an_arm_that_has_met_no_constant_may_still_win(tmp_path: Path):
    folder = study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "beta@1", "rising", "falling")))
    assert decided(folder)["schedule-steps"].verdict == "does not hold"
    (folder / "records.jsonl").unlink()
    for path in folder.glob("runs/falling-*"):
        shutil.rmtree(path)
    assert decided(folder)["schedule-steps"].verdict == "cannot tell"


def test_the_anchor_is_judged_at_its_own_coefficient(tmp_path: Path):
    found = decided(study(tmp_path / "s", replace(PLAIN, anchor=-0.2)))["anchor"]
    assert found.verdict == "holds"
    assert [row.change.value for row in found.rows[:2]] == pytest.approx([exp(-0.2)] * 2, rel=0.02)


def test_an_order_that_breaks_at_one_moment_does_not_hold_always(tmp_path: Path):
    def swap(record: dict) -> dict:
        if (record["arm"], record["seen"]) == ("beta@0.5", 2000):
            record["distance"]["ema"]["1"] *= 0.5
        return record

    found = decided(changed(study(tmp_path / "s", PLAIN), swap))
    assert found["quality-order"].verdict == "holds" and found["quality-always"].verdict == "does not hold"


def test_one_seed_cannot_tell(tmp_path: Path):
    folder = study(tmp_path / "s", replace(PLAIN, seeds=(4,)))
    found = decided(folder)
    assert {claim.verdict for claim in found.values()} == {"cannot tell"}
    assert "nothing can be told: there is one seed" in found["schedule-steps"].sentence
    assert any("There is one seed" in line for line in spoken(folder))


def test_models_far_from_the_data_decide_nothing(tmp_path: Path):
    folder = asked(study(tmp_path / "s", PLAIN), floor={"1": 0.01})
    found, text = decided(folder), undrawn(folder)
    assert {claim.verdict for claim in found.values()} == {"cannot tell"} and "Too far" in found["quality-worse"].sentence
    assert {row.finding for claim in found.values() for row in claim.rows if row.claimed} == {"open"}
    assert all("more than 64 times" in claim.sentence for claim in found.values())
    said = spoken(folder)
    unsaid = [line for line in said if "It is not said which β is best" in line]
    assert any("still far from the data" in line for line in said) and len(unsaid) == 1 and "more than 64 times" in unsaid[0]
    told = [text.partition('<ul class="headline">')[2].partition("</ul>")[0], *said, *(claim.sentence for claim in found.values())]
    unsaid = r"makes the best|distance is least|best schedule|beats every|could hardly|anchor by itself changes|contradict"
    assert told[0] and not re.findall(unsaid, " ".join(told))
    assert 'class="agrees"' not in text and 'class="contradicts"' not in text


@pytest.mark.parametrize(("noise", "trained"), [(9.0, True), (1.3, False), (0.9, False), (0.4, False)])
def test_models_no_nearer_than_noise_decide_nothing_whatever_the_floor(noise: float, trained: bool, tmp_path: Path):
    """Distances of 1 in units of that at beta 0, 4 times the floor, with which the rule of 64 times is content; squares, so roots count."""
    folder = study(tmp_path / "s", PLAIN)
    base = results.Results.read(folder)
    level = statistics.mean(base.distance(base.base, base.end).values()).mean
    folder = asked(folder, floor={"1": level / 4, "noise": level * noise})
    found, text, said = decided(folder), undrawn(folder), spoken(folder)
    assert ({claim.verdict for claim in found.values()} != {"cannot tell"}) is trained
    assert any("still far from the data" in line for line in said) is not trained
    if not trained:
        assert {row.finding for claim in found.values() for row in claim.rows if row.claimed} == {"open"}
        assert 'class="agrees"' not in text and 'class="contradicts"' not in text
        assert "way from noise to the data" in text or "no nearer to the data than the noise" in text


@pytest.mark.parametrize(
    ("times", "said"), [(0.9, None), (1.1, "still 18 times its floor"), (3.9, "still 62 times its floor"), (4.1, "far from")]
)
def test_young_networks_are_called_so(times: float, said: str | None):
    found = held(SLOPE, (0, 0.25, 0.5, 1), [0.4, 0.4, 0.4])
    floor = statistics.mean(found.distance(found.base, 1000).values()).mean / (16 * times)
    found = replace(found, about=found.about | {"floor": {"1": floor}})
    lines = " ".join(report.gaps(found))
    assert (said in lines) if said else "still" not in lines
    assert ("young networks" in lines) == (1 < times < 4)


# The page ----------------------------------------------------------------------------------------------------------------------------

SECTIONS = ["headline", "claims", "quality", "signal", "optima", "samples", "numbers", "what", "environment", "again"]
PART = re.compile(r'<details class="part" id="(\w+)">')


def test_the_page_has_every_section_and_loads_nothing(page: str):
    assert PART.findall(page) == SECTIONS
    outward = re.findall(r'(?:src|href|url|action|data|poster|srcset)\s*[=(]\s*["\']?\s*(?:https?:)?//[^"\'\s>]+', page)
    assert outward and all(x.startswith('href="https://arxiv.org/abs/') for x in outward)
    assert page.count('src="data:image/png;base64,') == 7 + len(ARMS), "each figure once, as a picture or behind its chart"
    assert page.count('id="claim-') == 18 and "14 of 18" in page and "b36a3b8" in page and "Where they lie apart" in page
    text = re.sub(r"<(style|pre|code|script)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert "\u2212" in text and not re.findall(r"(?<=[\s\[(])-\d[^<]*", text)


def test_the_headline_is_made_of_the_numbers(whole: Path):
    said = "\n".join(spoken(whole))
    assert "Of 4 constant coefficients β = 0 makes the best one-step samples" in said
    assert "least on [0, 1] at β = 0.94 [" in said and "71.0 [71.0, 71.0] times" in said
    assert "After the same samples none beats every constant" in said


def test_the_csv_is_the_records_recomputed(whole: Path, page: str):
    rows = list(csv.DictReader((whole / "summary.csv").read_text().splitlines()))
    held = lines_of(whole)
    checked = 0
    for row in rows:
        if row["metric"] != "distance" or row["arm"] not in ("beta@1", "rising"):
            continue
        found = [r for r in held if (r["arm"], r["seen"]) == (row["arm"], int(row["seen"]))]
        x = [r["distance"][row["weights"]][row["steps"]] for r in found]
        half = stats.t.ppf(0.975, 2) * np.std(x, ddof=1) / 3**0.5
        assert float(row["mean"]) == pytest.approx(np.mean(x)) and float(row["high95"]) == pytest.approx(np.mean(x) + half)
        assert row["seeds"] == "0 1 2" and [float(v) for v in row["values"].split()] == x
        checked += 1
    assert checked == 6 * (6 + 4)
    assert {row["metric"] for row in rows} >= {"bias", "optimum matrix", "loss variance, ema", "ratio to beta 0", "seconds"}


def test_the_page_is_made_of_the_records_alone(whole: Path, page: str, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("runs", "figures", "report.html", "summary.csv"))
    assert build(folder).read_text(encoding="utf-8").replace(str(folder), str(whole)) == page  # but for where to go on
    assert (folder / "summary.csv").read_bytes() == (whole / "summary.csv").read_bytes()


def test_arms_have_their_own_numbers_of_seeds(tmp_path: Path):
    folder = study(tmp_path / "s", replace(EXACT, arms=("beta@0", "rising"), moments=(1000,), pictures=True))
    shutil.rmtree(folder / "runs" / "rising-0")
    (folder / "samples" / "rising-0.png").rename(folder / "samples" / "rising-2.png")
    text = undrawn(folder)
    assert "2 ways to train one network on the same data, 2 to 3 seeds each" in unlinked(text) and "rising, seed 2</h3>" in text
    assert all(f'<td class="words">synthetic {name}</td><td class="n">{n}</td>' in text for name, n in (("beta@0", 3), ("rising", 2)))


def test_minus_signs_are_true_ones_before_numbers_only():
    assert signed("from -0.2 to [-1, +3], beta@-1, a-1, 2026-01-02, 1e-05, --seeds 0") == (
        "from \u22120.2 to [\u22121, +3], beta@-1, a-1, 2026-01-02, 1e-05, --seeds 0"
    )


def test_a_wide_grid_is_made_smaller(tmp_path: Path):
    Image.fromarray(np.zeros((900, 1800, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert report.picture(tmp_path / "a.png").startswith("data:image/jpeg")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.png is damaged"):
        report.picture(tmp_path / "a.png")


def test_the_command_finds_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from meanstep.cli import main

    folder = study(tmp_path / "s", Plan(arms=(), pictures=False))
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(folder)])
    assert "report.html" in capsys.readouterr().out


@pytest.mark.slow
def test_a_large_study_is_reported_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(look, "SCALE", 2)
    names = (*ARMS, *(f"schedule-{k}" for k in range(11)))
    plan = Plan(arms=names, moments=tuple(1000 * k for k in range(1, 9)), effects=tuple((n, 0.2) for n in names[6:]))
    folder = study(tmp_path / "s", plan)
    start = time.process_time()
    build(folder)
    assert time.process_time() - start < 20


def words_of(least: Sequence[float], best: float = 0.3) -> str:
    logs = 0.8 * (np.array([[0.0], [0.25], [0.5], [1.0]]) - best) ** 2 + np.zeros((4, len(least)))
    found = held(logs, (0, 0.25, 0.5, 1), least)
    return "\n".join(report.headline(found))


def test_the_coefficient_of_least_error_is_said_within_its_range():
    assert "least on [0, 1] at β = 0.00 (about the data's own velocity; the error hardly depends on β)" in words_of([-191.9, -202.0, -3.0])
    assert "at β = 1.00 (about the data's own velocity; unconstrained 1.40 [1.15, 1.65])" in words_of([1.3, 1.4, 1.5])
    assert re.search(r"at β = 0\.40 \[0\.15, 0\.65\] \(about the data's own velocity\)", words_of([0.3, 0.4, 0.5]))


def test_the_two_optima_are_of_the_seeds_that_have_both():
    """Seeds that have one of both only are in neither."""
    logs = 0.8 * (np.array([[0.0], [0.25], [0.5], [1.0]]) - np.array([0.2, 0.4, 0.9])) ** 2
    found = held(logs, (0, 0.25, 0.5, 1), [0.6, 0.8, float("nan")])
    least, best = ([*each.values()] for each in quantities.both_optima(found, found.end, "data"))
    gap = quantities.mismatch(found, found.end, "data")
    assert (np.mean(least), np.mean(best), gap.value, gap.n) == (*map(pytest.approx, (0.7, 0.3, 0.4)), 2)


def unlinked(text: str) -> str:
    """The page without links to its glossary."""
    return re.sub(r'<a class="term"[^>]*>(.*?)</a>', r"\1", text)


def asked(folder: Path, **entries: object) -> Path:
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def test_the_commands_make_the_study_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Read by the program itself they give the study's own configuration, arms, seeds and measures."""
    monkeypatch.chdir(tmp_path)
    start = Latents.parse(["--data.source", "my data/x.npz", "--network.options", "{qk_norm: true}", "--compile"])
    config = Config(**parts(start), run=replace(start.study().config.run, samples=64_000))
    config = replace(config, averages=AveragesConfig((0.99, 0.999), (0.05, 0.1)), method=replace(config.method, window=(0.1, 0.9)))
    sizes = {"count": 512, "steps": [1, 4], "rows": 2048, "times": 10, "rows_at": 64, "references": 20_000}
    folder = study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "anchored@1"), seeds=(0, 1), moments=(1000, 2000)))
    own = {"recipe": "coefficient", "options": {"beta": {"over_t": [0, 1, 8]}, "anchor": 0}, "method": {"proxy_decay": 0.99}}
    entries = [dataclasses.asdict(arm) for arm in arms(("beta@0", "anchored@1", "rising"))]
    about = [json.loads(json.dumps(x)) for x in [*entries, {**entries[-1], **own, "name": "late", "about": "own: late"}]]
    held = [x | {"samples": 2000, "compute": {"forwards": 1, "backwards": 1, "tangents": 1}} for x in about]
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    runs = [(name, seed) for name in ("beta@0", "anchored@1", "late") for seed in (0, 1, 4)] + [("rising", 0)]
    found = results.Results.read(asked(folder, arms=held, config=plain, settings={"moments": 2, **sizes}, asked=runs))
    first, second = rerun.commands(found)
    (tmp_path / rerun.FILE).write_text(rerun.own(found))
    made = Latents.parse(shlex.split(first)[3:]).study()
    assert made.config == config and [arm.name for arm in made.arms] == ["beta@0", "anchored@1", "late"] and made.seeds == (0, 1, 4)
    assert made.moments == 2 and json.loads(json.dumps(dataclasses.asdict(made.sizes))) == sizes
    assert (made.arms[2].options, made.arms[2].method) == (own["options"], own["method"])
    assert "--arms rising --seeds 0 --moments 2" in second and "--arms-file" not in second and "--measure.rows " not in first
    text = undrawn(folder)
    assert "--out x" not in text and "late: {" in text.replace("late:\n", "late: {")


RECORDS = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize(
    "name",
    ["paper/dit/records/digits-uniform", "paper/dit/records/cifar-authors", "paper/dit/records/digits-authors"],
)
@pytest.mark.parametrize("floor", ["as it was", "far"])
def test_what_to_do_is_the_studys_own_command_with_an_option_replaced(name: str, floor: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(RECORDS))
    from packs import unpacked

    with unpacked(RECORDS / name) as here:
        if floor == "far":
            asked(here, floor={"1": 1e-9})
        found = results.Results.read(here)
        steps = report.answer(found, []).steps
        (command,) = [step.command for step in steps if step.command]
        plan = Latents.parse(shlex.split(command)[3:])
        study, held = plan.study(), held_config(found.about)
    assert [arm.name for arm in study.arms] == [arm.name for arm in found.arms] and study.protocol == found.settings.get("protocol", "ours")
    if floor == "far":
        assert plan.out == here.with_name(f"{here.name}-longer") and study.config.run.samples == 4 * found.moments[-1]
        assert replace(study.config, run=held.run) == held
        return
    assert plan.out == here and replace(study.config, run=held.run) == held and study.config.run.samples == held.run.samples
    more = study.seeds[len(found.seeds) :]
    assert study.seeds[: len(found.seeds)] == found.seeds and len(more) == (3 if "Add seeds" in steps[-1].words else 0)


def test_a_longer_study_lies_beside_the_folder_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = asked(study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "rising"), moments=(1000, 2000))), floor={"1": 1e-9})
    monkeypatch.chdir(here)
    (step,) = report.answer(results.Results.read(Path()), []).steps
    words = shlex.split(step.command)
    assert words[words.index("--out") + 1] == "../s-longer"


def test_arms_with_other_seeds_have_their_own_command_and_need_no_file_where_they_are_known(tmp_path: Path):
    folder = study(
        tmp_path / "my study", replace(PLAIN, arms=("beta@0", "rising", "late"), effects=(("rising", 0.0), ("late", 0.0)), spread=0.3)
    )
    runs = [*(("beta@0", seed) for seed in (0, 1, 2)), *(("rising", seed) for seed in (0, 2)), *(("late", seed) for seed in (0, 2))]
    found = results.Results.read(asked(folder, asked=runs))
    steps = report.answer(found, []).steps
    words = [shlex.split(step.command) for step in steps]
    assert [each[each.index("--seeds") + 1] for each in words] == ["0:6", "0,2,1,3,4"] and "--arms-file" not in words[1]
    assert [each[each.index("--out") + 1] for each in words] == [str(folder)] * 2
    assert "--arms-file" in shlex.split(rerun.commands(found)[1])


def test_only_what_was_asked_for_is_missing(tmp_path: Path):
    folder = study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "rising"), seeds=(0, 1)))
    shutil.rmtree(folder / "runs" / "rising-1")
    assert results.Results.read(folder).missing == [("rising", 1)]
    assert "1 run has not reached 4,000 samples, or not begun: rising with seed 1." in spoken(folder)
    (folder / "records.jsonl").unlink()
    found = results.Results.read(asked(folder, asked=[["beta@0", 0], ["beta@0", 1], ["rising", 0]]))
    assert found.missing == [] and not any("not begun" in line for line in report.gaps(found))


def test_every_commit_and_machine_is_named(tmp_path: Path):
    folder = study(tmp_path / "s", replace(PLAIN, arms=("beta@0",), moments=(1000,)))
    assert ("commit", "b36a3b8") in prose.environment(results.Results.read(folder))
    for seed, commit in enumerate(("aaa", "bbb", "aaa")):
        (folder / "runs" / f"beta@0-{seed}" / "env.json").write_text(json.dumps({"commit": commit, "machine": "m", "command": "x"}))
    assert prose.environment(results.Results.read(folder)) == [("commit", "aaa, bbb"), ("machine", "m")]


def test_samples_of_flow_matching_are_of_many_steps(tmp_path: Path, page: str):
    folder = study(tmp_path / "s", Plan(arms=("beta@0",), seeds=(0,), moments=(1000,)))
    entries = json.loads((folder / "study.json").read_text())["arms"]
    asked(folder, arms=[entries[0] | {"recipe": "flow_matching"}])
    assert "One step (of beta@0: many steps), EMA weights" in unlinked(undrawn(folder)) and "One step, EMA weights" in unlinked(page)


def test_one_process_at_a_time_writes_a_report(tmp_path: Path):
    """While another holds the lock nothing is read or written; afterwards all that is then there is."""
    folder = study(tmp_path / "s", replace(PLAIN, arms=("beta@0",), seeds=(0,), moments=(1000,)))
    path = folder / "runs" / "beta@0-0" / "measures.jsonl"
    for write in (undrawn, spoken):
        with (folder / ".report.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            thread = threading.Thread(target=write, args=(folder,))
            thread.start()
            thread.join(0.2)
            assert thread.is_alive() and not (folder / "records.jsonl").exists()
            path.write_text(path.read_text().replace('"measuring": 1.0', '"measuring": 7.0'))
        thread.join()
        assert records.read(folder / "records.jsonl", KIND)[0]["measuring"] == 7.0
        (folder / "records.jsonl").unlink()


# Partial studies and damage ----------------------------------------------------------------------------------------------------------


def without_probes(record: dict) -> dict:
    return record | dict.fromkeys(("loss", "error", "bias"))


def without_numbers(record: dict) -> dict:
    nothing = dict.fromkeys(("1", "4"))
    return record | {"distance": {"raw": nothing, "ema": None}, "error": {"data": None, "ema": None}, "seconds": None}


PARTS = {
    "nothing": lambda record: None,
    "no probes": without_probes,
    "no numbers": without_numbers,
    "no base": lambda record: record if record["arm"] != "beta@0" else None,
    "half way": lambda record: without_probes(record) if record["seen"] <= 2000 else None,
    "one arm": lambda record: record if record["arm"] == "rising" else None,
    "seeds apart": lambda record: without_probes(record) if record["seed"] == len(record["arm"]) % 3 else None,
}


@pytest.mark.parametrize("name", PARTS)
def test_partial_studies_have_a_report(tmp_path: Path, name: str):
    folder = changed(
        study(tmp_path / "s", replace(PLAIN, arms=("beta@0", "beta@0.5", "beta@1", "anchored@1", "rising"), steps="14")), PARTS[name]
    )
    text = build(folder).read_text(encoding="utf-8")
    assert (
        set(PART.findall(text)) <= {*SECTIONS} and {"claims", "what", "again"} <= set(PART.findall(text)) and text.count('id="claim-') == 18
    )
    assert not re.search(r"\bnan\b|\bNone\b", re.sub(r"base64,[^\"]*", "", text))
    if name not in ("no probes", "no numbers"):
        assert "have not reached 4,000 samples" in text


def test_a_run_that_broke_off_is_named_and_its_moments_are_kept(tmp_path: Path):
    folder = changed(study(tmp_path / "s", PLAIN), lambda r: r if (r["arm"], r["seed"]) != ("rising", 1) or r["seen"] < 3000 else None)
    with (folder / "runs" / "rising-1" / "measures.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "failure", "arm": "rising", "seed": 1, "seen": 2500, "error": "the loss was not finite"}) + "\n")
    found = results.Results.read(folder)
    assert (
        found.missing == []
        and found.failed == {("rising", 1): "the loss was not finite"}
        and found.seen(found.others[0], 1) == [1000, 2000]
    )
    assert any("rising with seed 1 broke off" in line for line in spoken(folder))


def test_the_last_of_a_moment_counts_and_a_failure_that_was_repeated_does_not(tmp_path: Path):
    folder = study(tmp_path / "s", PLAIN)
    path = folder / "runs" / "beta@0-0" / "measures.jsonl"
    lines = path.read_text().splitlines()
    first = json.loads(lines[0])
    first["distance"]["ema"]["1"] = 123.0
    failure = {"kind": "failure", "arm": "beta@0", "seed": 0, "seen": 500, "error": "x"}
    path.write_text("\n".join([json.dumps(failure), *lines, json.dumps(first)]) + "\n")
    found = results.Results.read(folder)
    assert found.distance(found.base, 1000)[0] == 123.0 and found.failed == {}
    assert len((folder / "records.jsonl").read_text().splitlines()) == len(lines_of(folder)) - 2


def test_records_of_runs_that_are_not_there_are_kept(tmp_path: Path):
    folder = study(tmp_path / "s", PLAIN)
    whole = records.collect(folder, KIND)
    for path in folder.glob("runs/beta@*"):
        shutil.rmtree(path)
    path = folder / "runs" / "rising-0" / "measures.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(lines[0].replace('"measuring": 1.0', '"measuring": 7.0') + "\n")  # begun anew
    found = records.collect(folder, KIND)
    same = [record for record in whole if (record["arm"], record["seed"]) != ("rising", 0)]
    assert [record for record in found if (record["arm"], record["seed"]) != ("rising", 0)] == same
    assert [record["measuring"] for record in found if (record["arm"], record["seed"]) == ("rising", 0)] == [7.0]
    assert records.read(folder / "records.jsonl", KIND) == found
    shutil.rmtree(folder / "runs")
    assert records.collect(folder, KIND) == found


def test_a_folder_without_a_study_holds_none(tmp_path: Path):
    assert engine.held(tmp_path, KIND) is None
    folder = study(tmp_path / "s", PLAIN)
    assert engine.held(folder, KIND) == engine.read(folder).about
    about = json.loads((folder / "study.json").read_text())
    del about["seeds"]
    (folder / "study.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"study\.json is damaged: it holds no seeds"):
        engine.held(folder, KIND)


def test_a_cut_last_line_is_skipped_and_a_damaged_one_is_named(tmp_path: Path):
    folder = study(tmp_path / "s", PLAIN)
    path = folder / "runs" / "beta@1-2" / "measures.jsonl"
    text = path.read_text()
    path.write_text(text + text.splitlines()[0][:40])
    assert len(records.read(path, KIND)) == len(text.splitlines())
    for line in ("{", "[]", "3", '{"kind": "other"}', '{"kind": "moment", "arm": "a", "seed": 0, "seen": null, "distance": {}}'):
        path.write_text(f"{text}{line}\n{text}")
        with pytest.raises(UserError, match=rf"beta@1-2/measures\.jsonl, line {len(text.splitlines()) + 1} is damaged") as found:
            results.Results.read(folder)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"study": "latents", "version": 1, "arms": [{}]}', '{"study": "latents", "version": 2, "arms": []}']
)
def test_a_damaged_study_is_named(tmp_path: Path, content: str):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=r"study\.json is"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", "{}"), ("options", 3), ("recipe", []), ("beta", "x"), ("compute", []), ("samples", None), ("family", {}), ("about", 1.5)],
)
def test_an_arm_of_another_form_is_named(tmp_path: Path, name: str, value: object):
    folder = study(tmp_path / "s", PLAIN)
    about = json.loads((folder / "study.json").read_text())
    about["arms"][1][name] = value
    (folder / "study.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=rf"study\.json is damaged: it holds no line with '{name}'"):
        engine.held(folder, KIND)


@pytest.mark.parametrize("change", [{"compute": {"forwards": 1}}, {"method": {"omega": "x"}}, {"method": {"no": 1}}])
def test_an_arm_that_can_be_none_is_not_gone_on_with(tmp_path: Path, change: dict[str, object]):
    found = json.loads((study(tmp_path / "s", PLAIN) / "study.json").read_text())
    found["arms"][0] |= change
    with pytest.raises(UserError, match=r"study\.json( is damaged: the numbers of arm|, \S+, method)"):
        held_arms(found)


def test_numbers_that_are_none_are_named(tmp_path: Path):
    folder = study(tmp_path / "s", PLAIN)
    about = json.loads((folder / "study.json").read_text())
    about["arms"][1]["compute"]["tangents"] = None
    (folder / "study.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"study\.json is damaged: the numbers of arm 'beta@0\.25'"):
        build(folder)


def test_without_matplotlib_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"the report needs matplotlib: pip install 'meanstep\[report\]'"):
        build(tmp_path)
