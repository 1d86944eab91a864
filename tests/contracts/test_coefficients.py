"""What coefficients owe their caller: schedules on numbers and tensors, estimates that learn in training, checkpoints, several ranks."""

import copy
import math
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import meanstep as ms
from meanstep import recipes, velocities
from meanstep.coefficients import Climber, Running, binned, constant, cosine, linear, logistic, over_t, sigmoid
from meanstep.types import Bridge

F = torch.float64


def at(schedule: Any, progress: float | Tensor) -> float | Tensor:
    z = torch.zeros(1, 2)
    return schedule(Bridge(z, z, z[:, 0], z[:, 0], progress=progress))


# Schedules ---------------------------------------------------------------------------------------------------------------------------

SCHEDULES = {
    "constant": (constant(0.3), 0.3, 0.3),
    "linear": (linear(0.0, 1.0), 0.0, 1.0),
    "cosine up": (cosine(0.1, 0.9), 0.1, 0.9),
    "cosine down": (cosine(1.0, 0.0, until=0.5), 1.0, 0.0),
    "logistic up": (logistic(0.0, 1.0), 0.0, 1.0),
    "logistic down": (logistic(0.9, 0.2, steepness=20.0, middle=0.3), 0.9, 0.2),
    "sigmoid": (sigmoid(), 1.0, 0.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_reach_their_ends_and_take_tensors(name: str):
    schedule, start, end = SCHEDULES[name]
    assert at(schedule, 0.0) == pytest.approx(start, abs=1e-12)
    assert at(schedule, 1.0) == pytest.approx(end, abs=1e-12)
    values = [float(at(schedule, p)) for p in torch.linspace(0, 1, 41).tolist()]
    steps = [(b - a) * (end - start) for a, b in pairwise(values)]
    assert min(steps) >= -1e-12  # it never turns
    for p in (0.1, 0.25, 0.6):
        assert float(at(schedule, torch.tensor(p, dtype=F))) == pytest.approx(float(at(schedule, p)), abs=1e-12)


def test_the_middle_of_a_curve():
    assert at(cosine(0.0, 1.0, until=0.5), 0.25) == pytest.approx(0.5)
    assert at(logistic(0.0, 1.0), 0.5) == pytest.approx(0.5)
    assert at(cosine(0.2, 0.8), 0.25) == pytest.approx(0.2 + 0.6 * (1 - math.cos(math.pi / 4)) / 2)


def test_a_coefficient_over_t_is_a_power_of_t():
    b = draw(50, 3)._replace(progress=None)
    torch.testing.assert_close(over_t(0.2, 1.0, 4)(b), 0.2 + 0.8 * b.t**4)
    torch.testing.assert_close(over_t(1.0, 0.0)(b), 1 - b.t)
    with pytest.raises(ValueError, match="power"):
        over_t(0.0, 1.0, 0.0)


def test_schedules_refuse_what_makes_no_curve():
    with pytest.raises(ValueError, match="steepness"):
        logistic(0.0, 1.0, steepness=0.0)
    with pytest.raises(ValueError, match="until"):
        cosine(0.0, 1.0, until=0.0)
    with pytest.raises(ValueError, match="progress"):
        at(cosine(0.0, 1.0), None)  # type: ignore[arg-type]


# The running estimate ----------------------------------------------------------------------------------------------------------------

GAUSSIAN = ms.Gaussian(torch.zeros(2, dtype=F), torch.tensor([1.5, 0.6], dtype=F))


def draw(n: int, *path: int, times: Any = ms.times.uniform) -> Bridge:
    g = ms.key(*path)
    x, e = GAUSSIAN.sample(n, g), torch.randn(n, 2, generator=g, dtype=F)
    r, t = (p.to(F) for p in times((n,), g))
    z, v = ms.paths.linear(x, e, t)
    return Bridge(z, v, r, t)


def test_a_running_estimate_starts_at_its_prior():
    table = torch.linspace(0, 1, 16, dtype=F).view(4, 4)
    b = draw(100, 0)
    torch.testing.assert_close(Running(4, table)(b), binned(torch.linspace(0, 1, 5, dtype=F), table)(b))
    assert Running(prior=0.3)(b).unique().tolist() == [0.3]


def test_a_running_estimate_finds_the_exact_table():
    """Where many rows fell: the minimiser of each bin by the closed Jacobian and noise."""
    run = Running(4, 0.5, rows=1000, keep=1.0)
    oracle = velocities.oracle(GAUSSIAN.velocity)
    for k in range(40):
        run.observe(GAUSSIAN, draw(1000, 1, k), oracle)
    b = draw(100_000, 2)
    j, s = -GAUSSIAN.flow_jacobian(b.z, b.r, b.t), GAUSSIAN.covariance(b.z, b.t)
    m = j.diagonal(dim1=-2, dim2=-1)
    noise = s.diagonal(dim1=-2, dim2=-1)
    swing, curvature = (m * (m + 1) * noise).sum(-1), ((m + 1) ** 2 * noise).sum(-1)
    sums = torch.zeros(2, 16, dtype=F).index_add_(1, run._cells(b), torch.stack([swing, curvature])).view(2, 4, 4)
    off = (run.table - (sums[0] / sums[1]).clamp(0, 1)).abs()
    inside = torch.ones(4, 4, dtype=torch.bool).tril(-1)  # next to the diagonal the noise hardly depends on it
    assert off[inside].max() < 0.1
    assert run.table.min() >= 0 and run.table.max() <= 1


def test_empty_bins_take_the_pooled_value_and_few_rows_count_little():
    oracle = velocities.oracle(GAUSSIAN.velocity)

    def corner(shape: tuple[int, ...], g: torch.Generator) -> tuple[Tensor, Tensor]:
        return 0.05 * torch.rand(shape, generator=g), 0.9 + 0.05 * torch.rand(shape, generator=g)

    run = Running(4, 0.5, rows=2000, strength=1.0)
    run.observe(GAUSSIAN, draw(2000, 3, times=corner), oracle)
    pooled = (run.swing.sum() / run.curvature.sum()).clamp(0, 1)
    torch.testing.assert_close(run.table[0, 0], (2000 * pooled + 0.5) / 2001)
    few = Running(4, 0.5, rows=1, strength=1000.0)
    few.observe(GAUSSIAN, draw(1, 3, times=corner), oracle)
    assert (few.table - 0.5).abs().max() < 2e-3


def test_old_moments_fade_and_diagonal_rows_say_nothing():
    run, oracle = Running(rows=50, keep=0.5), velocities.oracle(GAUSSIAN.velocity)
    for k in range(30):
        run.observe(GAUSSIAN, draw(50, 4, k), oracle)
    assert run.seen.sum().item() == pytest.approx(100, rel=1e-6)
    still = draw(50, 5)
    before = run.table.clone()
    fresh = Running()
    fresh.observe(GAUSSIAN, still._replace(r=still.t), oracle)
    assert fresh.seen.sum() == 0 and torch.equal(fresh.table, torch.ones(8, 8, dtype=F))
    assert torch.equal(before, run.table)


def test_a_running_estimate_trains_and_is_restored():
    net, ema = ms.MLP(2, 16, 2, generator=ms.key(0)), ms.MLP(2, 16, 2, generator=ms.key(1))
    run = Running(4, 0.5, rows=16)
    loss = ms.Loss(recipes.coefficient(run, velocities.of(ema)))
    x = torch.randn(64, 2, generator=ms.key(2))
    before = torch.get_rng_state()
    for step in range(3):
        loss(net, x, generator=ms.key(3, step)).loss.backward()
        run.observe(net, loss.draw(x, generator=ms.key(4, step))[0][1], velocities.of(ema), velocities.own)
    assert torch.equal(before, torch.get_rng_state())
    assert run.seen.sum() > 0 and not run.table.requires_grad
    restored = Running(4, 0.5, rows=16)
    restored.load_state_dict(copy.deepcopy(run.state_dict()))
    for one in (run, restored):
        one.observe(net, loss.draw(x, generator=ms.key(5))[0][1], velocities.of(ema))
    assert all(torch.equal(p, q) for p, q in zip(run.buffers(), restored.buffers(), strict=True))
    value = restored(loss.draw(x, generator=ms.key(6))[0][1])
    assert value.dtype == torch.float32 and ((value >= 0) & (value <= 1)).all()


def test_images_masks_and_ensembles_are_observed():
    net = ms.fields.DiT(4, 2, 2, 16, 1, 2, generator=ms.key(0))
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=ms.key(1, k)))
    z, v = (torch.randn(6, 2, 4, 4, generator=ms.key(2, k)) for k in range(2))
    r, t = ms.times.uniform((6,), ms.key(3))
    mask = torch.zeros(6, 2, dtype=torch.bool)
    mask[:, 0] = True
    run, other = Running(rows=4), Running(rows=4)
    run.observe(net, Bridge(z, v, r, t, mask=mask), velocities.own)
    other.observe(net, Bridge(z, v, r, t), velocities.own)
    assert run.seen.sum() == other.seen.sum() == 4
    assert 0 < run.curvature.sum() < other.curvature.sum()
    nets = ms.MLP(2, 8, 1, members=(3,), generator=ms.key(0))
    r, t = ms.times.uniform((3, 6), ms.key(3))
    many = Running(rows=4)
    many.observe(nets, Bridge(torch.randn(3, 6, 2), torch.randn(3, 6, 2), r, t), velocities.own)
    assert many.seen.sum() == 12 and many(Bridge(z, v, r, t)).shape == (3, 6)


