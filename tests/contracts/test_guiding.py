"""Guidance at sampling time against closed forms of Gaussians, and one condition for many samples against the call written out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import meanstep as ms
from meanstep.samplers import euler, grid, guided, heun, noise, renoise, sample, walk
from meanstep.velocities import Condition, LabelDropout

MEANS, STDS = torch.tensor([2.0, -1.0, 0.5]).double(), torch.tensor([0.5, 0.8, 1.2]).double()
"""Of one-dimensional Gaussians, one for each label; the last stands for the empty label."""


@dataclass(frozen=True)
class Gaussians:
    """The average velocity of a Gaussian for each label, `z` `[B, 1]`; `spread`: theirs, or one for all."""

    stds: Tensor = STDS

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return torch.cat([self.one(int(k))(z[i : i + 1], r[i : i + 1], t[i : i + 1]) for i, k in enumerate(y)])

    def one(self, k: int) -> ms.Gaussian:
        return ms.Gaussian(MEANS[k : k + 1], self.stds[k : k + 1])


E = noise(range(6), (1,), dtype=torch.float64)
Y = torch.tensor([0, 1, 0, 1, 0, 1])


def test_scale_one_is_the_field_itself():
    net = ms.MLP(2, 8, 1, classes=3, generator=ms.key(0))
    assert guided(net, 1.0, 3) is net
    e, y = noise(range(4), (2,)), torch.arange(4) % 3
    assert torch.equal(walk(guided(net, 1.0, 3), e, grid(2), y), walk(net, e, grid(2), y))


@pytest.mark.parametrize("null", [None, {"kind": None}])
def test_a_null_that_hides_nothing_is_no_guidance(null: Any):
    net = ms.MLP(2, 8, 1, classes=3, generator=ms.key(0))
    with pytest.raises(TypeError, match="hides nothing"):
        guided(net, 2.0, null)
    assert guided(net, 1.0, null) is net


def test_scale_zero_is_the_empty_condition_to_the_bit():
    net = ms.MLP(2, 8, 1, conditions={"kind": 3, "age": []}, generator=ms.key(0)).double()
    e, y = noise(range(4), (2,), dtype=torch.float64), {"kind": torch.arange(4) % 3, "age": torch.ones(4).double()}
    hidden = {"kind": torch.full((4,), 3), "age": torch.zeros(4).double()}
    found = walk(guided(net, 0.0, {"kind": 3, "age": torch.zeros_like}), e, grid(3), y)
    torch.testing.assert_close(found, walk(net, e, grid(3), hidden), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("scale", [0.5, 2.0, 4.0])
def test_a_jump_extrapolates_the_two_ends(scale: float):
    """`x = m + s e` under each law, so one guided jump is `(1 - w)(m0 + s0 e) + w (m + s e)`."""
    ends = [MEANS[k] + STDS[k] * E[:, 0] for k in (Y, 2)]
    found = walk(guided(Gaussians(), scale, 2), E, (1.0, 0.0), Y)
    torch.testing.assert_close(found[:, 0], (1 - scale) * ends[1] + scale * ends[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_instantaneous_velocity_follows_classifier_free_guidance(scale: float):
    """`v(z, t) = ((t - (1 - t) s^2) (z - (1 - t) m) / ((1 - t)^2 s^2 + t^2)) - m` of a Gaussian, mixed and integrated by SciPy."""

    def v(z: float, t: float, k: int) -> float:
        m, s = MEANS[k].item(), STDS[k].item()
        return (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) * (z - (1 - t) * m) - m

    found = heun(guided(Gaussians(), scale, 2), E[:2], grid(200), Y[:2])
    for e, k, x in zip(E[:2, 0].tolist(), Y[:2].tolist(), found[:, 0].tolist(), strict=True):
        mixed = solve_ivp(lambda t, z, k=k: (1 - scale) * v(z[0], t, 2) + scale * v(z[0], t, k), (1, 0), [e], rtol=1e-10, atol=1e-12)
        assert x == pytest.approx(mixed.y[0, -1], abs=2e-4)
    if scale == 2.0:  # the two are different laws, which is why docs/conventions.md says so
        assert (found - walk(guided(Gaussians(), scale, 2), E[:2], (1.0, 0.0), Y[:2])).abs().max() > 0.05


def test_of_one_spread_jumps_and_steps_agree():
    """Velocities that differ by a function of the times alone are mixed exactly: the law of mean `m0 + w (m - m0)`."""
    field = guided(Gaussians(torch.full((3,), 0.7).double()), 3.0, 2)
    goal = MEANS[2] + 3 * (MEANS[Y] - MEANS[2]) + 0.7 * E[:, 0]
    for found in (walk(field, E, (1.0, 0.0), Y), walk(field, E, grid(3), Y)):
        torch.testing.assert_close(found[:, 0], goal, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(euler(field, E, grid(400), Y)[:, 0], goal, rtol=0, atol=0.02)


def test_a_trained_in_scale_is_hidden_with_the_label():
    asked = []

    def field(z: Tensor, r: Tensor, t: Tensor, y: Condition) -> Tensor:
        asked.append(y)
        return z * y.omega[:, None]

    y = Condition(torch.tensor([1, 2]), torch.full((2,), 4.0), torch.full((2,), 0.2), torch.full((2,), 0.8))
    walk(guided(field, 2.0, LabelDropout(7).hidden), torch.ones(2, 1), (1.0, 0.0), y)
    assert asked[0].label.tolist() == [1, 2, 7, 7] and asked[0].omega.tolist() == [4, 4, 1, 1] and asked[0].low.tolist() == [*y.low, 0, 0]


def test_each_member_of_an_ensemble_is_guided_as_if_alone():
    net = ms.MLP(2, 8, 1, members=(3,), classes=4, generator=ms.key(0)).double()
    z, y = torch.randn(3, 5, 2, generator=ms.key(1)).double(), torch.randint(4, (3, 5), generator=ms.key(2))
    found = walk(guided(net, 2.0, 4), z, grid(2), y, batch_dims=2)
    for k in range(3):
        one = ms.MLP(2, 8, 1, classes=4).double()
        one.load_state_dict({name: p[k] for name, p in net.state_dict().items()})
        torch.testing.assert_close(found[k], walk(guided(one, 2.0, 4), z[k], grid(2), y[k]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("scale", "y", "told"), [(2.0, None, "guidance 2 compares a condition with none"), (float("nan"), Y, "a finite number, 1 for none")]
)
def test_guidance_that_cannot_be_is_refused(scale: float, y: Tensor | None, told: str):
    with pytest.raises(ValueError, match=told):
        walk(guided(Gaussians(), scale, 2), E, (1.0, 0.0), y)


# One condition for many samples ----------------------------------------------------------------------------------------------------------

SEEN = {"seen": torch.randn(2, 3, generator=ms.key(1)), "kind": 2}


@pytest.mark.parametrize(
    "options",
    [{}, {"steps": 3}, {"guidance": 2.0}, {"sampler": euler, "steps": (1.0, 0.3, 0.0)}],
    ids=["usual", "steps", "guided", "euler"],
)
def test_one_condition_for_many_is_the_call_written_out(options: dict[str, Any]):
    net = ms.MLP(2, 16, 2, conditions={"seen": [2, 3], "kind": 4}, generator=ms.key(0))
    null = {"seen": torch.zeros_like, "kind": 4}
    found = sample(net, (2,), SEEN, 64, null=null, **options)
    y = {"seen": torch.stack([SEEN["seen"]] * 64), "kind": torch.tensor([2] * 64)}
    steps, way = options.get("steps", 1), options.get("sampler", walk)
    times = grid(steps) if isinstance(steps, int) else steps
    assert torch.equal(found, way(guided(net, options.get("guidance", 1.0), null), noise(range(64), (2,)), times=times, y=y))
    assert found.shape == (64, 2) and not torch.equal(found[0], found[1])


def test_samples_are_of_their_seeds_and_of_the_networks_type():
    net = ms.MLP(2, 8, 1, generator=ms.key(0))
    assert torch.equal(sample(net, (2,), seeds=[3, 1]), walk(net, noise([3, 1], (2,))))
    assert sample(net, (2,)).shape == (1, 2) and sample(net, (2,), count=0).shape == (0, 2)
    one = ms.MLP(2, 8, 1, conditions={"age": []}, generator=ms.key(0)).double()
    assert sample(one, (2,), 0.5, 3).dtype == torch.float64
    assert torch.equal(sample(lambda z, r, t, y=None: z, (2,), count=2), torch.zeros(2, 2))


def test_fresh_noise_of_samples_is_of_their_seeds():
    net = ms.MLP(2, 8, 1, generator=ms.key(0)).double()
    own = [3, 1]
    z = noise(own, (2,)).double()
    by_hand = renoise(net, z, lambda k: noise(own, (2,), k).double(), grid(3))
    assert torch.equal(sample(net, (2,), seeds=own, steps=np.int64(3), sampler=renoise), by_hand)
