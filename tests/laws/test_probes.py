"""Probes against closed forms, dense Jacobians, brute force and the exact law over (r, t); intervals by how often they cover."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

import meanstep as ms
from meanstep import probes, recipes, terms, velocities
from meanstep.auxiliary import Auxiliary, Directional
from meanstep.fields import PLANAR, DiT, gaussian_mixture
from meanstep.fields.analytic import Averaged, Mixture, residual_noise
from meanstep.fields.flat import Shape
from meanstep.keys import key
from meanstep.objectives import Eulerian, Lagrangian, Matching, Semigroup
from meanstep.probes.maps import noise_map
from meanstep.program.reproduce.points.draws import Stream
from meanstep.program.reproduce.points.measure import BINS, Probe, exact_map, probe_rows
from meanstep.program.reproduce.points.settings import Settings
from meanstep.program.verify import noise as verify_noise
from meanstep.rates import Backward
from meanstep.terms import Term
from meanstep.times import logit_normal
from meanstep.types import Bridge, Regression
from meanstep.weights import adaptive

F = torch.float64
TIMES = logit_normal(-0.4, 1.0)
CENTRES = (torch.arange(BINS, dtype=F) + 0.5) / BINS


def ring(std: float = 0.5, radius: float = 2.0) -> Mixture:
    """Eight Gaussians on a circle."""
    angle = torch.arange(8, dtype=F) * math.pi / 4
    return Mixture(radius * torch.stack([angle.cos(), angle.sin()], -1), std)


def narrow() -> Mixture:
    """Two modes in seven dimensions, narrow in six of them: some directions expand, more contract, and the optimum is inside (0, 1)."""
    means = torch.zeros(2, 7, dtype=F)
    means[0, 0], means[1, 0] = 0.4, -0.4
    return Mixture(means, torch.tensor([1.2, *[0.27] * 6], dtype=F).expand(2, 7))


def midpoint(law: Mixture) -> Any:
    """An approximate average velocity in closed form: whatever a field is, its noise is exact once the law's velocity is."""

    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        gap = (t - r)[..., None]
        return law.velocity(z - gap / 2 * law.velocity(z, t), (r + t) / 2)

    return field


def rows(law: Any, n: int, seed: int, times: Any = TIMES) -> Bridge:
    g = ms.key(seed, "rows")
    x = law.sample(n, g)
    e = torch.randn(x.shape, generator=g, dtype=F)
    r, t = (p.to(F) for p in times((n,), g))
    z, v = ms.paths.linear(x, e, t)
    return Bridge(z, v, r, t)


def exact(law: Any, field: Any, n: int, seed: int = 10**6) -> probes.Table:
    """The moments with the noise integrated out: dense Jacobians and the law's own covariance."""
    b = rows(law, n, seed)
    j, s = probes.dense(field, b), law.covariance(b.z, b.t)
    k = j + torch.eye(j.shape[-1], dtype=F)

    def trace(p: Tensor, q: Tensor) -> Tensor:
        return torch.einsum("nij,njk,nik->n", p, s, q)

    zero = torch.zeros(n, dtype=F)
    return probes.Table(
        b.r, b.t, {"a": trace(j, j), "b": trace(j, k), "c": trace(k, k), "s": torch.einsum("nii->n", s), "d": zero, "e": zero}
    )


def network(dim: int = 2, width: int = 16, scale: float = 1.5, members: tuple[int, ...] = ()) -> ms.MLP:
    net = ms.MLP(dim, width, 2, frequencies=2, members=members, generator=ms.key(0, "net")).double()
    with torch.no_grad():
        for w in net.weights:
            w.mul_(scale)
    return net


def covers(found: probes.Estimate, value: Tensor, positive: bool = False) -> bool:
    low, high = found.positive_interval() if positive else found.interval()
    return bool((low <= value) & (value <= high))


# The Jacobi factor -------------------------------------------------------------------------------------------------------------------


def test_the_factor_of_a_gaussian_is_minus_the_flows_jacobian():
    law = ms.Gaussian(torch.zeros(3, dtype=F), torch.tensor([2.0, 1.0, 0.3], dtype=F))
    b = rows(law, 50, 0)
    jacobian = -law.flow_jacobian(b.z, b.r, b.t)
    torch.testing.assert_close(probes.dense(law, b), jacobian)
    found = probes.factor(law, b).columns
    m = jacobian.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(found["norm"], m.abs().amax(-1))
    torch.testing.assert_close(found["singular"], m.abs().mean(-1))
    torch.testing.assert_close(found["kappa"], m.mean(-1))
    torch.testing.assert_close(found["expanding"], (m.square().mean(-1) > 1).to(F))


