"""The report of a sweep on synthetic records with known effects: statistics, verdicts, CSV, page, partial sweeps, damage."""

import csv
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.pages import curves, form, look, statistics, strips, trained, verdicts
from meanstep.program.pages.statistics import Change
from meanstep.program.reproduce import folder
from meanstep.program.reproduce.points import claims, figures, quantities, report, results
from meanstep.program.reproduce.points import settings as settings_module
from meanstep.program.reproduce.points.settings import mixture_dimension
from meanstep.program.reproduce.report import page as pages
from meanstep.program.reproduce.report.page import build, spoken

pytestmark = pytest.mark.figures

PLANE = results.PLANE
GAIN = {"swiss_roll": 0.5, "checkerboard": 0.76, "pinwheel": 0.63, "eight_gaussians": 0.84, "two_moons": 0.77, "two_spirals": 1.08}
FALL = {"eight_gaussians": 3.9, "checkerboard": 3.1}
REFERENCES = {"flow_matching": 6.0, "improved_meanflow": 0.8, "shortcut": 1.1}
BINS = 12


@dataclass(frozen=True)
class Plan:
    """What a synthetic sweep holds. `gain` maps a set to SW1 at beta 1 over beta 0; `fall` is Tr Cov at 0 over 1."""

    sets: Sequence[str] = PLANE
    seeds: Sequence[int] = (0, 1, 2)
    betas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    arms: Sequence[str] = ("paper", "plain@0,1", "anchored@0", "posterior-both@1", *REFERENCES)
    gain: dict[str, float] | None = None
    fall: float | None = None
    spread: float = 0.01
    matrix: float = 1.0
    probe: bool = True
    law: bool = True
    pictures: bool = True
    scatter: int = 4000


def lines(plan: Plan) -> list[dict]:
    found = []
    for arm in plan.arms:
        name, _, chosen = arm.partition("@")
        for beta in [None] if name in REFERENCES else [float(b) for b in chosen.split(",")] if chosen else plan.betas:
            found.append({"arm": name, "beta": beta, "id": identity(name, beta)})
    return found


def identity(arm: str, beta: float | None) -> str:
    if beta is None:
        return arm
    word = f"{'ema' if arm in ('paper', 'plain', 'anchored') else arm} {beta:g}" if beta else "beta 0"
    return word + (" anchor" if arm == "anchored" or (arm == "paper" and beta == 1) else "")


def quality(plan: Plan, name: str, id: str, beta: float | None) -> float:
    """SW1 of a model over that at beta 0: all of the gain is the coefficient's."""
    gain = (plan.gain or GAIN).get(name, 0.9)
    if id in REFERENCES:
        return REFERENCES[id]
    if id.startswith("posterior"):
        return 0.7 * gain
    dip = 0.09 * np.sin(np.pi * (beta or 0) / 0.8) if name == "mixture-64" and (beta or 0) <= 0.8 else 0.0
    return float(gain ** (beta or 0) - dip)


def law(fall: float) -> dict:
    edges = np.linspace(0, 1, BINS + 1)
    centre = (edges[1:] + edges[:-1]) / 2
    r, t = np.meshgrid(centre, centre)
    j = 1 + (fall - 1) * (t - r) * np.sin(3 * t) - 0.3 * (t > 0.7)
    a, b, c = j**2, j * (j - 1), (j - 1) ** 2
    cells = {k: np.where(r <= t, x, np.nan).round(5).tolist() for k, x in {"a": a, "b": b, "c": c, "s": np.ones_like(a)}.items()}
    return {"edges": edges.tolist(), **{k: [[None if x != x else x for x in row] for row in m] for k, m in cells.items()}, "rows": 1000}


def probe(plan: Plan, name: str, noise: np.random.Generator) -> dict:
    fall = plan.fall or FALL.get(name, 1.6)
    betas = np.array(plan.betas)
    trace = (
        40 * np.exp(0.3 * noise.standard_normal()) * (1 + (1 / fall - 1) * betas) * np.exp(plan.spread * noise.standard_normal(betas.shape))
    )
    at_one = float(trace[-1])
    proxies = {
        f"{p}{tail}": at_one * k * (0.3 if tail and k < 1.01 else 1)
        for p, k in (("ema", 1.0), ("own", 1.1), ("posterior", 0.95))
        for tail in ("", "-both")
    }
    return {
        "betas": betas.tolist(),
        "trace": trace.tolist(),
        "trace_se": (0.01 * trace).tolist(),
        "weighted": (0.001 * trace / trace[0] * (1 - 0.3 * betas)).tolist(),
        "noise": (0.8 * trace).tolist(),
        "error": (1 + (betas - 0.9) ** 2).tolist(),
        "proxies": proxies,
        "bias": {"ema": 0.02, "own": 0.03, "posterior": 0.001, "oracle": 0.0},
        "map": law(fall),
        "optimum": {
            "norm": 0.48 + 0.01 * noise.standard_normal(),
            "signed": 0.3,
            "matrix": plan.matrix,
            "matrix_biased": 0.95 * plan.matrix,
        },
    }


def model(plan: Plan, name: str, seed: int, line: dict, level: float, noise: np.random.Generator) -> dict:
    ema = level * quality(plan, name, line["id"], line["beta"]) * np.exp(plan.spread * noise.standard_normal())
    steps = np.linspace(1000, 20000, 20).round().astype(int)
    curve = ema * (1 + 4 * np.exp(-steps / 4000)) * np.exp(0.05 * noise.standard_normal(20))
    residual = (3 - (line["beta"] or 0)) * np.exp(-steps / 30000) * np.exp(0.05 * noise.standard_normal(20))
    scores = [{"sw1": {"1": x, "2": 0.8 * x, "4": 0.7 * x}, "energy": x / 9, "coverage": 0.93} for x in (1.15 * ema, ema)]
    return {
        "kind": "model",
        "set": name,
        "seed": seed,
        "id": line["id"],
        "spec": {"recipe": "coefficient"},
        "steps": 20000,
        "seconds": 90.0,
        "raw": scores[0],
        "ema": scores[1],
        "curve": {
            "step": steps.tolist(),
            "sw1": curve.tolist(),
            "sw1_raw": curve.tolist(),
            "residual": residual.tolist(),
            "residual_gap": residual.tolist(),
        },
        "probe": probe(plan, name, noise) if plan.probe and line["id"] not in REFERENCES else None,
    }


