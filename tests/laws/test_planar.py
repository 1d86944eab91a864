"""Benchmark laws: scale, velocity and noise against brute-force posteriors over each construction, densities, samplers, precision.

The oracles draw on the standard constructions, written out here once more, and on grids; nothing of ours but the laws' scale is in them.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import kstest
from torch import Tensor

from meanstep.fields import PLANAR, Law, Mixture, gaussian_mixture
from meanstep.fields.boxes import Checkerboard
from meanstep.fields.isotropic import Isotropic

F = torch.float64
LAWS: dict[str, Callable[..., Law]] = {
    **PLANAR,
    "mixture 2": lambda **k: gaussian_mixture(2, **k),
    "mixture 5": lambda **k: gaussian_mixture(5, **k),
}
CURVES = ["swiss_roll", "pinwheel", "two_moons", "two_spirals"]


def bridges(law: Law, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`z_t` at data of the law, half of the times below 0.1, the first 10 of them 0."""
    g = torch.Generator().manual_seed(seed)
    x, e, t = law.sample(n, g), torch.randn(n, law.dim, generator=g, dtype=F), torch.rand(n, generator=g, dtype=F)
    t[: n // 2] *= 0.1
    t[:10] = 0
    return (1 - t[:, None]) * x + t[:, None] * e, t


# --- the standard constructions: points of a fine grid with weights, and the noise about them, before centring and scaling


def fine(name: str, m: int = 12_000) -> tuple[np.ndarray, np.ndarray, float]:
    """Centres `[N, 2]` by the midpoint rule in a uniform variable `u` (for pinwheel and spirals in theta, with its density)."""
    u = (np.arange(m) + 0.5) / m
    one = np.ones(m)
    if name == "swiss_roll":
        theta = 1.5 * np.pi * (1 + 2 * u)
        return np.stack([theta * np.cos(theta), theta * np.sin(theta)], -1), one, 1.0
    if name == "two_moons":
        theta = np.pi * u
        outer, inner = np.stack([np.cos(theta), np.sin(theta)], -1), np.stack([1 - np.cos(theta), 0.5 - np.sin(theta)], -1)
        return np.concatenate([outer, inner]), np.tile(one, 2), 0.1
    if name == "two_spirals":
        theta = 3 * np.pi * u
        arm = np.stack([-np.cos(theta) * theta, np.sin(theta) * theta], -1)
        return np.concatenate([arm, -arm]), np.tile(theta, 2), 1 / 3
    if name == "pinwheel":
        r = 1 + 0.3 * (6 * u - 3)
        arms = [2 * np.pi * k / 5 + 0.25 * np.exp(r) for k in range(5)]
        density = np.exp(-(((r - 1) / 0.3) ** 2) / 2)
        return np.concatenate([np.stack([r * np.cos(a), r * np.sin(a)], -1) for a in arms]), np.tile(density, 5), 0.1
    assert name == "eight_gaussians"
    angle = np.arange(8) * np.pi / 4
    return 4 * np.stack([np.cos(angle), np.sin(angle)], -1), np.ones(8), 0.5


@functools.cache
def normalised(name: str, m: int = 12_000) -> tuple[np.ndarray, np.ndarray, float]:
    """The same, centred and scaled."""
    c, w, std = fine(name, m)
    w = w / w.sum()
    c = c - w @ c
    scale = math.sqrt((w @ c**2).mean() + std**2)
    return c / scale, w, std / scale


def posterior(name: str, z: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of `v` given one `z_t`: over the centres by summation, over the noise in closed form."""
    c, w, std = normalised(name)
    variance = (1 - t) ** 2 * std**2 + t**2
    log = np.log(w) - ((z - (1 - t) * c) ** 2).sum(-1) / (2 * variance)
    p = np.exp(log - log.max())
    p /= p.sum()
    x = c + (1 - t) * std**2 / variance * (z - (1 - t) * c)  # E[x | z, centre]
    v = (z - x) / t
    mean = p @ v
    return mean, np.einsum("k,ki,kj->ij", p, v - mean, v - mean) + np.eye(2) * std**2 / variance


def box_posterior(z: np.ndarray, t: float, m: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """The same for the checkerboard: Gauss-Legendre of order 6 on `m` cells an axis, in blocks of boxes, nothing in closed form."""
    half = 0.5 / math.sqrt(4 / 3)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    cell = half / (m // 6)
    left = -half + cell * (2 * np.arange(m // 6) + 1)
    within, w = (left[:, None] + cell * nodes).ravel(), np.tile(weights, m // 6)
    top, parts = -math.inf, []
    for i in range(4):
        for j in range(4):
            if np.floor(i - 2) % 2 == j % 2:  # FFJORD: rows 0, 2 where floor(x1) is even, 1, 3 where it is odd
                x, y = (2 * i - 3) * half + within, (2 * j - 3) * half + within
                lx, ly = (-((q - (1 - t) * s) ** 2) / (2 * t * t) for q, s in ((z[0], x), (z[1], y)))
                top = max(top, lx.max() + ly.max())
                parts.append((x, y, lx, ly))
    total, first, second = 0.0, np.zeros(2), np.zeros((2, 2))
    for x, y, lx, ly in parts:
        p, q = w * np.exp(lx - lx.max()), w * np.exp(ly - ly.max())
        mass = math.exp(lx.max() + ly.max() - top)
        vx, vy = (z[0] - x) / t, (z[1] - y) / t
        mx, my = p @ vx, q @ vy
        total += mass * p.sum() * q.sum()
        first += mass * np.array([mx * q.sum(), my * p.sum()])
        second += mass * np.array([[(p @ vx**2) * q.sum(), mx * my], [mx * my, (q @ vy**2) * p.sum()]])
    mean = first / total
    return mean, second / total - np.outer(mean, mean)


@pytest.mark.parametrize("t", [0.02, 0.1, 0.3, 0.46, 0.47, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("name", PLANAR)
def test_velocity_and_noise_are_the_posterior_moments(name: str, t: float):
    law, g = PLANAR[name](), torch.Generator().manual_seed(1)
    z = (1 - t) * law.sample(6, g) + t * torch.randn(6, 2, generator=g, dtype=F)
    time = torch.full((6,), t, dtype=F)
    v, s = law.velocity(z, time).numpy(), law.covariance(z, time).numpy()
    for i in range(6):
        point = z[i].numpy()
        mean, covariance = box_posterior(point, t) if name == "checkerboard" else posterior(name, point, t)
        np.testing.assert_allclose(v[i], mean, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(s[i], covariance, rtol=2e-5, atol=2e-5)


def test_the_velocity_of_a_mixture_is_the_posterior_mean_on_a_grid_of_data():
    """Nothing in closed form: the density of the data from its definition, on a grid of 801 x 801 points."""
    law, t = gaussian_mixture(2, components=3, std=0.4), 0.5
    x = torch.cartesian_prod(*2 * [torch.linspace(-5, 5, 801, dtype=F)])
    prior = sum(torch.exp(-(x - m).square().sum(-1) / (2 * 0.4**2)) for m in law.mixture.means)
    for z in torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F):
        p = prior * torch.exp(-(z - (1 - t) * x).square().sum(-1) / (2 * t * t))
        v = (z - x) / t
        mean = (p[:, None] * v).sum(0) / p.sum()
        noise = torch.einsum("k,ki,kj->ij", p, v - mean, v - mean) / p.sum()
        time = torch.tensor(t, dtype=F)
        torch.testing.assert_close(law.velocity(z, time), mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(law.covariance(z, time), noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CURVES)
def test_twice_the_nodes_change_nothing(name: str):
    """20,000 bridges, seed 1: velocities move by less than 1e-8, and scales by less than that."""
    law, twice = PLANAR[name](), PLANAR[name](refine=2)
    z, t = bridges(law, 20_000, seed=1)
    assert (law.velocity(z, t) - twice.velocity(z, t)).abs().max() < 1e-8
    assert law.std == pytest.approx(twice.std, abs=1e-10)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [n for n in LAWS if n != "checkerboard"])
def test_the_velocity_by_matrix_products_is_the_mixtures(name: str):
    law = LAWS[name]()
    assert isinstance(law, Isotropic)
    z, t = bridges(law, 2000)
    torch.testing.assert_close(law.velocity(z, t), law.mixture.velocity(z, t), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", LAWS)
def test_the_differential_is_the_velocitys(name: str):
    """Against central differences of fourth order, and the velocity beside it against the velocity."""
    law, g = LAWS[name](), torch.Generator().manual_seed(3)
    x, e = law.sample(200, g), torch.randn(200, law.dim, generator=g, dtype=F)
    t = 0.1 + 0.85 * torch.rand(200, generator=g, dtype=F)
    z = (1 - t[:, None]) * x + t[:, None] * e
    dz, dt, h = torch.randn(z.shape, generator=g, dtype=F), torch.randn(200, generator=g, dtype=F), 1e-4
    v, dv = law.differential(z, t, dz, dt)

    def along(s: float) -> Tensor:
        return law.velocity(z + s * dz, t + s * dt)

    expected = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    torch.testing.assert_close(v, law.velocity(z, t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dv, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_mean_zero_and_scale_one(name: str):
    """40,000 draws, seed 0: each coordinate's mean and the mean square within 4.5 standard errors (6 tests: 4e-5 under the null)."""
    x = LAWS[name]().sample(40_000, torch.Generator().manual_seed(0))
    for draws, expected in (*((x[:, k], 0.0) for k in range(x.shape[1])), (x.square().mean(-1), 1.0)):
        assert abs(draws.mean().item() - expected) < 4.5 * draws.std().item() / 200


def grid(m: int = 320) -> tuple[Tensor, float]:
    """Midpoints of cells of a square that holds each law, and a cell's area; the edges of the checkerboard are edges of cells."""
    side = 4 * 3**0.5
    axis = ((torch.arange(m, dtype=F) + 0.5) / m - 0.5) * side
    return torch.cartesian_prod(axis, axis), (side / m) ** 2


@pytest.mark.parametrize("name", PLANAR)
def test_the_density_integrates_to_one_and_is_the_samples(name: str):
    """By 102,400 midpoints; the mean log density of 20,000 draws (seed 2) is minus the entropy within 4 standard errors (6e-5)."""
    law = PLANAR[name]()
    x, area = grid()
    log = law.log_density(x)
    p = log.exp() * area
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    found = law.log_density(law.sample(20_000, torch.Generator().manual_seed(2)))
    expected = (p[p > 0] * log[p > 0]).sum().item()
    assert abs(found.mean().item() - expected) < 4 * found.std().item() / 20_000**0.5 + 1e-6


@pytest.mark.parametrize("name", CURVES)
def test_samples_follow_the_construction(name: str):
    """Projections of 10,000 draws (seed 5) on three axes against the construction's own distribution function: KS, each p > 1e-4."""
    x = PLANAR[name]().sample(10_000, torch.Generator().manual_seed(5)).numpy()
    c, w, std = normalised(name, 2000)
    for axis in (np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.6, 0.8])):
        points = np.linspace(-4, 4, 401)
        cdf = np.array([w @ ndtr((q - c @ axis) / std) for q in points])
        assert kstest(x @ axis, lambda q, cdf=cdf, points=points: np.interp(q, points, cdf)).pvalue > 1e-4