def test_large_events_are_probed_by_random_vectors():
    net, n = network(6, scale=2.5), 2000
    b = rows(Mixture(torch.zeros(1, 6, dtype=F)), n, 1)
    near = probes.factor(net, b)
    far = probes.factor(net, b, exact=0, draws=8, steps=6, generator=ms.key(0))
    torch.testing.assert_close(far.columns["norm"], near.columns["norm"])  # six steps span six dimensions
    for name in ("singular", "kappa", "square"):
        off = probes.Table(b.r, b.t, {"off": far.columns[name] - near.columns[name]}).mean("off")
        assert abs(off.value) < 4 * off.error + 1e-12, name
    short = probes.factor(net, b, exact=0, steps=2).columns["norm"]
    assert (short <= near.columns["norm"] * (1 + 1e-9)).all()


def test_random_vectors_without_a_generator_differ_from_draw_to_draw_and_from_chunk_to_chunk():
    net = network(6, scale=2.5)
    b = rows(Mixture(torch.zeros(1, 6, dtype=F)), 400, 1)
    wanted = probes.factor(net, b).columns["kappa"]
    one, many = (probes.factor(net, b, exact=0, draws=n, steps=0).columns["kappa"] - wanted for n in (1, 64))
    assert many.square().mean() < one.square().mean() / 16
    alike = b._replace(**{name: getattr(b, name)[:1].repeat_interleave(8, 0) for name in ("z", "v", "r", "t")})
    assert len(probes.factor(net, alike, exact=0, draws=1, steps=0, chunk=2).columns["kappa"].unique()) > 4


def test_rows_on_the_diagonal_are_minus_the_identity():
    net = network(6)
    b = rows(Mixture(torch.zeros(1, 6, dtype=F)), 20, 1)
    found = probes.factor(net, b._replace(r=b.t), exact=0, steps=4).columns
    one = torch.ones(20, dtype=F)
    for name, value in {"norm": one, "singular": one, "kappa": -one, "square": one}.items():
        torch.testing.assert_close(found[name], value)


def test_the_transposed_product_is_the_adjoint():
    net = DiT(4, 2, 2, 16, 1, 2, generator=ms.key(0))
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=ms.key(1, k)))
    z, v, w = (torch.randn(5, 2, 4, 4, generator=ms.key(2, k)) for k in range(3))
    b = Bridge(z, v, torch.full((5,), 0.1), torch.full((5,), 0.9))
    left, right = (probes.product(net, b, v) * w).sum((1, 2, 3)), (v * probes.transposed(net, b, w)).sum((1, 2, 3))
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


# The noise ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_noise_of_a_regression_is_split_by_role(beta: float):
    law, net = ring(), network(scale=2.5)
    b, oracle = rows(law, 100, 0), velocities.oracle(law.velocity)
    objective = Eulerian(velocities.mix(velocities.conditional, velocities.own, beta))
    found = probes.roles(net, b, objective, oracle, chunk=33).columns
    j, n = probes.dense(net, b), b.v - law.velocity(b.z, b.t)
    swing = torch.einsum("nij,nj->ni", j, n) + n
    tangent, target = (1 - beta) * swing, -n
    for name, value in {"tangent": tangent, "target": target, "noise": tangent + target}.items():
        torch.testing.assert_close(found[name], value.square().sum(-1))
    torch.testing.assert_close(found["cross"], (tangent * target).sum(-1))
    regression = objective(net, b)
    torch.testing.assert_close(found["residual"], (regression.prediction - regression.target).square().sum(-1).detach())


def test_the_noise_of_other_identities():
    law, net = ring(), network(scale=2.5)
    b, oracle = rows(law, 100, 0), velocities.oracle(law.velocity)
    noise = (b.v - law.velocity(b.z, b.t)).square().sum(-1)
    torch.testing.assert_close(probes.roles(net, b, Matching(), oracle).columns["noise"], noise)
    for objective in (Semigroup(0.5), Lagrangian(velocities.own)):
        assert probes.roles(net, b, objective, oracle).columns["noise"].abs().max() == 0
    near = probes.roles(net, b, Eulerian(rate=Backward(1e-4)), oracle).columns["noise"]
    torch.testing.assert_close(near, probes.roles(net, b, Eulerian(), oracle).columns["noise"], rtol=1e-2, atol=1e-3)


