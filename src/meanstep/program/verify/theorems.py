"""The paper's theorems and the identities under them, measured on an exact mixture and a random network in float64."""

from collections.abc import Callable, Iterator

import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize_scalar
from torch import Tensor

from meanstep.coefficients import clipped_optimum, matrix_optimum, scalar_optimum
from meanstep.fields import Averaged, Gaussian, Mixture
from meanstep.keys import key
from meanstep.objectives import Eulerian, Lagrangian, Matching, Semigroup
from meanstep.program.verify.rows import Row, below, near
from meanstep.program.verify.setting import (
    apply,
    each,
    field_jacobian,
    gradients,
    jacobi,
    mixture,
    network,
    noisy,
    quadratic,
    residual,
    rows,
    sigma_points,
    slope,
    worst,
)
from meanstep.rates import Exact
from meanstep.types import Bridge, Field
from meanstep.velocities import conditional, mix, oracle


def identities(seed: int) -> Iterator[Row]:
    """The three identities at exact fields: every residual vanishes."""
    m = mixture()
    g = Gaussian(torch.tensor([0.7, -0.4], dtype=torch.float64), torch.tensor([0.3, 1.2], dtype=torch.float64))
    exact: list[tuple[str, Field, Mixture, float]] = [("Gaussian", g, g.mixture, 1e-12), ("mixture", m.field(), m, 1e-9)]
    for name, field, data, bound in exact:
        v, b = oracle(data.velocity), rows(data, 64, seed, name)
        diagonal = b._replace(r=b.t)
        yield below(f"Eulerian residual at the exact {name}", "7", worst(residual(Eulerian(v, v), field, b)), bound)
        yield below(f"Lagrangian residual at the exact {name}", "8", worst(residual(Lagrangian(), field, b)), bound)
        yield below(f"semigroup residual at the exact {name}", "9", worst(residual(Semigroup(0.3), field, b)), bound)
        yield below(f"flow-matching residual at the exact {name}", "4", worst(residual(Matching(v), field, diagonal)), bound)


