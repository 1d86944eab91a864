"""Published numbers beside measured ones: the rules of the verdicts, the rows of the table, the page, and the command's mistakes."""

import csv
import math
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from meanstep.program.console import UserError
from meanstep.program.pages import look
from meanstep.program.reproduce.paper import history, measured, page
from meanstep.program.reproduce.paper.command import STUDIES, Paper
from meanstep.program.reproduce.paper.compared import NOT, OUT, UNTOLD, compared
from meanstep.program.reproduce.paper.figures import FIGURES
from meanstep.program.reproduce.paper.measured import Estimate, Model
from meanstep.program.reproduce.paper.published import FILE, PARTS, Published, numbers
from meanstep.program.reproduce.paper.rows import identifier, table
from meanstep.program.reproduce.points.command import Mixtures, Toy
from meanstep.program.reproduce.points.settings import Spec

from .conftest import asked_again, printed

pytestmark = pytest.mark.figures

NAN = math.nan
SWISS = Published("toy", "sw1", "swiss_roll", "plain", 0.0, "0.1", 0.01, 3, "table.tex@abc", "")


def model(id: str = "beta 0", seed: int = 0, sw1: float = 0.1, **other) -> Model:
    about = {"study": "s", "protocol": "authors", "where": "swiss_roll", "centres": "", "steps": 200_000, "gap": 0.5}
    scores = {"sw2": 2 * sw1, "sw1_two": sw1 / 2, "variance": 1.0}
    return Model(**about | {"id": id, "seed": seed, "sw1": sw1} | scores | other)


def three(id: str = "beta 0", at: float = 0.1, **other) -> list[Model]:
    return [model(id, seed, at * factor, **other) for seed, factor in enumerate((0.97, 1.0, 1.03))]


# Rules -------------------------------------------------------------------------------------------------------------------------------


def test_with_a_spread_it_is_welchs_test():
    ours, theirs = [0.11, 0.13, 0.10, 0.12], [0.16, 0.19, 0.13]
    n = len(theirs)
    verdict = compared(ours, float(np.mean(theirs)), float(np.std(theirs, ddof=1)), n)
    found = stats.ttest_ind(ours, theirs, equal_var=False)
    half = (found.confidence_interval(0.95).high - found.confidence_interval(0.95).low) / 2
    assert verdict.detectable == pytest.approx(half, rel=1e-9)
    assert (verdict.word == NOT) == (found.pvalue < 0.05)


def test_without_a_spread_theirs_is_one_more_run_of_ours():
    rng = np.random.default_rng(0)
    draws = rng.normal(1.0, 0.1, (4000, 6))
    wrong = np.mean([compared(list(row[:5]), row[5], None, 1).word == NOT for row in draws])
    assert 0.04 < wrong < 0.06


def test_two_laboratories_with_one_truth_disagree_in_a_twentieth():
    rng = np.random.default_rng(1)
    words = []
    for _ in range(3000):
        a, b = rng.normal(1, 0.1, 3), rng.normal(1, 0.2, 3)
        words.append(compared(list(a), b.mean(), b.std(ddof=1), 3).word)
    assert words.count(NOT) / 3000 < 0.06
    assert words.count(UNTOLD) > words.count(OUT)  # three seeds with such spreads seldom tell


def test_the_words():
    assert compared([1.0, 1.01, 0.99], 1.0, 0.01, 3).word == OUT
    assert compared([1.0, 1.01, 0.99], 2.0, 0.01, 3).word == NOT
    assert compared([1.0, 1.9, 0.1], 1.1, 0.5, 3).word == UNTOLD
    assert compared([1.0], 1.0, 0.01, 3).word == compared([], 1.0, 0.01, 3).word == UNTOLD


# Rows --------------------------------------------------------------------------------------------------------------------------------


def test_every_published_number_has_a_row_and_a_verdict():
    rows = table(numbers(), [])
    assert [row.published for row in rows] == numbers()
    assert len(rows) == 211
    assert {row.published.part for row in rows} == set(PARTS)
    assert all(row.verdict.why for row in rows)
    assert {row.verdict.word for row in rows if row.published.part != "history"} == {UNTOLD}  # nothing was measured