def test_the_parabola_is_the_measured_noise_and_its_bias_the_proxys():
    law, net = ring(), network(scale=2.5)
    b, oracle = rows(law, 400, 0), velocities.oracle(law.velocity)
    table = probes.moments(net, b, oracle, velocities.own, chunk=77)
    curve = probes.curve(table._replace(columns=table.columns | {"d": 0 * table.columns["d"]}), relative=False)
    for beta, value in zip(curve.betas.tolist(), curve.noise.value, strict=True):
        measured = probes.roles(net, b, Eulerian(velocities.mix(velocities.conditional, oracle, beta)), oracle).mean("noise").value
        torch.testing.assert_close(value, measured)
    bias = net(b.z, b.t, b.t).detach() - law.velocity(b.z, b.t)
    moved = torch.einsum("nij,nj->ni", probes.dense(net, b), bias) + bias
    torch.testing.assert_close(table.columns["d"], moved.square().sum(-1))
    torch.testing.assert_close(table.columns["e"], bias.square().sum(-1))
    assert ((curve.top >= 0.01) & (curve.top <= 1)).all() and (curve.noise.error > 0).all()
    away = probes.difference(table, 0.2, 0.8)
    columns = table.columns
    change = -2 * (0.2 - 0.8) * columns["b"] + (0.2**2 - 0.8**2) * (columns["c"] + columns["d"])
    torch.testing.assert_close(away.value, change.mean() / columns["s"].mean())


def test_the_scalar_forms():
    law = ms.Gaussian(torch.zeros(2, dtype=F), 2.0)
    table = probes.moments(
        law, rows(law, 500, 0, lambda shape, g: (torch.zeros(shape), torch.full(shape, 0.5))), velocities.oracle(law.velocity)
    )
    m = 2 / 1.25**0.5  # the flow expands every direction by this
    assert probes.by_norm(table).value.item() == pytest.approx(m / (m + 1), rel=1e-6)
    assert probes.by_sign(table).value.item() == pytest.approx(m / (m - 1), rel=1e-6)
    assert probes.by_sign(table).clipped().value == probes.matrix(table).clipped().value == 1
    assert table.mean("expanding").value == 1


# The matrix optimum -------------------------------------------------------------------------------------------------------------------


def test_the_matrix_optimum_is_the_minimiser_of_measured_noise():
    """Within 5 percent of brute force on other rows, through the objective that trains."""
    law = narrow()
    field, oracle, fresh = midpoint(law), velocities.oracle(law.velocity), rows(law, 20_000, 1)

    def measured(beta: float) -> float:
        objective = Eulerian(velocities.mix(velocities.conditional, oracle, beta))
        return probes.roles(field, fresh, objective, oracle, chunk=4000).mean("noise").value.item()

    best = minimize_scalar(measured, bounds=(0, 1), method="bounded", options={"xatol": 1e-3}).x
    found = probes.matrix(probes.moments(field, rows(law, 20_000, 0), oracle))
    assert 0.2 < best < 0.8
    assert found.value.item() == pytest.approx(best, rel=0.05)


def coverage(trials: int, law: Mixture, field: Any, truth: Tensor, n: int = 1000, first: int = 0) -> int:
    oracle, seeds = velocities.oracle(law.velocity), range(first, first + trials)
    return sum(covers(probes.matrix(probes.moments(field, rows(law, n, seed), oracle)), truth) for seed in seeds)


@pytest.mark.parametrize("law", [narrow(), ring()], ids=["narrow", "ring"])
def test_the_optimums_interval_covers_in_20_trials(law: Mixture):
    """At a true coverage of 95 percent fewer than 17 of 20 have a probability of 1.6 percent."""
    field = midpoint(law)
    assert coverage(20, law, field, probes.matrix(exact(law, field, 20_000)).value) >= 17


