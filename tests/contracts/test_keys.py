"""Random numbers are drawn where the generator lives, whatever asks for them, and go to where they are used."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep import couplings, fields, keys, metrics, recipes, times
from meanstep.conditions import submodes
from meanstep.probes import published

X = torch.arange(12.0).reshape(6, 2)
LAW = fields.Mixture(X, 0.1)
ASKED: dict[str, Callable[[Any], object]] = {
    "loss": lambda g: ms.Loss(recipes.meanflow()).draw(X, generator=g),
    "times": lambda g: times.logit_normal()((6,), g),
    "noise of a coupling": lambda g: couplings.drawn(couplings.OptimalTransport(), X, generator=g),
    "partners of a plan": lambda g: couplings.OptimalTransport(regularisation=0.1)(X, X + 1, generator=g),
    "sub-modes": lambda g: submodes(X, torch.zeros(6, dtype=torch.int64), 2, g),
    "directions": lambda g: metrics.directions(3, 4, g),
    "subsets": lambda g: list(metrics.subsets(5, 6, size=2, count=1, generator=g)),
    "mixture": lambda g: LAW.sample(4, g),
    "velocities of a mixture": lambda g: LAW.conditional_draws(X, torch.full((6,), 0.5), g),
    "lag of an average": lambda g: published.average_gap(lambda z, r, t, y: z, lambda z, r, t, y: z, (2,), rows=4, generator=g),
    "matrix form": lambda g: published.matrix_bound(lambda z, r, t, y: z, lambda n: X[:n], rows=4, times=(0.5,), generator=g),
    **{name: lambda g, name=name: fields.PLANAR[name]().sample(4, g) for name in fields.PLANAR},
}


class Elsewhere(torch.Generator):
    """A generator of a device that no machine has."""

    @property
    def device(self) -> torch.device:
        return torch.device("meta")


@pytest.mark.parametrize("name", ASKED)
def test_numbers_are_drawn_where_the_generator_lives(name: str, monkeypatch: pytest.MonkeyPatch):
    elsewhere, places = Elsewhere(), []

    def stand_in(sampler: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draw(*size: Any, generator: object, dtype: torch.dtype | None = None, device: object = None) -> Tensor:
            assert generator is elsewhere
            places.append(device)
            return sampler(*size, dtype=dtype)

        return draw

    def multinomial(weights: Tensor, n: int, replacement: bool, generator: object) -> Tensor:
        places.append(weights.device)
        return torch.zeros(*weights.shape[:-1], n, dtype=torch.int64)

    for drawer in ("rand", "randn", "randint", "randperm"):
        monkeypatch.setattr(torch, drawer, stand_in(getattr(torch, drawer)))
    monkeypatch.setattr(torch, "multinomial", multinomial)
    ASKED[name](elsewhere)
    assert places and set(places) == {elsewhere.device}


def test_numbers_go_to_the_device_that_is_asked_for():
    assert keys.drawn(torch.randn, 3, generator=ms.key(0), device="meta").is_meta
    assert keys.drawn(torch.randn, 3, generator=None, device="meta").is_meta
    assert keys.drawn(torch.randint, 2, (3,), generator=ms.key(0), dtype=torch.int8).dtype == torch.int8
    expected = torch.randn(3, generator=ms.key(0), dtype=torch.float64)
    assert torch.equal(keys.drawn(torch.randn, 3, generator=ms.key(0), dtype=torch.float64), expected)


def test_places_are_as_likely_as_their_weights():
    weights, n = torch.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 0.0]]), 4000
    found = torch.stack([torch.bincount(row, minlength=3) / n for row in keys.picked(weights, n, ms.key(0))])
    assert ((found - weights / weights.sum(-1, keepdim=True)).abs() < 4 * (0.25 / n) ** 0.5).all()


def test_no_draws_are_none():
    assert LAW.sample(0).shape == (0, 2) and keys.picked(torch.ones(3, 2), 0, None).shape == (3, 0)
