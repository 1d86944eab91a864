"""Exact fields against quadrature and scipy, objectives against exact fields, coefficients against brute force."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import quad_vec, solve_ivp
from scipy.optimize import minimize_scalar
from torch import Tensor

import meanstep as ms
from meanstep.coefficients import clipped_optimum, matrix_optimum, scalar_optimum
from meanstep.fields import Averaged, Gaussian, Mixture
from meanstep.fields.analytic import residual_noise
from meanstep.objectives import Eulerian, Lagrangian, Matching, Semigroup
from meanstep.paths import linear, trigonometric
from meanstep.rates import Backward, Central
from meanstep.times import diagonal, uniform
from meanstep.types import Bridge, Objective, Velocity
from meanstep.velocities import Posterior, conditional, mix, oracle

F = torch.float64


def mixture(dim: int = 2) -> Mixture:
    g = torch.Generator().manual_seed(dim)
    means = 1.5 * torch.randn(3, dim, generator=g, dtype=F)
    return Mixture(means, 0.3 + torch.rand(3, dim, generator=g, dtype=F), torch.tensor([1.0, 2.0, 3.0], dtype=F))


def gaussian(dim: int = 2) -> Gaussian:
    g = torch.Generator().manual_seed(10 + dim)
    return Gaussian(torch.randn(dim, generator=g, dtype=F), 0.3 + torch.rand(dim, generator=g, dtype=F))


def at_random(n: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    r, t = uniform((n,), g)
    return torch.randn(n, dim, generator=g, dtype=F), r.to(F), t.to(F)


# --- exact fields


def posterior_moments(data: Mixture, z: float, t: float) -> tuple[float, float]:
    """Mean and variance of `v = (z - x) / t` given `z`, by quadrature over x in one dimension."""
    mu, std, weight = (q.numpy().ravel() for q in (data.means, data.stds, data.weights))

    def integrand(x: float) -> np.ndarray:
        prior = (weight / std * np.exp(-((x - mu) ** 2) / (2 * std**2))).sum()
        density = prior * math.exp(-((z - (1 - t) * x) ** 2) / (2 * t**2))
        v = (z - x) / t
        return density * np.array([1.0, v, v * v])

    total, first, second = quad_vec(integrand, -12, 12, epsabs=1e-13, limit=2000)[0]
    return first / total, second / total - (first / total) ** 2


@pytest.mark.parametrize("t", [0.15, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("z", [-1.0, 0.2, 2.0])
def test_the_marginal_velocity_and_its_noise_are_the_posterior_moments(z: float, t: float):
    data = mixture(1)
    point, time = torch.tensor([[z]], dtype=F), torch.tensor([t], dtype=F)
    mean, variance = posterior_moments(data, z, t)
    assert data.velocity(point, time).item() == pytest.approx(mean, rel=1e-8, abs=1e-8)
    assert data.covariance(point, time).item() == pytest.approx(variance, rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_closed_differential_is_forward_mode(dim: int):
    data, (z, _, t) = mixture(dim), at_random(20, dim)
    dz, dt = torch.randn_like(z), torch.randn_like(t)
    v, dv = data.differential(z, t, dz, dt)
    for ours, theirs in zip((v, dv), torch.func.jvp(data.velocity, (z, t), (dz, dt))[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dim", [1, 3])
def test_the_average_velocity_is_the_mean_along_a_trajectory(dim: int):
    """LSODA on the plain equation, and the mean of v at its points by Simpson's rule: no formula of ours but v."""
    data, (z, r, t) = mixture(dim), at_random(4, dim, seed=3)
    for i in range(4):
        grid = np.linspace(t[i].item(), r[i].item(), 401)

        def rhs(time: float, state: np.ndarray) -> np.ndarray:
            return data.velocity(torch.from_numpy(state)[None], torch.tensor([time], dtype=F))[0].numpy()

        path = solve_ivp(rhs, (grid[0], grid[-1]), z[i].numpy(), method="LSODA", rtol=1e-11, atol=1e-12, t_eval=grid).y.T
        v = data.velocity(torch.from_numpy(path.copy()), torch.from_numpy(grid))
        weights = torch.ones(401, dtype=F)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        expected = (weights[:, None] * v).sum(0) / (3 * 400)
        torch.testing.assert_close(data.field()(z[i : i + 1], r[i : i + 1], t[i : i + 1])[0], expected, rtol=1e-7, atol=1e-7)