@pytest.mark.slow
@pytest.mark.parametrize(("law", "n"), [(narrow(), 1000), (ring(), 1000), (ring(0.3), 8000)], ids=["narrow", "ring", "seams"])
def test_the_optimums_interval_covers_in_100_trials(law: Mixture, n: int):
    field = midpoint(law)
    assert coverage(100, law, field, probes.matrix(exact(law, field, 100_000)).value, n) >= 90


@pytest.mark.slow
@pytest.mark.parametrize("law", [narrow(), ring()], ids=["narrow", "ring"])
def test_the_optimums_interval_covers_in_100_trials_on_the_exact_flow(law: Mixture):
    field = law.field(1e-3, 1e-5)
    assert coverage(100, law, field, probes.matrix(exact(law, field, 40_000)).value) >= 90


@pytest.mark.slow
def test_the_optimums_interval_covers_where_plain_draws_miss_the_seams():
    """Exact flow between narrow modes; other seeds than its constants were chosen on; truth from rows drawn where they arrive."""
    law, known = ring(0.3), verify_noise.TABLE[0]
    noise, total, weight = verify_noise.exact_noise(known, 16_000, 0)
    a, half, s = ((weight * x).mean() for x in (noise[0], noise[2], total))
    b = 2 * (0.75 * a + 0.25 * s - half)
    assert coverage(100, law, law.field(1e-3, 1e-5), b / (s - a + 2 * b), 8000, first=1000) >= 90


def test_the_unseen_tail_is_small_for_normal_rows_and_large_for_a_power_law():
    g = ms.key(0, "tail")
    normal, uniform = torch.randn(2, 8000, generator=g, dtype=F), torch.rand(2, 8000, generator=g, dtype=F)
    error = 8000**-0.5
    assert (probes.optimum.unseen(normal.square() - 1) < 0.15 * 2**0.5 * error).all()
    heavy = uniform ** (-1 / 1.5)  # exponent 1.5, mean 3
    found = probes.optimum.unseen(heavy)
    torch.testing.assert_close(found, heavy.amax(-1) / 8000 / 0.5, rtol=0.6, atol=0)
    assert probes.optimum.unseen(torch.zeros(3, 1, dtype=F)).eq(0).all() and probes.optimum.unseen(torch.zeros(3, 50, dtype=F)).eq(0).all()


def test_where_intervals_cannot_be_trusted_the_probe_says_so():
    """On the exact flow between narrow modes the delta method's interval covers in four of five trials: plain draws miss the seams."""
    law, tame = ring(0.3), narrow()
    heavy = probes.moments(law.field(1e-3, 1e-5), rows(law, 1000, 0), velocities.oracle(law.velocity))
    light = probes.moments(midpoint(tame), rows(tame, 1000, 0), velocities.oracle(tame.velocity))
    assert heavy.top("a") > 0.2 > 0.1 > light.top("a")


def test_one_coefficient_a_direction():
    """In closed form for a Gaussian: m / (m - 1) where it expands, 0 where it contracts; a single part gives the scalar optimum."""
    std = torch.tensor([4.0, 0.3, 1.5], dtype=F)
    law = ms.Gaussian(torch.zeros(3, dtype=F), std)
    b = rows(law, 4000, 0)
    oracle = velocities.oracle(law.velocity)
    betas, noise = probes.per_direction(probes.directions(law, b, oracle))
    assert betas.value.tolist() == [1.0, 0.0, 1.0]
    whole = probes.moments(law, b, oracle)
    least = probes.curve(whole, torch.linspace(0, 1, 101, dtype=F)).noise.value.min()
    assert noise.value < least and noise.error > 0
    one, at_one = probes.per_direction(probes.directions(law, b, oracle, lambda v, b: v[None]))
    torch.testing.assert_close(one.value[0], probes.matrix(whole).clipped().value)
    assert at_one.value.item() == pytest.approx(least.item(), rel=1e-6)


def test_directions_are_found_with_their_couplings():
    """A field that mixes the entries: against a dense least-squares problem with a box."""
    law, net = Mixture(torch.zeros(1, 3, dtype=F), torch.tensor([[1.0, 0.5, 2.0]], dtype=F)), network(3, scale=3.0)
    b = rows(law, 2000, 0)
    betas, _ = probes.per_direction(probes.directions(net, b, velocities.oracle(law.velocity)))
    j, n = probes.dense(net, b), b.v - law.velocity(b.z, b.t)
    y, k = torch.einsum("nij,nj->ni", j, n), j + torch.eye(3, dtype=F)

    def noise(x: Tensor) -> Tensor:
        return (y - torch.einsum("nij,j,nj->ni", k, x, n)).square().sum()

    best = noise(betas.value)
    for step in 0.02 * torch.randn(50, 3, generator=ms.key(0), dtype=F):
        assert noise((betas.value + step).clamp(0, 1)) >= best


