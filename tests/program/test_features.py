"""The distances of features: closed forms, numpy and plain loops, and torch-fidelity's own functions on the same features."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

import meanstep as ms
from meanstep.metrics import Statistics, density_coverage, frechet, inception_score, kernel, kid, manifold, mmd, precision_recall, subsets


def draw(n: int, dim: int, *path: str, shift: float = 0.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated features `[n, dim]`."""
    mix = torch.randn(dim, dim, generator=ms.key(0, "mix", *path), dtype=torch.float64) / dim**0.5
    x = torch.randn(n, dim, generator=ms.key(0, "x", *path), dtype=torch.float64) @ mix + shift
    return x.to(dtype)


def statistics(x: Tensor) -> Statistics:
    return Statistics(x.shape[-1]).update(x)


# Streaming statistics ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_a_stream_has_the_statistics_of_numpy(shift: float):
    x = draw(500, 7, shift=shift)
    stream = Statistics(7)
    for batch in x.split([1, 0, 130, 200, 169]):
        stream.update(batch)
    assert stream.n == 500
    np.testing.assert_allclose(stream.mean, x.numpy().mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(stream.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-12, atol=1e-12 * max(1, shift / 10))


def test_parts_merge_to_the_whole_and_stay_as_they_are():
    x = draw(300, 5, shift=3)
    parts = [statistics(part) for part in x.split([100, 1, 199])]
    merged, whole = parts[0].merge(*parts[1:], Statistics(5)), statistics(x)
    assert merged.n == 300 and parts[0].n == 100
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-12)


def test_two_sums_over_the_processes_reduce_to_the_whole():
    x = draw(300, 5, shift=100)
    parts = [statistics(part) for part in x.split([100, 1, 199])] + [Statistics(5)]
    first = sum(torch.cat([torch.tensor([float(p.n)]), p.n * p.mean]) for p in parts)
    mean = first[1:] / first[0]
    second = sum(p.scatter + p.n * torch.outer(p.mean - mean, p.mean - mean) for p in parts)
    answers = iter([first, second])
    reduced = parts[0].reduce(lambda tensor: next(answers))
    torch.testing.assert_close(reduced.covariance, statistics(x).covariance, rtol=1e-12, atol=1e-12)
    assert Statistics(5).reduce(lambda tensor: tensor).n == 0
    torch.testing.assert_close(parts[0].reduce(lambda tensor: tensor).covariance, parts[0].covariance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Statistics(3).update(torch.ones(4, 2)), r"\[n, 3\], got \(4, 2\)"),
        (lambda: Statistics(2).update(torch.tensor([[1.0, 2.0], [math.nan, 0.0]])), "row 1"),
        (lambda: Statistics(0), "at least one dimension"),
        (lambda: Statistics(2).update(torch.ones(1, 2)).covariance, "at least 2 rows"),
        (lambda: Statistics(2).merge(Statistics(3)), "2 and of 3 dimensions"),
        (lambda: frechet(statistics(draw(9, 2)), statistics(draw(9, 3))), "2 and 3 dimensions"),
        (lambda: mmd(draw(9, 2), draw(9, 3)), "one dimension"),
        (lambda: mmd(draw(9, 2), draw(9, 2) / 0), "not finite"),
        (lambda: kid(draw(9, 2), draw(9, 2), []), "at least one subset"),
        (lambda: subsets(9, 5, size=6, generator=ms.key(0)), "at most 5"),
        (lambda: precision_recall(draw(3, 2), draw(9, 2)), "k = 3 of 3 and 9"),
        (lambda: density_coverage(draw(9, 3), draw(9, 2)), "one dimension"),
        (lambda: precision_recall(draw(9, 2) / 0, draw(9, 2)), "not finite"),
        (lambda: inception_score(torch.ones(5, 3)), "at least 10 rows"),
        (lambda: inception_score(torch.ones(15, 3) / 0), "not finite"),
    ],
)
def test_bad_input_is_refused(call, said: str):
    with pytest.raises(ValueError, match=said):
        call()


# Frechet -----------------------------------------------------------------------------------------------------------------------------


