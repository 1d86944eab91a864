"""`meanstep reproduce latents --protocol authors`: what it fixes, what may differ, what it refuses, and that it goes on."""

import html
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import meanstep as ms
from meanstep.coefficients import scalar_optimum
from meanstep.program.console import UserError
from meanstep.program.data import Cache
from meanstep.program.reproduce.images import KIND, protocol
from meanstep.program.reproduce.images.arms import OFFERS, arms
from meanstep.program.reproduce.images.command import Latents
from meanstep.program.reproduce.images.compute import counted
from meanstep.program.reproduce.images.estimators import estimators
from meanstep.program.reproduce.images.settings import Compute, Sizes
from meanstep.program.reproduce.images.study import Study
from meanstep.program.reproduce.study import held
from meanstep.program.runs.config import NetworkConfig
from meanstep.program.training.presets import PRESETS
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.samples import Samples
from meanstep.program.training.state import fresh

from .conftest import stay_home
from .studied import call, measured

TINY = "--network.width 16 --network.depth 1 --network.heads 2 --batch 16 --samples 64 --moments 2 --averages.decays 0.9"
SIZES = "--measure.count 64 --measure.rows 64 --measure.rows-at 16 --measure.times 2 --measure.steps 1 --measure.references 64"
WORDS = f"reproduce latents --protocol authors {TINY} {SIZES} --workers 1 --seeds 0".split()
ARMS = ("beta@0", "squared-anchored@1")
NETWORK = NetworkConfig(options={"patch": 4, "width": 16, "depth": 1, "heads": 2})
BASE = replace(protocol.applied(PRESETS["digits"].config), network=NETWORK)


@pytest.fixture(scope="module")
def study(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("authors") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        stay_home(patch)
        assert call(*WORDS, "--arms", *ARMS, "--out", str(out)) == 0
    return out


# What it trains -----------------------------------------------------------------------------------------------------------------------


def test_a_study_says_whose_settings_it_has_and_in_what_it_differs(study: Path):
    about = json.loads((study / "study.json").read_text())
    assert about["settings"]["protocol"] == "authors" and about["config"]["method"]["kappa"] == 0.5
    told = about["settings"]["deviations"]
    for said in (
        "--batch 16 (theirs: 256)",
        "--averages.decays 0.9 (theirs: 0.9999)",
        "1 blocks, 16 wide, 2 a patch (theirs: 12 blocks of 768",
    ):
        assert any(said in line for line in told), said
    assert not any("--rate" in line for line in told) and about["config"]["optimiser"]["rate"] == 1e-4
    assert about["config"]["method"]["proxy_decay"] == 0.9
    assert {arm["name"]: arm["samples"] for arm in about["arms"]} == dict.fromkeys(ARMS, 64)  # equal steps, whatever an arm costs


def test_the_estimators_as_published_are_recorded_at_zero_and_shown(study: Path):
    found = measured(study)
    assert [r["published"] for r in found["squared-anchored@1-0"]] == [None, None]
    for record in found["beta@0-0"]:
        entry = record["published"]
        assert entry["scalar"] == pytest.approx(scalar_optimum(entry["kappa"], entry["square"], entry["gap"]))
        assert len(entry["by_t"]["kappa"]) == 5 and entry["rows"] == 512
    page = (study / "report.html").read_text()
    assert page.index("The coefficient as published") < page.index('id="what"')


def test_records_without_the_estimators_render_without_the_table(study: Path, tmp_path: Path):
    shutil.copytree(study, tmp_path / "old")
    for path in (tmp_path / "old").glob("runs/*/measures.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "published"}) + "\n" for line in lines))
    assert call("report", str(tmp_path / "old")) == 0
    assert "The coefficient as published" not in (tmp_path / "old" / "report.html").read_text()


def test_the_command_that_makes_it_again_is_of_its_protocol(study: Path, cache: Cache):
    page = html.unescape(re.sub(r"<[^>]*>", "", (study / "report.html").read_text()))
    (line,) = (line for line in page.splitlines() if line.startswith("meanstep reproduce latents --"))
    again = Latents.parse([*shlex.split(line)[3:], "--out", "nowhere"]).study()
    assert again.protocol == "authors" and [arm.name for arm in again.arms] == [*ARMS]
    assert again.config == Latents.parse(["--out", str(study)]).study().config


def test_a_network_that_moves_nothing_has_the_published_numbers(cache: Cache, tmp_path: Path):
    """At its start a DiT is 0: kappa 1 as a norm, no lag, so one half in the scalar form, and no matrix form."""
    (arm,) = arms(["beta@0"], protocol=protocol.AUTHORS)
    config = replace(BASE, method=arm.of(BASE.method))
    alone = Ranks(0, 1, torch.device("cpu"))
    state, samples = fresh(config, cache, alone), Samples.of(config, cache, tmp_path, alone)
    found = estimators(state.owner.net.eval(), state.averages[0].module, samples)
    assert (found["kappa"], found["gap"], found["scalar"], found["matrix"]) == (1.0, 0.0, 0.5, None)
    for p in state.owner.net.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=ms.key(0, "shaken"))
    moved = estimators(state.owner.net, state.averages[0].module, samples)
    assert moved == estimators(state.owner.net, state.averages[0].module, samples) and moved["gap"] > 0 and moved["matrix"] is not None
    assert moved["square"] == found["square"] and estimators(state.owner.net, None, samples)["scalar"] is None


@pytest.mark.parametrize(
    ("name", "cost"),
    [
        ("beta@0", (3, 1, 0.25)),  # guidance is two more passes
        ("beta@0.5", (5, 1, 0.25)),  # by both networks
        ("beta@1", (3, 1, 0.25)),
        ("squared-anchored@1", (4, 2, 0.25)),
        ("stated@1", (3.25, 1, 0.25)),  # the target's guidance on all rows, the copy on those with r < t
    ],
)
def test_what_a_step_costs_in_closed_form(name: str, cost: tuple[float, ...], cache: Cache):
    (arm,) = arms([name], protocol=protocol.AUTHORS)
    assert counted(replace(BASE, method=arm.of(BASE.method)), cache) == Compute(*map(pytest.approx, cost))


def test_squared_and_anchored_of_ours_has_both(cache: Cache):
    (arm,) = arms(["squared-anchored@0.5"])
    options = {"anchor": 0.1, "delta": [0.0, 0.001], "anchor_share": 0.25, "power": 0, "beta": 0.5}
    assert (
        arm.options == options and arm.of(PRESETS["digits"].config.method).options == {"times": "uniform", "diagonal_share": 0.5} | options
    )
    assert (
        counted(replace(PRESETS["digits"].config, network=NETWORK, method=arm.of(PRESETS["digits"].config.method)), cache).forwards == 1.75
    )


def test_groups_of_theirs_are_arms_of_theirs():
    for offer in OFFERS.values():
        assert all(name.partition("@")[0] in {*offer.swept, *offer.single} for group in offer.groups.values() for name in group)
    assert [a.name for a in arms(["paper"], protocol=protocol.AUTHORS)] == ["beta@0", "beta@0.25", "beta@0.5", "squared-anchored@1"]


# What it refuses ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method.omega", "2"], "--protocol authors has --method.omega 1, got 2: leave --method.omega out, or give --protocol ours"),
        (["--method.options", "{times: uniform}"], "has --method.options {times: logit-normal}, got {times: uniform}"),
        (["--method.options", "{power: 0}"], "--protocol authors and --method.options {power: 0}: its arms decide on that"),
        (["--schedule", "cosine"], "has --schedule constant, got cosine"),
        (["--averages.decays", "0.9", "0.99"], "has --averages.decays one decay, got 0.9 0.99"),
        (["--method.proxy-decay", "0.5"], "has --method.proxy-decay the copy of --averages.decays 0.9999, got 0.5"),
        (["--arms", "rising"], "--arms rising is of --protocol ours, and --protocol authors has beta@BETA"),
        (["--arms-file", "mine.yaml"], "--protocol authors and --arms-file mine.yaml"),
        (["--arms", "beta"], "there is no arm 'beta'; did you mean beta@BETA?"),
        (["--protocol", "theirs"], "--protocol"),
    ],
)
def test_what_contradicts_the_protocol_is_one_line_and_leaves_nothing(words: list[str], told: str, cache: Cache, tmp_path: Path):
    with pytest.raises(UserError) as mistake:
        Latents.parse(["--protocol", "authors", "--out", str(tmp_path / "study"), *words]).run()
    assert told in str(mistake.value) and "\n" not in str(mistake.value) and not (tmp_path / "study").exists()


