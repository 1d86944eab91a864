"""What samplers of times owe their caller: the range, the shape, the stream, and the law that their docstring states.

Laws are compared with exact distribution functions by Kolmogorov-Smirnov and chi-square tests at level 1e-3, with n and the seed fixed
below, so a pass stays a pass. The oracles are scipy's distributions and quadrature.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logit
from torch import Tensor

from meanstep import recipes, times
from meanstep.types import Bridge, Times

N = 20_000
LEVEL = 1e-3
SEED = 11

SAMPLERS: dict[str, Times] = {
    "uniform": times.uniform,
    "logit_normal": times.logit_normal(),
    "logit_normal_pair": times.logit_normal_pair(),
    "sorted_pair": times.sorted_pair(),
    "separated": times.separated(times.logit_normal_pair()),
    "capped": times.capped(times.uniform, 0.5),
    "gap_first": times.gap_first(),
    "gap_first, long": times.gap_first((3.0, 2.0), (1.0, 3.0)),
    "u_shaped": times.u_shaped(),
    "instants": times.instants(),
    "diagonal": times.diagonal(times.uniform),
    "terminal": times.terminal(times.uniform),
    "anchor": times.anchor(times.uniform),
    "anchor, wide": times.anchor(times.uniform, 0.0, 1.0),
    "dyadic": times.dyadic(range(7)),
    "extreme": times.logit_normal(0.0, 30.0),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


def generator(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(sampler: Times, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    r, t = sampler((n,), generator())
    return r.double().numpy(), t.double().numpy()


def fits(sample: np.ndarray, cdf: object) -> bool:
    return bool(stats.kstest(sample, cdf).pvalue > LEVEL)


def logit_normal(mean: float, std: float):
    """The distribution function of `sigmoid(N(mean, std^2))`."""
    return lambda q: stats.norm.cdf((logit(np.asarray(q)) - mean) / std)


# Every sampler -----------------------------------------------------------------------------------------------------------------------


@every_sampler
def test_times_are_in_range(sampler: Times):
    r, t = sampler((N,), generator())
    assert (r >= 0).all() and (r <= t).all() and (t <= 1).all()
    assert r.dtype == t.dtype == torch.float32


@every_sampler
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 7), (2, 3, 7)], ids=str)
def test_times_have_the_shape_asked_for(sampler: Times, shape: tuple[int, ...]):
    r, t = sampler(shape, generator())
    assert r.shape == t.shape == shape


@every_sampler
def test_a_generator_decides_everything(sampler: Times):
    before = torch.get_rng_state()
    first, second, other = (sampler((50,), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(first, second, strict=True))
    assert not torch.equal(first[1], other[1])


@every_sampler
def test_without_a_generator_the_global_state_decides(sampler: Times):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        mine = sampler((50,), None)
    assert all(torch.equal(p, q) for p, q in zip(mine, sampler((50,), generator(1)), strict=True))


# Their laws --------------------------------------------------------------------------------------------------------------------------


def test_uniform():
    r, t = drawn(times.uniform)
    assert fits(r, stats.beta(1, 2).cdf) and fits(t, stats.beta(2, 1).cdf) and fits(t - r, stats.beta(1, 2).cdf)


@pytest.mark.parametrize(("mean", "std"), [(-0.4, 1.0), (0.8, 0.8), (0.0, 2.0)])
def test_logit_normal(mean: float, std: float):
    r, t = drawn(times.logit_normal(mean, std))
    cdf = logit_normal(mean, std)
    assert fits(t, lambda q: cdf(q) ** 2) and fits(r, lambda q: 1 - (1 - cdf(q)) ** 2)


def mean_gap(cdf, other=None) -> float:
    """`E |a - b|` of independent `a`, `b` by quadrature: the integral of `F + G - 2 F G`."""
    other = other or cdf
    return integrate.quad(lambda q: cdf(q) + other(q) - 2 * cdf(q) * other(q), 0, 1, epsabs=1e-10)[0]


def test_the_mean_gap_of_meanflows_sampler():
    """0.2334 for two sorted logit-normals (-0.4, 1). The sample's standard error is 0.0005 at n = 131,072: four of them."""
    exact = mean_gap(logit_normal(-0.4, 1.0))
    assert abs(exact - 0.2334) < 5e-5
    assert abs(times.mean_gap(times.logit_normal(-0.4, 1.0)) - exact) < 0.002
    assert abs(times.mean_gap(times.uniform) - 1 / 3) < 0.0026
    ties = times.logit_normal_pair((-0.6, 1.6), (-4.0, 1.6))
    r, t = ties((1 << 17,), torch.Generator().manual_seed(0))
    assert (r == t).any() and abs(times.mean_gap(ties) - (t - r)[r < t].mean().item()) < 1e-6  # rows with r = t do not count


def test_the_mean_gap_of_a_sorted_pair():
    assert abs(times.mean_gap(times.sorted_pair()) - mean_gap(logit_normal(0.4, 1.0), logit_normal(-1.2, 1.0))) < 0.0026