def points(name: str, n: int, blur: float, noise: np.random.Generator) -> np.ndarray:
    turn, at = noise.integers(0, 8, n) * np.pi / 4, noise.uniform(0, 1, n)
    if name in ("swiss_roll", "two_spirals"):
        turn, at = 3 * np.pi * at**0.5, noise.integers(0, 2, n) * np.pi * (name == "two_spirals")
        x = np.stack([np.cos(turn + at), np.sin(turn + at)], 1) * turn[:, None] / 4.7
    elif name == "checkerboard":
        cell = noise.integers(0, 4, (n, 2))
        cell[:, 1] = cell[:, 1] // 2 * 2 + cell[:, 0] % 2
        x = cell + noise.uniform(0, 1, (n, 2)) - 2
    else:
        x = 2 * np.stack([np.cos(turn), np.sin(turn)], 1) + 0.12 * noise.standard_normal((n, 2))
    return x + blur * noise.standard_normal((n, 2))


def sweep(folder: Path, plan: Plan = Plan()) -> Path:
    """The folder of a sweep with these effects planted."""
    (folder / "samples").mkdir(parents=True)
    noise, records, found = np.random.default_rng(0), [], lines(plan)
    for name in plan.sets:
        floor = {"sw1": [0.021, 0.023, 0.022], "energy": [0.001, 0.0012], "coverage": [0.95, 0.96]}
        dim = mixture_dimension(name) or 2
        records.append(
            {"kind": "set", "set": name, "dim": dim, "regions": 8, "floor": floor, "law": law(3.0) if plan.law else None, "seconds": 1.0}
        )
        for seed in plan.seeds:
            level = (0.034 if name == "two_spirals" else 0.1) * np.exp(0.2 * noise.standard_normal())
            once = {line["id"]: line for line in reversed(found)}
            records += [model(plan, name, seed, line, level, noise) for line in once.values()]
        if plan.pictures:
            blurs = {"data": 0.0, **{line["id"]: 0.03 + 0.2 * (1 - (line["beta"] or 0)) for line in found}}
            arrays = {id: points(name, plan.scatter, blur, noise) for id, blur in blurs.items()}
            arrays = {id: np.hstack([x, noise.standard_normal((len(x), dim - 2))]).astype(np.float16) for id, x in arrays.items()}
            np.savez_compressed(folder / "samples" / f"{name}-{plan.seeds[0]}.npz", **arrays)
    settings = {"sets": plan.sets, "betas": plan.betas, "seeds": plan.seeds, "arms": plan.arms, "steps": 20000, "batch": 256, "width": 128}
    settings |= {
        "depth": 3,
        "anchor": 0.5,
        "delta": [1e-4, 1e-2],
        "lr": 1e-3,
        "samples": 10000,
        "points": None,
        "ensemble": False,
        "times": "logit-normal",
    }
    (folder / "sweep.json").write_text(json.dumps({"settings": settings, "lines": found}))
    env = {"commit": "b36a3b8", "clean": True, "versions": {"meanstep": "0.1.0", "torch": "2.13.0"}, "machine": "two cores"}
    (folder / "env.json").write_text(json.dumps(env))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module", autouse=True)
def small():
    """Figures at half the size: the tests look at files, not at pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(look, "SCALE", 0.5)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of all effects with its report."""
    folder = sweep(tmp_path_factory.mktemp("whole") / "sweep", Plan())
    build(folder)
    return folder


@pytest.fixture(scope="module")
def page(whole: Path) -> str:
    return (whole / "report.html").read_text(encoding="utf-8")


def decided(folder: Path) -> dict[str, verdicts.Claim]:
    return pages.claims(folder)


# Statistics --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_ratio_is_the_paired_t_test_of_logs(n: int):
    noise = np.random.default_rng(n)
    a, b = np.exp(noise.standard_normal((2, n)))
    change = statistics.ratio(dict(enumerate(a)), dict(enumerate(b)))
    expected = stats.ttest_rel(np.log(a), np.log(b))
    assert change.value == pytest.approx(np.exp(np.mean(np.log(a / b))))
    assert change.p() == pytest.approx(expected.pvalue)
    assert np.log(change.interval or (1, 1)) == pytest.approx([*expected.confidence_interval(0.95)])
    assert change.p(1.3, "less") == pytest.approx(stats.ttest_1samp(np.log(a / b), np.log(1.3), alternative="less").pvalue)


def test_pairs_are_the_common_seeds_with_finite_values():
    change = statistics.ratio({0: 1.0, 1: 2.0, 2: float("nan"), 3: 0.0, 4: 3.0}, {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0})
    assert change.differences == pytest.approx((np.log(2), np.log(3)))
    assert statistics.difference({0: 1.0, 1: 2.0}, {1: 5.0}).value == -3.0


@pytest.mark.parametrize(
    ("broken", "over", "under"),
    [
        (((), ()), 0, 0),
        (({4}, ()), 0, 0),
        (({1}, ()), 0, 0),
        (({5}, ()), 1, 0),
        (((), {0}), 0, 1),
        (({5}, {5}), 1, 0),
        (({2, 5}, {0, 3}), 1, 1),
    ],
)
def test_what_diverged_counts_where_the_other_has_a_value_alone(broken: tuple[Any, Any], over: int, under: int):
    """Not where neither has one, nor where both have: it diverged later."""
    change = statistics.ratio({0: 1.0, 1: 2.0, 2: float("nan"), 3: 1.0}, {1: 1.0, 3: 1.0, 5: 1.0}, broken=broken)
    assert (change.n, change.over, change.under) == (2, over, under)


def test_one_pair_has_no_interval_and_no_p():
    change = Change((0.1,))
    assert change.interval is None and change.p() is None and change.outside(0.5, 2) is None and not change.inside(0, 9)
    assert np.isnan(Change(()).value)


def test_pairs_without_spread():
    itself = Change((0.0, 0.0))  # a model compared with itself is no evidence
    assert itself.p() is None and itself.interval is None and itself.outside(1.02, np.inf) is None
    assert Change((0.0, 0.0), logs=False).p() == 1.0 and Change((0.1, 0.1)).p() == 0.0
    assert Change((0.1, 0.1)).outside(1.02, np.inf) == 0.0 or Change((0.1, 0.1)).outside(1.02, np.inf) == 1.0


def test_outside_is_small_only_beyond_the_range():
    inside, above = Change(tuple(np.log([0.9, 1.0, 1.1]))), Change(tuple(np.log([1.48, 1.5, 1.52])))
    assert (inside.outside(0.8, 1.2) or 0) > 0.9
    assert (above.outside(0.8, 1.2) or 1) < 0.01 and (above.outside(0.8, np.inf) or 0) > 0.9


