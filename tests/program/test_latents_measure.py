"""The measurement of a run at a moment: against the definitions written out, and that it leaves no trace in the run."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

import meanstep as ms
from meanstep.probes import Table
from meanstep.program.data import Cache, ensure
from meanstep.program.data.request import Request
from meanstep.program.reproduce.images import measure
from meanstep.program.reproduce.images.measure import Measurer
from meanstep.program.reproduce.images.settings import Sizes
from meanstep.program.runs.config import AveragesConfig, Config, DataConfig, MethodConfig
from meanstep.program.training.loop import Step
from meanstep.program.training.ranks import Ranks
from meanstep.program.training.samples import Samples, judge
from meanstep.program.training.state import State, fresh
from meanstep.program.training.train import train
from meanstep.shapes import tree_map
from meanstep.types import Bridge

from .train_ranks import BATCH, STEPS, configuration

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = Sizes(count=64, steps=(1, 2), rows=48, times=3, rows_at=16)
COEFFICIENT = MethodConfig("coefficient", {"beta": 0.7}, proxy_decay=0.9)


def arm(method: MethodConfig = COEFFICIENT, **changes: Any) -> Config:
    return replace(configuration("meanflow"), method=method, **changes)


def shaken(config: Config, cache: Cache) -> State:
    """A state whose network bends space and whose averages lie elsewhere: at its start a DiT is 0."""
    state = fresh(config, cache, ALONE)
    for k, module in enumerate((state.owner.net, *(a.module for a in state.averages))):
        for i, p in enumerate(module.parameters()):
            p.data += 0.2 * torch.randn(p.shape, generator=ms.key(0, k, i))
    return state


def measurer(config: Config, cache: Cache, folder: Path, sizes: Sizes = SMALL) -> Measurer:
    return Measurer.of(config, cache, folder, ALONE, sizes)


def doubled(state: State, m: Measurer) -> Measurer:
    """The same in float64 and without samples: what is written out below agrees to many digits."""
    for module in (state.owner.net, *(a.module for a in state.averages)):
        module.double()
    parts = [tree_map(lambda p: p.double() if p.is_floating_point() else p, tuple(b[:5])) for b in (m.pairs, m.levels)]
    truth = m.truth and replace(m.truth, reference=m.truth.reference.double())
    return replace(m, sizes=replace(m.sizes, steps=()), pairs=Bridge(*parts[0]), levels=Bridge(*parts[1]), truth=truth)


def jsonable(found: dict[str, Any]) -> dict[str, Any]:
    again: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    return found


# Written out from the definitions ------------------------------------------------------------------------------------------------------


def total(net: nn.Module, b: Bridge, w: Tensor) -> Tensor:
    """`u + (t - r) (d_z u w + d_t u)`, eq. (11), by torch's own forward mode."""
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        u, du = jvp(lambda z, t: net(z, b.r, t, b.y), (b.z, b.t), (w.contiguous(), torch.ones_like(b.t)))
    return u + (b.t - b.r)[:, None, None, None] * du


def swung(net: nn.Module, b: Bridge, w: Tensor) -> Tensor:
    """`(J + I) w`, eq. (16)."""
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        return (b.t - b.r)[:, None, None, None] * jvp(lambda z: net(z, b.r, b.t, b.y), (b.z,), (w.contiguous(),))[1]


def marginal(b: Bridge, cache: Cache, conditional: bool) -> Tensor:
    """`E[v | z, y]` over the cache, row by row: Gaussians of width t about (1 - t) x."""
    x, y = cache.rows(torch.arange(len(cache)))
    x, out = x.double(), []
    for k in range(len(b.t)):
        mine, t = x[y == b.y[k]] if conditional else x, b.t[k]
        weights = torch.softmax(-(b.z[k] - (1 - t) * mine).square().sum((1, 2, 3)) / (2 * t**2), 0)
        out.append((b.z[k] - (weights[:, None, None, None] * mine).sum(0)) / t)
    return torch.stack(out)