def test_checkerboard_samples_lie_on_its_boxes_uniformly():
    law = Checkerboard()
    x = law.sample(8000, torch.Generator().manual_seed(0))
    assert (law.log_density(x) + math.log(8 * (2 * law.half) ** 2)).abs().max() < 1e-12
    board = (x / (2 * law.half) + 2).floor()
    assert (board.sum(-1) % 2 == 0).all()
    inside = (x / (2 * law.half) + 2 - board).numpy()
    assert min(kstest(inside[:, k], "uniform").pvalue for k in (0, 1)) > 1e-4
    assert law.log_density(torch.tensor([[0.1, -0.1], [0.1, 0.1]], dtype=F)).tolist()[0] == -math.inf


@pytest.mark.parametrize("name", LAWS)
def test_every_region_is_hit_about_equally(name: str):
    """20,000 draws, seed 0: each share within a tenth of 1 / regions plus 4 standard errors (pieces of curves overlap a little)."""
    law = LAWS[name]()
    k = law.region(law.sample(20_000, torch.Generator().manual_seed(0)))
    assert k.dtype == torch.int64 and k.shape == (20_000,)
    share = torch.bincount(k, minlength=law.regions).double() / 20_000
    assert len(share) == law.regions
    assert (share * law.regions - 1).abs().max() < 0.1 + 4 * (law.regions / 20_000) ** 0.5


