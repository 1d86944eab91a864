"""The published estimators of the coefficient in closed form, on fields that are multiples of their input."""

import math

import pytest
import torch

from meanstep.coefficients import scalar_optimum
from meanstep.probes import published


def times(c):
    return lambda z, r, t, y=None: c * z


def rows(n=64, d=3, t=0.5, gap=published.GAP, seed=0):
    g = torch.Generator().manual_seed(seed)
    x, e = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return published.at_times(x, e, t, gap)


@pytest.mark.parametrize("c", [0.0, 0.7, 4.0, 9.0])
def test_kappa_is_the_size_of_the_jacobi_factor_whatever_its_sign(c):
    assert published.norm_kappa(times(c), rows()) == pytest.approx(abs(published.GAP * c - 1), abs=1e-12)


def test_a_network_that_moves_nothing_gets_one_half_in_the_scalar_form():
    kappa = published.norm_kappa(times(0.0), rows())
    assert kappa == 1 and scalar_optimum(kappa, 8200.0, 0.0) == 0.5


def test_the_published_table_is_met_by_its_own_ingredients():
    found = [round(float(scalar_optimum(1.0, 8.2e3, b)), 2) for b in (700, 150, 50)]
    assert found == [0.46, 0.49, 0.5]


@pytest.mark.parametrize("c", [0.5, 4.0, 12.0])
def test_the_matrix_bound_of_a_multiple_of_the_identity(c):
    def draw(n):
        return torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)

    grid = (0.3, 0.5, 0.7, 0.9)  # with the whole gap each: at t = 0.1 there is no room for it
    found = published.matrix_bound(times(c), draw, rows=32, times=grid, generator=torch.Generator().manual_seed(1))
    assert found == pytest.approx((published.GAP * c - 1) / (published.GAP * c), rel=1e-9)


def test_a_field_that_does_not_read_its_input_has_no_matrix_bound():
    found = published.matrix_bound(times(0.0), lambda n: torch.ones(n, 2, dtype=torch.float64), rows=4)
    assert math.isnan(found)


def test_the_lag_of_an_average_is_the_squared_distance_on_gaussian_inputs():
    d, n = 7, 4096
    found = published.average_gap(times(2.0), times(1.5), (d,), rows=n, generator=torch.Generator().manual_seed(3))
    mean, spread = 0.25 * d, 0.25 * math.sqrt(2 * d / n)
    assert abs(found - mean) < 4 * spread
    assert published.average_gap(times(2.0), times(2.0), (d,)) == 0


def test_the_earliest_time_is_that_of_the_published_code():
    b = rows(t=0.1)
    assert b.r.unique().tolist() == [1e-4] and b.t.unique().tolist() == [0.1]