def square(x: Tensor) -> float:
    return float(x.square().sum() / len(x))


def boundary(net: nn.Module, b: Bridge) -> Tensor:
    with torch.no_grad():
        return net(b.z, b.t, b.t, b.y)


@pytest.mark.parametrize("conditional", [True, False])
def test_the_parabola_is_that_of_the_definition(conditional: bool, cache: Cache, tmp_path: Path):
    config = arm(data=DataConfig("digits", conditional=conditional))
    state = shaken(config, cache)
    m = doubled(state, measurer(config, cache, tmp_path))
    found, b, net = m(state), m.pairs, state.owner.net.eval()
    ema = boundary(state.proxy.module, b)
    for center, v in {"data": marginal(b, cache, conditional), "ema": ema}.items():
        entry, noise = found["error"][center], b.v - v
        quiet = total(net, b, v) - v
        moved = square(swung(net, b, ema - v))
        for k, beta in enumerate(entry["betas"]):
            tangents = (torch.lerp(w, ema if center == "data" else v, beta) for w in (b.v, v))
            loud, calm = (total(net, b, w) for w in tangents)
            expected = square(loud - b.v - (calm - v)) + beta**2 * moved
            assert entry["value"][k] == pytest.approx(expected / square(noise), rel=1e-9), (center, beta)
        assert square(quiet) > 0 and entry["s"] == pytest.approx(square(noise), rel=1e-9)
        assert entry["d"] == pytest.approx(moved, rel=1e-9)
        assert entry["value"][0] == pytest.approx(entry["a"] / entry["s"], rel=1e-9)
        assert entry["value"][-1] == pytest.approx(1 + entry["d"] / entry["s"], rel=1e-9)
    assert found["error"]["ema"]["d"] == 0 < found["error"]["data"]["d"]
    assert found["bias"]["kind"] == "exact for the data"
    v = marginal(b, cache, conditional)
    assert found["bias"]["value"] == pytest.approx(square(ema - v) / square(b.v - v), rel=1e-9)


def test_the_optimum_is_where_the_parabola_is_least(cache: Cache, tmp_path: Path):
    config = arm()
    state = shaken(config, cache)
    e = measurer(config, cache, tmp_path)(state)["error"]["data"]
    assert e["optimum"]["matrix"][0] == pytest.approx(e["b"] / (e["c"] + e["d"]), rel=1e-9)
    assert e["optimum"]["matrix_unbiased"][0] == pytest.approx(e["b"] / e["c"], rel=1e-9)
    assert e["d"] > 1e-3 * e["c"] and all(error > 0 for _, error in e["optimum"].values())
    fitted = np.polyfit(e["betas"], e["value"], 2)
    assert e["optimum"]["matrix"][0] == pytest.approx(-fitted[1] / fitted[0] / 2, rel=1e-6)


def test_bins_of_t_hold_the_rows_at_these_times(cache: Cache, tmp_path: Path):
    config = arm()
    m = measurer(config, cache, tmp_path, replace(SMALL, rows=12))
    state = shaken(config, cache)
    with torch.no_grad():
        table = m.tables(state.owner.net.eval(), state.proxy.module)["ema"]
    by_t, found = m(state)["error"]["ema"]["by_t"], 0
    for k, t in enumerate(by_t["t"]):
        rows = (table.t - t).abs() < 0.05
        found += int(rows.sum())
        for name in "abcds":
            value = by_t[name][k]
            assert value is None if not rows.any() else value == pytest.approx(float(table.columns[name][rows].mean()), rel=1e-9)
    assert found == 12 and None in by_t["a"]