def test_regions_of_known_points():
    ring, board, moons = PLANAR["eight_gaussians"](), PLANAR["checkerboard"](), PLANAR["two_moons"]()
    assert ring.region(torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.1]], dtype=F)).tolist() == [0, 2, 4]
    assert board.region(torch.tensor([[-9.0, -9.0], [0.4, 0.5], [9.0, 9.0]], dtype=F)).tolist() == [0, 5, 7]
    assert isinstance(moons, Isotropic)
    assert torch.equal(moons.region(moons.mixture.means), moons.labels)
    assert (moons.labels.diff() >= 0).all() and moons.labels.unique().tolist() == list(range(8))


@pytest.mark.parametrize("name", LAWS)
def test_samples_come_from_the_generator_alone(name: str):
    law, state = LAWS[name](), torch.get_rng_state()
    a, b, c = (law.sample(50, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
def test_batch_axes_are_free(name: str, batch: tuple[int, ...]):
    law, g = LAWS[name](), torch.Generator().manual_seed(0)
    z, t = torch.randn(*batch, law.dim, generator=g, dtype=F), 0.1 + 0.9 * torch.rand(batch, generator=g, dtype=F)
    assert law.velocity(z, t).shape == z.shape
    assert law.covariance(z, t).shape == (*z.shape, law.dim)
    assert all(q.shape == z.shape for q in law.differential(z, t, z, t))
    assert law.log_density(z).shape == law.region(z).shape == batch


@pytest.mark.parametrize("name", LAWS)
def test_float32_copies(name: str):
    """The same draws, rounded, and the same velocities to 2e-4 of their size (root mean square), for both ways to a copy."""
    law = LAWS[name]()
    z, t = bridges(law, 4000)
    for copy in (law.to(torch.float32), LAWS[name](dtype=torch.float32)):
        x = copy.sample(100, torch.Generator().manual_seed(0))
        assert torch.equal(x, law.sample(100, torch.Generator().manual_seed(0)).float())
        v = copy.velocity(z.float(), t.float())
        assert v.dtype == x.dtype == copy.log_density(x).dtype == copy.covariance(z.float(), t.float()).dtype == torch.float32
        expected = law.velocity(z, t)
        assert (v - expected).abs().max() < 2e-4 * expected.square().mean().sqrt()


@pytest.mark.parametrize("name", LAWS)
def test_autocast_does_not_reach_a_law(name: str):
    law = LAWS[name]().to(torch.float32)
    z, t = (p.float() for p in bridges(law, 50))

    def found() -> list[Tensor]:
        own = [law.velocity(z, t), law.covariance(z, t), law.log_density(z), law.region(z)]
        return own + ([law.mixture.covariance(z, t)] if isinstance(law, Isotropic) else [])

    plain = found()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, found(), plain))


