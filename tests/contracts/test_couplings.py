"""Couplings: permutations of least cost, against every permutation and against POT; classes, pairs, and what refuses them."""

import copy
import pickle
import sys
from itertools import permutations
from typing import Any

import ot
import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep.couplings import OptimalTransport, Pairs, drawn, independent
from meanstep.velocities import Posterior

B, SHAPE = 24, (3, 2)


def rows(n: int, *path: int | str) -> Tensor:
    return torch.randn(n, *SHAPE, generator=ms.key(0, *path), dtype=torch.float64)


def cost(x: Tensor, e: Tensor) -> float:
    return float((x - e).square().sum())


def order(made: Tensor, noise: Tensor) -> list[int]:
    """Which row of the noise each row is; exactly one each."""
    alike = (made.flatten(1)[:, None] == noise.flatten(1)).all(-1)
    assert (alike.sum(1) == 1).all()
    return alike.int().argmax(1).tolist()


def test_transport_is_the_best_of_all_permutations():
    for k in range(5):
        x, e = rows(6, "x", k), rows(6, "e", k)
        best = min(cost(x, e[list(p)]) for p in permutations(range(6)))
        assert cost(x, OptimalTransport()(x, e)) == pytest.approx(best, rel=1e-12)


def test_transport_is_a_permutation_that_costs_what_pot_says():
    x, e = rows(B, "x") + 1, rows(B, "e")
    made = OptimalTransport()(x, e)
    assert sorted(order(made, e)) == list(range(B))
    distances = torch.cdist(x.flatten(1), e.flatten(1)).square().numpy()
    assert cost(x, made) == pytest.approx(B * ot.emd2([], [], distances), rel=1e-9)
    assert cost(x, made) < 0.7 * cost(x, e)