def test_the_loss_at_fixed_times_is_that_of_the_definition(cache: Cache, tmp_path: Path):
    config = arm()
    state = shaken(config, cache)
    m = doubled(state, measurer(config, cache, tmp_path))
    found, b, net = m(state)["loss"], m.levels, state.owner.net.eval()
    assert found["t"] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    for name, tangent in {"conditional": b.v, "ema": boundary(state.proxy.module, b)}.items():
        rows = (total(net, b, tangent) - b.v).square().mean((1, 2, 3)).numpy()
        for k in range(3):
            here = rows[16 * k : 16 * (k + 1)]
            assert found[name]["mean"][k] == pytest.approx(here.mean(), rel=1e-9)
            assert found[name]["variance"][k] == pytest.approx(here.var(ddof=1), rel=1e-9)
            assert (b.t[16 * k : 16 * (k + 1)] - found["t"][k]).abs().max() < 1e-6


# Rows ----------------------------------------------------------------------------------------------------------------------------------


def same(a: Bridge, b: Bridge) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a[:5], b[:5], strict=True))


def test_all_arms_of_a_seed_have_the_same_rows(cache: Cache, tmp_path: Path):
    one, other = (measurer(config, cache, tmp_path) for config in (arm(MethodConfig("meanflow")), arm(averages=AveragesConfig((0.5,)))))
    third = measurer(arm(run=replace(arm().run, seed=1)), cache, tmp_path)
    for name in ("pairs", "levels"):
        a, b, c = (getattr(m, name) for m in (one, other, third))
        assert same(a, b) and not torch.equal(a.z, c.z) and not torch.equal(a.r, c.r)
    assert not torch.equal(one.pairs.z, one.levels.z)


def test_rows_are_data_with_their_labels_and_noise(cache: Cache, tmp_path: Path):
    b = measurer(arm(), cache, tmp_path, replace(SMALL, rows=1000)).pairs
    x, labels = cache.rows(torch.arange(len(cache)))
    away = torch.cdist((b.z - b.t[:, None, None, None] * b.v).flatten(1), x.flatten(1))
    least = away.min(1)
    assert least.values.max() < 0.02 and torch.equal(labels[least.indices], b.y)
    assert (b.r < b.t).all() and len(least.indices.unique()) > 600
    noise = b.z + (1 - b.t)[:, None, None, None] * b.v
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    assert abs(float(b.t.mean()) - 2 / 3) < 0.03 and abs(float(b.r.mean()) - 1 / 3) < 0.03


def test_mirror_images_belong_to_the_data_where_training_shows_them(tmp_path: Path, cache: Cache):
    both = ensure("digits", Request("digits", flips=True))
    m = measurer(arm(), both, tmp_path)
    assert len(m.truth.reference) == 2 * len(both) == 2 * len(cache)
    x = m.pairs.z - m.pairs.t[:, None, None, None] * m.pairs.v
    away, mirrored = (torch.cdist(x.flatten(1), p.flatten(1)).min(1).values for p in m.truth.reference.chunk(2))
    assert (torch.minimum(away, mirrored) < 0.02).all() and (away > 0.1).any() and (mirrored > 0.1).any()
    assert torch.equal(m.truth.labels[: len(both)], m.truth.labels[len(both) :])
    assert measurer(arm(), both, tmp_path, replace(SMALL, references=2 * len(both) - 1)).truth is None