def test_a_standard_error_is_read_as_the_deviation_behind_it(tmp_path: Path):
    head = "part,quantity,where,arm,beta,value,spread,spread_of,seeds,source,note\n"
    lines = "".join(f"toy,sw1,swiss_roll,plain,0,0.1,{spread},3,a,\n" for spread in ("0.01,standard error", "0.02,standard deviation", ","))
    (tmp_path / "published.csv").write_text(head + lines)
    found = [number.deviation for number in numbers(tmp_path / "published.csv")]
    assert found == [pytest.approx(0.01 * 3**0.5), 0.02, None]
    spreads = {(row["part"], row["spread_of"]) for row in csv.DictReader(FILE.read_text(encoding="utf-8").splitlines()) if row["spread"]}
    assert spreads == {("toy", "standard deviation"), ("mixtures", "standard error")}


def test_the_histories_are_counted_again():
    assert [row.verdict.word for row in table(numbers(), []) if row.published.part == "history"] == [OUT] * 4


def test_two_runs_tell_chance_from_an_effect_but_in_a_twentieth():
    rng = np.random.default_rng(2)
    names = (history.ZERO, history.AGAIN, *history.OTHERS)
    points = [history.Checkpoint(0, dict(zip(names, row, strict=True))) for row in rng.normal(10, 1, (4000, len(names)))]
    assert 0.04 < np.mean([history.effects(point)[0].told for point in points]) < 0.06
    assert history.summary(history.histories()).told == {"beta_0.25": 3, "beta_0.5": 4, "beta_1": 44}


def test_a_number_comes_out_or_not_at_its_own_length_only():
    assert table([SWISS], three())[0].verdict.word == OUT
    assert table([SWISS], three(at=0.2))[0].verdict.word == NOT
    short = table([SWISS], three(steps=50_000))[0]
    assert short.verdict.word == UNTOLD
    assert "50,000 of 200,000" in short.verdict.why
    assert short.theirs is not None
    assert short.theirs.mean == pytest.approx(0.1)


def test_a_pair_of_two_lengths_is_not_judged():
    change = replace(SWISS, quantity="sw1 change, percent", beta=1.0, value="0", deviation=None)
    variance = replace(SWISS, quantity="gradient variance, 0 over 1", beta=1.0, value="1", deviation=None)
    for number in (change, variance):
        assert table([number], three() + three("ema 1"))[0].verdict.word == OUT
        for mixed in (three(steps=50_000) + three("ema 1"), three() + three("ema 1", steps=50_000)):
            verdict = table([number], mixed)[0].verdict
            assert (verdict.word, verdict.why.partition(";")[0]) == (UNTOLD, "at 50,000 of 200,000 steps")
    best = replace(SWISS, quantity="best beta by sw1", beta=None, value="0", deviation=None)
    row = table([best], three() + three("ema 1", 0.2) + three("ema 0.5", 0.01, steps=50_000))[0]
    assert (row.verdict.word, row.verdict.why) == (OUT, "least of 0, 1")


def test_other_protocols_caps_and_sets_do_not_count():
    for other in ({"protocol": "ours"}, {"gap": 1.0}, {"where": "two_moons"}, {"centres": "fixed"}):
        assert table([SWISS], three(**other))[0].theirs is None
    assert table([SWISS], three(protocol="ours", gap=1.0))[0].ours is not None
    assert table([SWISS], three(protocol="ours", gap=0.5))[0].ours is None
    dense = replace(SWISS, part="mixtures", where="dense-16")
    assert table([dense], three(where="mixture-16", centres="redrawn"))[0].verdict.word == OUT
    assert table([dense], three(where="mixture-16", centres="fixed"))[0].theirs is None


def test_the_second_order_is_compared_with_the_second_order():
    assert table([replace(SWISS, quantity="sw2", value="0.2")], three())[0].verdict.word == OUT


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.3333333, 1.0])
def test_an_arm_is_the_model_that_the_sweep_trains(beta: float):
    assert identifier("plain", beta) == Spec(beta=beta, proxy="ema").canonical().id
    assert identifier("trace, sigma t^2", beta or 0.5) == Spec(beta=beta or 0.5, proxy="ema", sigma="t2").id


def test_the_longest_training_is_taken():
    short = three(at=0.3, steps=50_000)
    assert table([SWISS], short + three())[0].verdict.word == OUT
    more = [model(seed=seed, sw1=0.3, steps=50_000) for seed in range(3, 6)]  # of seeds that were not trained longer
    row = table([SWISS], more + three() + short)[0]
    assert row.theirs is not None
    assert (row.theirs.mean, row.theirs.n) == (pytest.approx(0.1), 3)


