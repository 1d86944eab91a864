"""The noise multiplier of every recipe, and the table of exact noise on known data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from meanstep import recipes
from meanstep.fields import DataPrediction, Gaussian, Mixture
from meanstep.fields.analytic import residual_noise
from meanstep.keys import key
from meanstep.paths import linear
from meanstep.program.verify.rows import Row, below, near
from meanstep.program.verify.setting import jacobi, mixture, network, noise_response, residual, rows, slope, worst
from meanstep.rates import Backward, Central, Exact
from meanstep.terms import Recipe, moving
from meanstep.times import logit_normal
from meanstep.types import Bridge, Field
from meanstep.velocities import Guided, LabelDropout, conditional, oracle, own


def multipliers(seed: int) -> Iterator[Row]:
    """`d residual / d v'` of each recipe's first term against the matrix that docs/theory.md gives it."""
    m = mixture()
    net, ema = network(seed, head=True), network(seed + 1)
    b = rows(m, 6, seed, "multipliers")
    b = b._replace(t=torch.where(torch.arange(6) < 2, 0.03, b.t), r=torch.where(torch.arange(6) < 2, 0.01, b.r))  # pixel's floor is at 0.05
    j, one = jacobi(net, b), torch.eye(2, dtype=torch.float64).expand(6, 2, 2)
    exact, beta, alpha = oracle(m.velocity), 0.3, 0.4
    pixel = DataPrediction(net)
    share = (b.t / b.t.clamp(min=0.05))[:, None, None]

    def shorter(b: Bridge) -> Tensor:
        step = alpha * b.gap
        return jacobi(net, b._replace(z=b.z - step[:, None] * b.v, t=b.t - step)) + one

    def at_shift(b: Bridge) -> Tensor:
        return shorter(b) / (1 - alpha) - one

    table: list[tuple[str, Recipe, Field, Tensor | float]] = [
        ("flow_matching: -I", recipes.flow_matching(), net, -one),
        ("meanflow: J", recipes.meanflow(), net, j),
        ("rectified_meanflow: J", recipes.rectified_meanflow(), net, j),
        ("modular_meanflow: J", recipes.modular_meanflow(), net, j),
        ("curriculum_meanflow: J", recipes.curriculum_meanflow(), net, j),
        ("decoupled_meanflow: J", recipes.decoupled_meanflow()[1:], net, j),
        (f"coefficient({beta}): (1 - beta) J - beta I", recipes.coefficient(beta, ema), net, (1 - beta) * j - beta * one),
        ("coefficient(1): -I", recipes.coefficient(1.0, ema), net, -one),
        ("trace_weighted: the same", recipes.trace_weighted(proxy=ema), net, -one),
        ("improved_meanflow, head: -I", recipes.improved_meanflow(), net, -one),
        ("improved_meanflow, own boundary: -I", recipes.improved_meanflow(own), net, -one),
        ("pixel_meanflow: -I t / max(t, floor)", recipes.pixel_meanflow(), pixel, -one * share),
        (f"alpha_flow({alpha}): (1 - alpha) J_s - alpha I", recipes.alpha_flow(alpha), net, (1 - alpha) * at_shift(b) - alpha * one),
        (f"solution_flow({alpha}): the same", recipes.solution_flow(alpha), net, (1 - alpha) * at_shift(b) - alpha * one),
        ("terminal_velocity: 0", recipes.terminal_velocity(ema), net, 0.0),
        ("   its flow-matching rows: -I", recipes.terminal_velocity(ema)[1:], net, -one),
        ("split_meanflow: 0", recipes.split_meanflow(), net, 0.0),
        ("shortcut: 0", recipes.shortcut(ema), net, 0.0),
        ("both roles, exact proxy: 0", recipes.coefficient(1.0, exact, target_beta=1.0), net, 0.0),
    ]
    for name, recipe, field, expected in table:
        at = b if moving(recipe[0]) else b._replace(r=b.t)
        measured = noise_response(lambda q, recipe=recipe, field=field: residual(recipe[0].objective, field, q), at)  # type: ignore[misc]
        yield below(f"{name}, error of N", "17", worst(measured, expected), 1e-9)
    yield from _guided(seed, b)
    yield from _central(net, b, j)