def gaussian(mean: Tensor, covariance: Tensor) -> Statistics:
    found = Statistics(len(mean))
    found.n, found.mean, found.scatter = 101, mean, covariance * 100
    return found


def test_commuting_gaussians_have_the_closed_form():
    """Diagonal covariances: the sum of squared differences of means and of standard deviations."""
    mu, nu = draw(2, 6, "means")
    s, r = draw(2, 6, "deviations").abs()
    expected = (mu - nu).square().sum() + (s - r).square().sum()
    assert frechet(gaussian(mu, s.square().diag()), gaussian(nu, r.square().diag())) == pytest.approx(expected.item(), rel=1e-12)


def test_a_distance_is_the_root_of_scipy_and_symmetric():
    a, b = statistics(draw(400, 12, "a")), statistics(draw(300, 12, "b", shift=0.3))
    A, B = a.covariance.numpy(), b.covariance.numpy()
    expected = ((a.mean - b.mean) ** 2).sum().item() + np.trace(A + B - 2 * linalg.sqrtm(A @ B).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-12)


def test_singular_covariances_are_exact():
    """Fewer rows than dimensions: a distance to itself of 0, and that of the same points in their own subspace."""
    x, y = draw(6, 4, "x"), draw(9, 4, "y")
    basis = torch.linalg.qr(draw(64, 4, "basis")).Q
    low, high = frechet(statistics(x), statistics(y)), frechet(statistics(x @ basis.mT), statistics(y @ basis.mT))
    assert high == pytest.approx(low, rel=1e-10)
    few = statistics(draw(20, 64, "few"))
    assert abs(frechet(few, few)) < 1e-12 * few.covariance.trace()
    flat = statistics(torch.ones(5, 3) * 2)
    assert frechet(flat, statistics(torch.zeros(5, 3))) == 12


def test_the_bias_is_that_of_docs_evaluation():
    """Two draws of one white law, n = m = 400: `(D + D (D + 1) / 4) (1/n + 1/m)`; the mean of 200 is known to a fiftieth."""
    g, dim, n = ms.key(1, "bias"), 8, 400
    pairs = (torch.randn(2, n, dim, generator=g, dtype=torch.float64) for _ in range(200))
    mean = sum(frechet(statistics(x), statistics(y)) for x, y in pairs) / 200
    assert mean == pytest.approx((dim + dim * (dim + 1) / 4) * 2 / n, rel=0.05)


# The kernel distance -----------------------------------------------------------------------------------------------------------------


def plain_mmd(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT / a.shape[-1] + 1) ** 3

    n, m = len(x), len(y)
    own = (k(x, x).sum() - k(x, x).trace()) / (n * (n - 1)) + (k(y, y).sum() - k(y, y).trace()) / (m * (m - 1))
    return (own - 2 * k(x, y).mean()).item()


def test_blocks_give_the_plain_estimate(monkeypatch: pytest.MonkeyPatch):
    x, y = draw(70, 6, "x"), draw(90, 6, "y", shift=0.1)
    whole = mmd(x, y)
    monkeypatch.setattr(kernel, "ENTRIES", 1000)
    blocks = mmd(x, y)
    assert whole.value == pytest.approx(plain_mmd(x, y), rel=1e-11)
    assert blocks == pytest.approx(whole, rel=1e-11)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.4, 0.8, 1.25), (0.0, 1.0, 1.7)])
def test_the_standard_error_is_that_of_repeated_draws(shift: float, low: float, high: float):
    """200 draws of 150 + 150 rows; at equal laws the stated error is too wide by up to sqrt(2). The spread is known to 1 in 20."""
    g = ms.key(3, "mmd")
    found = [mmd(*(torch.randn(150, 4, generator=g) + torch.tensor(s) for s in (0.0, shift))) for _ in range(200)]
    values, errors = torch.tensor(found, dtype=torch.float64).unbind(1)
    assert low < (errors.square().mean().sqrt() / values.std()).item() < high
    if shift == 0:
        assert abs(values.mean()) < 4 * values.std() / 200**0.5  # unbiased