def test_logit_normal_pair():
    """`t` has its own law; `r` is the smaller, and rows with `r = t` are as frequent as `r` exceeds `t`."""
    r, t = drawn(times.logit_normal_pair((-0.6, 1.6), (-4.0, 1.6)))
    assert fits(t, logit_normal(-0.6, 1.6))
    ft, fr = logit_normal(-0.6, 1.6), logit_normal(-4.0, 1.6)
    assert fits(r, lambda q: 1 - (1 - ft(q)) * (1 - fr(q)))
    share = stats.norm.cdf((-4.0 + 0.6) / math.hypot(1.6, 1.6))
    assert stats.binomtest(int((r == t).sum()), N, share).pvalue > LEVEL


def test_sorted_pair():
    r, t = drawn(times.sorted_pair((0.4, 1.0), (-1.2, 1.0)))
    a, b = logit_normal(0.4, 1.0), logit_normal(-1.2, 1.0)
    assert fits(t, lambda q: a(q) * b(q)) and fits(r, lambda q: 1 - (1 - a(q)) * (1 - b(q)))
    assert (r < t).all()


def test_separated():
    inner = times.logit_normal_pair((-0.6, 1.6), (-4.0, 1.6))
    (r, t), (apart, late) = drawn(inner), drawn(times.separated(inner, 0.01))
    assert (late - apart >= 0.01 - 1e-7).all()
    assert np.array_equal(late, np.maximum(t, np.float32(0.01)))
    far = t - r > 0.01 + 1e-6
    assert 0.1 < far.mean() < 1 and np.array_equal(apart[far], r[far])
    assert np.allclose((late - apart)[~far & (t > 0.01)], 0.01, atol=1e-6)


@pytest.mark.parametrize("largest", [0.5, 0.8, 1.0])
def test_a_cap_moves_r_and_leaves_t(largest: float):
    """Sorted uniforms: `t` keeps its law, gaps below the cap theirs, and the others, `(1 - cap)^2` of all, are the cap."""
    (r, t), (low, late) = drawn(times.uniform), drawn(times.capped(times.uniform, largest))
    assert np.array_equal(late, t) and (low >= r).all()
    far = t - r > largest
    assert np.array_equal(low[~far], r[~far]) and np.allclose((late - low)[far], largest, atol=1e-6)
    assert stats.binomtest(int(far.sum()), N, (1 - largest) ** 2).pvalue > LEVEL if largest < 1 else not far.any()
    gap = stats.beta(1, 2)
    assert fits((late - low)[~far], lambda q: gap.cdf(q) / gap.cdf(largest))


def test_a_cap_leaves_rows_with_r_equal_to_t_alone():
    r, t = times.capped(times.diagonal(times.uniform), 0.5)((N,), generator())
    assert r is t and np.array_equal(t.double().numpy(), drawn(times.uniform)[1])


def test_the_share_of_gaps():
    """Sorted uniforms: `(1 - gap)^2`; two sorted logit-normals by quadrature, of the moving rows alone, and what a cap leaves."""
    for gap in (0.25, 0.5, 0.9):
        exact = (1 - gap) ** 2
        assert abs(times.share_of_gaps(times.uniform, gap) - exact) < 4 * (exact * (1 - exact) / times.DRAWN) ** 0.5
    law, density = logit_normal(-0.4, 1.0), lambda q: stats.norm.pdf(logit(q) + 0.4) / (q * (1 - q))
    half, long = (2 * integrate.quad(lambda q, gap=gap: density(q) * law(q - gap), gap, 1, epsabs=0)[0] for gap in (0.5, 0.9))
    for gap, exact in ((0.5, half), (0.9, long)):
        assert abs(times.share_of_gaps(times.logit_normal(), gap) - exact) < 4 * (exact * (1 - exact) / times.DRAWN) ** 0.5
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"MeanFlow's two logit-normals {100 * long:.2g} ({100 * half:.2g} above 0.5)" in " ".join(page.split())
    capped = times.capped(times.uniform, 0.5)
    assert times.share_of_gaps(capped, 0.51) == 0 and times.share_of_gaps(capped, 0.5) == times.share_of_gaps(times.uniform, 0.5)
    assert times.share_of_gaps(times.diagonal(times.uniform), 0.5) == 0
    ties = times.logit_normal_pair((-0.6, 1.6), (-4.0, 1.6))
    r, t = ties((times.DRAWN,), torch.Generator().manual_seed(0))
    assert times.share_of_gaps(ties, 0.5) == pytest.approx(float(((t - r) >= 0.5).sum() / (r < t).sum()), abs=1e-4)


@pytest.mark.parametrize(("gap", "low"), [((-0.8, 1.0), (-0.4, 1.0)), ((1.0, 0.5), (-1.0, 2.0))])
def test_gap_first(gap: tuple[float, float], low: tuple[float, float]):
    """The gap is logit-normal, and `r` given the gap is logit-normal on [0, 1 - gap]: its probability transform is uniform."""
    r, t = drawn(times.gap_first(gap, low))
    assert fits(t - r, logit_normal(*gap))
    cdf = logit_normal(*low)
    transform = cdf(r) / cdf(1 - (t - r))
    assert fits(transform, "uniform")
    assert stats.spearmanr(transform, t - r).pvalue > LEVEL