def test_the_two_exact_fields_agree_on_one_gaussian():
    one, (z, r, t) = gaussian(3), at_random(30, 3)
    solved = one.mixture.field()
    torch.testing.assert_close(solved(z, r, t), one(z, r, t), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(solved.flow(z, r, t), one.flow(z, r, t), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(solved.flow_jacobian(z, r, t), one.flow_jacobian(z, r, t), rtol=1e-7, atol=1e-9)


def test_the_diagonal_is_the_velocity_and_the_derivative_is_finite_there():
    data, (z, _, t) = mixture(), at_random(10, 2)
    field = data.field()
    torch.testing.assert_close(field(z, t, t), data.velocity(z, t), rtol=1e-9, atol=1e-10)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    h = 1e-5
    expected = (field(z, t, t) - field(z, t - h, t)) / h
    _, du = field.directional(z, t, t, torch.zeros_like(z), one, zero)
    torch.testing.assert_close(du, expected, rtol=1e-3, atol=1e-3)


def test_residual_noise_is_the_mean_square_of_the_noise():
    j, (z, _, t) = torch.randn(6, 2, 2, dtype=F, generator=torch.Generator().manual_seed(1)), at_random(6, 2)
    s = mixture().covariance(z, t)
    root = torch.linalg.cholesky(s)
    for beta in (0.0, 0.3, 1.0):
        n = (1 - beta) * j - beta * torch.eye(2, dtype=F)
        torch.testing.assert_close(residual_noise(j, s, beta), (n @ root).square().sum((-2, -1)))
    each = torch.tensor([0.0, 0.3, 1.0, 0.2, 0.5, 0.9], dtype=F)
    single = torch.stack([residual_noise(j[i], s[i], each[i].item()) for i in range(6)])
    torch.testing.assert_close(residual_noise(j, s, each), single)


def test_a_failing_solver_says_so():
    bad = Averaged(lambda z, t: z / (z - z))
    with pytest.raises(RuntimeError, match="ODE solver failed"):
        bad(*(torch.full(s, 0.5, dtype=F) for s in ((1, 1), (1,), (1,))))


# --- objectives at exact fields

OBJECTIVES: dict[str, Callable[[Velocity], Objective]] = {
    "eulerian": lambda v: Eulerian(v, v),
    "lagrangian": lambda v: Lagrangian(),
    "semigroup": lambda v: Semigroup(0.3),
    "matching": Matching,
}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dim", [1, 2, 6])
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_every_identity_holds_at_the_exact_field(name: str, dim: int, kind: str):
    data = gaussian(dim) if kind == "gaussian" else mixture(dim)
    field = data if isinstance(data, Gaussian) else data.field()
    objective, times = OBJECTIVES[name](oracle(data.velocity)), diagonal(uniform) if name == "matching" else uniform
    loss = ms.Loss((ms.Term(objective, times),))
    out = loss(field, data.sample(24, torch.Generator().manual_seed(dim)), generator=ms.key(0, name))
    assert out.metrics["residual"].sqrt() < (1e-10 if kind == "gaussian" else 1e-8)


@pytest.mark.parametrize(("rate", "bound"), [(Backward(1e-5), 1e-3), (Central(1e-4), 1e-6)])
def test_rates_without_forward_mode_come_close_at_the_exact_field(rate: Backward | Central, bound: float):
    one = gaussian()
    loss = ms.Loss((ms.Term(Eulerian(oracle(one.velocity), oracle(one.velocity), rate), uniform),))
    out = loss(one, one.sample(64, torch.Generator().manual_seed(0)), generator=ms.key(0, "rates"))
    assert 0 < out.metrics["residual"].sqrt() < bound


UNBIASED: dict[str, Callable[[Velocity], Objective]] = {
    "matching": lambda v: Matching(),
    "meanflow": lambda v: Eulerian(),
    "beta = 0.4": lambda v: Eulerian(mix(conditional, v, 0.4)),
    "beta = 1": Eulerian,
    "both roles at 0.4": lambda v: Eulerian(mix(conditional, v, 0.4), mix(conditional, v, 0.4)),
}


@pytest.mark.parametrize("name", UNBIASED)
def test_conditional_velocities_are_unbiased(name: str):
    """At the exact field the residual has mean 0 whatever the coefficient: 20,000 exact draws at one point, seed 0, |z| < 4 per axis.

    (Under the null a test of two axes exceeds 4 with probability 1.3e-4.)
    """
    n, one = 20_000, gaussian()
    g = torch.Generator().manual_seed(0)
    z = torch.tensor([[0.4, -0.3]], dtype=F).expand(n, 2).contiguous()
    t = torch.full((n,), 0.8, dtype=F)
    r = t if name == "matching" else torch.full((n,), 0.2, dtype=F)
    b = Bridge(z, one.mixture.conditional_draws(z, t, g), r, t)
    prediction, target, *_ = UNBIASED[name](oracle(one.velocity))(one, b)
    residual = prediction - target
    score = residual.mean(0) / (residual.std(0) / n**0.5)
    assert (residual.std(0) > 1e-3).all()
    assert score.abs().max() < 4


def test_a_biased_target_is_noticed_by_the_same_test():
    n, one = 20_000, gaussian()
    z, t = torch.zeros(n, 2, dtype=F), torch.full((n,), 0.8, dtype=F)
    b = Bridge(z, one.mixture.conditional_draws(z, t, torch.Generator().manual_seed(0)), t * 0.25, t)
    prediction, target, *_ = Eulerian(target=lambda field, b: b.v + 0.05)(one, b)
    residual = prediction - target
    assert (residual.mean(0) / (residual.std(0) / n**0.5)).abs().max() > 4


# --- interpolants and the posterior velocity


@pytest.mark.parametrize("interpolant", [linear, trigonometric])
def test_the_velocity_is_the_derivative_of_the_path(interpolant: Callable[..., tuple[Tensor, Tensor]]):
    x, e, t = torch.randn(5, 3, 2, dtype=F), torch.randn(5, 3, 2, dtype=F), torch.rand(5, dtype=F)
    _, v = interpolant(x, e, t)
    derivative = torch.func.jvp(lambda s: interpolant(x, e, s)[0], (t,), (torch.ones_like(t),))[1]
    torch.testing.assert_close(v, derivative)
    for end, expected in ((0.0, x), (1.0, e)):
        torch.testing.assert_close(interpolant(x, e, torch.full_like(t, end))[0], expected)


def brute_posterior(z: Tensor, t: float, references: Tensor) -> Tensor:
    """Eq. (31), one row at a time."""
    logits = torch.tensor([-((z - (1 - t) * x).square().sum() / (2 * t * t)).item() for x in references], dtype=F)
    weights = (logits - logits.max()).exp()
    return (z - (weights[:, None] * references).sum(0) / weights.sum()) / t


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_posterior_velocity_is_its_formula(own: bool, labelled: bool):
    g = torch.Generator().manual_seed(0)
    x, e, references = (torch.randn(n, 2, generator=g, dtype=F) for n in (8, 8, 30))
    t = torch.linspace(0.1, 1, 8, dtype=F)
    z, v = linear(x, e, t)
    labels, y = torch.arange(30) % 3, torch.arange(8) % 3
    found = Posterior(references, labels if labelled else None, own)(None, Bridge(z, v, t, t, y if labelled else None))  # type: ignore[arg-type]
    for i in range(8):
        pool = references[labels == y[i]] if labelled else references
        pool = torch.cat([pool, x[i : i + 1]]) if own else pool
        torch.testing.assert_close(found[i], brute_posterior(z[i], t[i].item(), pool), rtol=1e-9, atol=1e-9)


def test_the_posterior_in_some_directions_forgets_the_others():
    """Weights as those of the projected points; in all directions, however turned, it is the posterior itself."""
    g = torch.Generator().manual_seed(0)
    x, e, references = (torch.randn(n, 3, generator=g, dtype=F) for n in (8, 8, 30))
    t = torch.linspace(0.1, 1, 8, dtype=F)
    z, v = linear(x, e, t)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=F))[0]
    for own in (False, True):
        whole = Posterior(references, include_own=own)(None, Bridge(z, v, t, t))  # type: ignore[arg-type]
        torch.testing.assert_close(Posterior(references, None, own, basis=turned)(None, Bridge(z, v, t, t)), whole)  # type: ignore[arg-type]
        found = Posterior(references, None, own, basis=turned[:, :2])(None, Bridge(z, v, t, t))  # type: ignore[arg-type]
        for i in range(8):
            pool = torch.cat([references, x[i : i + 1]]) if own else references
            weights = torch.softmax(-((z[i] - (1 - t[i]) * pool) @ turned[:, :2]).square().sum(-1) / (2 * t[i] ** 2), 0)
            torch.testing.assert_close(found[i], (z[i] - weights @ pool) / t[i])
    with pytest.raises(ValueError, match="takes no mask"):
        mask = torch.ones(8, 3, dtype=torch.bool)
        Posterior(references, basis=turned)(None, Bridge(z, v, t, t, mask=mask))  # type: ignore[arg-type]