def test_holm_by_hand():
    assert statistics.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_across_takes_sets_of_two_seeds_or_more_as_units():
    change = statistics.across([Change((0.1, 0.3)), Change((0.4,)), Change((0.6, 0.6, 0.9))])
    assert change.differences == pytest.approx((0.2, 0.7))


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_the_detectable_ratio_is_found_with_the_stated_power(n: int):
    """Simulated, within four standard errors."""
    sd = 0.03
    found = statistics.detectable(sd, n)
    assert found is not None
    draws = np.random.default_rng(0).normal(np.log(found), sd, (20_000, n))
    share = float((stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean())
    assert share == pytest.approx(0.8, abs=4 * (0.16 / 20_000) ** 0.5)
    assert statistics.detectable(2 * sd, n) == pytest.approx(found**2) and statistics.detectable(sd, 1) is None
    assert statistics.detectable(sd, n, 0.9) < found


# Claims ------------------------------------------------------------------------------------------------------------------------------


def test_planted_effects_are_found(whole: Path):
    found = {key: claim.verdict for key, claim in decided(whole).items()}
    planted = [
        "variance-falls",
        "variance-size",
        "variance-monotone",
        "variance-where",
        "quality",
        "exception",
        "whose-gain",
        "predicted",
        "posterior",
    ]
    assert {key: found[key] for key in planted} == dict.fromkeys(planted, "holds")
    assert found["mixtures-flat"] == found["mixtures-interior"] == "cannot tell"


def test_nulls_and_contradictions_are_no_finds(tmp_path: Path):
    null = Plan(gain=dict.fromkeys(PLANE, 1.0), fall=1.0, pictures=False, spread=0.002)
    found = decided(sweep(tmp_path / "null", null))
    for key in ("variance-falls", "variance-size", "variance-where", "quality", "whose-gain", "mismatch"):
        assert found[key].verdict == "does not hold", found[key].sentence
    better = Plan(sets=("two_spirals",), gain={"two_spirals": 0.7}, fall=0.6, pictures=False)
    found = decided(sweep(tmp_path / "better", better))
    assert found["exception"].verdict == found["variance-falls"].verdict == "does not hold"


def test_a_wide_interval_cannot_tell(tmp_path: Path):
    found = decided(sweep(tmp_path / "wide", Plan(spread=0.8, pictures=False)))
    assert found["quality"].verdict == "cannot tell" and "leave it open" in found["quality"].sentence


def test_a_row_that_misses_the_claimed_size_does_not_agree():
    """1.09 [1.06, 1.12] is above 1 and not 1.2 to 4.3, even where Holm's correction leaves no contradiction."""
    near = Change((np.log(1.0875), np.log(1.0925)))
    rows = [verdicts.Row("a", near, claimed=(1.2, 4.3), shown=(1.0, np.inf))] + [
        verdicts.Row("b", Change((0.1, 0.9)), claimed=(1.2, 4.3))
    ] * 5
    assert verdicts.decide(rows)[1][0].finding in ("open", "contradicts")
    wide = [verdicts.Row("c", Change((0.4, 0.41, 0.42)), claimed=(1.2, 4.3), shown=(1.0, np.inf))]
    assert verdicts.decide(wide)[0] == "holds"


def test_the_price_of_the_predicted_coefficient(tmp_path: Path):
    found = decided(sweep(tmp_path / "far", Plan(matrix=0.0, pictures=False, gain=dict.fromkeys(PLANE, 0.6))))
    assert found["mismatch"].verdict == "holds" and found["predicted"].verdict == "does not hold"


def test_one_seed_cannot_tell(tmp_path: Path):
    found = decided(sweep(tmp_path / "one", Plan(seeds=(5,), pictures=False)))
    assert {claim.verdict for claim in found.values()} == {"cannot tell"}
    assert "no interval" in found["quality"].sentence and "--seeds 0:3" in found["quality"].sentence


def test_what_is_not_in_the_sweep_cannot_be_told(tmp_path: Path):
    found = decided(sweep(tmp_path / "few", Plan(arms=("paper",), betas=(0.0, 1.0), sets=("pinwheel",), pictures=False)))
    for key, option in (
        ("whose-gain", "--arms"),
        ("posterior", "--arms"),
        ("mismatch", "--betas"),
        ("exception", "--sets"),
        ("variance-where", "--sets"),
    ):
        assert found[key].verdict == "cannot tell" and option in found[key].sentence, key


@pytest.mark.parametrize(
    ("key", "plan", "absent"),
    [
        ("whose-gain", Plan(arms=("plain@1", "anchored@0")), "β = 1 alone over neither"),
        ("quality", Plan(sets=("swiss_roll",)), "checkerboard, pinwheel and others"),
        (
            "mixtures-interior",
            Plan(sets=("mixture-64",), betas=(0.0, 0.4), arms=("paper",), gain={"mixture-64": 1.0}),
            "β = 0.4 over β = 1",
        ),
    ],
)
def test_a_claim_holds_by_the_whole_of_its_test(key: str, plan: Plan, absent: str, tmp_path: Path):
    """What was measured agrees each time."""
    claim = decided(sweep(tmp_path / "part", replace(plan, pictures=False)))[key]
    assert claim.verdict == "cannot tell" and f"not measured: {absent}. To have all, it needs" in claim.sentence
    findings = [row.finding for row in claim.rows if row.claimed]
    assert findings.count("agrees") == 1 and {*findings} == {"agrees", "open"}


def test_a_place_that_is_named_is_asked_for_whole(tmp_path: Path):
    half = decided(sweep(tmp_path / "half", Plan(sets=("swiss_roll", "checkerboard"), pictures=False)))["variance-where"]
    assert half.verdict == "cannot tell" and half.sentence.startswith("There are no data for it")


@pytest.mark.usefixtures("white")
def test_a_set_that_is_not_there_yet_leaves_a_claim_open(tmp_path: Path):
    plan = Plan(sets=("swiss_roll", "pinwheel"), pictures=False)
    folder = dropped(sweep(tmp_path / "part", plan), lambda x: x["kind"] == "set" or x["set"] == "pinwheel")
    claim = decided(folder)["variance-falls"]
    assert claim.verdict == "cannot tell" and "1 of 2 comparisons is not measured: swiss roll." in claim.sentence
    assert "<td>not measured</td>" in build(folder).read_text(encoding="utf-8")


def test_mixtures(tmp_path: Path):
    sets = ("mixture-2", "mixture-32", "mixture-64")
    plan = Plan(sets=sets, betas=(0.0, 0.4, 1.0), arms=("paper",), gain=dict.fromkeys(sets, 1.0), pictures=False)
    found = decided(sweep(tmp_path / "mixtures", plan))
    assert found["mixtures-flat"].verdict == found["mixtures-interior"].verdict == "holds"
    gains = {"mixture-2": 0.6, "mixture-32": 1.0, "mixture-64": 0.5}
    plan = Plan(sets=sets, betas=(0.0, 0.4, 1.0), arms=("paper",), gain=gains, pictures=False)
    found = decided(sweep(tmp_path / "others", plan))
    assert found["mixtures-flat"].verdict == found["mixtures-interior"].verdict == "does not hold"


@pytest.mark.parametrize("arm", ["plain", "paper"])
def test_beta_1_is_that_of_the_study_with_the_anchor_or_without(arm: str, tmp_path: Path):
    sets = ("mixture-2", "mixture-64")
    plan = Plan(sets=sets, betas=(0.0, 0.4, 1.0), arms=(arm,), gain={"mixture-2": 1.3, "mixture-64": 1.0}, probe=False, scatter=10)
    folder = sweep(tmp_path / "s", plan)
    found, held = decided(folder), results.Results.read(folder)
    flat = {row.where: row for row in found["mixtures-flat"].rows}
    assert flat["mixture-2, β = 1"].change.value == pytest.approx(1.3, rel=0.05) and found["mixtures-flat"].verdict == "does not hold"
    assert [row.change.n for row in found["mixtures-interior"].rows] == [3, 3] and found["mixtures-interior"].verdict == "holds"
    words = "\n".join(spoken(folder))
    assert "compared with those at β = 0 by SW1. They are worse on mixture-2" in words
    drawn = [figures.training(held), figures.montage(held)]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["β = 0", "β = 0.4", "β = 1"] and len(drawn[1].axes) == 8
    right = figures.overview(held).axes[1]
    assert "1.3" in " ".join(text.get_text() for text in right.texts), "its number is in the figure"


def test_a_coefficient_of_many_digits_is_found(tmp_path: Path):
    """Its id has twelve, and so have two that differ in the seventh."""
    betas = (0.0, 0.3333333, 0.3333334, 1.0)
    folder = dropped(sweep(tmp_path / "s", replace(PLAIN, betas=betas[:1] + betas[3:], sets=("mixture-8",))), lambda x: x["kind"] == "set")
    ids = ["beta 0", *(settings_module.Spec(beta=beta, proxy="ema").id for beta in betas[1:3]), "ema 1 anchor"]
    about = json.loads((folder / "sweep.json").read_text())
    about["lines"] = [{"arm": "paper", "beta": beta, "id": id} for beta, id in zip(betas, ids, strict=True)]
    (folder / "sweep.json").write_text(json.dumps(about))
    noise = np.random.default_rng(0)
    made = [model(PLAIN, "mixture-8", seed, line, 0.1, noise) for seed in (0, 1, 2) for line in about["lines"]]
    with (folder / "records.jsonl").open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in made))
    found = results.Results.read(folder)
    assert found.paper_betas() == [*betas]
    assert {row.where for row in decided(folder)["mixtures-flat"].rows} >= {f"mixture-8, β = {beta:.12g}" for beta in betas[1:]}


