"""Metrics that are worked out when they are read: to the numbers of the step, at most once, and without keeping the step's graph."""

import copy
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep import recipes, weights
from meanstep.loss import criterion, unread
from meanstep.loss.metrics import metrics_of
from meanstep.loss.unread import KEPT, Unread
from meanstep.values import told

from .table import CASES

F = torch.float64


def at_once(patch: pytest.MonkeyPatch, run: Any) -> Any:
    """What `run` gives when a step works its metrics out itself."""
    with patch.context() as here:
        here.setattr(criterion, "measured", metrics_of)
        return run()


def equal(a: Any, b: Any) -> None:
    assert list(a) == list(b)
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=0, equal_nan=True, msg=name)


def trained(setting: Any, mask: Tensor | None = None) -> ms.Output:
    """The output of a step whose weights have moved since."""
    out = setting(mask=mask)
    out.loss.backward()
    with torch.no_grad():
        for p in (*setting.field.parameters(), *setting.loss.parameters()):
            p += 1.0 + p.abs()
    return out


@pytest.mark.parametrize("kind", ["mlp", "ensemble"])
@pytest.mark.parametrize("name", CASES)
def test_read_after_the_step_they_are_what_they_were_in_it(name: str, kind: str, monkeypatch: pytest.MonkeyPatch):
    equal(trained(CASES[name].setting(kind)).metrics, at_once(monkeypatch, lambda: trained(CASES[name].setting(kind))).metrics)


def test_read_after_the_step_under_a_mask(monkeypatch: pytest.MonkeyPatch):
    setting = CASES["meanflow"].setting("mlp")
    mask = torch.rand(setting.x.shape, generator=ms.key(0, "mask")) < 0.6
    mask[::5] = False
    out = trained(setting, mask)
    equal(out.metrics, at_once(monkeypatch, lambda: trained(CASES["meanflow"].setting("mlp"), mask)).metrics)


def plain(**options: Any) -> ms.Output:
    net = ms.MLP(2, 8, 1, generator=ms.key(0, "net"))
    return ms.Loss(recipes.meanflow(), **options)(net, torch.ones(16, 2), generator=ms.key(0, "draw"))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every reading."""
    found: list[int] = []
    monkeypatch.setattr(unread, "metrics_of", lambda *args: found.append(1) or metrics_of(*args))
    return found


def test_what_nobody_reads_is_not_worked_out_and_what_is_read_only_once(readings: list[int]):
    out = plain()
    assert out.loss.isfinite() and isinstance(out.metrics, Unread) and readings == []
    assert out.metrics["residual"] == out.metrics["residual"] and len(out.metrics) > 10
    assert readings == [1]


def test_a_history_that_nobody_reads_keeps_few_steps(readings: list[int]):
    history = [plain().metrics for _ in range(KEPT + 3)]
    assert len(readings) == 3
    equal(history[0], history[-1])
    for _ in range(KEPT + 3):
        plain()  # dropped unread
    assert len(readings) == KEPT + 3


MARKS: list[weakref.ref[Any]] = []


class Marked(torch.autograd.Function):
    """The identity, with an object in its graph whose end can be seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark = type("Mark", (), {})()
        MARKS.append(weakref.ref(ctx.mark))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def test_metrics_do_not_keep_the_graph():
    net = ms.MLP(2, 8, 1)
    out = ms.Loss(recipes.flow_matching())(lambda z, r, t, y: Marked.apply(net(z, r, t)), torch.ones(16, 2))
    metrics, mark = out.metrics, MARKS.pop()
    assert mark() is not None
    del out
    assert mark() is None
    assert metrics["residual"].isfinite()


@pytest.mark.parametrize("name", ["mask", "y", "progress"])
def test_an_input_that_is_filled_anew_is_told_of(name: str):
    net = ms.MLP(2, 8, 1, classes=3)
    given: dict[str, Any] = {"mask": torch.ones(8, dtype=torch.bool), "y": torch.zeros(8, dtype=torch.int64), "progress": torch.tensor(0.5)}
    x, loss = torch.ones(8, 2), ms.Loss(recipes.meanflow())
    read, late, other = loss(net, x, **given), loss(net, x, **given), loss(net, x, **given)
    assert read.metrics["residual"].isfinite()
    x.zero_()  # the step has no part of it left
    assert other.metrics["residual"].isfinite()
    given[name].zero_()
    assert read.metrics["residual"].isfinite()
    with pytest.raises(RuntimeError, match=r"read out\.metrics first"):
        len(late.metrics)


