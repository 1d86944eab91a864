"""What samplers owe their caller: exact jumps on exact fields, orders of convergence, and samples that depend on their seed alone."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep import samplers
from meanstep.samplers import couplings, euler, grid, heun, jump, noise, renoise, walk

MEAN, STD = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.3, 1.7]).double()


@pytest.fixture
def gaussian() -> ms.Gaussian:
    return ms.Gaussian(MEAN, STD)


@pytest.fixture
def e() -> Tensor:
    return noise(range(32), (2,), dtype=torch.float64)


def rows(s: float) -> Tensor:
    """A time for each of the 32 samples."""
    return torch.full((32,), s, dtype=torch.float64)


class Recorder:
    """A field of zeros that notes the times it is asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float, Any]] = []

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        assert r.shape == t.shape == z.shape[:1] and r.dtype == t.dtype == z.dtype
        assert (r == r[0]).all() and (t == t[0]).all()
        self.calls.append((r[0].item(), t[0].item(), y))
        return torch.zeros_like(z)


# Jumps -------------------------------------------------------------------------------------------------------------------------------


def test_one_jump_lands_on_the_exact_flow_map(gaussian: ms.Gaussian, e: Tensor):
    """From `t = 1` the flow map of a Gaussian is `mean + std e`."""
    torch.testing.assert_close(jump(gaussian, e), MEAN + STD * e, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(walk(gaussian, e, (0.9, 0.2)), gaussian.flow(e, rows(0.2), rows(0.9)))


@pytest.mark.parametrize("times", [(1.0, 0.0), (1, 0.5, 0), (1, 0.9, 0.7, 0.1, 0), grid(16)], ids=len)
def test_many_jumps_on_an_exact_field_equal_one(gaussian: ms.Gaussian, e: Tensor, times: Sequence[float]):
    torch.testing.assert_close(walk(gaussian, e, times), jump(gaussian, e), rtol=1e-12, atol=1e-12)


def test_jumping_with_instantaneous_velocities_would_be_seen(gaussian: ms.Gaussian, e: Tensor):
    """The check above can fail: the same walk that asks for `u(z, t, t)` is far off."""
    assert (euler(gaussian, e, grid(4)) - jump(gaussian, e)).abs().max() > 0.1


def test_a_mixtures_exact_field_jumps_to_the_data():
    """One jump equals two hundred steps of Heun's method on the mixture's own velocity."""
    mixture = ms.Mixture(torch.tensor([[-2.0], [1.5]]).double(), 0.5)
    e = torch.linspace(-2, 2, 9).double()[:, None]
    fine = heun(lambda z, r, t, y=None: mixture.velocity(z, t), e, grid(200))
    torch.testing.assert_close(jump(mixture.field(), e), fine, rtol=0, atol=2e-4)


def test_the_walk_asks_for_each_interval(e: Tensor):
    field, y = Recorder(), torch.arange(32)
    assert torch.equal(walk(field, e, (0.8, 0.5, 0.25), y), e)
    assert field.calls == [(0.5, 0.8, y), (0.25, 0.5, y)]


def test_the_instantaneous_methods_stay_on_the_diagonal(e: Tensor):
    first, second = Recorder(), Recorder()
    euler(first, e, (1.0, 0.5, 0.0))
    heun(second, e, (1.0, 0.5, 0.0))
    assert [call[:2] for call in first.calls] == [(1.0, 1.0), (0.5, 0.5)]
    assert [call[:2] for call in second.calls] == [(1.0, 1.0), (0.5, 0.5), (0.5, 0.5), (0.0, 0.0)]


@pytest.mark.parametrize(("method", "order"), [(euler, 1), (heun, 2)])
def test_the_order_of_a_method(gaussian: ms.Gaussian, e: Tensor, method: Callable[..., Tensor], order: int):
    start, end = 0.9, 0.1
    exact = gaussian.flow(e, rows(end), rows(start))
    steps = torch.tensor([20, 40, 80, 160]).double()
    grids = [[start + (end - start) * k / int(n) for k in range(int(n) + 1)] for n in steps]
    errors = torch.stack([(method(gaussian, e, times) - exact).norm() for times in grids])
    slopes = -torch.diff(errors.log()) / torch.diff(steps.log())
    assert (slopes[-1] - order).abs() < 0.1, slopes


@pytest.mark.parametrize("sample", [jump, walk, lambda f, e: euler(f, e, grid(2)), lambda f, e: heun(f, e, grid(2))])
def test_no_sampler_records_a_gradient(sample: Callable[..., Tensor]):
    assert not sample(ms.MLP(2), torch.randn(3, 2, generator=ms.key(0))).requires_grad


@pytest.mark.parametrize("event", [(2,), (1, 8, 8), (5, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_keep_shape_and_dtype(event: tuple[int, ...], dtype: torch.dtype):
    e = noise(range(3), event, dtype=dtype)
    field, fresh = Recorder(), lambda k: noise(range(3), event, k, dtype=dtype)
    for x in (walk(field, e), euler(field, e, grid(2)), heun(field, e, grid(2)), renoise(field, e, fresh), couplings(field, e)[0]):
        assert x.shape == e.shape and x.dtype == dtype


# Seeds -------------------------------------------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_the_seed_alone():
    together = noise([3, 1, 4, 1], (2, 3))
    assert torch.equal(together[1], together[3])
    for row, seed in zip(together, (3, 1, 4, 1), strict=True):
        assert torch.equal(row, noise([seed], (2, 3))[0])
    assert torch.equal(noise([9, 4, 3], (2, 3))[[2, 1]], together[[0, 2]])
    assert not torch.equal(noise([3], (2, 3)), noise([5], (2, 3)))
    assert not torch.equal(noise([3], (2, 3)), noise([3], (2, 3), stream=1))


def test_seeds_may_come_from_torch_and_be_none_at_all():
    assert torch.equal(noise(torch.arange(3), (2,)), noise(range(3), (2,)))
    assert noise([], (2,)).shape == (0, 2)


def test_samples_do_not_depend_on_their_batch():
    """Bitwise for noise; to rounding for the network, whose matrix products sum in another order in another batch."""
    net = ms.MLP(2, 16, 2, generator=ms.key(0)).double()

    def sample(seeds: Sequence[int]) -> Tensor:
        def fresh(k: int) -> Tensor:
            return noise(seeds, (2,), k, dtype=torch.float64)

        return renoise(net, fresh(0), fresh, (1, 0.6, 0.3, 0))

    torch.testing.assert_close(sample(range(20))[[3, 7]], sample([3, 7]), rtol=1e-12, atol=1e-14)
    assert torch.equal(sample([3, 7]), sample([3, 7]))


def test_sampling_leaves_the_global_state_alone(gaussian: ms.Gaussian):
    before = torch.get_rng_state()
    couplings(gaussian, noise(range(3), (2,), dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_standard_normal():
    """Mean and variance of 20,000 numbers with seeds 0 to 999: both within four standard errors, level 1e-4."""
    e = noise(range(1000), (20,), dtype=torch.float64)
    assert abs(e.mean().item()) < 4 / 20_000**0.5 and abs(e.var().item() - 1) < 4 * (2 / 20_000) ** 0.5
    assert abs(torch.corrcoef(e.T)[0, 1].item()) < 4 / 1000**0.5


# Renoising ---------------------------------------------------------------------------------------------------------------------------


def test_renoising_by_hand(gaussian: ms.Gaussian, e: Tensor):
    def fresh(k: int) -> Tensor:
        return noise(range(32), (2,), k, dtype=torch.float64)

    z, asked = e, []
    for k, (t, r) in enumerate([(1.0, 0.7), (0.7, 0.2), (0.2, 0.0)], start=1):
        x = gaussian.flow(z, rows(0.0), rows(t))
        z = (1 - r) * x + r * fresh(k) if r else x
    got = renoise(gaussian, e, lambda k: asked.append(k) or fresh(k), (1.0, 0.7, 0.2, 0.0))
    torch.testing.assert_close(got, z, rtol=1e-12, atol=1e-13)
    assert asked == [1, 2], "the last step lands on data and draws nothing"
    assert torch.equal(renoise(gaussian, e, fresh), renoise(gaussian, e, fresh))


def test_fresh_noise_of_another_type_is_converted(e: Tensor):
    net = ms.MLP(2, 8, 1, generator=ms.key(0))
    mixed = renoise(net, e.float(), lambda k: e * k, grid(3))
    assert mixed.dtype == torch.float32 and torch.equal(mixed, renoise(net, e.float(), lambda k: (e * k).float(), grid(3)))


def test_renoising_once_is_a_jump(gaussian: ms.Gaussian, e: Tensor):
    torch.testing.assert_close(renoise(gaussian, e, lambda k: e / 0, (1.0, 0.0)), jump(gaussian, e), rtol=1e-13, atol=1e-13)


# Couplings ---------------------------------------------------------------------------------------------------------------------------


def test_couplings_are_the_ends_of_the_flow(gaussian: ms.Gaussian, e: Tensor):
    x, partner, kept = couplings(gaussian, e, grid(256))
    assert kept.all() and torch.equal(partner, e)
    torch.testing.assert_close(x, MEAN + STD * e, rtol=0, atol=1e-3)


def test_long_couplings_are_dropped(gaussian: ms.Gaussian, e: Tensor):
    everything, *_ = couplings(gaussian, e)
    distance = (everything - e).square().mean(1)
    longest = distance.median().item()
    x, partner, kept = couplings(gaussian, e, longest=longest)
    assert kept.shape == (32,) and kept.dtype == torch.bool
    assert torch.equal(kept, distance < longest) and 0 < kept.sum() < 32
    assert torch.equal(x, everything[kept]) and torch.equal(partner, e[kept])


# Grids -------------------------------------------------------------------------------------------------------------------------------


def test_grids():
    assert grid(1) == [1.0, 0.0] and grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    for steps in (3, 7, 10, 49):
        assert grid(steps)[0] == 1 and grid(steps)[-1] == 0 and len(grid(steps)) == steps + 1


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps: int):
    with pytest.raises(ValueError, match=f"at least one step, got {steps}"):
        grid(steps)


@pytest.mark.parametrize(
    "times", [(), (1.0,), (0.0, 1.0), (1.0, 0.5, 0.5, 0.0), (1.0, 0.2, 0.4), (1.5, 0.0), (1.0, -0.1), (1.0, float("nan"))]
)
@pytest.mark.parametrize("name", ["walk", "euler", "heun", "couplings", "renoise"])
def test_grids_that_do_not_fall_within_one_and_zero_are_refused(name: str, times: tuple[float, ...], e: Tensor):
    sampler = getattr(samplers, name)
    with pytest.raises(ValueError, match=r"falls strictly within \[0, 1\], e\.g\. \(1, 0\.5, 0\), got \("):
        sampler(Recorder(), e, times=times) if name != "renoise" else sampler(Recorder(), e, lambda k: e, times)