def test_rises():
    assert quantities.rise([4, 3, 2]) == 0 and quantities.rise([1, 2]) == 1 and quantities.rise([1, 1]) == 0
    assert quantities.rise([4, 1, 2]) == pytest.approx(1 / 3)
    assert all(np.isnan(quantities.rise(trace)) for trace in ([None] * 5, [4, None, 2], [4, 0, 2], [3, 2, float("nan")]))


@pytest.mark.parametrize(("seeds", "n"), [((0, 1, 2), 0), ((1,), 2)])
def test_a_probe_that_diverged_falls_in_no_way(seeds: Sequence[int], n: int, tmp_path: Path):
    folder = sweep(tmp_path / "s", Plan(sets=("pinwheel", "two_moons"), arms=("paper",), pictures=False))
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for record in records:
        if record["kind"] == "model" and record["set"] == "pinwheel" and record["seed"] in seeds:
            record["probe"]["trace"] = [None] * 5
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    claim = decided(folder)["variance-monotone"]
    assert {row.where: row.change.n for row in claim.rows} == {"pinwheel": n, "two_moons": 3}
    assert (claim.verdict == "cannot tell" and "not measured: pinwheel" in claim.sentence) is (n == 0)


# The answer --------------------------------------------------------------------------------------------------------------------------

PLAIN = Plan(betas=(0.0, 1.0), arms=("paper",), pictures=False, probe=False, law=False)


def told(folder: Path) -> form.Answer:
    with pages.opened(folder) as (shown, _, found):
        return shown.answer(found, [])


def rows_of(answer: form.Answer) -> dict[str, str]:
    assert answer.shown and answer.shown.rows
    return {bar.name: bar.state for bar in answer.shown.rows.bars}


def test_all_sets_together_lead_where_they_decide_and_no_single_one_does(tmp_path: Path):
    folder = sweep(tmp_path / "s", PLAIN)
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "model":  # 0.9 times on each set, give or take a tenth by seed
            value = 0.9 * (0.9, 1.0, 1.1)[line["seed"]] * 1.01 ** PLANE.index(line["set"]) if line["id"] != "beta 0" else 1.0
            line["ema"]["sw1"]["1"] = 0.1 * value
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = told(folder)
    assert {*rows_of(found).items()} == {*((verdicts.shown(name), "open") for name in PLANE), ("all sets", "better")}
    assert found.title == "A calmer training signal makes one-step samples better in the mean over 6 data sets."
    assert found.tiles[0].state == "better" and "nearer to the data" in found.tiles[0].head
    assert found.steps[0].words.startswith("Train with β = 1 on data like these,")


def scored(folder: Path, ratios: dict[str, Sequence[float]]) -> Path:
    """SW1 over that at beta 0 of each set's seeds; a seed without a ratio has no record."""
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["kind"] == "set" or line["seed"] < len(ratios[line["set"]])]
    for line in kept:
        if line["kind"] == "model":
            line["ema"]["sw1"]["1"] = 0.1 * (ratios[line["set"]][line["seed"]] if line["id"] != "beta 0" else 1.0)
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    return folder


SEVERAL = {"swiss_roll": (0.90, 0.91), "checkerboard": (0.905, 0.915)}


@pytest.mark.parametrize("other", [0.5, 2.0])
def test_the_number_of_a_tile_is_that_of_its_test(other: float, tmp_path: Path):
    """A set of one seed is in neither, however far it is off."""
    sets = (*SEVERAL, "pinwheel")
    found = told(scored(sweep(tmp_path / "s", replace(PLAIN, sets=sets)), SEVERAL | {"pinwheel": (other,)}))
    mean = np.exp(np.mean(np.log([*SEVERAL.values()])))
    assert found.tiles[0].state == "better" and found.tiles[0].head == f"Samples: {100 * (1 - mean):.0f}% nearer to the data"
    assert f"at β = 0: \u2212{100 * (1 - mean):.0f}% in the mean over 2 data sets." in found.tiles[0].words
    assert "across 2 sets" in found.tiles[0].sure and "in the mean over 2 data sets" in found.title
    with pages.opened(tmp_path / "s") as (shown, _, held):
        best = "\n".join(shown.headline(held, []))
    assert f"“ema 1 anchor” has the lowest SW1 over the 2 sets: \u2212{100 * (1 - mean):.0f}% against β = 0." in best