def conditional_noise(seed: int) -> Iterator[Row]:
    """The exact conditional draws have the mean and covariance that the closed forms say."""
    m, n = mixture(), 40_000
    z, t = torch.tensor([[0.2, -0.1]], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    draws = m.conditional_draws(z.expand(n, 2), t.expand(n), key(seed, "draws")) - m.velocity(z, t)
    s = m.covariance(z, t)[0]
    score = (draws.mean(0) / (s.diagonal() / n).sqrt()).abs().max().item()
    yield below(f"mean of v' at a point, largest z-score of {n} draws", "3", score, 4.0)
    outer = draws[:, :, None] * draws[:, None, :]
    score = ((outer.mean(0) - s) / (outer.std(0) / n**0.5)).abs().max().item()
    yield below(f"covariance of v' at a point, largest z-score of {n} draws", "3", score, 4.0)


def flow_map(seed: int) -> Iterator[Row]:
    """`J` is minus the Jacobian of the flow map; the map comes from another solver and another form of the equation."""
    m = mixture()
    b = rows(m, 12, seed, "flow")
    h = 1e-4

    def flow(z: Tensor) -> Tensor:
        def rhs(s: float, flat: "object") -> "object":
            state = torch.as_tensor(flat).reshape(z.shape)
            return (-b.gap[:, None] * m.velocity(state, b.t - s * b.gap)).numpy().ravel()

        out = solve_ivp(rhs, (0, 1), z.numpy().ravel(), method="LSODA", rtol=1e-11, atol=1e-12)
        return torch.from_numpy(out.y[:, -1]).reshape(z.shape)

    basis = torch.eye(2, dtype=torch.float64)
    differences = torch.stack([(flow(b.z + h * e) - flow(b.z - h * e)) / (2 * h) for e in basis], -1)
    # differences of a map that expands up to a hundredfold: 2e-5 at worst over 25 seeds
    yield below("J + d(flow map)/dz, exact mixture, LSODA and differences", "12", worst(jacobi(m.field(), b), -differences), 1e-4)
    at_diagonal = jacobi(m.field(), b._replace(r=b.t))
    yield below("J + I on r = t rows", "12", worst(at_diagonal, -torch.eye(2, dtype=torch.float64).expand_as(at_diagonal)), 1e-12)


def decomposition(seed: int) -> Iterator[Row]:
    """Loss = mean-field residual + Tr(J S J^T), and its consequences for the gradient (Theorems 2 and 3)."""
    m, net = mixture(), network(seed)
    b = rows(m, 8, seed, "decomposition")
    s, objective = m.covariance(b.z, b.t), Eulerian()
    points = sigma_points(s)
    j, mean = jacobi(net, b), residual(objective, net, b).detach()
    squares = torch.stack([residual(objective, net, noisy(b, n)).square().sum(-1) for n in points]).mean(0).detach()
    yield below(
        "E|R|^2 - (|mean residual|^2 + Tr J S J^T), relative", "13", worst(squares / (mean.square().sum(-1) + quadratic(j, s)) - 1), 1e-10
    )

    measured, formula, gap_measured, gap_formula = 0.0, 0.0, 0.0, 0.0
    for i, row in enumerate(each(b)):
        u = net(row.z, row.r, row.t)[0]
        g = torch.stack([gradients(component, net) for component in u])
        formula += 4 * torch.einsum("ip,ij,jk,lk,lp->", g, j[i], s[i], j[i], g).item()
        samples = torch.stack([gradients(residual(objective, net, noisy(row, n[i : i + 1])).square().sum(), net) for n in points])
        measured += (samples - samples.mean(0)).square().sum(-1).mean().item()
        through = torch.stack(
            [gradients(residual(Eulerian(rate=Exact(1.0)), net, noisy(row, n[i : i + 1])).square().sum(), net) for n in points]
        )
        difference, expected = through.mean(0) - samples.mean(0), _semi_gradient_gap(net, row, s[i])
        gap_measured, gap_formula = max(gap_measured, worst(difference, expected)), max(gap_formula, expected.abs().max().item())
    yield near("Theorem 2: Tr Cov of the gradient over 4 Tr(g' J S J' g)", "14", measured / formula, 1.0, 1e-10)
    yield below("Theorem 3: semi-gradient gap against its formula", "15", gap_measured, 1e-10)
    yield Row("   and it is not zero: its largest entry", "15", gap_formula, 1e-2, relation=">=")


def _semi_gradient_gap(net: torch.nn.Module, row: Bridge, s: Tensor) -> Tensor:
    """The right-hand side of eq. (15) for one row."""

    def u(z: Tensor, t: Tensor) -> Tensor:
        out: Tensor = net(z, row.r, t)
        return out

    mean = residual(Eulerian(), net, row).detach()
    _, du = torch.func.jvp(u, (row.z, row.t), (row.v, torch.ones_like(row.t)))[:2]
    columns = [torch.func.jvp(lambda z: u(z, row.t), (row.z,), (e[None].contiguous(),))[1][0] for e in torch.eye(2, dtype=s.dtype)]
    j = row.gap * torch.stack(columns, -1) - torch.eye(2, dtype=s.dtype)
    return 2 * row.gap * gradients((du * mean).sum(), net) + gradients(torch.trace(j @ s @ j.mT), net)


def asymmetry(seed: int) -> Iterator[Row]:
    """Proposition 3: a bias in the target stays, a bias in the tangent fades with the gap."""
    m, bias = mixture(), torch.tensor([0.3, -0.2], dtype=torch.float64)
    v, off = oracle(m.velocity), oracle(shifted(m, bias))
    gaps, moved, solved, fixed = [0.08, 0.04, 0.02, 0.01], [], [], []
    base = rows(m, 32, seed, "asymmetry")
    t = 0.2 + 0.7 * base.t
    for gap in gaps:
        b = base._replace(t=t, r=t - gap)
        in_target, in_tangent = (residual(Eulerian(w, y), m.field(), b) for w, y in ((v, off), (off, v)))
        fixed.append(worst(in_target, -bias.expand_as(in_target)))
        moved.append(in_tangent.norm(dim=-1).mean().item())
        # the stationary field under a biased tangent: the average of v along the wrong characteristics
        wrong = Averaged(lambda z, time: m.velocity(z - (t - time)[:, None] * bias, time))
        solved.append((wrong(b.z, b.r, b.t) - m.field()(b.z, b.r, b.t)).norm(dim=-1).mean().item())
    yield below("bias b in the target: residual + b, over all gaps", "16", max(fixed), 1e-7)
    b = base._replace(t=t, r=t - 0.3)
    expected = b.gap[:, None] * apply(field_jacobian(m.field(), b), bias.expand_as(b.z))
    yield below("bias b in the tangent: residual - (t - r) d_z u b", "16", worst(residual(Eulerian(off, v), m.field(), b), expected), 1e-7)
    yield near("   its order in t - r, by log-log slope", "16", slope(gaps, moved), 1.0, 0.1)
    yield near("   order of the stationary field's error", "16", slope(gaps, solved), 1.0, 0.1)


def coefficient(seed: int) -> Iterator[Row]:
    """Theorem 4: the optimal coefficient against brute force, and where the published scalar form stops being one."""
    noise, bias = torch.eye(2, dtype=torch.float64) * 0.8, torch.tensor([0.3, 0.1], dtype=torch.float64)
    trace, square = noise.diagonal().sum(), bias.square().sum()
    for kappa in (0.8, -0.6, -1.0, -1.5, -3.0):

        def error(beta: float, kappa: float = kappa) -> float:
            spread = ((1 - beta) * kappa - beta) * sigma_points(noise) + beta * (kappa + 1) * bias
            return spread.square().sum(-1).mean().item()

        k = torch.tensor(kappa, dtype=torch.float64)
        if kappa == -1:
            claim = "kappa = -1 (every r = t row): error at beta = 1 over beta = 0"
            yield Row(claim, "19", error(1.0) / error(0.0), 1.0, 1e-12, unless="formula singular")
            continue
        free, boxed = _minimise(error, -20.0, 20.0), _minimise(error, 0.0, 1.0)
        outside = "" if 0 <= free <= 1 else "outside [0, 1]"
        closed = float(scalar_optimum(k, trace, square))
        yield Row(f"scalar optimum, kappa = {kappa:g}, brute force", "19", free, closed, 1e-5, unless=outside)
        yield near("   the same on [0, 1]", "19b", boxed, clipped_optimum(k, trace, square).item(), 1e-5)
        if kappa < 0:
            as_norm = float(scalar_optimum(k.abs(), trace, square))
            ratio = error(as_norm) / error(boxed)
            claim = f"   reading kappa as |J| = {abs(kappa):g} gives {as_norm:.2f}: error over least"
            yield Row(claim, "19", ratio, 1.005, relation=">=", unless="only for kappa >= 0")
    yield from _matrix_form(seed)


def _matrix_form(seed: int) -> Iterator[Row]:
    apart = mixture()
    close = Mixture(apart.means * 0.5, apart.stds, apart.weights)
    for name, m, shift in (("modes apart", apart, (0.0, 0.0)), ("modes close", close, (0.0, 0.0)), ("biased proxy", apart, (1.5, -1.0))):
        bias = torch.tensor(shift, dtype=torch.float64)
        b, field = rows(m, 24, seed, name), m.field(1e-8, 1e-10)
        points = sigma_points(m.covariance(b.z, b.t))
        proxy = oracle(shifted(m, bias))
        start, end = (
            torch.stack([residual(Eulerian(mix(conditional, proxy, beta)), field, noisy(b, n)) for n in points]) for beta in (0.0, 1.0)
        )

        def error(beta: float, start: Tensor = start, end: Tensor = end) -> float:
            return torch.lerp(start, end, beta).square().sum(-1).mean().item()

        j = jacobi(field, b)
        jb = (apply(j, bias.expand_as(b.z)) + bias).expand_as(points).reshape(-1, 2)
        closed = matrix_optimum(apply(j, points).reshape(-1, 2), points.reshape(-1, 2), jb).item()
        yield near(f"matrix optimum, exact mixture, {name}, brute force", "20", _minimise(error, 0.0, 1.0), closed, 1e-4)


def shifted(m: Mixture, bias: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The marginal velocity with a constant bias: a proxy that is wrong by a known amount."""
    return lambda z, t: m.velocity(z, t) + bias


def _minimise(f: Callable[[float], float], low: float, high: float) -> float:
    """Brute force: a grid, then a bounded search around its best point."""
    grid = torch.linspace(low, high, 401, dtype=torch.float64).tolist()
    best = min(grid, key=f)
    step = (high - low) / 400
    bounds = (max(low, best - step), min(high, best + step))
    found = float(minimize_scalar(f, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)
    return min((low, high, found), key=f)