# Bins ---------------------------------------------------------------------------------------------------------------------------------


def test_the_map_over_r_and_t_is_the_exact_one():
    law = gaussian_mixture(2, 4, 0.5)
    n = 150
    pairs = [(i, j) for i in range(BINS) for j in range(i + 1)]
    r, t = (CENTRES[torch.tensor([pair[k] for pair in pairs])].repeat_interleave(n) for k in (1, 0))
    field = Averaged(law.velocity, 1e-3, 1e-5, law.differential)
    b = rows(law, len(t), 0, lambda shape, g: (r, t))
    table = probes.moments(field, b, velocities.oracle(law.velocity), chunk=len(t))
    grid, found = probes.per_bin(table), exact_map(law, 0)
    for name in "bcs":
        bins = table.bins(name)
        for i, j in pairs:
            wanted, value, error = found[name][i][j], bins.value[i, j], bins.error[i, j]
            assert abs(value - wanted) < 5 * error + 0.05 * abs(wanted) + 1e-6, (name, i, j)
    assert grid.counts.sum() == len(t) and grid.counts[3, 5] == 0 and grid.a[3, 5].isnan()
    wanted = torch.tensor([[found["b"][i][j] / found["c"][i][j] for j in range(i)] + [math.nan] * (BINS - i) for i in range(BINS)], dtype=F)
    off = ((grid.beta.value - wanted).abs() / grid.beta.error)[wanted.isfinite()]
    assert (off < 3).double().mean() > 0.9


@pytest.mark.parametrize("name", PLANAR)
def test_a_coefficient_a_bin_is_quieter_than_every_constant(name: str):
    """By the exact law, fitted on the rows of one seed and measured on those of another; every bin counts alike."""
    maps = []
    for seed in (0, 1):
        rows = torch.randn(48, 2, generator=key(seed, "law"), dtype=F)
        a, b, c, s = noise_map(PLANAR[name](), rows, BINS, substeps=3)
        counts = a.isfinite().long()
        optimum = probes.Estimate(b / c, a, a)
        maps.append(probes.Grid(torch.linspace(0, 1, BINS + 1, dtype=F), a, b, c, s, 0 * a, counts, optimum))
    binned = maps[1].total(maps[0].table())
    constants = torch.stack([maps[1].total(beta) for beta in torch.linspace(0, 1, 101, dtype=F).tolist()])
    assert binned < constants.min()


def test_the_sweeps_map_is_the_probes():
    """Two programs on the same rows: the sweep's, with passes of its own, and this one."""
    settings = Settings(("two_moons",), (0.0,), (0,), ("paper",), 10, width=16, depth=2, reference=64, probe=300)
    shape, stream = Shape(2, 16, 2), Stream(PLANAR["two_moons"]().to(torch.float32), "two_moons", 0)
    drawn, flat = probe_rows(stream, shape, settings), 3 * shape.initial(ms.key(0, "weights"))[None]
    found = Probe(drawn, shape, settings)(flat, flat)
    b = Bridge(*(p[None] for p in drawn.bridge[:4]))
    table = probes.moments(shape.as_module(flat), b, lambda field, b: drawn.exact[None], velocities.own)
    for name in "abcs":
        wanted = torch.tensor([[math.nan if x is None else x for x in line] for line in found["map"][name]], dtype=F)
        torch.testing.assert_close(table.bins(name).value, wanted, rtol=1e-3, atol=1e-4, equal_nan=True)
    assert found["optimum"]["matrix_biased"] == pytest.approx(probes.matrix(table).clipped().value.item(), abs=1e-4)
    assert found["optimum"]["norm"] == pytest.approx(probes.by_norm(table).value.item(), rel=1e-4)
    assert found["optimum"]["signed"] == pytest.approx(probes.by_sign(table).clipped().value.item(), abs=1e-4)