def test_the_noise_of_narrow_modes_keeps_its_digits_in_float32():
    """Between two of them, where a second moment less the mean's square would lose four."""
    law, g = gaussian_mixture(2, std=0.02), torch.Generator().manual_seed(0)
    t = torch.full((200,), 0.1)
    z = (0.9 * law.sample(200, g) + 0.1 * torch.randn(200, 2, generator=g, dtype=F)).float()
    wanted = law.mixture.covariance(z.double(), t.double())
    found = law.to(torch.float32).covariance(z, t)
    assert ((found - wanted).abs().amax((1, 2)) < 1e-4 * wanted.abs().amax((1, 2))).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("t", [0.0, 1e-12, 1e-3, 0.46, 0.47, 1 - 1e-6, 1.0])
def test_the_checkerboard_stays_finite(t: float, dtype: torch.dtype):
    law = Checkerboard(dtype)
    z = torch.tensor([[0.0, 0.0], [0.3, 0.2], [0.3, -0.2], [5.0, -7.0], [1e4, 1e4], [-1e8, 0.1]], dtype=dtype)
    time = torch.full((6,), t, dtype=dtype)
    for q in (law.velocity(z, time), law.covariance(z, time), *law.differential(z, time, torch.ones_like(z), torch.ones_like(time))):
        assert q.isfinite().all()
    if t <= 1e-12:  # v = e - x, and e has mean 0 inside a box
        torch.testing.assert_close(law.velocity(z[1:2], time[1:2]), -z[1:2], rtol=1e-5, atol=1e-6)


