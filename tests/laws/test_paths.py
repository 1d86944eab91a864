"""Paths: their inverse, their derivative, what a change of the data does to the velocity; identities and posteriors on a curved one."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep.objectives import Eulerian, Lagrangian, Matching, Semigroup
from meanstep.paths import Path, linear, trigonometric
from meanstep.shapes import over
from meanstep.terms import Term
from meanstep.types import Bridge
from meanstep.velocities import Posterior, floored, oracle
from meanstep.weights import min_snr


@dataclass(frozen=True)
class Bent(Path):
    """A path of a user's own, which leaves its slopes to forward mode."""

    power: float = 1.5

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t**self.power, t


PATHS = [linear, trigonometric, Bent()]
NAMES = ["linear", "trigonometric", "bent"]


def draws(n: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    g = ms.key(0, "paths")
    x, e = torch.randn(2, n, 3, generator=g, dtype=torch.float64)
    return x, e, 0.02 + 0.96 * torch.rand(n, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_point_and_its_velocity_tell_data_and_noise(path: Path):
    x, e, t = draws()
    z, v = path(x, e, t)
    torch.testing.assert_close(path.data(z, v, t), x, rtol=0, atol=1e-11)
    torch.testing.assert_close(path.noise(z, v, t), e, rtol=0, atol=1e-11)
    b = Bridge(z, v, t, t, path=path)
    assert torch.equal(b.data, path.data(z, v, t)) and torch.equal(b.noise, path.noise(z, v, t))


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_slopes_are_the_derivatives_of_the_scales(path: Path):
    _, _, t = draws()
    h = 1e-5
    for scale in range(2):
        difference = (path.scales(t + h)[scale] - path.scales(t - h)[scale]) / (2 * h)
        torch.testing.assert_close(path.slopes(t)[scale], difference, rtol=0, atol=1e-8)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_span_is_what_a_change_of_the_data_at_a_point_is_divided_by(path: Path):
    """Two data points that lead to the same z: the noise of each by hand, and the difference of their velocities."""
    x, e, t = draws()
    other = x + torch.randn(x.shape, generator=ms.key(1), dtype=x.dtype)
    a, s = (over(p, x) for p in path.scales(t))
    z, v = path(x, e, t)
    same, moved = path(other, (z - a * other) / s, t)
    torch.testing.assert_close(same, z)
    torch.testing.assert_close(moved - v, -(other - x) / over(path.span(t), x), rtol=0, atol=1e-10)


def test_a_path_of_your_own_needs_its_scales_only():
    x, e, t = draws()

    @dataclass(frozen=True)
    class Trig(Path):
        def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return (t * torch.pi / 2).cos(), (t * torch.pi / 2).sin()

    for ours, theirs in zip(Trig()(x, e, t), trigonometric(x, e, t), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    with pytest.raises(NotImplementedError, match="scales"):
        Path()(x, e, t)


# On a curved path --------------------------------------------------------------------------------------------------------------------

MEAN, STD = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 0.7


@dataclass(frozen=True)
class Gaussian:
    """Data N(m, s^2) on any path: everything is known. z_t is N(a m, a^2 s^2 + b^2), and the flow keeps standard scores."""

    path: Path

    def spread(self, t: Tensor) -> Tensor:
        a, b = self.path.scales(t)
        return (a**2 * STD**2 + b**2).sqrt()

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        (a, b), (da, db) = self.path.scales(t), self.path.slopes(t)
        growth = (a * da * STD**2 + b * db) / self.spread(t) ** 2
        return over(da, z) * MEAN + over(growth, z) * (z - over(a, z) * MEAN)

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: None = None) -> Tensor:
        centre = [over(self.path.scales(p)[0], z) * MEAN for p in (r, t)]
        arrived = centre[0] + over(self.spread(r) / self.spread(t), z) * (z - centre[1])
        return (z - arrived) / over(t - r, z)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_the_three_identities_hold_at_the_true_field(path: Path):
    field = Gaussian(path)
    true = oracle(field.velocity)
    x, e, t = draws()
    z, v = path(MEAN + STD * x, e, t)
    b = Bridge(z, v, t * 0.4, t, path=path)

    def arrival(asked: object, there: Bridge) -> Tensor:
        return field.velocity(there.z, there.t)

    for objective in (Eulerian(true, true), Lagrangian(arrival), Semigroup(0.3)):
        found = objective(field, b)
        assert (found.prediction - found.target).abs().max() < 1e-10, objective


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_posterior_is_the_mean_velocity_given_the_point(path: Path):
    """Against normal densities written out, one reference at a time."""
    x, e, t = draws(16)
    reference = torch.randn(9, 3, generator=ms.key(2), dtype=torch.float64)
    z, v = path(x, e, t)
    (a, s), (da, ds) = path.scales(t), path.slopes(t)
    weights = torch.stack([(-(z - over(a, z) * p).square().sum(1) / (2 * s**2)).exp() for p in reference], 1)
    mean = (weights / weights.sum(1, keepdim=True)) @ reference
    wanted = over(da, z) * mean + over(ds, z) * (z - over(a, z) * mean) / over(s, z)
    found = Posterior(reference, include_own=False)(None, Bridge(z, v, t, t, path=path))  # type: ignore[arg-type]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def test_min_snr_follows_the_path():
    _, _, t = draws()
    ratio = (torch.cos(t * torch.pi / 2) / torch.sin(t * torch.pi / 2)) ** 2
    b = Bridge(t[:, None], t[:, None], t, t, path=trigonometric)
    torch.testing.assert_close(min_snr(5.0)(b), ratio.clamp(max=5) / (ratio + 1))


def test_renoising_returns_to_the_path():
    """A field whose one jump lands at 0: what is left is the noise of the last level, times the path's scale."""
    field = lambda z, r, t, y=None: z / over(t, z)  # noqa: E731
    asked: list[Tensor] = []

    def watched(z: Tensor, r: Tensor, t: Tensor, y: None = None) -> Tensor:
        asked.append(z)
        return field(z, r, t)

    z, fresh = torch.randn(2, 5, 3, generator=ms.key(3), dtype=torch.float64)
    ms.samplers.renoise(watched, z, lambda k: fresh, (1.0, 0.4, 0.0), path=trigonometric)
    torch.testing.assert_close(asked[1], torch.sin(torch.tensor(0.4 * torch.pi / 2, dtype=torch.float64)) * fresh)


# What holds on one path, or for fresh noise only, says so ---------------------------------------------------------------------------


def test_a_posterior_refuses_noise_that_was_handed_in():
    x, e = torch.randn(2, 8, 2, generator=ms.key(4))
    loss = ms.Loss(ms.recipes.posterior_meanflow(Posterior(torch.randn(5, 2))))
    net = ms.MLP(2, 8, 1, generator=ms.key(0))
    with pytest.raises(ValueError, match="handed in") as refusal:
        loss(net, x, noise=e)
    assert "\n" not in str(refusal.value)
    assert loss(net, x, noise=e, independent=True).loss.isfinite()
    (_, drawn), *_ = loss.draw(x)
    assert drawn.independent and not loss.draw(x, noise=e)[0][1].independent


def test_noise_that_is_said_to_be_independent_is_what_a_draw_of_ones_own_is():
    x = torch.randn(8, 2, generator=ms.key(4))
    loss, net = ms.Loss((Term(Matching(Posterior(x[:5])), ms.times.uniform),)), ms.MLP(2, 8, 1, generator=ms.key(0))
    drawn = loss.draw(x, generator=ms.key(5))[0][1]
    again = drawn._replace(independent=True)
    assert torch.equal(Posterior(x[:5])(net, drawn), Posterior(x[:5])(net, again))


@pytest.mark.parametrize("path", [trigonometric, Bent()], ids=NAMES[1:])
def test_data_prediction_refuses_another_path(path: Path):
    x, net = torch.randn(8, 2, generator=ms.key(4)), ms.MLP(2, 8, 1, generator=ms.key(0))
    predicts = ms.fields.DataPrediction(net)
    assert ms.Loss(ms.recipes.meanflow())(predicts, x).loss.isfinite()
    with pytest.raises(ValueError, match="path"):
        ms.Loss(ms.recipes.meanflow(), path)(predicts, x)
    with pytest.raises(ValueError, match="linear path"):
        ms.Loss(ms.recipes.meanflow(velocity=floored(ms.velocities.conditional)), path)(net, x)


def test_a_path_is_a_path():
    with pytest.raises(TypeError, match=r"paths\.Path"):
        ms.Loss(ms.recipes.meanflow(), lambda x, e, t: (x, e))  # type: ignore[arg-type]