def test_a_map_is_a_coefficient():
    law, net = ring(), network(scale=2.5)
    b = rows(law, 2000, 0)
    table = probes.moments(net, b, velocities.oracle(law.velocity))
    grid = probes.per_bin(table)
    value = grid.coefficient()(b)
    assert value.shape == b.t.shape and ((value >= 0) & (value <= 1)).all()
    loss = ms.Loss(recipes.coefficient(grid.coefficient(), velocities.own))
    assert loss(net, law.sample(64, ms.key(1)), generator=ms.key(0)).loss.isfinite()
    error = probes.at_beta(table, 0.4)
    torch.testing.assert_close(grid.total(0.4), error.mean("error").value)
    torch.testing.assert_close(grid.noise(0.4), error.bins("error").value, equal_nan=True)
    whole = probes.matrix(table).clipped().value
    torch.testing.assert_close(grid.table(1e12), torch.full((8, 8), whole.item(), dtype=F))
    assert (grid.table()[grid.counts == 0] == grid.table(1e12)[0, 7]).all()


# Bias ---------------------------------------------------------------------------------------------------------------------------------


def references(law: Mixture, count: int, size: int, own: bool = True) -> list[velocities.Posterior]:
    return [velocities.Posterior(law.sample(size, ms.key(7, k)), include_own=own) for k in range(count)]


def test_a_proxys_bias_and_its_bounds():
    law, net = ring(), network()
    b, oracle = rows(law, 2000, 0), velocities.oracle(law.velocity)
    true = probes.proxy_bias(net, b, velocities.own, oracle)
    crossed = probes.proxy_bias(net, b, velocities.own, posteriors=references(law, 6, 256))
    loose = probes.proxy_bias(net, b, velocities.own)
    with pytest.raises(ValueError, match="there is one: give three"):
        probes.proxy_bias(net, b, velocities.own, posteriors=references(law, 1, 256))
    assert (true.kind, crossed.kind, loose.kind) == ("exact", "upper bound", "upper bound")
    torch.testing.assert_close(true.square.value, (net(b.z, b.t, b.t) - law.velocity(b.z, b.t)).square().sum(-1).mean().detach())
    paired = probes.Table(b.r, b.t, {"off": crossed.rows.columns["square"] - true.rows.columns["square"]}).mean("off")
    assert abs(paired.value) < 4 * crossed.square.error and crossed.square.error < 0.1 * true.square.value
    noise = (b.v - law.velocity(b.z, b.t)).square().sum(-1).mean()
    off = 2 * ((b.v - law.velocity(b.z, b.t)) * (net(b.z, b.t, b.t) - law.velocity(b.z, b.t)).detach()).sum(-1).mean()
    torch.testing.assert_close(loose.square.value, true.square.value + noise - off)


def test_the_posteriors_gain_needs_no_oracle():
    """With the own point included the noise that is left is the noise less what is removed; without it there is a bias."""
    law = ring(0.3)
    b, oracle = rows(law, 4000, 0), velocities.oracle(law.velocity)
    inside = probes.posterior_gain(network(), b, references(law, 8, 8), oracle)
    off = inside.columns["noise"] - inside.columns["left"] - inside.columns["removed"]
    cross = probes.Table(b.r, b.t, {"off": off}).mean("off")
    assert abs(cross.value) < 5 * (cross.error**2 + probes.over_references(inside, "bias").error ** 2).sqrt()
    assert inside.ratio("left", "noise").value < 0.5
    torch.testing.assert_close(inside.mean("left").value, inside.mean("spread").value + inside.mean("bias").value)
    outside = probes.posterior_gain(network(), b, references(law, 8, 8, own=False), oracle)
    assert outside.mean("left").value > 1.2 * inside.mean("left").value
    assert probes.posterior_gain(network(), b, references(law, 2, 8)).columns.keys() == {"removed", "spread"}


def test_an_imperfect_center_moves_the_optimum_less_than_its_bound():
    law = narrow()
    field, b, oracle = midpoint(law), rows(law, 4000, 0), velocities.oracle(law.velocity)

    def tilted(field: Any, b: Bridge) -> Tensor:
        return law.velocity(b.z, b.t) + 0.3 * b.z.sin()

    right, wrong = probes.moments(field, b, oracle), probes.moments(field, b, tilted)
    moved = (probes.matrix(right).value - probes.matrix(wrong).value).abs()
    norm = probes.factor(field, b).columns["norm"].max()
    sharp = probes.center_shift(wrong, probes.moments(field, b, tilted, oracle))
    crude = probes.center_bound(wrong, probes.proxy_bias(field, b, tilted, oracle).square.value, norm)
    assert 0.01 < moved < sharp < crude