def test_a_history_does_not_stop_a_later_step():
    net, mask = ms.MLP(2, 8, 1), torch.ones(8, dtype=torch.bool)
    loss, held = ms.Loss(recipes.meanflow()), []
    for _ in range(KEPT + 2):
        held.append(loss(net, torch.ones(8, 2), mask=mask).metrics)
        mask[0] = not mask[0]
    with pytest.raises(RuntimeError, match="changed in place"):
        held[0]["residual"]


def test_they_are_a_dict():
    expected = dict(plain().metrics)
    for made in (copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.copy(), lambda m: {} | m, lambda m: m | {}):
        found = made(plain().metrics)
        assert type(found) is dict
        equal(found, expected)
    assert repr(plain().metrics) == told(expected) and "residual_gap_1" in repr(plain())
    metrics = plain().metrics
    metrics["loss"] = torch.zeros(())
    del metrics["saturated"]
    assert set(metrics) == {"loss"} | set(expected) - {"saturated"} and metrics.pop("loss") == 0
    assert plain(measure=False).metrics == {}


def test_the_reader_may_be_in_another_mode():
    """The step's own mode counts, whatever that of the reader is."""
    expected, read = dict(plain().metrics), plain().metrics
    with torch.inference_mode():
        equal(read, expected)
    with torch.inference_mode():
        read = plain().metrics
    assert set(expected) - set(read) == {"saturated", "effective_rows"}
    with torch.no_grad():
        equal(plain().metrics, expected)


def test_the_steps_autocast_is_that_of_its_metrics():
    """A weight of one's own that has a product."""

    def weight(error: Tensor, b: ms.Bridge) -> Tensor:
        return error * (error[None] @ torch.full((len(error), 1), 1 / 3)).detach().float().squeeze()

    def run(read: bool) -> Tensor:
        loss = ms.Loss((ms.Term(recipes.meanflow()[0].objective, recipes.meanflow()[0].times, weight),))
        with torch.autocast("cpu", torch.bfloat16):
            out = loss(ms.MLP(2, 8, 1, generator=ms.key(0, "net")), torch.ones(16, 2), generator=ms.key(0, "draw"))
            return out.metrics["effective_rows"] if read else out.metrics

    late: Any = run(False)
    assert late["effective_rows"] == run(True)


def test_inside_a_transform_they_are_made_at_once():
    net, loss = ms.MLP(2, 8, 1), ms.Loss(recipes.flow_matching())

    def value(x: Tensor) -> tuple[Tensor, Any]:
        out = loss(net, x, generator=ms.key(0, "draw"))
        assert type(out.metrics) is dict
        return out.loss, out.metrics

    x = torch.ones(8, 2)
    _, metrics = torch.func.grad(value, has_aux=True)(x)
    torch.testing.assert_close(metrics["residual"], loss(net, x, generator=ms.key(0, "draw")).metrics["residual"])


def test_a_weight_that_learns_is_measured_at_once(readings: list[int]):
    loss = ms.Loss(recipes.decoupled_meanflow())
    assert type(loss(ms.MLP(2, 8, 1), torch.ones(16, 2)).metrics) is dict and readings == [1]


class Steeper(weights.Adaptive):
    """A subclass that says nothing of its slope."""

    def __call__(self, error: Tensor, b: ms.Bridge) -> Tensor:
        return 3 * super().__call__(error, b)


SLOPED = {
    "constant": weights.constant,
    "adaptive": weights.adaptive(),
    "adaptive, mean": weights.adaptive(0.75, 1e-3, "mean"),
    "adaptive, plain": weights.adaptive(0.0),
    "factor": weights.times_factor(weights.adaptive(0.5), weights.tangent_gap),
    "factor of a number": weights.times_factor(weights.normed(), lambda b: 2.0),
    "subclass": Steeper(),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SLOPED)
def test_a_weights_slope_is_its_derivative(name: str, masked: bool):
    t = torch.linspace(0.1, 0.9, 6, dtype=F)
    mask = torch.arange(18).reshape(6, 3) % 4 != 1 if masked else None
    b = ms.Bridge(torch.zeros(6, 3, dtype=F), torch.zeros(6, 3, dtype=F), t / 2, t, mask=mask)
    error = torch.tensor([0.0, 1e-4, 0.1, 1.0, 7.0, 1e5], dtype=F)
    leaf = error.clone().requires_grad_()
    (expected,) = torch.autograd.grad(SLOPED[name](leaf, b).sum(), leaf)
    torch.testing.assert_close(weights.slope(SLOPED[name], error, b), expected, rtol=1e-13, atol=0)