def test_one_set_of_several_seeds_among_others_is_named(tmp_path: Path):
    ratios = {"checkerboard": (2.0,), "swiss_roll": (0.90, 0.91), "pinwheel": (3.0,)}
    found = told(scored(sweep(tmp_path / "s", replace(PLAIN, sets=(*ratios,))), ratios))
    assert "at β = 0: \u221210% on swiss roll." in found.tiles[0].words and "No interval across sets." in found.tiles[0].sure
    every = told(scored(sweep(tmp_path / "t", replace(PLAIN, sets=(*ratios,))), {name: x[:1] for name, x in ratios.items()}))
    assert f"{100 * ((2 * 0.9 * 3) ** (1 / 3) - 1):+.0f}% in the mean over 3 data sets." in every.tiles[0].words
    assert every.tiles[0].sure == "One seed: no interval."


def test_single_sets_are_told_where_all_together_are_open(tmp_path: Path):
    gain = dict(zip(PLANE, (0.5, 1.0, 1.0, 1.0, 1.0, 2.1), strict=True))
    found = told(sweep(tmp_path / "s", replace(PLAIN, gain=gain)))
    rows = rows_of(found)
    assert (rows["swiss roll"], rows["two spirals"], rows["all sets"], rows["pinwheel"]) == ("better", "worse", "open", "open")
    assert found.title.endswith("better on 1 and worse on 1 of 6 data sets; the rest and the mean stay open.")
    assert found.tiles[0].head == "Samples: nearer on 1, farther on 1 of 6 data sets" and found.tiles[0].state == form.KNOWN
    assert found.tiles[0].sure.startswith("No difference can be told in the mean: 95% interval")
    assert [step.words.partition(", and")[0] for step in found.steps] == [
        "Train with β = 1 on data like swiss roll",
        "Stay at β = 0, the original MeanFlow, on data like two spirals.",
        "Add seeds: the intervals are too wide to decide.",
    ]


def test_a_set_against_the_mean_has_its_own_advice(tmp_path: Path):
    gain = dict(zip(PLANE, (0.5, 0.55, 0.5, 0.6, 0.55, 1.1), strict=True))
    found = told(sweep(tmp_path / "s", replace(PLAIN, gain=gain)))
    assert found.title.endswith("better in the mean over 6 data sets and on 5 of them alone, but worse on 1.")
    assert len(found.steps) == 3 and found.steps[1].words.endswith("on data like two spirals.")