@pytest.mark.parametrize("why", ["references", "numbers"])
def test_without_the_whole_data_the_bias_is_bounded(why: str, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, sizes = arm(), SMALL
    if why == "references":
        sizes = replace(SMALL, references=len(cache) - 1)
    else:
        monkeypatch.setattr(measure, "LARGEST", len(cache) * 64 - 1)
    state = shaken(config, cache)
    m = doubled(state, measurer(config, cache, tmp_path, sizes))
    found = m(state)
    assert list(found["error"]) == ["ema"] and found["bias"]["kind"] == "upper bound"
    off = boundary(state.proxy.module, m.pairs) - m.pairs.v
    assert found["bias"]["value"] == pytest.approx(square(off) / square(m.pairs.v), rel=1e-9)


# What is left as it was ----------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_measured_is_the_run_that_is_not(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("meanstep.program.training.loop.OBSERVE_EVERY", 1)
    config, count = arm(MethodConfig("coefficient", {"beta": "running"}, dropout=0.5, proxy_decay=0.9)), []
    train(config, tmp_path / "alone", cache, ALONE)
    m, observe, before = measurer(config, cache, tmp_path), Step.observe, torch.get_rng_state()

    def both(self: Step, chunks: Any) -> None:
        observe(self, chunks)
        count.append(jsonable(m(self.state)))
        m.picture(self.state)
        assert all(module.training for module in self.state.owner.net.modules())

    with monkeypatch.context() as patch:
        patch.setattr(Step, "observe", both)
        train(config, tmp_path / "measured", cache, ALONE)
    alone, measured = (
        {p.name: p.read_bytes() for p in (tmp_path / name / "checkpoints" / f"{STEPS * BATCH:012d}").glob("*.safetensors")}
        for name in ("alone", "measured")
    )
    assert alone == measured != {} and len(count) == STEPS
    assert torch.equal(before, torch.get_rng_state())
    assert count[0]["error"] != count[-1]["error"] and count[0]["distance"] != count[-1]["distance"]


def test_a_measurement_is_repeatable_reads_no_dropout_and_restores_every_mode(cache: Cache, tmp_path: Path):
    config = arm()
    state, m = shaken(config, cache), measurer(config, cache, tmp_path)
    net = state.owner.net
    net.last.out = nn.Sequential(net.last.out, nn.Dropout(0.5))
    net.blocks[0].eval()
    modes = [module.training for module in net.modules()]
    assert m(state) == m(state)
    assert [module.training for module in net.modules()] == modes and True in modes and False in modes
    assert all(p.grad is None for p in net.parameters())


# Distances and pictures ----------------------------------------------------------------------------------------------------------------


def test_distances_are_those_of_the_run_itself(cache: Cache, tmp_path: Path):
    config = arm(run=replace(arm().run, evaluate_every=1, evaluate_count=64))
    state, samples = shaken(config, cache), Samples.of(config, cache, tmp_path, ALONE)
    m = measurer(config, cache, tmp_path)
    found, judged = m.distance(state), judge(samples)
    assert found["ema"] == {k: v for k, v in judged(state).items() if k in ("1", "2")}
    assert found["raw"] == {k: v for k, v in judged(replace(state, averages=[])).items() if k in ("1", "2")} != found["ema"]


def test_the_picture_is_that_of_the_run_itself(cache: Cache, tmp_path: Path):
    config = arm(run=replace(arm().run, sample_every=BATCH))
    state, _ = train(config, tmp_path, cache, ALONE)
    image = Image.open(io.BytesIO(measurer(config, cache, tmp_path).picture(state)))
    assert image.format == "PNG"
    own = Image.open(tmp_path / "samples" / f"{STEPS * BATCH:012d}.png")
    assert np.array_equal(np.asarray(image), np.asarray(own))


# Coefficients, and runs that lack something --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"beta": {"linear": [0, 1]}}, 0.5),
        ({"beta": {"linear": [0.2, 0.6, 0.25]}}, 0.6),
        ({"beta": 0.25}, 0.25),
        ({}, 1.0),
        ({"beta": "climber"}, 0.5),
        ({"beta": {"climber": {"start": 0.125}}}, 0.125),
    ],
    ids=str,
)
def test_the_coefficient_at_half_the_training(options: dict[str, Any], expected: float, cache: Cache, tmp_path: Path):
    config = arm(MethodConfig("coefficient", options))
    state = fresh(config, cache, ALONE)
    state.seen = config.run.samples // 2
    assert measurer(config, cache, tmp_path).beta(state) == pytest.approx(expected, abs=1e-12)


