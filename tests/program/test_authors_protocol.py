"""The authors' protocol against its independent write-out (tests/laws/authors.py), in float64, on the same draws."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import meanstep as ms
from meanstep.fields.flat import Runner
from meanstep.metrics.distances import Sliced
from meanstep.program.reproduce.points.command import THERE, _untold
from meanstep.program.reproduce.points.draws import Block, Needs, Stream, stack
from meanstep.program.reproduce.points.engine import Cohort
from meanstep.program.reproduce.points.jobs import Job, train
from meanstep.program.reproduce.points.measure import Judge
from meanstep.program.reproduce.points.protocols import SwappedShape, protocol
from meanstep.program.reproduce.points.sets import published_law
from meanstep.program.reproduce.points.settings import BLOCK, PUBLISHED, SETS, SINGLE, SWEPT, Settings, Spec
from tests.laws import authors

SETTINGS = Settings(
    ("swiss_roll",), (0.0, 1.0), (42,), ("plain",), 96, protocol="authors", largest_gap=0.5, centres="redrawn", reference=16, **PUBLISHED
)
FAMILY = [
    Spec(),
    Spec(beta=0.5, proxy="ema"),
    Spec(beta=1.0, proxy="ema"),
    Spec(beta=1.0, proxy="ema", sigma="one"),
    Spec(beta=1.0, proxy="ema", sigma="t2"),
    Spec(beta=0.5, proxy="ema", sigma="t"),
]
SIGMA = {"one": torch.ones_like, "t": lambda t: t, "t2": lambda t: t * t}


def stream(name: str = "swiss_roll", settings: Settings = SETTINGS) -> Stream:
    return Stream(published_law(name, settings).to(torch.float64), name, 42)


def layers_of(shape: SwappedShape, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(w[0], b[0, 0]) for w, b in shape.layers(flat)]


def weights(shape: SwappedShape, seed: int) -> Tensor:
    """Weights of an ordinary size, also in the last layer."""
    return torch.randn(1, shape.size, generator=ms.key(seed, "weights"), dtype=torch.float64) / 12


@pytest.mark.parametrize("name", [*SETS, "mixture-16"])
def test_a_batch_is_drawn_as_written_out(name: str):
    n, law = 30, published_law(name, SETTINGS).to(torch.float64)
    x = law.sample(n, ms.key(3, name))
    g = ms.key(3, name)

    def uniform(k: int) -> Tensor:
        return torch.rand(k, generator=g, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    def whole(high: int) -> Tensor:
        return torch.randint(high, (n,), generator=g).double()

    expected = {
        "swiss_roll": lambda: authors.swiss_roll(uniform(n), normal(n, 2)),
        "checkerboard": lambda: authors.checkerboard(uniform(n), uniform(n), whole(2)),
        "pinwheel": lambda: authors.pinwheel(whole(5), normal(n, 2)),
        "eight_gaussians": lambda: authors.eight_gaussians(whole(8), normal(n, 2)),
        "two_moons": lambda: authors.two_moons(uniform(n // 2), uniform(n - n // 2), normal(n, 2)),
        "two_spirals": lambda: authors.two_spirals(uniform(n), normal(n, 2)),
        "mixture-16": lambda: authors.dense_mixture(normal(64, 16), whole(64), normal(n, 16)),
    }[name]()
    torch.testing.assert_close(x, expected, rtol=1e-13, atol=1e-13)


def test_centres_are_redrawn_for_every_batch_unless_they_are_fixed():
    moved = {}
    for kind in ("redrawn", "fixed"):
        law = published_law("mixture-16", replace(SETTINGS, centres=kind))
        one, two = law.sample(4096, ms.key(0, "one")), law.sample(4096, ms.key(0, "two"))
        moved[kind] = (one.mean(0) - two.mean(0)).square().sum().item()
    # rows alone: 2 (16 std^2 + radius^2) / 4096 = 0.003; the mean of 64 other centres: 2 radius^2 / 64 = 0.07 more
    assert moved["fixed"] < 0.01 < 0.03 < moved["redrawn"]


@pytest.mark.parametrize("largest_gap", [0.5, 0.2, 1.0])
def test_times_rows_and_features_are_those_written_out(largest_gap: float):
    settings, shape = replace(SETTINGS, largest_gap=largest_gap), SwappedShape(2)
    block = stream().block(1, shape, settings, Needs(False, False, False), dtype=torch.float64)
    g = ms.key(42, "train", "swiss_roll", 1)
    x = torch.stack([published_law("swiss_roll", settings).to(torch.float64).sample(256, g) for _ in range(BLOCK)])
    e = torch.randn(x.shape, generator=g).double()
    first, second, coin = torch.rand(3, BLOCK, 256, generator=g)
    for k in (0, 7, BLOCK - 1):
        r, t = authors.times(first[k], second[k], coin[k], largest_gap)
        order = (r == t).int().argsort(stable=True)
        step, n = block.step(k), int((r < t).sum())
        assert torch.equal(block.t[0, k], t[order].double())
        assert torch.equal(block.r[0, k], r[order].double())
        assert block.moving[k] == n == step.gap.shape[1]
        assert (t - r).max() <= largest_gap + 1e-7
        assert torch.equal(block.x[0, k], x[k][order])
        expected = authors.features((1 - t.double())[:, None] * x[k] + t.double()[:, None] * e[k], r.double(), t.double())[order]
        torch.testing.assert_close(step.inputs[0], expected, rtol=1e-12, atol=1e-12)
    assert {block.moving[k] for k in range(BLOCK)} != {settings.moving}  # the row's own coin decides, not a share of the batch


def test_the_first_weights_are_those_written_out():
    shape = SwappedShape(16)
    g = ms.key(0, "initial")
    expected = authors.initial([torch.empty(*size).uniform_(-1, 1, generator=g) for size in shape.sizes])
    found = layers_of(shape, shape.initial(ms.key(0, "initial"))[None])
    assert [tuple(w.shape) for w, _ in found] == [(80, 128), (128, 128), (128, 128), (128, 16)]
    for (w, b), (v, c) in zip(found, expected, strict=True):
        torch.testing.assert_close(w, v, rtol=1e-6, atol=0)
        assert torch.equal(b, c)


@pytest.mark.parametrize("spec", FAMILY, ids=lambda spec: spec.id)
def test_loss_and_gradient_are_those_written_out(spec: Spec):
    shape = SwappedShape(2)
    block = stream().block(0, shape, SETTINGS, Needs.of([spec]), dtype=torch.float64)
    cohort = Cohort(shape, [spec], weights(shape, 1), [0], SETTINGS)
    cohort.proxy.copy_(weights(shape, 2))
    residual = cohort.gradient(block, 5)[:, 0]

    flat = cohort.flat.clone().requires_grad_()
    layers, average = layers_of(shape, flat), layers_of(shape, cohort.proxy)
    x, e, r, t = (p[0, 5] for p in (block.x, block.e, block.r, block.t))
    weight = None
    if spec.sigma:
        n, signs = block.moving[5], torch.ones_like(x)
        signs[:n] = block.step(5).signs[0]
        assert set(signs.unique().tolist()) == {-1, 1}
        z = (1 - t)[:, None] * x + t[:, None] * e
        weight = authors.trace_weight([(w.detach(), b.detach()) for w, b in layers], z, r, t, SIGMA[spec.sigma](t), signs)
    expected = torch.autograd.grad(authors.loss(layers, average, x, e, r, t, spec.beta, weight), flat)[0]
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(cohort.grad, expected, rtol=1e-10, atol=1e-12)
    errors = authors.errors([(w.detach(), b.detach()) for w, b in layers], average, x, e, r, t, spec.beta) / 2
    torch.testing.assert_close(residual, torch.stack([errors.mean(), errors[r < t].mean()]), rtol=1e-10, atol=0)


def test_signs_are_drawn_for_every_row_step_and_block():
    needs = Needs.of([Spec(beta=1.0, proxy="ema", sigma="one")])
    signs = [b.step(k).signs[0, :64] for b in (stream().block(i, SwappedShape(2), SETTINGS, needs) for i in (0, 1)) for k in (0, 1)]
    assert len({tuple(part.flatten().tolist()) for part in signs}) == 4
    assert all(len(part.unique(dim=0)) == 4 for part in signs)


def test_a_training_is_the_loop_written_out():
    """Adam by torch, the learning rate's cosine, the average from the first weights: 40 steps of a training of 96."""
    shape, spec = SwappedShape(2), Spec(beta=1.0, proxy="ema")
    initial = weights(shape, 3)
    cohort = Cohort(shape, [spec], initial, [0], SETTINGS)
    needs = Needs.of([spec])
    blocks = [stream().block(k, shape, SETTINGS, needs, dtype=torch.float64) for k in (0, 1)]
    cohort.run(blocks[0], 0, BLOCK)
    cohort.run(blocks[1], BLOCK, 40)

    flat = initial.clone().requires_grad_()
    average = [(w.detach().clone(), b.detach().clone()) for w, b in layers_of(shape, flat)]
    optimiser = torch.optim.Adam([flat], lr=authors.RATE)
    for step in range(40):
        block, k = blocks[step // BLOCK], step % BLOCK
        optimiser.param_groups[0]["lr"] = authors.rate(step, SETTINGS.steps)
        optimiser.zero_grad()
        x, e, r, t = (p[0, k] for p in (block.x, block.e, block.r, block.t))
        authors.loss(layers_of(shape, flat), average, x, e, r, t, 1.0).backward()
        optimiser.step()
        average = authors.averaged(average, [(w.detach(), b.detach()) for w, b in layers_of(shape, flat)])
    torch.testing.assert_close(cohort.flat, flat.detach(), rtol=1e-10, atol=1e-11)
    for found in (cohort.ema, cohort.proxy):
        for (w, b), (v, c) in zip(layers_of(shape, found), average, strict=True):
            torch.testing.assert_close(w, v, rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(b, c, rtol=1e-10, atol=1e-11)


def test_samples_and_their_distance_are_those_written_out():
    shape = SwappedShape(2)
    flat = weights(shape, 4)
    runner = Runner(shape, flat)
    settings = replace(SETTINGS, samples=256)
    judge = Judge(stream(settings=settings), settings)
    noise = judge.noise.double()
    judge.noise = noise
    samples = judge.samples(runner, 256)
    expected = authors.sampled(layers_of(shape, flat), noise[0])
    torch.testing.assert_close(samples, expected, rtol=1e-12, atol=1e-12)
    normals = torch.randn(500, 2, generator=ms.key(42, "evaluate", "swiss_roll", "directions"), dtype=torch.float64)
    distance = authors.sliced_wasserstein(expected, judge.data.double(), normals)
    found = Sliced(judge.data.double(), protocol(settings).directions(2, settings, judge.path))(samples)
    assert found == pytest.approx(distance, rel=1e-10)
    assert judge.scores(runner)["sw1"]["1"] == pytest.approx(distance, rel=1e-10)


@pytest.mark.parametrize("name", ["two_moons", "two_spirals", "pinwheel"])
def test_parts_of_the_judged_rows_are_samples_too(name: str):
    """Energy distance, training curves and pictures take the first rows; the two sets in halves are drawn one half after the other."""
    judge = Judge(stream(name), SETTINGS)
    rows = published_law(name, SETTINGS).to(torch.float64).sample(SETTINGS.samples, ms.key(*judge.path, "data"))
    assert torch.equal(judge.data.sort(0).values, rows.sort(0).values)
    for part in (judge.data[:1000], judge.data[:2048]):
        assert (part.mean(0) - rows.mean(0)).norm() < 6 * (rows.var(0).sum() / len(part)).sqrt()
    assert judge.floor()["energy"] < 0.02


def test_the_variance_of_a_batch_is_that_of_eight_at_the_same_weights():
    shape, spec = SwappedShape(2), Spec(beta=0.5, proxy="ema")
    cohort = Cohort(shape, [spec], weights(shape, 5), [0], SETTINGS)
    block = stream().block(9, shape, SETTINGS, Needs.of([spec]), "variance", torch.float64)
    found = cohort.variance(block)
    flat, average = cohort.flat.clone().requires_grad_(), layers_of(shape, cohort.proxy)
    gradients = []
    for k in range(8):
        x, e, r, t = (p[0, k] for p in (block.x, block.e, block.r, block.t))
        gradients.append(torch.autograd.grad(authors.loss(layers_of(shape, flat), average, x, e, r, t, 0.5), flat)[0][0])
    assert found.item() == pytest.approx(authors.gradient_variance(torch.stack(gradients)), rel=1e-10)


def test_a_record_is_of_the_averaged_weights_and_of_the_second_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One, two and four jumps and the fewest within the cap by the average; the variance on draws that nothing trains on."""
    settings = replace(SETTINGS, steps=64, batch=16, samples=64, width=16, largest_gap=0.3)
    asked: dict[str, list[int]] = {"train": [], "variance": []}
    draw = Stream.block

    def spied(self: Stream, index: int, shape: Any, settings: Settings, needs: Needs, of: str = "train", dtype: Any = None) -> Block:
        asked[of].append(index)
        return draw(self, index, shape, settings, needs, of, dtype)

    monkeypatch.setattr(Stream, "block", spied)
    records = train(Job((("two_moons", 42),)), settings, tmp_path, lambda *about: False)
    assert asked == {"train": [0, 1], "variance": [36, 44, 52, 60]}
    state = load_file(tmp_path / "state" / "two_moons-42.safetensors")
    judge = Judge(Stream(published_law("two_moons", settings), "two_moons", 42), settings)
    for k, record in enumerate(records):
        flat, ema = (Runner(SwappedShape(2, 16), state[f"{k}.{name}"]) for name in ("flat", "ema"))
        assert record["ema"] == judge.scores(ema, (1, 2, 4))
        assert record["raw"] == judge.scores(flat) and record["raw"]["sw1"]["1"] != record["ema"]["sw1"]["1"]
        assert record["variance"] > 0
    assert len(records) == 2


def test_a_member_of_an_ensemble_trains_as_if_alone():
    """Padded rows, of which each stream has another number, change nothing."""
    settings, shape, spec = replace(SETTINGS, ensemble=True), SwappedShape(2), Spec(beta=1.0, proxy="ema", sigma="t2")
    streams = [Stream(published_law(name, settings).to(torch.float64), name, 0) for name in ("swiss_roll", "two_moons")]
    needs = Needs.of([spec])
    many = stack([s.block(0, shape, settings, needs, dtype=torch.float64) for s in streams])
    together = Cohort(shape, [spec, spec], weights(shape, 6).expand(2, -1).contiguous(), [0, 1], settings)
    sums = together.run(many, 0, 6)
    for i, s in enumerate(streams):
        alone = Cohort(shape, [spec], weights(shape, 6), [0], SETTINGS)
        one = alone.run(s.block(0, shape, SETTINGS, needs, dtype=torch.float64), 0, 6)
        torch.testing.assert_close(together.flat[i], alone.flat[0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(sums[:, i], one[:, 0], rtol=1e-9, atol=0)


def test_the_fewest_jumps_within_a_cap():
    for cap, jumps in ((None, 1), (1.0, 1), (0.5, 2), (0.4, 3), (1 / 3, 3), (0.1, 10)):
        assert ms.times.fewest_jumps(cap) == jumps


def test_both_orders_of_the_sliced_distance():
    x, y = (torch.randn(50, 3, generator=ms.key(k, "both"), dtype=torch.float64) for k in (0, 1))
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=ms.key(2, "both"), dtype=torch.float64), dim=-1)
    apart = (x @ directions.T).sort(0).values - (y @ directions.T).sort(0).values
    assert Sliced(y, directions).both(x) == pytest.approx((apart.abs().mean().item(), apart.square().mean().sqrt().item()), rel=1e-12)


def test_the_arms_that_are_offered_are_those_that_can_be_trained():
    found = [name for name, of in SWEPT.items() if not name.startswith("trace") and not _untold(of(1.0))]
    found += [name for name, spec in SINGLE.items() if not _untold(spec)]
    assert sorted(found) == sorted(THERE)


def test_the_deviations_are_those_of_the_weight():
    from meanstep.program.reproduce.points.settings import SIGMAS
    from meanstep.weights import SIGMAS as KNOWN

    assert tuple(KNOWN) == SIGMAS