def test_the_variance_in_training_stands_in_for_probes_that_are_missing(tmp_path: Path):
    here = sweep(tmp_path / "s", replace(PLAIN, arms=("plain",)))
    lines = [json.loads(line) for line in (here / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "model":
            line["variance"] = (2.0 if line["id"] == "beta 0" else 1.0) * (1 + 0.01 * line["seed"] * (line["id"] == "ema 1"))
    (here / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, claim = told(here), decided(here)["variance-falls"]
    assert found.tiles[1].head == "Training signal: 2 times quieter" and "in training, each on its own weights" in found.tiles[1].words
    assert claim.verdict == "cannot tell" and "In training, each model on its own weights, the variance at" in claim.sentence
    assert [(row.where, row.claimed, row.change.n) for row in claim.rows] == [(f"{name}, in training", None, 3) for name in PLANE]
    assert any(line.startswith("In training, each on its own weights, the gradient's variance") for line in spoken(here))
    probed = told(sweep(tmp_path / "probed", replace(PLAIN, probe=True, betas=(0.0, 1.0))))
    assert "on the same weights" in probed.tiles[1].words


# What to do --------------------------------------------------------------------------------------------------------------------------


def settings_of(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Path]:
    """What the program makes of a command that the page prints, and where; nothing is trained."""
    asked: list[Any] = []
    monkeypatch.setattr("meanstep.program.reproduce.session.conduct", lambda study, here, devices: asked.append((study, here)))
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(command)[1:])
    assert not stop.value.code and command.startswith("meanstep reproduce ")
    (study, here), *rest = asked
    assert not rest and (here.name.endswith(("-longer", "-both")) or folder.examined(here, study))
    return json.loads(json.dumps(asdict(study.settings))), here


RECORDS = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize("name", ["plane/records/weighted", "plane/records/share25", "plane/records/logit-normal", "plane/records/proxies"])
def test_commands_of_points_are_the_studys_own(name: str, monkeypatch: pytest.MonkeyPatch):
    commands_of_a_record(RECORDS / name, monkeypatch)


@pytest.mark.parametrize("name", ["capped", "uncapped", "mixtures-fixed", "mixtures-redrawn"])
def test_commands_under_the_authors_protocol_are_the_studys_own(name: str, monkeypatch: pytest.MonkeyPatch):
    commands_of_a_record(RECORDS / "paper/toys/records" / name, monkeypatch)


def commands_of_a_record(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the program itself the steps are the study but for what they are to change."""
    monkeypatch.syspath_prepend(str(RECORDS))
    from packs import unpacked

    with unpacked(packed) as here:
        with pages.opened(here) as (shown, _, found):
            answer, (own,) = shown.answer(found, []), shown.commands(found)
        held, place = settings_of(own, monkeypatch)
        assert {name: held[name] for name in found.settings} == found.settings and place == here
        (command,) = [step.command for step in answer.steps if step.command]
        other, place = settings_of(command, monkeypatch)
        changed = {name for name in held if other[name] != held[name]}
    if place != here:
        assert changed and changed <= ({"steps"} if place.name.endswith("-longer") else {"betas", "arms"})
    elif "Add seeds" in answer.steps[-1].words:
        assert changed == {"seeds"} and other["seeds"][:-3] == held["seeds"] and len({*other["seeds"]}) == len(other["seeds"])
    else:
        assert not changed


@pytest.mark.parametrize("plan", [PLAIN, replace(PLAIN, seeds=(3,)), replace(PLAIN, arms=("plain@1",)), replace(PLAIN, seeds=())])
def test_every_command_that_a_page_prints_is_one_of_the_program(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = sweep(tmp_path / "my sweep", plan)
    for change in (
        {"times": "uniform"},
        {"times": "uniform", "batch": 64, "diagonal_share": 0.3, "power": 0.5, "lr": 2e-3, "largest_gap": 0.25},
    ):
        about = json.loads((here / "sweep.json").read_text())
        about["settings"] |= change | {"seeds": [*plan.seeds] or [0]}
        (here / "sweep.json").write_text(json.dumps(about))
        for step in told(here).steps:
            held = settings_of(step.command, monkeypatch)[0] if step.command else change
            assert change.items() <= held.items()


@pytest.mark.parametrize(
    ("place", "given", "own"), [("a/my sweep", ".", "."), ("a/my sweep/deep", "..", ".."), (".", "a/my sweep", "a/my sweep")]
)
def test_a_folder_may_be_where_one_is(place: str, given: str, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is said to be beside it is, and a path is relative where it was given so."""
    here = sweep(tmp_path / "a/my sweep", replace(PLAIN, arms=("plain@1",), sets=("pinwheel",)))
    (tmp_path / "a/my sweep/deep").mkdir()
    monkeypatch.chdir(tmp_path / place)
    with pages.opened(Path(given)) as (shown, _, found):
        ((own_command,), steps) = shown.commands(found), shown.answer(found, []).steps
    words = shlex.split(steps[0].command)
    there = Path(words[words.index("--out") + 1])
    assert not there.is_absolute() and there.resolve() == here.resolve().with_name("my sweep-both")
    assert shlex.split(own_command)[-2:] == ["--out", own]


# The page ----------------------------------------------------------------------------------------------------------------------------

SECTIONS = ("headline", "overview", "samples", "quality", "variance", "maps", "optimum", "training", "proxies", "claims", "numbers")
END = ("what", "environment", "again")
PART = re.compile(r'<details class="part" id="(\w+)">')


def test_the_page_has_every_section_in_order_and_loads_nothing(page: str):
    assert PART.findall(page) == [*SECTIONS, *END]
    outward = re.findall(r'(?:src|href|url|action|data|poster|srcset)\s*[=(]\s*["\']?\s*(?:https?:)?//[^"\'\s>]+', page)
    assert outward and all(x.startswith('href="https://arxiv.org/abs/') for x in outward)
    assert not re.search(r"<link|@import|fetch\(|XMLHttpRequest|<iframe", page)
    assert page.count('src="data:image/png;base64,') == 7 + 6 * 12  # figures; data and eleven models a set


def test_the_page_says_what_was_found(page: str):
    assert "9 of 12" in page and page.count('class="badge holds"') == 9
    assert "better on swiss roll (\u221250%)" in page and "worse on two spirals (+8%)" in page
    command = re.sub("<[^>]*>", "", page[page.index("<pre>") : page.index("</pre>")])
    assert "meanstep reproduce toy --sets swiss_roll checkerboard" in command and "--betas 0 0.25 0.5 0.75 1" in command
    assert "ours (the paper" in page and "b36a3b8" in page and "5.0 hours" in page


def test_numbers_of_the_table_can_be_sorted(page: str):
    """The script compares what JavaScript reads as numbers: no sign of prose."""
    table = page[page.index('<table id="table">') : page.index("</table>", page.index('<table id="table">'))]
    assert (
        "\u2212" in page
        and "\u2212" not in table
        and re.findall(r'<td class="n">-\d', pages._set('<table id="table"><td class="n">-1</table>'))
    )


def test_the_files_are_whole(whole: Path):
    assert sorted(path.name for path in whole.iterdir()) == [
        "env.json",
        "figures",
        "records.jsonl",
        "report.html",
        "samples",
        "summary.csv",
        "sweep.json",
    ]
    names = ["maps", "optimum", "overview", "proxies", "quality", "samples", "training", "variance"]
    assert sorted(path.name for path in (whole / "figures").iterdir()) == [f"{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (whole / "figures").iterdir())


def test_the_csv_is_the_records_recomputed(whole: Path):
    records = [json.loads(line) for line in (whole / "records.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader((whole / "summary.csv").read_text().splitlines()))
    seen = set()
    for row in rows:
        models = [x for x in records if x["kind"] == "model" and (x["set"], x["id"]) == (row["set"], row["id"])]
        if row["metric"] == "sw1":
            x = [m[row["weights"]]["sw1"][row["steps"]] for m in models]
            assert float(row["floor"]) == pytest.approx(0.022)
        elif row["metric"] == "trace":
            x = [m["probe"]["trace"][m["probe"]["betas"].index(float(row["at"]))] for m in models]
        elif row["metric"] == "optimum norm":
            x = [m["probe"]["optimum"]["norm"] for m in models]
        else:
            continue
        seen.add(row["metric"])
        half = stats.t.ppf(0.975, 2) * np.std(x, ddof=1) / 3**0.5
        assert float(row["mean"]) == pytest.approx(np.mean(x), rel=1e-12) and float(row["sd"]) == pytest.approx(np.std(x, ddof=1), rel=1e-9)
        assert (float(row["low95"]), float(row["high95"])) == pytest.approx((np.mean(x) - half, np.mean(x) + half), rel=1e-9)
        assert row["seeds"] == "0 1 2" and [float(v) for v in row["values"].split()] == x
    assert seen == {"sw1", "trace", "optimum norm"}
    assert {(row["arm"], row["beta"]) for row in rows} >= {("paper", "0.25"), ("plain", "0.0"), ("shortcut", "")}


def test_a_strip_shows_each_judged_row_in_order(whole: Path):
    claim = decided(whole)["variance-size"]
    drawn = strips.strip(claim)
    assert drawn is not None and len(drawn.marks) == len(PLANE)
    values = [row.change.value for row in claim.rows]
    assert np.argsort([mark.x for mark in drawn.marks]).tolist() == np.argsort(values).tolist()
    (band,) = drawn.claimed
    assert drawn.none is not None and drawn.none < band.low < band.high and (band.top, band.bottom) == (0, drawn.height)
    assert all(strips.LEFT <= mark.low <= mark.x <= mark.high <= strips.RIGHT for mark in drawn.marks)
    assert strips.strip(decided(whole)["mixtures-flat"]) is None


@pytest.mark.parametrize("arms", [("plain", "trace-t2@1"), ("paper", "plain@0,1", "trace-one@1", "trace-t2@1", "matrix@0.5")])
def test_the_curves_of_quality_are_the_arms_at_their_coefficients(arms: tuple[str, ...], tmp_path: Path):
    """Drawn aside they keep them."""
    folder = sweep(tmp_path / "s", Plan(sets=("pinwheel",), seeds=(0, 1), betas=(0.0, 0.5, 1.0), arms=arms, probe=False, pictures=False))
    held = results.Results.read(folder)
    chart = curves.of(figures.quality(held))
    assert chart is not None
    (panel,) = chart.panels
    found = {curve.name: curve for curve in panel.curves if not curve.dashed}
    assert len({curve.name for curve in panel.curves}) == len(panel.curves) and len({curve.colour for curve in found.values()}) == len(arms)
    betas = {figures.named(arm): sorted(line.beta or 0.0 for line in lines) for arm, lines in held.swept().items()}
    assert {name: curve.x for name, curve in found.items()} == betas
    assert [curve.name for curve in panel.curves if curve.dashed] == [f"{figures.named(arms[0])}, raw weights"]


def test_a_strip_shades_behind_each_row_the_range_that_is_claimed_of_it():
    change = Change((0.1, 0.12))
    ranges = ((0.86, 0.96), (0.0, 1.0), (0.0, 1.0))
    claim = verdicts.Claim("", "", "", "", "", tuple(verdicts.Row("", change, claimed=each) for each in ranges), "", "")
    drawn = strips.strip(claim)
    assert drawn is not None
    (first, second), middle = drawn.claimed, (drawn.marks[0].y + drawn.marks[1].y) / 2
    assert (first.top, first.bottom, second.top, second.bottom) == (0, middle, middle, drawn.height)
    assert strips.LEFT == second.low < first.low < first.high < second.high


@pytest.mark.parametrize(("x", "text"), [(0, "0"), (0.4567, "0.457"), (0.48, "0.480"), (12.0, "12.0"), (999.4, "999"), (999.7, "1,000")])
def test_numbers_have_three_digits_and_no_exponent(x: float, text: str):
    assert verdicts.number(x) == text and verdicts.number(-x).lstrip("-") == text


def test_of_single_sets_one_with_an_interval_stands_for_all():
    one, two, three = Change((0.5,)), Change((0.1, 0.2)), Change((0.3, 0.3, 0.4))
    assert quantities.overall({"a": one, "b": two, "c": one}) == ("b", two) and quantities.overall({"a": one, "b": one}) == ("a", one)
    assert quantities.overall({"a": one, "b": two, "c": three})[0] == "2 sets as units" and quantities.overall({}) == ("", Change(()))


@pytest.mark.usefixtures("white")
def test_a_name_is_escaped(tmp_path: Path):
    plan = Plan(sets=("<b>mine</b> & yours",), seeds=(0,), betas=(0.0,), arms=("paper",), law=False, pictures=False)
    text = build(sweep(tmp_path / "names", plan)).read_text(encoding="utf-8")
    assert "<b>mine" not in text and "&lt;b&gt;mine" in text


# Partial sweeps ----------------------------------------------------------------------------------------------------------------------


def dropped(folder: Path, keep) -> Path:
    path = folder / "records.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if keep(json.loads(line))))
    return folder


SMALL = Plan(sets=("eight_gaussians", "pinwheel"), seeds=(0, 1), betas=(0.0, 1.0), arms=("paper", "shortcut"), scatter=500)


@pytest.mark.usefixtures("white")
def test_the_first_models_of_a_long_sweep(tmp_path: Path):
    folder = dropped(
        sweep(tmp_path / "start", SMALL), lambda x: x["kind"] == "set" or (x["set"], x["seed"], x["id"]) == ("pinwheel", 1, "beta 0")
    )
    text = build(folder).read_text(encoding="utf-8")
    assert "11 models have no record yet" in text and "There is one seed" in text


@pytest.mark.usefixtures("white")
def test_a_sweep_without_records_and_without_environment(tmp_path: Path):
    folder = sweep(tmp_path / "none", SMALL)
    build(folder)
    assert (folder / "figures" / "quality.png").exists()
    for name in ("records.jsonl", "env.json"):
        (folder / name).unlink()
    for path in (folder / "samples").iterdir():
        path.unlink()
    text = build(folder).read_text(encoding="utf-8")
    assert "No model has been trained yet" in text and "There is no env.json" in text and "Nothing has been measured yet." in text
    assert list((folder / "figures").iterdir()) == [], "figures of an earlier report are gone"


@pytest.mark.parametrize(
    "plan",
    [
        Plan(sets=("pinwheel",), seeds=(3,), betas=(0.0, 1.0), arms=("paper",), scatter=500),
        Plan(sets=("mine",), seeds=(0, 1), betas=(0.5,), arms=("paper",), law=False, scatter=500),
        Plan(sets=("two_moons",), seeds=(0, 1), betas=(0.0, 1.0), arms=("shortcut", "flow_matching"), scatter=500),
        Plan(sets=("pinwheel", "two_moons"), seeds=(0, 1), betas=(0.0, 0.5, 1.0), arms=("plain",), probe=False, scatter=500),
        Plan(sets=("mixture-8", "mixture-64"), seeds=(0, 1), betas=(0.0, 1.0), arms=("paper", "posterior-both"), scatter=500),
    ],
    ids=["one seed", "own points at one beta", "references only", "no probe", "mixtures"],
)
def test_partial_sweeps_have_a_report(tmp_path: Path, plan: Plan):
    text = build(sweep(tmp_path / "part", plan)).read_text(encoding="utf-8")
    figures = ("overview", "quality", "variance", "maps", "optimum", "training", "proxies")
    empty = {name for name in figures if not (tmp_path / "part/figures" / f"{name}.png").exists()}
    empty |= {"headline"} - {*PART.findall(text)}  # nothing to compare
    there = [name for name in (*SECTIONS, *END) if name not in empty]
    assert PART.findall(text) == there  # no section without its figure
    assert re.findall(r'<a href="#(\w+)">', text) == ["answer", "next", *there, "glossary"]
    assert text.count('id="claim-') == len(claims.CLAIMS) and " nan" not in text.lower().split("<script")[0].split("base64")[0]


def diverged(folder: Path, *models: tuple[str, int, str]) -> Path:
    """With these models, by set, seed and id, as training that diverged leaves them."""
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for record in records:
        if record["kind"] == "model" and (record["set"], record["seed"], record["id"]) in models:
            record["ema"]["sw1"]["1"], record["curve"]["sw1"], record["probe"] = float("nan"), [None] * 20, None
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.mark.usefixtures("white")
def test_models_that_diverged_are_named(tmp_path: Path):
    folder = diverged(sweep(tmp_path / "diverged", SMALL), *((name, 1, "ema 1 anchor") for name in SMALL.sets))
    assert "2 models did not end with finite scores" in build(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("gain", "id", "states"),
    [
        (0.5, "ema 1 anchor", ("open", "better", "open")),
        (0.5, "beta 0", ("better", "better", "better")),
        (2.0, "ema 1 anchor", ("worse", "worse", "worse")),
        (2.0, "beta 0", ("open", "worse", "open")),
    ],
)
def test_what_diverged_alone_is_not_called_better(gain: float, id: str, states: tuple[str, ...], tmp_path: Path):
    """Though it is by the seeds that are left, and by the other set."""
    sets = ("pinwheel", "two_moons")
    plan = replace(PLAIN, sets=sets, seeds=(0, 1, 2, 3), gain=dict.fromkeys(sets, gain))
    folder = diverged(sweep(tmp_path / "s", plan), ("pinwheel", 2, id))
    found, claim = told(folder), decided(folder)["quality"]
    assert tuple(rows_of(found).values()) == states
    kept = states[2] != "open"
    assert (found.tiles[0].head.endswith("data")) is kept and ("diverged alone in 1 pair" in found.tiles[0].sure)
    assert found.title.endswith(f"{states[1]} on {2 if kept else 1} of 2 data sets{'' if kept else '; the rest and the mean stay open'}.")
    assert not any(step.words.startswith("Add seeds") for step in found.steps) and ("like these" in found.steps[0].words) is kept
    row = next(row for row in claim.rows if row.where == "pinwheel")
    assert row.finding == {"better": "agrees", "worse": "contradicts", "open": "open"}[states[0]] and "diverged alone in 1 pair" in row.note


def test_a_set_on_which_all_diverged_keeps_the_others_from_deciding_for_all(tmp_path: Path):
    sets = ("pinwheel", "two_moons", "swiss_roll")
    folder = sweep(tmp_path / "s", replace(PLAIN, sets=sets, gain=dict.fromkeys(sets, 0.5)))
    assert told(folder).tiles[0].head.startswith("Samples: 50% nearer")
    found = told(diverged(folder, *(("swiss_roll", seed, "ema 1 anchor") for seed in PLAIN.seeds)))
    assert rows_of(found) == {"pinwheel": "better", "two moons": "better", "all sets": "open"} and "in 3 pairs" in found.tiles[0].sure


def test_where_a_sweep_went_on_is_packed_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(RECORDS))
    from packs import pack, unpack

    here = sweep(tmp_path / "s", replace(PLAIN, sets=("pinwheel",)))
    (here / "env-2.json").write_text(json.dumps({"commit": "c0ffee", "command": "meanstep reproduce toy --out /home/me/s"}))
    (here / "env-mine.json").write_text("{")
    assert any("machine: commit b36a3b8, c0ffee." in line for line in spoken(here))
    pack(here, tmp_path / "pack")
    assert {path.name for path in (tmp_path / "pack").iterdir()} == {"sweep.json", "env.json", "env-2.json", "records.jsonl.gz"}
    assert "/home" not in (tmp_path / "pack" / "env-2.json").read_text()
    assert any("machine: commit b36a3b8, c0ffee." in line for line in spoken(unpack(tmp_path / "pack", tmp_path / "again")))


# Damage ------------------------------------------------------------------------------------------------------------------------------


def test_a_damaged_samples_file_is_named(tmp_path: Path):
    folder = sweep(tmp_path / "damaged", SMALL)
    path = folder / "samples" / "pinwheel-0.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"pinwheel-0\.npz is damaged .*: delete it") as found:
        build(folder)
    assert "\n" not in str(found.value)
    np.savez(path, data=np.zeros(3))
    with pytest.raises(UserError, match="'data' is no array of points"):
        build(folder)


@pytest.mark.parametrize(("name", "content"), [("sweep.json", "[]"), ("sweep.json", "{"), ("records.jsonl", "{\n"), ("env.json", "{")])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str):
    folder = sweep(tmp_path / "damaged", SMALL)
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=name):
        build(folder)


def test_without_matplotlib_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"the report needs matplotlib: pip install 'meanstep\[report\]'"):
        build(tmp_path)


def test_models_far_from_the_data_decide_nothing(whole: Path, tmp_path: Path):
    far = tmp_path / "far"
    shutil.copytree(whole, far)
    changed = [json.loads(line) for line in (far / "records.jsonl").read_text().splitlines()]
    for record in changed:
        if record["kind"] == "model":
            for weights in ("raw", "ema"):
                record[weights]["sw1"] = {k: 20 * v for k, v in record[weights]["sw1"].items()}
    (far / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in changed))
    assert {claim.verdict for claim in pages.claims(far).values()} == {"cannot tell"}
    assert any("far from the data" in line for line in spoken(far))
    assert len({claim.verdict for claim in pages.claims(whole).values()}) > 1
    assert not any("far from the data" in line for line in spoken(whole))


def changed(whole: Path, folder: Path, change: Callable[[dict], None]) -> Path:
    """A copy of a sweep with its records changed."""
    shutil.copytree(whole, folder)
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for record in records:
        change(record)
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


@pytest.mark.parametrize(("noise", "trained"), [(0.5, True), (0.11, False), (0.05, False), (0.02, False)])
def test_models_no_nearer_than_noise_decide_nothing_at_any_scale(noise: float, trained: bool, whole: Path, tmp_path: Path):
    """Four to five times the floor, which the rule of eight times passes: what counts is how far the noise itself is."""

    def scaled(record: dict) -> None:
        if record["kind"] == "set":
            record["noise"] = {"sw1": [noise, 1.01 * noise]}

    folder = changed(whole, tmp_path / "s", scaled)
    made, said = [*pages.claims(folder).values()], spoken(folder)
    assert (len({claim.verdict for claim in made}) > 1) is trained
    assert any("far from the data" in line for line in said) is not trained
    if not trained:
        findings = {row.finding for claim in made for row in claim.rows if row.claimed is not None}
        words = " ".join([*said, *(claim.sentence for claim in made)])
        assert findings == {"open"} and not re.search(r"contradicted|agrees|lowest SW1|costs|better on", words)
        assert "way from noise to the data" in words or "no nearer to the data than the noise" in words
        assert report.answered(results.Results.read(folder), ()).tiles[0].state == "open"


def test_an_undecided_claim_contradicts_itself_nowhere(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(form, "drawn", lambda figures: {})  # the words alone

    def scaled(record: dict) -> None:
        if record["kind"] == "set":
            record["floor"]["sw1"] = [x / 10 for x in record["floor"]["sw1"]]

    folder = changed(whole, tmp_path / "s", scaled)
    build(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "more than 8 times" in text and 'class="agrees"' not in text and 'class="contradicts"' not in text
    before = " ".join(claim.sentence for claim in pages.claims(whole).values())
    for told in ("comparisons agree", "The test agrees"):
        assert told in before and told not in text
    assert not re.search(r"contradicts? it:|contradict it\.", text)


@pytest.mark.parametrize(
    ("ends", "floors", "starts", "times", "left"),
    [
        ([3.0], [1.0], [9.0], 3.0, 0.25),
        ([300.0], [100.0], [900.0], 3.0, 0.25),  # whatever the unit
        ([3.0, 5.0], [1.0, 1.0], [9.0, None], 4.0, 0.25),
        ([3.0, 9.0], [1.0, 1.0], [9.0, 9.0], 6.0, 0.625),
        ([12.0], [1.0], [9.0], 12.0, 1.375),
        ([1.5], [1.0], [1.0], 1.5, 1.0),  # data that are noise: nothing was to be learnt
        ([None], [1.0], [9.0], 0.0, 0.0),
        ([3.0], [None], [9.0], 0.0, 0.0),
    ],
)
def test_the_way_from_noise_to_data(ends: Any, floors: Any, starts: Any, times: float, left: float):
    found = trained.way(ends, floors, starts)
    assert (found.times, found.left) == (pytest.approx(times), pytest.approx(left))
    assert found.far is (times > 8 or left > 0.75)
