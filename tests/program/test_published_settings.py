"""What the published code trains with, from the command line's words: times, hidden labels, optimisers, averages."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import meanstep as ms
from meanstep import times
from meanstep.cli import main
from meanstep.program import methods
from meanstep.program.console import UserError
from meanstep.program.reading.tensors import File
from meanstep.program.runs.config import OptimiserConfig, flag, from_yaml
from meanstep.program.runs.facts import known
from meanstep.program.runs.method import MethodConfig
from meanstep.program.training import averages, optimiser
from meanstep.program.training.methods import build
from meanstep.velocities import Guided, LabelDropout, fading

NET = ms.MLP(2, 8, 1, classes=3, generator=ms.key(0))

# Times ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sampler"),
    [
        ("uniform", times.uniform),
        ("logit-normal", times.logit_normal(-0.4, 1.0)),
        ({"logit-normal": [0.8, 0.5]}, times.logit_normal(0.8, 0.5)),
        ({"instants": [-0.2, 1]}, times.instants(-0.2, 1)),
        ({"logit-normal-pair": [-0.6, 1.6, -4, 1.6]}, times.logit_normal_pair((-0.6, 1.6), (-4, 1.6))),
        ({"sorted-pair": [-2, 2, -2, 2]}, times.sorted_pair((-2, 2), (-2, 2))),
    ],
    ids=["uniform", "usual", "logit-normal", "instants", "pair", "sorted"],
)
def test_times_of_any_mean_and_spread(value: Any, sampler: ms.Recipe):
    assert methods.build("meanflow", NET, times=value)[0].times == sampler
    capped = build(MethodConfig("meanflow", {"times": value}, largest_gap=0.5), NET, None, None, None).recipe
    assert capped[0].times == times.capped(sampler, 0.5)


@pytest.mark.parametrize(
    "value",
    [{"logit-normal": [0.8]}, {"logit-normal": [0.8, 0.0]}, {"logit-normal": 3}, {"normal": [0, 1]}, {}, {"instants": ["a", 1]},
     {"instants": [0, 1], "uniform": []}, {"sorted-pair": [0, 1, 0, float("nan")]}, {"instants": [True, float("inf")]}],
    ids=str,
)  # fmt: skip
def test_times_that_are_none(value: Any):
    with pytest.raises(UserError, match=r"recipe meanflow: times is one of uniform, logit-normal, \{logit-normal: \[mean, std\]\}") as told:
        methods.build("meanflow", NET, times=value)
    assert "\n" not in str(told.value)


def test_pixel_meanflows_instants_have_words_too():
    recipe = methods.build("pixel_meanflow", NET, instants={"instants": [0.0, 0.8]}, proxy="own")
    assert recipe[1].times == times.diagonal(times.instants(0.0, 0.8))


# Labels -----------------------------------------------------------------------------------------------------------------------------


def velocity(**given: Any) -> Guided:
    found = build(MethodConfig("meanflow", **given), NET, None, None, 3).recipe[0].objective.target
    assert isinstance(found, Guided)
    return found


def test_hidden_labels_and_guidance_as_published():
    plain = velocity()
    assert plain.dropout == LabelDropout(3, 0.1) and plain.dropped == "plain"
    assert velocity(dropout_rows="instant").dropout == LabelDropout(3, 0.1, rows="instant")
    alpha = velocity(dropout_inside=True, window=(0.0, 0.75), dropped="guided", omega=0.2, kappa=0.92)
    assert alpha.dropout == LabelDropout(3, 0.1, inside=(0.0, 0.75)) and (alpha.omega, alpha.kappa, alpha.dropped) == (0.2, 0.92, "guided")


def test_rows_that_the_recipe_has_not():
    config = MethodConfig("meanflow", {"diagonal_share": 0.05}, dropout_rows="instant")
    with pytest.raises(UserError, match=r"hides 0\.1 of the labels, all on rows with r = t, and meanflow has a share of 0\.05") as told:
        build(config, NET, None, None, 3)
    assert "\n" not in str(told.value) and build(config, NET, None, None, None).recipe  # no labels, none to hide


def test_fading_guidance_is_soflows():
    faded = velocity(omega=0.75, kappa=0.75, fade=0.8)  # m = 0.25, w = 3
    assert faded.omega == fading(3.0, 0.25, 0.8) and faded.kappa == 0.75


def test_a_window_without_an_inside():
    with pytest.raises(UserError, match=r"no time strictly inside --method\.window"):
        MethodConfig(window=(0.4, 0.4), dropout_inside=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method: {dropout_rows: some}", "dropout_rows: one of all, instant"),
        ("method: {dropped: none}", "dropped: one of plain, guided, true"),
        ("method: {fade: 0}", "--method.fade"),
        ("optimiser: {optimiser: sgd}", "optimiser: one of adamw, radam, muon"),
        ("optimiser: {eps: 0}", "--adam-eps"),
        ("averages: {half_lives: [0.5]}", "--averages.half-lives"),
        ("averages: {ramp: 2}", "--averages.ramp"),
    ],
)
def test_settings_that_cannot_be(text: str, words: str):
    with pytest.raises(UserError) as told:
        from_yaml(text, "file")
    assert words in str(told.value) and "\n" not in str(told.value)


# Optimisers and averages ------------------------------------------------------------------------------------------------------------


def trained(config: OptimiserConfig, steps: int = 3) -> tuple[list[torch.Tensor], torch.optim.Optimizer]:
    """A network of two layers after some steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).double()
    opt = optimiser.made(config, list(net.parameters()), fused=False)
    for _ in range(steps):
        opt.zero_grad()
        net(torch.ones(4, 3).double()).square().sum().backward()
        opt.step()
    return [p.detach().clone() for p in net.parameters()], opt