# Gradients ----------------------------------------------------------------------------------------------------------------------------


def test_single_rows_gradients():
    net, b = network(scale=1.0), rows(ring(), 40, 0)
    objective, weight = Eulerian(velocities.mix(velocities.conditional, velocities.own, 0.5)), adaptive(1.0, 1e-2)
    grads = []
    for k in range(40):
        one = Bridge(*(p[k : k + 1] for p in b[:4]))
        regression = objective(net, one)
        loss = weight((regression.prediction - regression.target).square().mean(-1), one).sum()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]))
    wanted = torch.stack(grads).var(0).sum()
    for vectorised in (True, False):
        found = probes.of_rows(net, b, objective, weight, chunk=16, vectorised=vectorised)
        torch.testing.assert_close(found.value, wanted)
        assert 0 < found.error < wanted


def test_contrasts_are_the_variance_of_the_batches():
    net = network(scale=1.0)
    grads = torch.randn(9, sum(p.numel() for p in net.parameters()), generator=ms.key(0), dtype=F)

    def loss(k: int) -> Tensor:
        return (torch.cat([p.flatten() for p in net.parameters()]) * grads[k]).sum()

    found = probes.of_batches(loss, net.parameters(), 9)
    torch.testing.assert_close(found.value, grads.var(0).sum())
    assert found.error > 0
    two = probes.of_batches(loss, net.parameters(), 2)
    torch.testing.assert_close(two.value, (grads[0] - grads[1]).square().sum() / 2)
    assert two.error.isnan()


RECIPE = recipes.meanflow(weight=adaptive(0.5, 1e-2))


def step_truth(net: ms.MLP, law: Mixture, n: int) -> Tensor:
    """`Tr Cov` of a step on one row, from many rows."""
    loss = ms.Loss(RECIPE)
    return probes.of_terms(net, loss.draw(law.sample(n, ms.key(1)), generator=ms.key(2)), chunk=500).value * n


@pytest.mark.parametrize("trials", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_the_traces_intervals_cover(trials: int):
    law, net, loss, rows_ = ring(), network(scale=1.0), ms.Loss(RECIPE), 256
    wanted = step_truth(net, law, 10_000 if trials == 20 else 40_000) / rows_
    split = whole = 0
    for seed in range(trials):
        x = law.sample(rows_, ms.key(3, seed))
        split += covers(probes.of_step(loss, net, x, splits=16, generator=ms.key(4, seed)), wanted, positive=True)
        draws = loss.draw(x, generator=ms.key(5, seed))
        whole += covers(probes.of_terms(net, draws, chunk=256), wanted, positive=True)
    assert split >= 0.9 * trials and whole >= 0.9 * trials


@pytest.mark.parametrize("vectorised", [True, False])
def test_a_terms_gradient_has_what_is_inside_and_beside_its_weight(vectorised: bool):
    net, n = network(), 24
    (term,) = terms.beside(recipes.flow_matching(), Auxiliary(lambda look: 5 * look.data.square().mean(-1)))
    term = replace(term, inside=Directional(), weight=adaptive(0.5, 1e-2, "mean"))
    draws = ms.Loss((term,)).draw(ring().sample(n, ms.key(1)), generator=ms.key(2))
    b, grads = draws[0][1], []
    for z, v, t in zip(b.z, b.v, b.t, strict=True):
        u = net(z[None], t[None], t[None])[0]
        error = (u - v).square().mean() + 1 - torch.nn.functional.cosine_similarity(u, v, 0)
        loss = error / (error.detach() + 1e-2) ** 0.5 + 5 * (z - t * u).square().mean()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*net.parameters()])]))
    wanted = torch.stack(grads).var(0).sum() / n
    torch.testing.assert_close(probes.of_terms(net, draws, vectorised=vectorised).value, wanted)