def test_a_change_is_paired_by_seed():
    change = replace(SWISS, quantity="sw1 change, percent", arm="anchored", beta=1.0, value="-20", deviation=None)
    below = [model("beta 0", seed, at) for seed, at in enumerate((0.05, 0.1, 0.4))]
    above = [
        model("ema 1", seed, 0.8 * at * wiggle) for seed, (at, wiggle) in enumerate(zip((0.05, 0.1, 0.4), (0.99, 1.0, 1.01), strict=True))
    ]
    row = table([change], below + above)[0]
    assert row.theirs is not None
    assert row.theirs.mean == pytest.approx(-20, abs=0.1)
    assert row.verdict.word == OUT
    assert table([replace(change, value="-54")], below + above)[0].verdict.word == NOT


def test_a_number_that_a_draft_prints_for_the_trace_weight_is_compared_with_that_too():
    printed = replace(SWISS, arm="anchored", beta=1.0, note="an older draft prints this number for the trace weight")
    row = table([printed], three("ema 1", 0.2) + three("ema 1 trace t2", 0.1))[0]
    assert row.verdict.word == NOT
    assert row.also.startswith("as the trace weight: 0.1 [") and row.also.endswith(OUT)


def test_a_cause_is_named_only_where_the_cap_was_varied_alone():
    gain = replace(SWISS, arm="plain", beta=1.0)
    capped = three() + [replace(m, sw1_two=0.045) for m in three("ema 1", 0.08)]
    assert table([gain], capped)[0].cause == ""
    cause = table([gain], capped + three(gap=1.0) + three("ema 1", gap=1.0))[0].cause
    assert cause.startswith("1 over 0: capped, one jump 0.8 [0.8, 0.8]; capped, two jumps 0.9 [")
    assert cause.endswith("]; all gaps, one jump 1")


def test_the_variance_and_the_best_coefficient():
    variance = replace(SWISS, quantity="gradient variance, 0 over 1", beta=1.0, value="2", deviation=None)
    found = [model("beta 0", s, variance=v) for s, v in enumerate((2.0, 2.1, 1.9))] + [model("ema 1", s, variance=1.0) for s in range(3)]
    assert table([variance], found)[0].verdict.word == OUT
    best = replace(SWISS, quantity="best beta by sw1", beta=None, value="0.8 or 1", deviation=None)
    assert table([best], three() + three("ema 1", 0.05))[0].verdict.word == OUT
    assert table([best], three() + three("ema 1", 0.3))[0].verdict.word == NOT
    level = [model("ema 1", s, v) for s, v in enumerate((0.12, 0.09, 0.13))]
    assert table([best], three() + level)[0].verdict.word == UNTOLD


def test_models_come_back_from_the_table_that_is_committed(tmp_path: Path):
    models = [*three(), model("ema 1", 4, sw1=0.123456789, variance=NAN)]
    measured.written(models, tmp_path / "measured.csv")
    found = measured.held(tmp_path / "measured.csv")
    assert [m.seed for m in found] == [0, 1, 2, 4]
    assert found[3].sw1 == 0.12346
    assert math.isnan(found[3].variance)


def test_their_estimators_on_our_networks_get_no_verdict():
    (scalar,) = [n for n in numbers() if n.quantity.startswith("best beta, scalar") and n.value == "0.49"]
    found = [Estimate("digits", "scalar", seed, value) for seed, value in enumerate((0.48, 0.49, 0.5))]
    assert table([scalar], [], [Estimate("digits", "matrix", 0, 0.49)])[0].theirs is None
    for off in (0.0, 0.4):
        (row,) = table([scalar], [], [replace(each, value=each.value + off) for each in found])
        assert row.theirs is not None and row.theirs.mean == pytest.approx(0.49 + off)
        assert row.verdict.word == UNTOLD and row.verdict.why.startswith("of another network and length")


def test_estimates_are_those_of_the_last_moment_at_beta_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "study.json").write_text("{}")
    entry = {"kappa": 1.0, "gap": 1.0, "square": 3.0, "scalar": 0.4, "matrix": 0.9}
    late = {"kind": "moment", "arm": "beta@0", "seed": 3, "published": entry | {"scalar": 0.375}}
    others = [{"kind": "moment", "arm": "beta@1", "seed": 3, "published": None}, {"kind": "moment", "arm": "beta@0", "seed": 4}]
    monkeypatch.setattr(measured.records, "load", lambda folder, kind: [late | {"published": entry}, late, *others])
    name = tmp_path.name
    expected = [Estimate(name, "scalar", 3, 0.375), Estimate(name, "matrix", 3, 0.9), Estimate(name, "shrinkage", 3, 0.75)]
    assert measured.estimates(tmp_path) == expected