def test_muon_steps_matrices_and_adamw_all_else():
    """Each as torch's own on its parameters alone, for three steps: in the first the moments' decays count nothing."""
    config = OptimiserConfig("muon", rate=1e-2, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
    ours, opt = trained(config)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).double()
    matrices, others = [p for p in net.parameters() if p.ndim == 2], [p for p in net.parameters() if p.ndim == 1]
    parts = torch.optim.Muon(matrices, 1e-2, 0.1), torch.optim.AdamW(others, 1e-2, (0.9, 0.99), 1e-6, 0.1)
    for _ in range(3):
        net.zero_grad()
        net(torch.ones(4, 3).double()).square().sum().backward()
        for part in parts:
            part.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, net.parameters(), strict=True))
    assert [set(opt.state[p]) for group in opt.param_groups for p in group["params"]] == [{"momentum_buffer"}] * 2 + [
        {"step", "exp_avg", "exp_avg_sq"}
    ] * 2


def test_muon_leaves_kernels_of_four_axes_to_adamw():
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2))
    opt = optimiser.made(OptimiserConfig("muon"), list(net.parameters()), fused=False)
    assert [[p.ndim for p in group["params"]] for group in opt.param_groups] == [[2], [4, 1, 1]]


@pytest.mark.parametrize("name", ["adamw", "radam"])
def test_the_term_beside_the_root_counts(name: Any):
    kind = {"adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}[name]
    opt = trained(OptimiserConfig(name, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2))[1]
    assert isinstance(opt, kind)
    assert {k: opt.param_groups[0][k] for k in ("betas", "eps", "weight_decay")} == {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2}
    assert name == "adamw" or opt.param_groups[0]["decoupled_weight_decay"]


def test_flags_of_the_optimiser():
    assert [flag("optimiser", name) for name in ("optimiser", "betas", "eps", "rate")] == [
        "--optimiser",
        "--adam-betas",
        "--adam-eps",
        "--rate",
    ]


def test_a_half_life_halves_after_its_samples_under_a_ramp():
    """Karras et al.'s: the share that is left is 2^-(samples seen / half-life), of at most 5 percent of what was seen so far."""
    decay = averages.half_life(64_000, 1000, 0.0)
    assert decay(1) ** 64 == pytest.approx(0.5)
    ramped = averages.half_life(64_000, 1000, 0.05)
    assert ramped(100) == pytest.approx(0.5 ** (1000 / 5000)) and ramped(10_000) == decay(1)
    assert averages.names((), (), (500_000, 1e6)) == ("half-life-500000", "half-life-1000000")
    net = nn.Linear(1, 1)
    average = averages.Average("half-life-64000", net, 1000, 0.0)
    with torch.no_grad():
        before = average.module.weight.clone()
        net.weight.add_(1.0)
        for _ in range(64):
            average.update(net)
    torch.testing.assert_close(average.module.weight, before + 0.5, rtol=0, atol=1e-5)
    early = averages.Average("half-life-64000", net, 1000, 0.05)
    with torch.no_grad():
        net.weight.add_(1.0)
    early.update(net)  # half-life 50 of a step of 1000
    torch.testing.assert_close(early.module.weight, net.weight, rtol=0, atol=1e-5)


def test_a_run_of_muon_goes_on_where_it_was_to_the_bit(tmp_path: Path, cache: Any):
    """Two halves and one whole: weights, averages and moments."""
    options = "--network.options '{patch: 4, width: 16, depth: 1, heads: 2}' --batch 32 --optimiser muon --adam-eps 1e-6 --device cpu"
    quiet = "--evaluate-every 0 --sample-every 0 --save-every 64 --log-every 64 --averages.decays 0.5 --averages.half-lives 320"
    words = shlex.split(f"{options} {quiet} --method.dropout-rows instant --method.omega 1.5")
    for out, lengths in (("whole", ("128",)), ("halves", ("64", "128"))):
        for samples in lengths:
            with pytest.raises(SystemExit) as ended:
                main(["train", "--out", str(tmp_path / out), "--samples", samples, *words])
            assert not ended.value.code
    for file in ("model", "ema_half-life-320", "state"):
        a, b = (File.open(tmp_path / out / "checkpoints" / f"{128:012d}" / f"{file}.safetensors").tensors() for out in ("whole", "halves"))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert any(k.endswith("momentum_buffer") for k in a)
    assert known(tmp_path / "whole").rows == "instant"  # what samples are warned by, test_untaught