def test_subsets_are_drawn_from_the_generator_alone():
    first, second = (list(subsets(50, 40, size=10, count=3, generator=ms.key(1))) for _ in range(2))
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))
    assert all(len(set(i.tolist())) == 10 and i.max() < n for draw in first for i, n in zip(draw, (50, 40), strict=True))


# Manifolds ---------------------------------------------------------------------------------------------------------------------------


def plain_manifolds(fake: np.ndarray, real: np.ndarray, k: int) -> tuple[float, ...]:
    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None] - b[None], axis=-1)

    r, f = np.sort(distances(real, real), 1)[:, k], np.sort(distances(fake, fake), 1)[:, k]
    inside = distances(fake, real) <= r
    recall = (distances(real, fake) <= f).any(1).mean()
    return inside.any(1).mean(), recall, inside.sum() / (k * len(fake)), inside.any(0).mean()


@pytest.mark.parametrize("entries", [1 << 22, 300])
def test_manifolds_are_those_of_a_plain_loop(entries: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifold, "ENTRIES", entries)
    fake, real = draw(60, 5, "m", shift=0.3), draw(80, 5, "m")
    found = (*precision_recall(fake, real, 4), *density_coverage(fake, real, 4))
    assert found == pytest.approx(plain_manifolds(fake.numpy(), real.numpy(), 4), rel=1e-12)


def test_copies_and_strangers_are_the_extremes():
    real = draw(50, 8, "r", shift=1e3)
    assert precision_recall(real, real) == (1, 1)
    assert density_coverage(real, real).coverage == 1
    far = draw(50, 8, "f", shift=2e3)
    assert precision_recall(far, real) == (0, 0) and density_coverage(far, real) == (0, 0)


def test_rows_that_occur_many_times_lie_in_their_own_balls():
    twice = draw(10, 6, "t", shift=5).repeat(5, 1)
    assert precision_recall(twice[:20], twice) == (1, 1)


# The Inception score -----------------------------------------------------------------------------------------------------------------


def test_a_sure_and_even_classifier_scores_the_number_of_classes():
    logits = torch.eye(5).repeat(20, 1) * 1e4
    assert inception_score(logits, 4) == pytest.approx((5, 0), abs=1e-12)
    assert inception_score(torch.zeros(40, 5)) == pytest.approx((1, 0), abs=1e-12)


# torch-fidelity on the same features -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-6)])
def test_frechet_is_torch_fidelitys(fidelity, dtype: torch.dtype, tolerance: float):
    x, y = draw(400, 48, "x", dtype=dtype), draw(300, 48, "y", shift=0.2, dtype=dtype)
    theirs = fidelity.fid.fid_statistics_to_metric(*map(fidelity.fid.fid_features_to_statistics, (x, y)), False)
    assert frechet(statistics(x), statistics(y)) == pytest.approx(theirs["frechet_inception_distance"], rel=tolerance)


def test_kid_is_torch_fidelitys_on_its_own_subsets(fidelity):
    x, y = draw(300, 16, "x"), draw(260, 16, "y", shift=0.2)
    theirs = fidelity.kid.kid_features_to_metric(x, y, kid_subsets=7, kid_subset_size=100, rng_seed=5, verbose=False)
    rng = np.random.RandomState(5)
    draws = [tuple(torch.from_numpy(rng.choice(n, 100, replace=False)) for n in (300, 260)) for _ in range(7)]
    expected = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert kid(x, y, draws) == pytest.approx(expected, rel=1e-9)


def test_the_inception_score_is_torch_fidelitys(fidelity):
    logits = draw(205, 30, "logits") * 3
    theirs = fidelity.isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    expected = theirs["inception_score_mean"], theirs["inception_score_std"]
    assert inception_score(logits) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall_are_torch_fidelitys(fidelity, k: int):
    fake, real = draw(300, 8, "m", shift=0.5), draw(250, 8, "m")
    theirs = fidelity.prc.prc_features_to_metric(fake, real, prc_neighborhood=k, verbose=False)
    found = precision_recall(fake, real, k)
    assert found == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)
    assert 0 < min(found) < max(found) < 1