# Page and command --------------------------------------------------------------------------------------------------------------------


def test_the_page_has_every_number_and_the_figures_what_was_measured(tmp_path: Path):
    models = [m for gap in (0.5, 1.0) for id, at in (("beta 0", 0.1), ("ema 1", 0.08)) for m in three(id, at, gap=gap)]
    assert all(draw(models) for draw in FIGURES.values())
    assert FIGURES["cap"](three()) is None
    there = page.build(tmp_path)
    text = there.read_text(encoding="utf-8")
    for part in PARTS:
        assert f'id="{part}"' in text
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(numbers())
    assert {row["verdict"] for row in rows} <= {OUT, NOT, UNTOLD}
    assert len(page.spoken(tmp_path)) == len(PARTS)


@pytest.mark.parametrize(
    "asked",
    [
        {"parts": ("history",)},
        {"scale": "smoke", "parts": ("toy", "history"), "part": "1/1", "workers": 1, "device": "cpu"},
        {},
    ],
)
def test_the_printed_commands_are_of_the_command_that_made_the_page(asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = Paper(out=tmp_path / "my page", **asked)
    for kind in (Toy, Mixtures):
        monkeypatch.setattr(kind, "run", lambda self: 0)
    monkeypatch.setattr(page.form, "drawn", lambda figures: {})
    assert given.run() == 0
    *more, own = printed(given.out / "report.html")
    assert len(more) == (given.parts != ("history",))
    assert [asked_again(line, Paper, monkeypatch) for line in more] == [replace(given, scale="paper") for _ in more]
    assert asked_again(own, Paper, monkeypatch) == given


def test_a_seed_that_diverged_is_left_out_of_the_figure():
    models = [m for gap in (0.5, 1.0) for id, at in (("beta 0", 0.1), ("ema 1", 0.08)) for m in three(id, at, gap=gap)]
    lost = [replace(m, sw1=NAN) if (m.seed, m.id, m.gap) == (1, "ema 1", 0.5) or (m.id, m.gap) == ("ema 1", 1.0) else m for m in models]
    points = {line.get_color(): [*line.get_xdata()] for line in FIGURES["cap"](lost).axes[0].get_lines() if line.get_marker() == "o"}
    heights = {line.get_color(): [*line.get_ydata()] for line in FIGURES["cap"](lost).axes[0].get_lines() if line.get_marker() == "o"}
    assert [len(x) for x in points.values()] == [2, 2, 1] and heights[look.BLUE] == pytest.approx([0.1, 0.08])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"parts": ("toys",)}, "no part 'toys'"),
        ({"parts": ()}, "--parts is empty"),
        ({"part": "4/3"}, "K/N with 1 <= K <= N"),
        ({"parts": ("toy",), "part": "7/7"}, "toy-quick has 6 sets: give N of at most 6"),
    ],
)
def test_parts_that_do_not_exist(asked: dict[str, object], says: str, tmp_path: Path):
    with pytest.raises(UserError, match=says):
        Paper(scale="quick", out=tmp_path / "paper", **asked).run()  # type: ignore[arg-type]
    assert not (tmp_path / "paper").exists()


def test_no_two_scales_share_a_folder():
    names = [name for scale in STUDIES.values() for studies in scale.values() for name, *_ in studies]
    assert len(set(names)) == len(names)


def test_the_committed_table_is_what_the_committed_records_say(tmp_path: Path):
    script = Path(__file__).parents[2] / "studies" / "paper" / "measured.py"
    found = runpy.run_path(str(script))["gathered"]()
    measured.written(found, tmp_path / "measured.csv")
    assert (tmp_path / "measured.csv").read_text() == measured.FILE.read_text()


def test_the_study_of_latents_is_one_that_can_be_asked_for(tmp_path: Path):
    from meanstep.program.reproduce.images.command import Latents
    from meanstep.program.reproduce.paper.command import DIGITS

    plan = Latents.parse([*DIGITS, "--out", str(tmp_path / "latents"), "--part", "2/4"]).study()
    assert {"beta@0", "beta@1", "squared-anchored@1", "squared-anchored@0", "stated@1"} <= {arm.name for arm in plan.arms}
    assert len(plan.seeds) == 5
