"""The sweep's step against the recipe it stands for, its independence of neighbours, and resuming."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import meanstep as ms
from meanstep.coefficients import binned
from meanstep.fields import gaussian_mixture
from meanstep.fields.flat import Shape
from meanstep.program.reproduce import pool, records
from meanstep.program.reproduce.arms import coefficients
from meanstep.program.reproduce.points import jobs, state
from meanstep.program.reproduce.points.draws import BLOCK, Block, Needs, Stream
from meanstep.program.reproduce.points.engine import Cohort, reference
from meanstep.program.reproduce.points.jobs import Job, train
from meanstep.program.reproduce.points.settings import ARMS, REFERENCES, SET_COST, SINGLE, Settings, Spec, models
from meanstep.program.reproduce.points.study import Sweep
from meanstep.program.reproduce.study import Stopped
from meanstep.types import Bridge
from meanstep.velocities import own
from meanstep.weights import adaptive

SETTINGS = Settings(
    ("eight_gaussians",),
    (0.0, 0.5, 1.0),
    (0,),
    ("paper",),
    70,
    batch=32,
    width=16,
    depth=2,
    reference=64,
    samples=500,
    directions=8,
    power=1.0,
)
TABLE = binned(torch.linspace(0, 1, 5), torch.linspace(0, 1, 16).view(4, 4))
FAMILY = [
    Spec(),
    Spec(beta=0.3, proxy="ema"),
    Spec(beta=1.0, proxy="ema", anchor=True),
    Spec(anchor=True),
    Spec(beta=0.6, proxy="own"),
    Spec(beta=0.6, proxy="own", both=True),
    Spec(beta=1.0, proxy="ema", both=True),
    Spec(beta=0.7, proxy="posterior", both=True, anchor=True),
    Spec(beta=0.7, proxy="posterior"),
    Spec(beta=1.0, proxy="oracle", both=True),
    Spec(beta=0.4, proxy="oracle"),
    Spec(proxy="ema", matrix=True),
]


@pytest.fixture(autouse=True)
def in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stream(seed: int = 0, dim: int = 2) -> Stream:
    return Stream(gaussian_mixture(dim), "mixture", seed, TABLE)


def weights(shape: Shape, *seeds: int) -> Tensor:
    return torch.stack([shape.initial(ms.key(seed, "test")) for seed in seeds]).double()


def twin(spec: Spec, settings: Settings, ema: torch.nn.Module, known: dict[str, Any]) -> ms.Recipe:
    """The recipe of the table that a spec stands for; its times are laid in from outside."""
    proxy: Any = {None: None, "ema": ema, "own": own}.get(spec.proxy, known.get(spec.proxy))
    beta: Any = TABLE if spec.matrix else spec.beta
    return ms.recipes.coefficient(
        beta,
        proxy,
        anchor=settings.anchor if spec.anchor else 0.0,
        target_beta=beta if spec.both else 0.0,
        times=lambda shape, g: (torch.zeros(shape), torch.ones(shape)),
        diagonal_share=settings.diagonal_share,
        weight=adaptive(settings.power, settings.c),
    )


@pytest.mark.parametrize("power", [1.0, 0.0])
@pytest.mark.parametrize("spec", FAMILY, ids=lambda s: s.id)
def test_the_gradient_by_hand_is_the_recipes(spec: Spec, power: float):
    settings = replace(SETTINGS, power=power)
    shape = Shape(2, settings.width, settings.depth)
    block = stream().block(0, shape, settings, Needs.of([spec]))
    cohort = Cohort(shape, [spec], weights(shape, 1), [0], settings)
    cohort.proxy.copy_(weights(shape, 2))
    residuals = cohort.gradient(block, 3)

    # the same rows, laid out again from the block: x, e and the times that the inputs hold
    step, n, batch = block.step(3), settings.moving, settings.batch
    net, ema = shape.as_module(cohort.flat), shape.as_module(cohort.proxy)
    bridges = bridges_of(block, 3, n, batch)
    known = {
        name: (lambda field, b, p=part: p[:, rows_of(b, bridges)])
        for name, part in (("oracle", step.oracle), ("posterior", step.posterior))
    }
    loss, errors = torch.zeros((), dtype=torch.float64), []
    for term, b in zip(twin(spec, settings, ema, known), bridges, strict=False):
        p, q, *_ = term.objective(net, b)
        error = (p - q).square().mean(-1)
        errors.append(error.detach())
        scale = 1 / batch if term.scale is None else term.scale / error.shape[-1]
        loss = loss + term.weight(error, b).sum() * scale
    grads = torch.autograd.grad(loss, list(net.parameters()))
    half = len(net.weights)
    expected = shape.flatten(grads[:half], grads[half:])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(cohort.grad, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(residuals[:, 0], torch.stack([torch.cat(errors[:2], 1).mean(), errors[0].mean()]), rtol=1e-12, atol=0)


def bridges_of(block: Block, k: int, n: int, batch: int) -> list[Bridge]:
    """The moving, the diagonal and the anchor rows of a step, from its data, noise and times alone."""
    x, e, r, t = block.x[:, k], block.e[:, k], block.r[:, k], block.t[:, k]

    def bridge(rows: slice, times: slice) -> Bridge:
        z, v = ms.paths.linear(x[:, rows], e[:, rows], t[:, times])
        return Bridge(z, v, r[:, times], t[:, times])

    near = [bridge(slice(0, None), slice(batch, None))] if r.shape[1] > batch else []
    return [bridge(slice(0, n), slice(0, n)), bridge(slice(n, batch), slice(n, batch)), *near]


def rows_of(b: Bridge, bridges: list[Bridge]) -> slice:
    n = bridges[0].t.shape[1]
    return slice(0, n) if b.t.shape == bridges[0].t.shape and torch.equal(b.z, bridges[0].z) else slice(n, n + bridges[1].t.shape[1])


def test_flow_matching_shares_the_draws_of_the_family():
    settings, shape, spec = SETTINGS, Shape(2, SETTINGS.width, SETTINGS.depth), Spec(recipe="flow_matching")
    block = stream().block(0, shape, settings, Needs.of([spec]))
    cohort = Cohort(shape, [spec], weights(shape, 1), [0], settings)
    cohort.gradient(block, 5)
    net = shape.as_module(cohort.flat)
    z, v = ms.paths.linear(block.x[:, 5], block.e[:, 5], block.t[:, 5])
    error = (net(z, block.t[:, 5], block.t[:, 5]) - v).square().mean()
    expected = torch.autograd.grad(error, net.weights[1])[0]
    torch.testing.assert_close(shape.layers(cohort.grad)[1][0], expected, rtol=1e-10, atol=1e-13)


def test_a_member_of_an_ensemble_trains_as_if_alone():
    """Eight models of two sets side by side against each of them alone, over 64 steps."""
    shape, spec = Shape(2, SETTINGS.width, SETTINGS.depth), Spec(beta=1.0, proxy="ema")
    streams = [stream(0), stream(1)]
    from meanstep.program.reproduce.points.draws import stack

    blocks = [[s.block(k, shape, SETTINGS, Needs.of([spec])) for s in streams] for k in range(2)]
    specs = [replace(spec, beta=beta) for beta in (1.0, 0.9, 0.5, 0.1)] * 2
    place = [0] * 4 + [1] * 4
    together = Cohort(shape, specs, weights(shape, *[3] * 4, *[4] * 4), place, SETTINGS)
    for k in range(2):
        together.run(stack(blocks[k]), k * BLOCK, (k + 1) * BLOCK)
    for i in (0, 3, 6):
        alone = Cohort(shape, [specs[i]], weights(shape, 3 if i < 4 else 4), [0], SETTINGS)
        for k in range(2):
            alone.run(blocks[k][place[i]], k * BLOCK, (k + 1) * BLOCK)
        torch.testing.assert_close(together.flat[i], alone.flat[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(together.ema[i], alone.ema[0], rtol=0, atol=1e-5)


def test_draws_of_a_block_do_not_depend_on_what_models_ask():
    shape = Shape(2, 16, 2)
    plain = stream().block(3, shape, SETTINGS, Needs(False, False, False))
    rich = stream().block(3, shape, SETTINGS, Needs(True, True, True))
    batch = SETTINGS.batch
    assert torch.equal(plain.x, rich.x) and torch.equal(plain.t, rich.t[..., :batch])
    assert torch.equal(plain.steps.inputs, rich.steps.inputs[..., :batch, :])
    assert not torch.equal(plain.x, stream().block(4, shape, SETTINGS, Needs(False, False, False)).x)


def quiet(what: str, *values: Any) -> bool:
    return False


def stopping(after: int) -> Any:
    """Says stop when asked for the `after`-th time."""
    asked = [0]

    def tell(what: str, *values: Any) -> bool:
        asked[0] += what == "stop?"
        return what == "stop?" and asked[0] >= after

    return tell


def test_stopped_and_resumed_equals_straight_through_to_the_bit(tmp_path: Path):
    torch.set_default_dtype(torch.float32)
    settings = replace(SETTINGS, arms=("paper", "posterior-both@1", "alpha_flow", "shortcut"))
    job = Job((("two_moons", 0),))
    straight = train(job, settings, folder(tmp_path, "a"), quiet)
    for after in (1, 2, 5):
        here = folder(tmp_path, str(after))
        with pytest.raises(Stopped):
            train(job, settings, here, stopping(after))
        resumed = [record | CLOCKS for record in train(job, settings, here, quiet)]
        assert resumed == [record | CLOCKS for record in straight], after
    assert len(straight) == len(settings.specs()) == 6


CLOCKS = {"seconds": 0, "measuring": 0}


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_a_models_numbers_do_not_depend_on_the_others(tmp_path: Path):
    torch.set_default_dtype(torch.float32)
    job = Job((("two_moons", 0),))
    few = train(job, replace(SETTINGS, arms=("paper@0,1",)), folder(tmp_path, "a"), quiet)
    many = train(job, replace(SETTINGS, arms=("anchored", "paper", "own-both", "matrix-oracle")), folder(tmp_path, "b"), quiet)
    for record in few:
        (same,) = (other for other in many if other["id"] == record["id"])
        assert same | CLOCKS == record | CLOCKS


def test_a_damaged_state_is_as_good_as_none(tmp_path: Path):
    torch.set_default_dtype(torch.float32)
    here, job = folder(tmp_path, "a"), Job((("two_moons", 0),))
    with pytest.raises(Stopped):
        train(job, SETTINGS, here, stopping(2))
    (file,) = (here / "state").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    again = train(job, SETTINGS, here, quiet)
    fresh = train(job, SETTINGS, folder(tmp_path, "b"), quiet)
    assert [r["ema"] for r in again] == [r["ema"] for r in fresh]


def test_a_state_is_copied_whole_or_not_at_all(tmp_path: Path):
    torch.set_default_dtype(torch.float32)
    path, told = tmp_path / "state" / "a.safetensors", (3, {"0": {"sw1": [0.5]}}, [1.5, 2.0])
    state.keep(path, {"0.flat": torch.ones(2), "0.sums": torch.ones(2, 1)}, told)
    own = {"0.flat": torch.zeros(2), "0.sums": torch.zeros(2, 1)}
    flat = own["0.flat"]
    for other in (own | {"0.flat": torch.zeros(3)}, {"0.flat": flat}, own | {"0.flat": flat.double()}, own | {"1.flat": flat}):
        assert state.restore(path, other, 2) is None
    assert state.restore(path, own, 3) is None
    facts = {"step": "3", "curves": "{}", "clock": "[1, 2]"}
    odd = {"step": ("x", "null", "9" * 5000), "curves": ("3",), "clock": ("[1, null]", "[" * 50_000)}
    for name, text in [(name, text) for name, texts in odd.items() for text in texts]:
        save_file({"0.flat": torch.ones(2), "0.sums": torch.ones(2, 1)}, tmp_path / "b", facts | {name: text})
        assert state.restore(tmp_path / "b", own, 2) is None, (name, text[:20])
    assert all((p == 0).all() for p in own.values())
    assert state.restore(path, own, 2) == told and all((p == 1).all() for p in own.values())


@pytest.mark.parametrize("name", [name for name in REFERENCES if name not in ("flow_matching", "shortcut")])
def test_the_cap_of_the_gap_is_also_that_of_reference_recipes(name: str):
    recipe = reference(name, replace(SETTINGS, largest_gap=0.1), ms.MLP(2))
    draws = ms.Loss(recipe, check=False).draw(torch.zeros(512, 2), progress=0.5, generator=ms.key(0))
    assert 0.09 < max(float((b.t - b.r).max()) for _, b in draws) <= 0.1 + 1e-6


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_recipe_trains(name: str, tmp_path: Path):
    torch.set_default_dtype(torch.float32)
    (record,) = train(Job((("eight_gaussians", 0),)), replace(SETTINGS, arms=(name,)), folder(tmp_path, "a"), quiet)
    assert record["id"] == name and record["probe"] is None
    assert all(value > 0 for value in record["ema"]["sw1"].values())
    assert ("64" in record["ema"]["sw1"]) == (name == "flow_matching")


# Arms and numbers -------------------------------------------------------------------------------------------------------------------


def test_arms_name_their_models_and_equal_ones_train_once():
    assert [spec.id for _, spec in models("paper", (0, 0.5, 1))] == ["beta 0", "ema 0.5", "ema 1 anchor"]
    assert [spec.id for _, spec in models("plain@1", (0, 0.5))] == ["ema 1"]
    assert [spec.id for _, spec in models("posterior-both@0,1", (0,))] == ["beta 0", "posterior-both 1"]
    settings = replace(SETTINGS, arms=("paper", "plain", "own", "anchored@0", "matrix"), betas=(0, 1))
    assert [spec.id for spec in settings.specs()] == ["beta 0", "ema 1 anchor", "ema 1", "own 1", "beta 0 anchor", "ema matrix"]
    assert len(settings.lines()) == 8
    for arm in ARMS:
        found = [spec for _, spec in models(arm, (0, 0.25, 1))]
        assert len(found) == (1 if arm in SINGLE else 3)
        assert len({spec.id for spec in found}) == len(found)


def test_coefficients_are_sorted_numbers():
    assert coefficients(("1", "0.5", "0", "0.50")) == [0, 0.5, 1]


def test_a_diverged_model_is_null_not_an_error(tmp_path: Path):
    torch.set_default_dtype(torch.float32)
    records = train(Job((("two_moons", 0),)), replace(SETTINGS, lr=1e6, arms=("paper", "alpha_flow")), folder(tmp_path, "a"), quiet)
    assert len(records) == 4 and any(r["raw"]["sw1"]["1"] is None for r in records)


def test_numbers_that_are_not_finite_become_null():
    assert records.finite({"a": float("nan"), "b": [1.0, float("inf")], "c": "x"}) == {"a": None, "b": [1.0, None], "c": "x"}


def test_a_whole_sweep_as_one_ensemble_equals_one_model_at_a_time(tmp_path: Path):
    """What a GPU runs, on the processor: cohorts by structure, several sets and seeds in one job."""
    torch.set_default_dtype(torch.float32)
    settings = replace(SETTINGS, sets=("two_moons", "pinwheel"), seeds=(0, 1), arms=("paper", "own-both@0.5,1", "shortcut"), steps=40)
    pairs = tuple((data, seed) for data in settings.sets for seed in settings.seeds)
    alone = [record for pair in pairs for record in train(Job((pair,)), settings, folder(tmp_path, "-".join(map(str, pair))), quiet)]
    together = train(Job(pairs), replace(settings, ensemble=True), folder(tmp_path, "all"), quiet)
    found = {(r["set"], r["seed"], r["id"]): r for r in together}
    assert len(found) == len(alone) == 4 * len(settings.specs())
    for record in alone:
        other = found[record["set"], record["seed"], record["id"]]
        assert other["ema"]["sw1"]["1"] == pytest.approx(record["ema"]["sw1"]["1"], rel=1e-4, abs=1e-5)
        assert other["curve"]["residual"] == pytest.approx(record["curve"]["residual"], rel=1e-4)


# Stopping ----------------------------------------------------------------------------------------------------------------------------


def test_models_that_were_measured_before_a_stop_are_kept_and_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.set_default_dtype(torch.float32)
    settings = SETTINGS
    job, made, measured = jobs.Job((("eight_gaussians", 0),)), [], []
    count = len(settings.specs())
    assert count >= 3
    for name in ("straight", "again"):
        (tmp_path / name).mkdir()
    straight = jobs.train(job, settings, tmp_path / "straight", lambda *_: False)
    scored = jobs._Work._record

    def record(self, i, weights, probe):
        measured.append(i)
        return scored(self, i, weights, probe)

    def tell(what: str, *values: object) -> bool:
        made.extend([what] if what == "resumed" else [])
        return what == "stop?" and len(measured) >= count - 1  # while the models are measured

    monkeypatch.setattr(jobs._Work, "_record", record)
    with pytest.raises(Stopped):
        jobs.train(job, settings, tmp_path / "again", tell)
    assert len(measured) == count - 1
    again = jobs.train(job, settings, tmp_path / "again", lambda what, *_: bool(made.append(what)))
    assert len(measured) == count and made.count("resumed") == count  # the training, and all models but one
    timed = ("seconds", "measuring")
    assert [{k: v for k, v in r.items() if k not in timed} for r in again] == [
        {k: v for k, v in r.items() if k not in timed} for r in straight
    ]


def test_a_sweep_that_goes_on_counts_what_is_finished(tmp_path: Path):
    sweep = Sweep("toy", replace(SETTINGS, seeds=(0, 1)))
    todo = sweep.left(tmp_path)
    whole, half = pool.Board(sweep, todo), pool.Board(sweep, todo[-1:])
    assert whole.done == 0 and half.bar.pace.total == whole.bar.pace.total and half.done == SET_COST + (whole.bar.pace.total - SET_COST) / 2