def u_shaped(a: float):
    """The distribution function of the density `a (e^(a t) + e^(a (1 - t))) / (2 (e^a - 1))`, by quadrature and interpolation."""
    grid = np.linspace(0, 1, 4001)
    density = a * (np.exp(a * grid) + np.exp(a * (1 - grid))) / (2 * math.expm1(a))
    values = integrate.cumulative_simpson(density, x=grid, initial=0)
    assert abs(values[-1] - 1) < 1e-9
    return lambda q: np.interp(q, grid, values)


@pytest.mark.parametrize("a", [4.0, 1.5])
def test_u_shaped(a: float):
    r, t = drawn(times.u_shaped(a))
    cdf, top = u_shaped(a), 80 / 81
    inside = t < np.float32(top)
    assert t.max() <= top + 1e-7 and fits(t[inside], lambda q: cdf(q) / cdf(top))
    assert stats.binomtest(int((~inside).sum()), N, 1 - cdf(top)).pvalue > LEVEL
    assert not ((t > 0.8) & (r > 0) & (r < 0.4)).any()
    middle = (t > 0.4) & (t < 0.8)
    shortest = np.minimum(t - r, 0.4)[middle]  # below 0.4 the gap is what was drawn
    assert fits(shortest[shortest < 0.4], lambda q: logit_normal(-0.8, 1.0)(q) / logit_normal(-0.8, 1.0)(0.4))


def test_instants():
    r, t = drawn(times.instants(-0.4, 1.0))
    assert np.array_equal(r, t) and fits(t, logit_normal(-0.4, 1.0))


@pytest.mark.parametrize("name", ["uniform", "gap_first", "u_shaped", "dyadic"])
def test_wrapped_samplers_keep_the_inner_t(name: str):
    inner = SAMPLERS[name]
    _, t = drawn(inner)
    for outer, r in ((times.diagonal(inner), t), (times.terminal(inner), np.zeros(N))):
        low, late = drawn(outer)
        assert np.array_equal(late, t) and np.array_equal(low, r)
    low, late = drawn(times.anchor(inner, 0.001, 0.01))
    assert np.array_equal(late, t)


def test_anchor():
    r, t = drawn(times.anchor(times.uniform, 0.02, 0.08))
    free = t > 0.08
    gap = (t - r)[free]
    assert fits(gap, stats.uniform(0.02, 0.06).cdf)
    assert (gap >= 0.02 - 1e-6).all() and (gap <= 0.08 + 1e-6).all()
    assert (r[t < 0.02] == 0).all() and (t < 0.02).any()
    zero_r, zero_t = drawn(times.anchor(times.uniform, 0.0, 0.0))
    assert np.array_equal(zero_r, zero_t)


def test_dyadic():
    levels = (0, 1, 3, 6)
    r, t = drawn(times.dyadic(levels))
    k = -np.log2(t - r)
    assert set(k) == set(levels), "gaps are exact powers of two"
    counts = [(k == level).sum() for level in levels]
    assert stats.chisquare(counts).pvalue > LEVEL
    for level in levels:
        ends = t[k == level] * 2**level
        assert np.array_equal(ends, ends.round()) and ends.min() >= 1 and ends.max() <= 2**level
        if level:
            assert stats.chisquare(np.bincount(ends.astype(int), minlength=2**level + 1)[1:]).pvalue > LEVEL


# Refusals ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (0.3, 0.2), (0.5, 1.5)])
def test_anchors_outside_the_unit_interval_are_refused(low: float, high: float):
    with pytest.raises(ValueError, match=rf"the smaller one first, in \[0, 1\], got \({low}, {high}\)"):
        times.anchor(times.uniform, low, high)


@pytest.mark.parametrize("largest", [0.0, -0.5, 1.5, float("nan")])
def test_caps_outside_the_unit_interval_are_refused(largest: float):
    with pytest.raises(ValueError, match=rf"largest gap lies in \(0, 1\], got {largest:g}"):
        times.capped(times.uniform, largest)
    with pytest.raises(ValueError, match=rf"a gap lies in \(0, 1\], got {largest:g}"):
        times.share_of_gaps(times.uniform, largest)


@pytest.mark.parametrize("levels", [(), (-1, 2)])
def test_dyadic_levels_are_exponents(levels: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"exponents? k"):
        times.dyadic(levels)


def test_the_curriculums_scale_is_one_over_the_mean_of_the_rest_of_the_interval():
    """`recipes.curriculum_meanflow` divides by `1 - E gap`, so that the factor's mean is 1 at the start of the training."""
    moving = recipes.curriculum_meanflow()[0]
    r, t = times.logit_normal(-0.4, 1.0)((100_000,), generator())

    factor: Tensor = moving.weight(torch.ones_like(t), Bridge(t[:, None], t[:, None], r, t, progress=0.0)) * (1 + 1e-2)
    assert abs(factor.mean().item() - 1) < 4 * factor.std().item() / 100_000**0.5 + 4 * 0.0005 / 0.77