def _guided(seed: int, b: Bridge) -> Iterator[Row]:
    net = network(seed + 2)
    labelled = b._replace(y=torch.zeros(len(b.t), dtype=torch.int64), aux=torch.ones_like(b.z[:, :1]).expand(-1, 4))
    velocity = Guided(conditional, LabelDropout(3), omega=0.2, kappa=0.92)
    objective = recipes.meanflow(velocity=velocity)[0].objective
    measured = noise_response(lambda q: residual(objective, net, q), labelled)
    yield below("meanflow with guidance omega = 0.2: 0.2 J, error of N", "28", worst(measured, 0.2 * jacobi(net, b)), 1e-9)


def _central(net: Field, b: Bridge, j: Tensor) -> Iterator[Row]:
    steps = [0.04, 0.02, 0.01]
    errors = []
    for h in steps:
        objective = recipes.transition(step=h)[0].objective
        errors.append(worst(noise_response(lambda q, objective=objective: residual(objective, net, q), b), j))  # type: ignore[misc]
    yield near("transition: N - J falls as h^2, log-log slope", "23", slope(steps, errors), 2.0, 0.15)


def ring(radius: float, std: float) -> Mixture:
    """Eight Gaussians on a circle."""
    angle = torch.arange(8, dtype=torch.float64) * torch.pi / 4
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], -1), std)


@dataclass(frozen=True)
class Known:
    """One line of the table: data, a broad cover of it, the values over BETAS and their standard errors.

    Rings: from 16,000 rows of other seeds, carried by DOP853 instead of RK4. Single Gaussians: another implementation's, rounded.
    """

    name: str
    data: Mixture | Gaussian
    cover: Mixture
    values: tuple[float, ...]
    errors: tuple[float, ...]
    to_data: bool = False


BETAS = (0.0, 0.25, 0.5, 0.75)
ORIGIN = torch.zeros(1, 2, dtype=torch.float64)


def _rings(radius: float, std: float, values: tuple[float, ...], errors: tuple[float, ...], to_data: bool = False) -> Known:
    name = f"ring of 8, radius {radius:g}, std {std:g}{', r = 0' if to_data else ''}"
    return Known(name, ring(radius, std), Mixture(ORIGIN, 0.75 * radius), values, errors, to_data)


def _single(std: float, values: tuple[float, ...], rounding: float) -> Known:
    return Known(f"one Gaussian, std {std:g}", Gaussian(ORIGIN[0], std), Mixture(ORIGIN, std), values, (rounding / 4,) * 4)


TABLE = (
    _rings(2, 0.3, (3.033, 2.259, 1.662, 1.242), (0.053, 0.031, 0.015, 0.0051)),
    _rings(4, 0.5, (12.61, 7.826, 4.299, 2.023), (0.55, 0.32, 0.14, 0.039)),
    _rings(2, 0.3, (13.18, 8.168, 4.469, 2.079), (0.24, 0.14, 0.064, 0.019), to_data=True),
    _rings(4, 0.5, (67.82, 39.25, 18.59, 5.841), (2.4, 1.4, 0.61, 0.16), to_data=True),
    _single(1.0, (1.13, 1.10, 1.06, 1.03), 0.015),
    _single(2.0, (1.9, 1.6, 1.4, 1.2), 0.07),
    _single(0.3, (0.63, 0.71, 0.80, 0.89), 0.015),
)


