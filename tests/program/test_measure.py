"""What a sweep measures, against closed forms and against gradients taken one row at a time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep.coefficients import matrix_optimum
from meanstep.fields import PLANAR, Mixture
from meanstep.fields.flat import Runner, Shape
from meanstep.fields.isotropic import Isotropic
from meanstep.program.reproduce.points.draws import Stream
from meanstep.program.reproduce.points.measure import BINS, PROBE_BETAS, Judge, Probe, Rows, exact_beta, exact_map, probe_rows
from meanstep.program.reproduce.points.settings import Settings
from meanstep.types import Bridge

SETTINGS = Settings(
    ("two_moons",), (0.0, 1.0), (0,), ("paper",), 10, width=16, depth=2, reference=64, samples=1000, directions=16, power=1.0
)


def normal(dim: int) -> Isotropic:
    """One standard Gaussian."""
    zero = torch.zeros(1, dim, dtype=torch.float64)
    centre = torch.zeros(1, dtype=torch.int64)
    return Isotropic(Mixture(zero), 1.0, centre, lambda n, g: torch.zeros(n, dim, dtype=torch.float64))


def rounded(law) -> Stream:
    return Stream(law.to(torch.float32), "x", 0)


def replace_seed(stream: Stream, seed: int) -> Stream:
    return Stream(stream.law, stream.name, seed)


# The exact law ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 5])
def test_the_exact_map_of_one_gaussian_is_closed(dim: int):
    """A single Gaussian of unit variance: J = -sd_r / sd_t and S = I / sd_t^2 at every point, eq. (12)."""
    law = normal(dim)
    found = exact_map(law, 0)

    def sd(t: float) -> float:
        return ((1 - t) ** 2 + t**2) ** 0.5

    for i in range(BINS):
        for j in range(BINS):
            if j > i:
                assert found["a"][i][j] is None
                continue
            t, r = (i + 0.5) / BINS, (j + 0.5) / BINS
            m, noise = sd(r) / sd(t), dim / sd(t) ** 2
            assert found["s"][i][j] == pytest.approx(noise, rel=1e-6)
            assert found["a"][i][j] == pytest.approx(m**2 * noise, rel=1e-4)
            assert found["b"][i][j] == pytest.approx(-m * (1 - m) * noise, rel=1e-4, abs=1e-4)
            assert found["c"][i][j] == pytest.approx((1 - m) ** 2 * noise, rel=1e-3, abs=1e-6)


def test_the_exact_map_is_the_solvers():
    """The carried Jacobian against DOP853 on the same rows: another integrator, from t to r instead of from 1."""
    law = PLANAR["eight_gaussians"]()
    found = exact_map(law, 0)
    t, r = (6 + 0.5) / BINS, (2 + 0.5) / BINS
    field = ms.fields.analytic.Averaged(law.velocity, 1e-9, 1e-11, law.differential)
    e = torch.randn(found["rows"], 2, generator=ms.key(0, "law"), dtype=torch.float64)
    full = torch.full((len(e),), t, dtype=torch.float64)
    z = field.flow(e, full, torch.ones_like(full))
    jacobi, noise = -field.flow_jacobian(z, torch.full_like(full, r), full), law.covariance(z, full)
    expected = torch.einsum("nij,njk,nik->n", jacobi, noise, jacobi).mean()
    assert found["a"][6][2] == pytest.approx(expected.item(), rel=2e-3)


def test_the_exact_coefficient_is_the_minimiser_of_each_bin():
    found = exact_map(PLANAR["eight_gaussians"](), 0)
    edges, table = exact_beta(found)
    assert edges.tolist() == [k / BINS for k in range(BINS + 1)]
    grid = torch.linspace(0, 1, 1001)
    for i, j in ((4, 1), (7, 0), (3, 2), (6, 5)):
        noise = found["a"][i][j] - 2 * grid * found["b"][i][j] + grid**2 * found["c"][i][j]
        assert table[i, j].item() == pytest.approx(grid[noise.argmin()].item(), abs=1.1e-3)
    assert 0 <= table.min() <= table.max() <= 1 and table.unique().numel() > 3


# Probes -----------------------------------------------------------------------------------------------------------------------------


def probed(power: float = 1.0, n: int = 24) -> tuple[Rows, Shape, Settings, Tensor, Tensor, dict]:
    settings = replace(SETTINGS, power=power, probe=n)
    shape, stream = Shape(2, 16, 2), rounded(PLANAR["two_moons"]())
    rows = probe_rows(stream, shape, settings)
    flat, ema = (3 * shape.initial(ms.key(k, "weights"))[None] for k in range(2))
    return rows, shape, settings, flat, ema, Probe(rows, shape, settings)(flat, ema)


def gradients(shape: Shape, flat: Tensor, rows: Rows, residual) -> Tensor:
    """The gradient of each row's own `weight * |residual|^2`, one row at a time: `[N, parameters]`."""
    net, found = shape.as_module(flat), []
    for k in range(len(rows.bridge.t)):
        b = Bridge(*(p[None, k : k + 1] for p in rows.bridge[:4]))
        r, weight = residual(net, b, k)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad((weight * r.square().sum()), list(net.parameters()))]))
    return torch.stack(found).double()


def trace(g: Tensor) -> float:
    return g.var(0).sum().item()