def test_a_learned_coefficient_is_averaged_over_the_rows(cache: Cache, tmp_path: Path):
    config = arm(MethodConfig("coefficient", {"beta": {"running": {"bins": 2}}}))
    state, m = fresh(config, cache, ALONE), measurer(config, cache, tmp_path)
    state.owner.learner.table.copy_(torch.tensor([[0.25, 0.0], [0.5, 1.0]]))
    low, high = m.pairs.t < 0.5, m.pairs.r >= 0.5
    expected = torch.where(low, 0.25, torch.where(high, 1.0, 0.5)).double().mean()
    assert m.beta(state) == pytest.approx(float(expected), abs=1e-6) and low.any() and high.any()


def test_the_end_of_a_schedule_is_not_passed(cache: Cache, tmp_path: Path):
    """A batch that does not divide the samples ends beyond them; a logistic curve would rise on."""
    config = arm(MethodConfig("coefficient", {"beta": {"logistic": [0, 0.5]}}))
    state = fresh(config, cache, ALONE)
    state.seen = config.run.samples + BATCH
    assert measurer(config, cache, tmp_path).beta(state) == pytest.approx(0.5, abs=1e-12)


def test_without_labels_and_averages_what_needs_them_is_null(cache: Cache, tmp_path: Path):
    config = arm(MethodConfig("meanflow"), data=DataConfig("digits", conditional=False), averages=AveragesConfig(()))
    state, m = shaken(config, cache), measurer(config, cache, tmp_path)
    found = jsonable(m(state))
    assert m.truth.labels is None and m.pairs.y is None
    assert found["beta"] is found["bias"] is found["loss"]["ema"] is found["error"]["ema"] is found["distance"]["ema"] is None
    assert found["error"]["data"]["d"] == 0 < found["error"]["data"]["a"]
    assert found["loss"]["conditional"]["mean"][0] > 0 and found["distance"]["raw"]["1"] > 0
    assert len(m.picture(state)) > 0


def test_the_first_average_serves_where_the_recipe_has_no_proxy(cache: Cache, tmp_path: Path):
    with_proxy, without = arm(averages=AveragesConfig((0.5,))), arm(MethodConfig("meanflow"), averages=AveragesConfig((0.5,)))
    a, b = shaken(with_proxy, cache), shaken(without, cache)
    assert a.proxy is a.averages[1] and b.proxy is None
    m = measurer(without, cache, tmp_path)
    net = b.owner.net.eval()
    with torch.no_grad():
        table: Table = m.tables(net, b.averages[0].module)["ema"]
        other: Table = m.tables(net, a.proxy.module)["ema"]
    assert m(b)["error"]["ema"]["s"] == pytest.approx(float(table.columns["s"].mean()))
    assert m(a)["error"]["ema"]["s"] == pytest.approx(float(other.columns["s"].mean())) != pytest.approx(float(table.columns["s"].mean()))


def test_flow_matching_has_distances_only(cache: Cache, tmp_path: Path):
    config = arm(MethodConfig("flow_matching"), run=replace(arm().run, evaluate_every=1, evaluate_count=64))
    state, m = shaken(config, cache), measurer(config, cache, tmp_path, replace(SMALL, steps=(1, 4)))
    found = jsonable(m(state))
    assert found["loss"] is found["error"] is found["bias"] is found["beta"] is None
    euler = judge(Samples.of(config, cache, tmp_path, ALONE))(state)
    assert found["distance"]["ema"] == {k: euler[k] for k in ("1", "4")}


def test_a_network_at_its_start_and_one_that_is_lost_leave_gaps_and_no_nan(cache: Cache, tmp_path: Path):
    config = arm()
    state, m = fresh(config, cache, ALONE), measurer(config, cache, tmp_path)
    start = jsonable(m(state))["error"]["data"]
    assert (
        start["value"] == pytest.approx([1 + (beta**2) * start["d"] for beta in start["betas"]]) and start["optimum"]["matrix"][0] is None
    )
    for p in state.owner.net.parameters():
        p.data.fill_(float("nan"))
    lost = jsonable(m(state))
    assert lost["error"]["data"]["value"] == [None] * 21 and lost["loss"]["conditional"]["mean"] == [None] * 3