def exact_noise(known: Known, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """`Tr(N S N^T)` over BETAS and rows `[4, n]`, `Tr S` `[n]` and importance weights `[n]`; times are sorted logit-normal(-0.4, 1).

    Where the map expands, a thin seam at `t` becomes a wide gap between modes at `r`: half of the rows arrive anywhere on the cover,
    are carried back to `t`, and weighted. Plain draws at `t` hardly ever meet the seams that dominate the mean.
    """
    g = key(seed, "table", known.name)
    r, t = (q.double() for q in logit_normal()((n,), g))
    r = torch.zeros_like(r) if known.to_data else r
    x = torch.cat([known.data.sample(n - n // 2, g), known.cover.sample(n // 2, g)])
    arrived, _ = linear(x, torch.randn(n, 2, generator=g, dtype=torch.float64), r)
    weight = 2 / (1 + torch.exp(_log_density(known.cover, arrived, r) - _log_density(known.data, arrived, r)))
    if isinstance(known.data, Gaussian):
        z = known.data.flow(arrived, t, r)
        j = -known.data.flow_jacobian(z, r, t)
    else:
        z, _ = carry(known.data, arrived, r, t)
        j = -carry(known.data, z, t, r)[1]
    s = known.data.covariance(z, t)
    return torch.stack([residual_noise(j, s, beta) for beta in BETAS]), s.diagonal(dim1=-2, dim2=-1).sum(-1), weight


def carry(data: Mixture, z: Tensor, start: Tensor, end: Tensor, steps: int = 60) -> tuple[Tensor, Tensor]:
    """The flow from one time to another and its Jacobian `[B, 2, 2]`, by RK4: no row's stiffness slows down the others."""
    span = (end - start)[:, None]
    state = torch.stack([z, *(e.expand_as(z) for e in torch.eye(2, dtype=z.dtype))])

    def slope(s: float, state: Tensor) -> Tensor:
        time = (start + s * span[:, 0]).expand(2, -1)
        v, dv = data.differential(state[:1].expand(2, -1, -1), time, state[1:], torch.zeros_like(time))
        return span * torch.cat([v[:1], dv])

    h = 1 / steps
    for k in range(steps):
        a = slope(k * h, state)
        b = slope((k + 0.5) * h, state + h / 2 * a)
        c = slope((k + 0.5) * h, state + h / 2 * b)
        d = slope((k + 1) * h, state + h * c)
        state = state + h / 6 * (a + 2 * b + 2 * c + d)
    return state[0], state[1:].movedim(0, -1)


def _log_density(data: Mixture | Gaussian, z: Tensor, t: Tensor) -> Tensor:
    """The log density of `z_t` up to a constant."""
    m = data.mixture if isinstance(data, Gaussian) else data
    variance = ((1 - t[:, None, None]) * m.stds) ** 2 + t[:, None, None] ** 2
    d = z[:, None] - (1 - t[:, None, None]) * m.means
    return (m.weights.log() - (d * d / variance + variance.log()).sum(-1) / 2).logsumexp(-1)


def table(seed: int, n: int = 2500) -> Iterator[Row]:
    """`E|N v'|^2 / E|v'|^2` on known data (1 at beta = 1), within four standard errors of ours and of the known values."""
    for known in TABLE:
        many = n if isinstance(known.data, Mixture) else 30 * n
        noise, total, weight = exact_noise(known, many, seed)
        ratios = (weight * noise).mean(-1) / (weight * total).mean()
        for beta, ratio, values, expected, error in zip(BETAS, ratios, noise, known.values, known.errors, strict=True):
            ours = (weight * (values - ratio * total)).std() / (weight * total).mean() / many**0.5
            yield near(f"{known.name}, beta = {beta:g}", "17", ratio.item(), expected, 4 * (ours.square().item() + error**2) ** 0.5)
    yield from seam()


def seam() -> Iterator[Row]:
    """One row on the seam between two modes of a ring with std 0.1: why no plain sample sees the mean there."""
    data, angle = ring(2, 0.1), torch.tensor(torch.pi / 8, dtype=torch.float64)
    r, t = (torch.tensor([q], dtype=torch.float64) for q in (0.1, 0.6))
    between = (2 * angle.cos() * (1 - r)) * torch.stack([angle.cos(), angle.sin()])[None]
    carried, solved = carry(data, between, r, t, 400)[0], data.field().flow(between, t, r)
    rows = ((carried, carry(data, carried, t, r, 400)[1]), (solved, data.field().flow_jacobian(solved, r, t)))
    ratios = [(residual_noise(j, s, 0.0) / s.diagonal(dim1=-2, dim2=-1).sum(-1)).item() for z, j in rows for s in [data.covariance(z, t)]]
    name = "ring of 8, radius 2, std 0.1: one row on a seam, beta = 0"
    yield near(f"{name}, RK4 over DOP853", "17", ratios[0] / ratios[1], 1.0, 1e-3)
    yield Row(f"{name}, noise over Tr S", "17", ratios[1], 1e9, relation=">=")


def orders(seed: int) -> Iterator[Row]:
    """The orders of the two rates without forward mode."""
    net, b = network(seed), rows(mixture(), 32, seed, "orders")
    reference = Exact()(net, b, b.v)[1].detach()
    make: list[tuple[str, str, Callable[[float], Backward | Central], float]] = [
        ("Backward rate: order in the ratio", "22", Backward, 1.0),
        ("Central rate: order in the step", "23", Central, 2.0),
    ]
    for name, equation, rate, order in make:
        steps = [0.02, 0.01, 0.005]
        errors = [worst(rate(h)(net, b, b.v)[1].detach(), reference) for h in steps]
        yield near(name, equation, slope(steps, errors), order, 0.1)
