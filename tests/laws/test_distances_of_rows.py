"""Energy distance, sliced distance and nearest neighbours against closed forms, SciPy, and samplers whose fault is known."""

import math

import pytest
import torch
from scipy.stats import energy_distance as one_dimensional

import meanstep as ms
from meanstep.metrics import directions, energy, energy_distance, nearest, sliced_wasserstein


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=ms.key(seed), dtype=torch.float64)


def test_the_energy_distance_is_that_of_scipy_and_of_exact_differences():
    x, y = normal(300, 1), 0.7 + 1.3 * normal(200, 1, seed=1)
    n, m = len(x), len(y)
    own = [torch.cdist(z, z).sum() / len(z) ** 2 / (len(z) - 1) for z in (x, y)]  # what the unbiased means have more
    biased = one_dimensional(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert energy(x, y).value == pytest.approx(biased - float(own[0] + own[1]), abs=1e-6), (n, m)
    a, b = normal(150, 5), normal(130, 5, seed=1) + 0.3
    assert energy(a, b).value == pytest.approx(energy_distance(a, b), abs=1e-6)


def test_the_energy_distance_of_shifted_gaussians_lies_in_its_interval():
    shift, sd = 1.0, math.sqrt(2)
    absolute = sd * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * sd**2)) + shift * math.erf(shift / (sd * math.sqrt(2)))
    expected = 2 * absolute - 2 * sd * math.sqrt(2 / math.pi)
    value, error = energy(normal(2000, 1), normal(2000, 1, seed=1) + shift)
    assert abs(value - expected) < 3 * error and error < 0.1 * expected


def test_the_sliced_distance_of_a_shift_is_its_mean_length_along_directions():
    x, shift = normal(500, 40), normal(40, seed=1)
    found = sliced_wasserstein(x + shift, x, directions(40, 512, ms.key(0, "directions", 40)))
    exact = shift.norm().item() * math.gamma(20) / (math.sqrt(math.pi) * math.gamma(20.5))  # E |theta . shift| on the sphere
    assert found == pytest.approx(exact, rel=3 * math.sqrt(math.pi / 2 - 1) / math.sqrt(512))


def test_copies_are_named_and_fresh_rows_are_not():
    real, fresh = normal(800, 3), normal(800, 3, seed=1)
    half = torch.cat([real[:400] + 1e-6, fresh[:400]])
    good, copied = nearest(fresh, real), nearest(half, real)
    assert abs(good.ratio - 1) < 3 * good.error and abs(good.copies - good.floor) < 3 * max(good.copies_error, 0.004)
    assert copied.copies == pytest.approx(0.5, abs=0.03) and copied.ratio < 0.6
    assert nearest(fresh + 9, real).ratio > 5


GRID = torch.cartesian_prod(*[0.37 * torch.arange(7.0)] * 3).double()
CODES = torch.nn.functional.one_hot(torch.randint(6, (400, 4), generator=ms.key(3)), 6).flatten(1).double()


def scaled(real: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    return [(x - real.mean(0)) / real.std(0) for x in (real, *others)]


@pytest.mark.parametrize("points", [GRID, GRID[torch.randperm(343, generator=ms.key(2))[:120]], CODES.unique(dim=0)])
@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_distinct_points_of_a_lattice_say_nothing_about_copies(points: torch.Tensor, jitter: float):
    """Fresh rows of the same lattice are equal to known ones by right, and their share is unknown where repeated rows were left out."""
    law = CODES if points.shape[1] == 24 else GRID
    fresh = law[torch.randint(len(law), (300,), generator=ms.key(4))]
    real, fake = scaled(points, fresh + jitter * torch.randn(fresh.shape, generator=ms.key(5)).double())
    found = nearest(fake, real)
    assert math.isnan(found.copies) and math.isnan(found.floor) and math.isfinite(found.ratio)


def test_rows_of_a_lattice_that_are_repeated_are_judged_by_how_often():
    real, fresh = scaled(*(GRID[torch.randint(343, (400,), generator=ms.key(k))] for k in (6, 7)))
    found = nearest(fresh, real)
    assert found.floor > 0.5 and abs(found.copies - found.floor) < 3 * found.copies_error
    assert nearest(real, real).copies == 1


def test_copies_of_pictures_of_few_grey_levels_are_named():
    """Entries are of 17 levels, but rows lie far apart on that lattice."""
    both = torch.randint(17, (600, 64), generator=ms.key(8)).double()
    real, fresh = scaled(both[:300], both[300:])
    found = nearest(torch.cat([real[:150], fresh[:150]]), real)
    assert found.copies == pytest.approx(0.5, abs=0.03) and found.floor < 0.02