def test_the_posterior_velocity_is_conditional_at_small_t_and_consistent():
    one, g = gaussian(), torch.Generator().manual_seed(0)
    x, e = one.sample(400, g), torch.randn(400, 2, generator=g, dtype=F)
    early = torch.full((400,), 1e-3, dtype=F)
    z, v = linear(x, e, early)
    found = Posterior(one.sample(256, g))(None, Bridge(z, v, early, early))  # type: ignore[arg-type]
    assert ((found - v).abs().amax(-1) < 1e-6).double().mean() > 0.95
    late = torch.full((400,), 0.9, dtype=F)
    z, v = linear(x, e, late)
    errors, sizes = [], [100, 400, 1600]
    for n in sizes:  # the mean over 20 sets of references
        estimates = [Posterior(one.sample(n, g), include_own=False)(None, Bridge(z, v, late, late)) for _ in range(20)]  # type: ignore[arg-type]
        errors.append((torch.stack(estimates) - one.velocity(z, late)).square().mean().sqrt().item())
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -0.65 < slope < -0.35  # the Monte Carlo rate


# --- coefficients


@pytest.mark.parametrize("kappa", [2.0, 0.5, 0.0, -0.4, -1.0, -1.3, -4.0])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_the_scalar_optimum_minimises_its_parabola(kappa: float, bias: float):
    noise = 1.7

    def error(beta: float) -> float:
        return beta**2 * (kappa + 1) ** 2 * bias + ((1 - beta) * kappa - beta) ** 2 * noise

    k, n, b = (torch.tensor(q, dtype=F) for q in (kappa, noise, bias))
    clipped = clipped_optimum(k, n, b).item()
    best = min(np.linspace(0, 1, 2001), key=error)
    assert error(clipped) <= error(best) + 1e-12
    if kappa != -1:
        free = minimize_scalar(error).x
        assert scalar_optimum(kappa, noise, bias) == pytest.approx(free, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_matrix_optimum_minimises_the_mean_square(seed: int):
    g = torch.Generator().manual_seed(seed)
    j, n, b = torch.randn(3, 3, generator=g, dtype=F), torch.randn(50, 3, generator=g, dtype=F), torch.randn(50, 3, generator=g, dtype=F)
    jn, jb = n @ j.mT, b @ (j + torch.eye(3, dtype=F)).mT

    def error(beta: float) -> float:
        return ((jn - beta * (jn + n)).square().sum() + beta**2 * jb.square().sum()).item()

    best = min(np.linspace(0, 1, 4001), key=error)
    assert matrix_optimum(jn, n, jb).item() == pytest.approx(best, abs=3e-4)
    assert matrix_optimum(-n, n).item() == 0  # J = -I: every coefficient is as good