@pytest.mark.parametrize("beta", PROBE_BETAS)
def test_the_trace_is_the_variance_of_single_gradients(beta: float):
    rows, shape, settings, flat, ema, found = probed()
    slow, k = shape.as_module(ema), PROBE_BETAS.index(beta)

    def residual(net, b, row):
        w = torch.lerp(b.v, slow(b.z, b.t, b.t).detach(), beta)
        _, du = torch.func.jvp(net, (b.z, b.r, b.t), (w, torch.zeros_like(b.r), torch.ones_like(b.t)))
        r = net(b.z, b.r, b.t) + (b.gap[..., None] * du).detach() - b.v
        return r, 1.0

    assert found["trace"][k] == pytest.approx(trace(gradients(shape, flat, rows, residual)), rel=1e-4)

    def weighted(net, b, row):
        r, _ = residual(net, b, row)
        return r, 1 / (r.detach().square().sum() + settings.c)

    assert found["weighted"][k] == pytest.approx(trace(gradients(shape, flat, rows, weighted)), rel=1e-4)


@pytest.mark.parametrize("proxy", ["posterior", "posterior-both", "oracle-both", "own", "ema-both"])
def test_the_traces_of_proxies(proxy: str):
    rows, shape, _, flat, ema, found = probed()
    slow, name, both = shape.as_module(ema), proxy.removesuffix("-both"), proxy.endswith("-both")

    def residual(net, b, row):
        known = {"posterior": rows.posterior, "oracle": rows.exact}
        w = known[name][None, row : row + 1] if name in known else (slow if name == "ema" else net)(b.z, b.t, b.t).detach()
        _, du = torch.func.jvp(net, (b.z, b.r, b.t), (w, torch.zeros_like(b.r), torch.ones_like(b.t)))
        return net(b.z, b.r, b.t) + (b.gap[..., None] * du).detach() - (w if both else b.v), 1.0

    assert found["proxies"][proxy] == pytest.approx(trace(gradients(shape, flat, rows, residual)), rel=1e-4)


def test_noise_error_map_and_optima_come_from_the_jacobian():
    rows, shape, _, flat, ema, found = probed(n=400)
    net, slow, b = shape.as_module(flat), shape.as_module(ema), rows.bridge
    z, r, t = (p[None] for p in b[:1] + b[2:4])

    def jacobi(w: Tensor) -> Tensor:
        zero = torch.zeros_like(r)
        return (b.gap[:, None] * torch.func.jvp(net, (z, r, t), (w[None], zero, zero))[1][0] - w).detach()

    bias = (slow(z, t, t)[0] - rows.exact).detach()
    jn, n, jb = jacobi(rows.noise), rows.noise, jacobi(bias) + bias
    for beta, error in zip(found["betas"], found["error"], strict=True):
        noise = ((1 - beta) * jn - beta * n).square().sum() + beta**2 * jb.square().sum()
        assert error == pytest.approx((noise / n.square().sum()).item(), rel=1e-4)
    assert found["optimum"]["matrix"] == pytest.approx(matrix_optimum(jn, n).item(), abs=1e-4)
    assert found["optimum"]["matrix_biased"] == pytest.approx(matrix_optimum(jn, n, jb).item(), abs=1e-4)
    kappa = (jn.square().sum() / n.square().sum()).sqrt()
    shrink = n.square().sum() / (n.square().sum() + bias.square().sum())
    assert found["optimum"]["norm"] == pytest.approx((kappa / (kappa + 1) * shrink).item(), rel=1e-4)
    assert found["bias"]["ema"] == pytest.approx((bias.square().sum() / n.square().sum()).item(), rel=1e-4)
    inside = (b.t >= 0.5) & (b.t < 0.625) & (b.r < 0.125)
    assert found["map"]["a"][4][0] == pytest.approx(jn[inside].square().sum(1).mean().item(), rel=1e-4)
    assert found["map"]["a"][0][4] is None and found["map"]["rows"] == found["rows"] == 400


def test_the_noise_part_is_what_the_exact_proxy_in_both_roles_removes():
    """In expectation Tr Cov = Tr Cov without noise + noise part, eq. (14); the cross term vanishes: five standard errors of it."""
    *_, found = probed(n=20_000)
    total, quiet, noise = found["trace"][0], found["proxies"]["oracle-both"], found["noise"][0]
    assert noise > 0 and quiet < total
    assert abs(total - quiet - noise) < 5 * found["trace_se"][0]


# Sample quality ---------------------------------------------------------------------------------------------------------------------


def test_the_exact_field_reaches_the_floor_and_noise_does_not():
    law = normal(2)
    judge = Judge(rounded(law), replace(SETTINGS, samples=4000))
    floors = [Judge(replace_seed(rounded(law), k), replace(SETTINGS, samples=4000)).floor() for k in range(4)]
    exact = ms.Gaussian(torch.zeros(2), 1.0)

    def field(z, r, t, y=None):
        return exact(z, r, t)

    scores = judge.scores(field, (1, 2, 64))
    worst = max(f["sw1"] for f in floors)
    assert all(value < 1.5 * worst for value in scores["sw1"].values())
    assert scores["coverage"] > 0.97 and abs(scores["energy"]) < 0.01

    def shifted(z, r, t, y=None):
        return exact(z, r, t) - 1.0

    off = judge.scores(shifted)
    assert off["sw1"]["1"] == pytest.approx(2**0.5 * 2 / torch.pi, rel=0.15)  # |shift| 2 / pi


def test_a_judge_is_the_same_for_every_model_and_differs_between_seeds():
    law = PLANAR["two_moons"]()
    one, same, other = (Judge(Stream(law.to(torch.float32), "two_moons", seed), SETTINGS) for seed in (0, 0, 1))
    shape = Shape(2, 16, 2)
    runner = Runner(shape, shape.initial(ms.key(0))[None])
    assert one.scores(runner) == same.scores(runner) != other.scores(runner)