def test_what_is_beside_a_term_sees_the_velocity_and_not_the_prediction():
    net, n = network(), 24
    twice = Term(lambda field, b: Regression(2 * field(b.z, b.r, b.t, b.y), b.v), logit_normal())
    (term,) = terms.beside((twice,), Auxiliary(lambda look: look.velocity.square().mean(-1)))
    draws = ms.Loss((term,)).draw(ring().sample(n, ms.key(1)), generator=ms.key(2))
    b, grads = draws[0][1], []
    for z, v, r, t in zip(b.z, b.v, b.r, b.t, strict=True):
        u = net(z[None], r[None], t[None])[0]
        loss = (2 * u - v).square().mean() + u.square().mean()
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*net.parameters()])]))
    torch.testing.assert_close(probes.of_terms(net, draws).value, torch.stack(grads).var(0).sum() / n)


def test_a_loss_of_a_layer_is_measured_by_the_step():
    net = network()
    recipe = terms.beside(recipes.flow_matching(), Auxiliary(lambda look: look.hidden.square().mean(-1), layer=torch.nn.Linear(1, 1)))
    draws = ms.Loss(recipe).draw(ring().sample(8, ms.key(1)), generator=ms.key(2))
    with pytest.raises(ValueError, match="of_step"):
        probes.of_terms(net, draws)


def test_terms_that_share_rows_are_refused():
    net, loss = network(), ms.Loss(recipes.coefficient(1.0, velocities.own))
    draws = loss.draw(ring().sample(16, ms.key(0)), generator=ms.key(0))
    with pytest.raises(ValueError, match="of_step"):
        probes.of_terms(net, draws)


def test_exact_noise_by_the_probes_is_the_analytic_one():
    law = ring()
    field = midpoint(law)
    table = exact(law, field, 500)
    b = rows(law, 500, 10**6)
    wanted = residual_noise(probes.dense(field, b), law.covariance(b.z, b.t), 0.3).mean()
    torch.testing.assert_close(probes.curve(table, torch.tensor([0.3], dtype=F), relative=False).noise.value[0], wanted)


# Contracts ----------------------------------------------------------------------------------------------------------------------------


def test_an_ensembles_members_are_probed_apart():
    law, nets = ring(), network(members=(3,))
    many = [rows(law, 50, seed) for seed in range(3)]
    b = Bridge(*(torch.stack(parts) for parts in zip(*(one[:4] for one in many), strict=True)))
    oracle = velocities.oracle(law.velocity)
    found = probes.moments(nets, b, oracle, chunk=16)
    assert probes.matrix(found).value.shape == (3,) and probes.curve(found).noise.value.shape == (11, 3)
    alone = ms.MLP(2, 16, 2, frequencies=2).double()
    alone.load_state_dict({name: p[1] for name, p in nets.state_dict().items()})
    single = probes.moments(alone, many[1], oracle)
    torch.testing.assert_close(probes.matrix(found).value[1], probes.matrix(single).value)
    torch.testing.assert_close(found.top("a")[1], single.top("a"))
    torch.testing.assert_close(probes.roles(nets, b, Eulerian(), oracle).columns["noise"], found.columns["a"])
    assert probes.factor(nets, b).mean("kappa").error.shape == (3,)
    assert probes.per_bin(found).beta.value.shape == (8, 8)


def test_images_masks_float32_and_the_global_state():
    net = DiT(4, 2, 2, 16, 1, 2, classes=3, generator=ms.key(0))
    g = ms.key(1)
    z, v = (torch.randn(10, 2, 4, 4, generator=g) for _ in range(2))
    r, t = TIMES((10,), g)
    mask = torch.rand(10, 2, 4, generator=g) < 0.7
    b = Bridge(z, v, r, t, torch.arange(10) % 4, mask, torch.rand(10, 4, generator=g))
    before = torch.get_rng_state()
    table = probes.moments(net, b, velocities.own, velocities.own, chunk=3)
    assert all(column.dtype == F and column.shape == (10,) for column in table.columns.values())
    noise = torch.where(mask[..., None], v - net(z, t, t, b.y).detach(), 0.0)
    torch.testing.assert_close(table.columns["s"].float(), noise.square().sum((1, 2, 3)))
    probes.factor(net, b, draws=2, steps=2)
    probes.roles(net, b, Eulerian(), velocities.own)
    probes.per_direction(probes.directions(net, b, velocities.own, probes.channels), groups=5)
    loss = ms.Loss(recipes.meanflow())
    x = torch.randn(16, 2, 4, 4, generator=g)
    assert probes.of_step(loss, net, x, torch.zeros(16, dtype=torch.int64), splits=4).value > 0
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())