def test_an_arm_of_theirs_is_none_of_ours(tmp_path: Path):
    with pytest.raises(UserError, match=r"--arms stated@1 is of --protocol authors, and --protocol ours has"):
        Latents.parse(["--arms", "stated@1", "--out", str(tmp_path / "study")]).study()


def test_a_folder_has_one_protocol_and_one_that_says_nothing_is_ours(study: Path, cache: Cache, tmp_path: Path):
    with pytest.raises(UserError, match="holds a study of --protocol authors, not of --protocol ours: choose another folder with --out"):
        Latents.parse(["--protocol", "ours", "--out", str(study)]).study()
    old = tmp_path / "old"
    old.mkdir()
    (old / "study.json").write_text((study / "study.json").read_text())
    about = json.loads((old / "study.json").read_text())
    del about["settings"]["protocol"], about["settings"]["deviations"]
    (old / "study.json").write_text(json.dumps(about))
    assert protocol.of(held(old, KIND) or {}) == Latents.parse(["--out", str(old)]).protocol == "ours"
    with pytest.raises(UserError, match="holds a study of --protocol ours, not of --protocol authors"):
        Latents.parse(["--protocol", "authors", "--out", str(old)]).study()
    plain = Study(BASE, arms(["beta@0"]), (0,), 2, Sizes(), {"beta@0": Compute(1, 1, 0.25)})
    before = json.loads(json.dumps(plain.described()))
    del before["settings"]["protocol"]
    assert plain.stated(before) == plain.stated(None)


# It goes on ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_arms_that_are_added_and_the_options_left_out_end_with_the_same_numbers(study: Path, tmp_path: Path):
    out = tmp_path / "again"
    assert call(*WORDS, "--arms", ARMS[0], "--out", str(out)) == 0
    assert call("reproduce", "latents", "--arms", ARMS[1], "--protocol", "authors", "--workers", "1", "--out", str(out)) == 0
    assert measured(out) == measured(study)
    assert Latents.parse(["--out", str(out)]).protocol == "authors"


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on_with_the_same_numbers(tmp_path: Path, cache: Cache):
    words = [word if word != "64" or WORDS[k - 1] != "--samples" else "1024" for k, word in enumerate(WORDS)]
    asked, stopped = [*words, "--arms", *ARMS], tmp_path / "stopped"
    process = subprocess.Popen([sys.executable, "-m", "meanstep", *asked, "--out", str(stopped)], start_new_session=True)
    deadline = time.monotonic() + 240
    while not any(measured(stopped).values()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143
    assert call(*asked, "--out", str(stopped)) == call(*asked, "--out", str(tmp_path / "whole")) == 0
    assert measured(stopped) == measured(tmp_path / "whole")
