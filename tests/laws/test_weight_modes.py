"""What the adaptive weight regresses on, eq. (61), (62): its potential, where it settles between two points, when the mean is stable."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep.types import Bridge
from meanstep.weights import adaptive

exactly = partial(torch.tensor, dtype=torch.float64)


def gradient(u: Tensor, values: Tensor, shares: Tensor, p: float, c: float) -> Tensor:
    """Of the weighted loss in the prediction `u` `[D]`, over velocities `values` `[N, D]` of these shares, by the weight itself."""
    leaf, rows = u.clone().requires_grad_(), len(values)
    t = torch.zeros(rows, dtype=u.dtype)
    b = Bridge(values, values, t, t)
    error = (leaf - values).square().mean(-1)
    (found,) = torch.autograd.grad((shares * adaptive(p, c)(error, b)).sum(), leaf)
    return found


def settled(u: Tensor, values: Tensor, shares: Tensor, p: float, c: float) -> Tensor:
    """Where iteratively reweighted least squares ends that starts at `u`, which is what training does with a constant weight a step."""
    for _ in range(2000):
        w = shares / ((u - values).square().sum(-1) + c) ** p
        u = (w[:, None] * values).sum(0) / w.sum()
    return u


@pytest.mark.parametrize("p", [0.0, 0.5, 0.75, 1.0])
def test_the_gradient_is_that_of_the_potential(p: float):
    u, values, c = torch.randn(3, generator=ms.key(0)).double(), torch.randn(7, 3, generator=ms.key(1)).double(), 0.3
    shares = torch.rand(7, generator=ms.key(2)).double()
    leaf = u.clone().requires_grad_()
    q = (leaf - values).square().sum(-1)
    potential = (shares * (torch.log(q + c) if p == 1 else (q + c) ** (1 - p) / (1 - p))).sum()
    (expected,) = torch.autograd.grad(potential, leaf)
    torch.testing.assert_close(gradient(u, values, shares, p, c), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("c", [1e-4, 0.1, 0.9])
def test_between_two_points_p_1_settles_at_the_modes(c: float):
    """`y = +- sqrt(L^2 / 4 - c)` and 0, whichever way it tipped; L = 2."""
    values, shares = exactly([[-1.0], [1.0]]), exactly([0.5, 0.5])
    for y in (0.0, math.sqrt(1 - c), -math.sqrt(1 - c)):
        assert gradient(exactly([y]), values, shares, 1.0, c).abs().max() < 1e-12
    for tip in (1e-3, -1e-3):
        end = settled(exactly([tip]), values, shares, 1.0, c)
        assert end.item() == pytest.approx(math.copysign(math.sqrt(1 - c), tip), rel=1e-6)


@pytest.mark.parametrize("p", [0.0, 0.5, 0.6, 0.75, 1.0])
def test_the_mean_of_two_points_is_stable_exactly_from_the_stated_constant_on(p: float):
    values, shares, tip = exactly([[-1.5], [1.5]]), exactly([0.5, 0.5]), exactly([1e-4])
    edge = (2 * p - 1) * 1.5**2
    for c, stable in ((edge * 1.05, True), (edge * 0.95, False)) if edge > 0 else ((1e-3, True),):
        assert (gradient(tip, values, shares, p, c) > 0).item() == stable
        assert (settled(tip, values, shares, p, c).abs() < 1e-3).item() == stable


def test_unequal_points_tip_p_one_half_to_the_heavier_and_p_0_to_neither():
    """Of 0.7 and 0.3 the mean is -0.4; the median of two points is the heavier one."""
    values, shares = exactly([[-1.0], [1.0]]), exactly([0.7, 0.3])
    start = torch.zeros(1).double()
    assert settled(start, values, shares, 0.0, 0.01).item() == pytest.approx(-0.4, abs=1e-12)
    assert settled(start, values, shares, 0.5, 1e-4).item() < -0.98


def test_spread_in_other_directions_counts_as_the_constant():
    """Two clouds of 200 points: with `s^2 = 4` in 16 other directions the mean is stable at p = 1, with 0.01 it is not."""
    side = exactly([-1.0, 1.0]).repeat_interleave(200)
    apart = torch.randn(400, 16, generator=ms.key(3)).double()
    apart = apart - apart.mean(0)
    for spread, stable in ((4.0, True), (0.01, False)):
        values = torch.cat([side[:, None], apart * math.sqrt(spread / 16)], 1)
        end = settled(exactly([0.05, *[0.0] * 16]), values, torch.ones(400).double(), 1.0, 1e-3)
        assert (abs(end[0].item()) < 0.3) == stable, end[0]