@pytest.mark.parametrize("wrong", [{"bins": 0}, {"rows": 0}, {"keep": 0.0}, {"strength": 0.0}, {"prior": 1.5}])
def test_a_running_estimate_refuses_nonsense(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"of at least 1, got 0|in \(0, 1\], got 0|a positive number, got 0|must lie in"):
        Running(**wrong)


def rank_main(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    run = Running(4, rows=50)
    for step in range(2):
        run.observe(GAUSSIAN, draw(50, 9, step, rank), velocities.oracle(GAUSSIAN.velocity))
    torch.save(run.state_dict(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_share_one_estimate(tmp_path: Path):
    """Both hold the sums over both ranks' rows: those of one process that observed them together."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ranks = [subprocess.Popen([sys.executable, __file__, str(k), str(port), str(tmp_path)]) for k in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = Running(4, rows=100)
    for step in range(2):
        both = Bridge(*(torch.cat(parts) for parts in zip(*(draw(50, 9, step, k)[:4] for k in range(2)), strict=True)))
        alone.observe(GAUSSIAN, both, velocities.oracle(GAUSSIAN.velocity))
    for name, value in alone.state_dict().items():
        assert torch.equal(ours[name], theirs[name])
        torch.testing.assert_close(ours[name], value)


# The climber ---------------------------------------------------------------------------------------------------------------------------


def test_the_climbers_rule():
    climber = Climber(0.25, 0.25)
    moves = [climber.report(metric) for metric in (5.0, 4.0, 4.5, 4.4, 4.4, math.nan, 4.0)]
    # first: up; fell: up again; rose: back by half; fell: on; did not fall: half again the other way; nan: the same; fell: on
    assert moves == [0.5, 0.75, 0.625, 0.5, 0.5625, 0.53125, 0.5]


@pytest.mark.parametrize("best", [0.0, 0.13, 0.62, 1.0])
def test_the_climber_finds_a_minimum(best: float):
    climber = Climber(0.5, 0.25, least=0.01)
    for _ in range(40):
        climber.report((float(climber.beta) - best) ** 2)
    assert abs(float(climber.beta) - best) <= 0.04


def test_the_climber_is_a_coefficient_and_is_restored():
    climber, other = Climber(0.5, margin=0.01), Climber(0.1, 0.5)
    for metric in (3.0, 2.0, 2.5):
        climber.report(metric)
    other.load_state_dict(climber.state_dict())
    other.margin = climber.margin
    assert [climber.report(m) for m in (1.0, 1.2)] == [other.report(m) for m in (1.0, 1.2)]
    net, loss = ms.MLP(2, 8, 1, generator=ms.key(0)), ms.Loss(recipes.coefficient(climber, velocities.own))
    assert loss(net, torch.randn(16, 2, generator=ms.key(1)), generator=ms.key(2)).loss.isfinite()
    with pytest.raises(ValueError, match="least"):
        Climber(0.5, step=0.001)


if __name__ == "__main__":  # one rank
    rank_main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