def test_a_coupling_is_the_generators_and_leaves_the_global_state_alone():
    x, y = rows(B, "x").float(), torch.arange(B) % 3
    before = torch.get_rng_state()
    for coupling in (independent, OptimalTransport(), OptimalTransport(classes=True), OptimalTransport(regularisation=0.1)):
        first, again, other = (drawn(coupling, x, y, ms.key(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert first.dtype == x.dtype and first.shape == x.shape
    assert torch.equal(torch.get_rng_state(), before)


def test_within_classes_only_rows_of_one_class_change_places_and_each_class_is_best():
    x, e, y = rows(B, "x"), rows(B, "e"), torch.randint(3, (B,), generator=ms.key(4))
    made = OptimalTransport(classes=True)(x, e, y)
    assert torch.equal(y[order(made, e)], y)
    for k in range(3):
        assert torch.equal(made[y == k], OptimalTransport()(x[y == k], e[y == k]))
    assert cost(x, OptimalTransport()(x, e)) < cost(x, made) < cost(x, e)


def test_rows_of_equal_conditions_change_places():
    """A tree of categories is one label for each of their combinations."""
    x, e = rows(B, "x"), rows(B, "e")
    a, b = torch.randint(2, (B,), generator=ms.key(4)), torch.randint(3, (B,), generator=ms.key(5)).int()
    made = OptimalTransport(classes=True)(x, e, {"a": a, "b": b})
    assert torch.equal(made, OptimalTransport(classes=True)(x, e, 3 * a + b)) and not torch.equal(
        made, OptimalTransport(classes=True)(x, e, a)
    )
    with pytest.raises(ValueError, match=r"got torch.float32 \(24,\)"):
        OptimalTransport(classes=True)(x, e, {"a": a, "age": torch.zeros(B)})


def test_across_classes_the_noise_tells_the_label_and_within_it_does_not():
    """Two classes at -3 and 3: the mean of a class's noise is 0 within, standard error 1/sqrt(n), and far from 0 across."""
    n, chunk = 4096, 32
    y = torch.arange(n) % 2
    x, e = (6.0 * y - 3)[:, None].double(), torch.randn(n, 1, generator=ms.key(5), dtype=torch.float64)

    def mean(coupling: Any) -> float:
        made = torch.cat([coupling(*part) for part in zip(x.split(chunk), e.split(chunk), y.split(chunk), strict=True)])
        return float(made[y == 1].mean())

    assert abs(mean(OptimalTransport(classes=True))) < 4 / (n / 2) ** 0.5
    assert mean(OptimalTransport()) > 0.7


def test_a_regularised_plan_tends_to_the_exact_one_and_to_independence():
    x, e = rows(B, "x"), rows(B, "e")
    exact = OptimalTransport()(x, e)
    assert order(OptimalTransport(regularisation=1e-3)(x, e, None, ms.key(1)), e) == order(exact, e)
    costs = []
    for share in (0.1, 1.0, 100.0):
        coupling = OptimalTransport(regularisation=share)
        costs.append(sum(cost(x, coupling(x, e, None, ms.key(k))) for k in range(8)) / 8)
    assert costs == sorted(costs) and costs[-1] == pytest.approx(
        float(torch.cdist(x.flatten(1), e.flatten(1)).square().mean()) * B, rel=0.15
    )


def test_without_pot_a_regularised_plan_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"meanstep\[transport\]"):
        OptimalTransport(regularisation=0.1)(rows(4, "x"), rows(4, "e"))
    OptimalTransport()(rows(4, "x"), rows(4, "e"))


def test_the_loss_draws_the_times_that_it_would_have_drawn():
    """Under `independent` the loss is the very same, so that a coupling changes the noise and nothing else."""
    loss, net, x = ms.Loss(ms.recipes.meanflow()), ms.MLP(2, 8, 1, generator=ms.key(0)), torch.randn(16, 2, generator=ms.key(1))
    plain = loss(net, x, generator=ms.key(2))
    g = ms.key(2)
    assert torch.equal(loss(net, x, noise=drawn(independent, x, generator=g), generator=g).loss, plain.loss)
    g, own = ms.key(2), loss.draw(x, generator=ms.key(2))
    coupled = loss.draw(x, noise=drawn(OptimalTransport(), x, generator=g), generator=g)
    for (_, a), (_, b) in zip(own, coupled, strict=True):
        assert torch.equal(a.t, b.t) and torch.equal(a.r, b.r) and torch.equal(a.uniforms(), b.uniforms())
        assert not torch.equal(a.z, b.z) and not b.independent


def test_straight_paths_under_transport_have_less_noise():
    """On two far points the coupled velocity is nearly known at a point: the conditional velocities of near rows agree."""
    x = torch.where(torch.arange(256) % 2 == 0, 2.0, -2.0)[:, None].double()
    e = torch.randn(256, 1, generator=ms.key(6), dtype=torch.float64)
    spread = []
    for noise in (e, OptimalTransport()(x, e)):
        z, v = (x + noise) / 2, noise - x
        near = z.flatten().argsort()
        spread.append(float((v[near][1:] - v[near][:-1]).square().mean()))
    assert spread[1] < 0.2 * spread[0]


def test_a_posterior_refuses_a_coupling():
    x = torch.randn(16, 2, generator=ms.key(1))
    loss = ms.Loss(ms.recipes.posterior_meanflow(Posterior(x)))
    with pytest.raises(ValueError, match="noise was handed in"):
        loss(ms.MLP(2, 8, 1), x, noise=drawn(OptimalTransport(), x, generator=ms.key(0)))


def test_pairs_put_the_partner_there():
    x, e, low = rows(B, "x"), rows(B, "e"), rows(B, "low").float()
    assert torch.equal(Pairs()(x, e, low), low.double())
    assert torch.equal(Pairs("low", 0.5)(x, e, {"low": low}), low.double() + 0.5 * e)
    for y in (None, {"other": low}, {"low": low[:, :2]}, {"low": torch.arange(B)}):
        with pytest.raises(ValueError, match=r"a pair's partner y\['low'\]"):
            Pairs("low")(x, e, y)


@pytest.mark.parametrize(
    ("y", "told"),
    [(None, "NoneType"), (torch.zeros(B), r"torch.float32 \(24,\)"), (torch.zeros(B, 2, dtype=torch.int64), r"torch.int64 \(24, 2\)")],
)
def test_labels_that_are_none_are_refused(y: Any, told: str):
    with pytest.raises(ValueError, match=told):
        OptimalTransport(classes=True)(rows(B, "x"), rows(B, "e"), y)


def test_what_does_not_fit_is_refused():
    x = rows(4, "x")
    with pytest.raises(ValueError, match="as much noise"):
        OptimalTransport()(x, x[:3])
    with pytest.raises(ValueError, match="not finite"):
        OptimalTransport()(x, torch.full_like(x, torch.nan))
    with pytest.raises(ValueError, match="regularisation"):
        OptimalTransport(regularisation=-1)


def test_values_pickle_and_show_what_they_are():
    for coupling in (OptimalTransport(classes=True), Pairs("low", 0.1)):
        assert pickle.loads(pickle.dumps(coupling)) == coupling == copy.deepcopy(coupling)
    assert repr(OptimalTransport(classes=True)).startswith("OptimalTransport(classes=True")