def test_the_branches_of_the_checkerboard_meet():
    """Closed form and quadrature take over from each other without a step, along z and along t."""
    law = Checkerboard()
    for t in (0.45, 0.46, 0.47, 0.6, 0.9):
        z = torch.stack([torch.linspace(-30, 30, 60_001, dtype=F), torch.full((60_001,), 0.3, dtype=F)], -1)
        v = law.velocity(z, torch.full((60_001,), t, dtype=F))
        assert (v[2:] - 2 * v[1:-1] + v[:-2]).abs().max() < 1e-4  # a step would show beside the curvature, 1e-6 |v''|
    half = torch.linspace(0.4, 0.5, 100_001, dtype=F)
    v = law.velocity(torch.tensor([0.7, -0.2], dtype=F).expand(100_001, 2), half)
    assert (v[2:] - 2 * v[1:-1] + v[:-2]).abs().max() < 1e-9


def test_the_mixtures_settings():
    law = gaussian_mixture(64, components=5, std=0.2, seed=3)
    assert (law.dim, law.regions, law.std) == (64, 5, pytest.approx(0.2))
    torch.testing.assert_close(law.mixture.means.mean(0), torch.zeros(64, dtype=F), atol=1e-12, rtol=0)
    assert law.mixture.means.square().mean().item() == pytest.approx(1 - 0.04)
    assert torch.equal(law.mixture.means, gaussian_mixture(64, components=5, std=0.2, seed=3).mixture.means)
    assert not torch.equal(law.mixture.means, gaussian_mixture(64, components=5, std=0.2).mixture.means)
    for wrong in ({"std": 1.0}, {"std": 0.0}, {"components": 1}):
        with pytest.raises(ValueError, match="0 < std < 1"):
            gaussian_mixture(2, **wrong)  # type: ignore[arg-type]


def test_a_law_has_an_average_velocity():
    """Through the solver, in the checkerboard's case with a differential by forward mode."""
    from meanstep.fields import Averaged

    law = Checkerboard()
    field = Averaged(law.velocity, 1e-8, 1e-10, law.differential)
    z = torch.tensor([[0.3, 1.1], [-0.4, 0.2]], dtype=F)
    r, t = torch.tensor([0.3, 0.4], dtype=F), torch.tensor([0.9, 0.8], dtype=F)
    h = 1e-3
    _, du = torch.func.jvp(lambda q: field(z, r, q), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(du, (field(z, r, t + h) - field(z, r, t - h)) / (2 * h), rtol=1e-4, atol=1e-5)


def test_isotropic_laws_wrap_a_mixture():
    law = PLANAR["pinwheel"]()
    assert isinstance(law, Isotropic) and isinstance(law.mixture, Mixture)
    assert law.mixture.weights.sum().item() == pytest.approx(1)
