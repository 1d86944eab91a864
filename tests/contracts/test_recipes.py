"""What every recipe owes its caller on every kind of network: dtypes, gradients, randomness, metrics, masks and costs."""

import copy
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import meanstep as ms
from meanstep import recipes, times, weights
from meanstep.objectives import Eulerian, Semigroup
from meanstep.rates import Backward, Exact
from meanstep.tangents import Dual
from meanstep.tangents.dual import Several
from meanstep.velocities import own
from meanstep.velocities.guidance import step_kappa, step_omega

from .table import CASES, SHAPES, Proxies, Setting

METRICS = {"residual", "residual_diagonal", "residual_gap", "saturated", "effective_rows"}
METRICS |= {f"residual_gap_{high}" for high in ("0.25", "0.5", "0.75", "1")}
MOVING = {"change_ratio", "tangent_rms", "tangent_noise"}

every_case = pytest.mark.parametrize("name", CASES)
every_network = pytest.mark.parametrize("kind", SHAPES)


def cast(precision: str) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()


def check_metrics(metrics: dict[str, Tensor], setting: Setting, kind: str) -> None:
    """Detached, one number or one for each member, and complete: two more where an objective has a tangent."""
    moving = any(isinstance(term.objective, Eulerian) for term in setting.loss.recipe)
    heads = any(term.times is None for term in setting.loss.recipe)
    named = {"residual_head": heads, "auxiliary": any(term.beside for term in setting.loss.recipe)}
    assert set(metrics) == METRICS | (MOVING if moving else set()) | {name for name, there in named.items() if there}
    for key, value in metrics.items():
        assert not value.requires_grad and value.shape == ((3,) if kind == "ensemble" else ()), key
        # a mean over no rows at all is nan
        assert value.isfinite().all() or key.startswith("residual_"), f"{key} = {value}"


class Made(TorchDispatchMode):
    """The operations whose results lie on the CPU, but for the zeros of forward mode, which hold no numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.there: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operation(*args, **(kwargs or {}))
        held = operation is not torch.ops.aten._efficientzerotensor.default
        if held and any(isinstance(leaf, Tensor) and leaf.device.type == "cpu" for leaf in tree_leaves(out)):
            self.there.append(str(operation))
        return out


def without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a number becomes a tensor: it comes from the host without an operation on the CPU that could be seen."""

    def of_tensors(make: Callable[..., Tensor], x: Any, **how: Any) -> Tensor:
        assert isinstance(x, Tensor), f"{x!r:.40} is copied from the host"
        return make(x, **how)

    for make in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, make, functools.partial(of_tensors, getattr(torch, make)))


@every_case
def test_a_step_makes_nothing_on_the_cpu(name: str, monkeypatch: pytest.MonkeyPatch):
    """What it made there would be copied, which no CUDA graph has among its operations. The meta device, in place of a GPU.

    That device has neither random states, which a compiled step leaves alone, nor autocast.
    """
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch, "autocast", lambda *given, **how: nullcontext())
    without_numbers(monkeypatch)
    case, setting = CASES[name], CASES[name].setting("ragged", torch.float32)
    dims, field = setting.loss.batch_dims, setting.field.eval().to("meta")
    recipe = case.recipe(Proxies(copy.deepcopy(field), torch.empty(20, *setting.x.shape[dims:], device="meta")))
    loss = ms.Loss(recipe, batch_dims=dims, check=False, measure=False).to("meta")
    x, given = setting.x.to("meta"), {key: p.to("meta") if isinstance(p, Tensor) else p for key, p in setting.given.items()}
    with Made() as made:
        torch.autograd.grad(loss(field, x, **given).loss, list(field.parameters()), allow_unused=True)
    assert made.there == []


@pytest.mark.parametrize(
    "made",
    [
        lambda b: weights.normed()(b.t, b),
        lambda b: weights.trace(lambda t: 0.5).weights(b, None),
        step_omega(1.0, 2.5, 0.5),
        step_kappa(1.0, 2.5, 0.0),
    ],
    ids=["norm", "sigma", "begun", "from the start"],
)
def test_a_number_is_made_where_the_rows_are(made: Callable[[ms.Bridge], Tensor], monkeypatch: pytest.MonkeyPatch):
    z, t, aux = (torch.empty(shape, device="meta") for shape in ((6, 2), (6,), (6, 4)))
    without_numbers(monkeypatch)
    found = made(ms.Bridge(z, z, t, t, aux=aux, progress=0.7, common=aux[:1]))
    assert found.is_meta and found.shape == (6,)


# autocast on the other two kinds: the test below
OTHERS = [(kind, "float64") for kind in ("ensemble", "ragged")] + [(kind, "bfloat16") for kind in ("mlp", "ensemble", "ragged")]


@every_case
@every_network
def test_the_loss_is_a_finite_number_and_moves_every_parameter(name: str, kind: str):
    for precision in ("float32", *(other for of, other in OTHERS if of == kind)):
        setting = CASES[name].setting(kind, torch.float64 if precision == "float64" else torch.float32)
        with cast(precision):
            out = setting()
        check_metrics(out.metrics, setting, kind)
        out.loss.backward()
        assert out.loss.shape == () and out.loss.isfinite() and out.loss.dtype == setting.x.dtype, precision
        for owner in (setting.field, setting.loss):
            for parameter, p in owner.named_parameters():
                assert p.grad is not None, f"{precision}: no gradient for {parameter}"
                sound = p.grad.dtype == p.dtype and p.grad.isfinite().all() and p.grad.any()
                assert sound, f"{precision}: gradient of {parameter}: {p.grad}"


@every_case
def test_half_precision_keeps_the_gradient(name: str):
    """The whole gradient under bfloat16 autocast is within a tenth of the one in float32 (3 percent at most when this was written).

    Passes without a gradient come before the one with it, and torch must not hand their cast weights on.
    """
    for kind in ("mlp", "conv", "transformer"):
        setting = CASES[name].setting(kind, torch.float32)
        setting.field.eval()
        full = torch.cat([g.flatten() for g in setting.gradients() if g is not None])
        with cast("bfloat16"):
            half = torch.cat([g.flatten() for g in setting.gradients() if g is not None])
        assert (half - full).norm() < 0.1 * full.norm(), kind


@every_case
def test_only_the_prediction_carries_a_gradient(name: str):
    for kind in SHAPES:
        setting = CASES[name].setting(kind)
        draws = setting.loss.draw(setting.x, generator=torch.Generator().manual_seed(0), **setting.given)
        for term, b in draws:
            prediction, target, average, tangent = term.objective(setting.field, b)
            assert prediction.requires_grad, kind
            assert not any(q.requires_grad for q in (target, average, tangent) if q is not None), kind
            assert prediction.shape == target.shape == b.z.shape and prediction.dtype == target.dtype == b.z.dtype, kind
            assert ((b.r >= 0) & (b.r <= b.t) & (b.t <= 1)).all(), kind


@every_case
def test_without_measuring_the_loss_is_the_same_and_the_metrics_empty(name: str):
    quiet = CASES[name].setting("mlp", measure=False, check=False)()
    assert quiet.metrics == {} and torch.equal(quiet.loss, CASES[name].setting("mlp")().loss)


# Randomness --------------------------------------------------------------------------------------------------------------------------


@every_case
def test_the_generator_decides_everything_and_the_global_state_is_untouched(name: str):
    for kind in SHAPES:
        setting = CASES[name].setting(kind)
        setting.field.eval()
        before = torch.get_rng_state()
        first, again, other = setting(seed=3), setting(seed=3), setting(seed=4)
        first.loss.backward()
        assert torch.equal(torch.get_rng_state(), before), kind
        assert torch.equal(first.loss, again.loss), kind
        assert not torch.equal(first.metrics["residual"], other.metrics["residual"]), kind


@every_case
def test_with_the_global_state_the_loss_is_the_same_too(name: str):
    setting = CASES[name].setting("transformer", torch.float32)
    with torch.random.fork_rng(devices=[]):
        first, second = (_globally(setting) for _ in range(2))
    assert torch.equal(first, second)


def _globally(setting: Setting) -> Tensor:
    torch.manual_seed(5)
    return setting(generator=None).loss


# Masks -------------------------------------------------------------------------------------------------------------------------------


@every_case
def test_masked_entries_may_hold_anything(name: str):
    setting = CASES[name].setting("ragged")
    mask, loss, gradients = setting.given["mask"][..., None], setting().loss, setting.gradients()
    assert not mask.all()
    for garbage in (1e3, float("inf"), float("nan")):
        dirty = {"x": torch.where(mask, setting.x, garbage)}
        if CASES[name].couplings:
            dirty["noise"] = torch.where(mask, setting.given["noise"], garbage)
        assert torch.equal(setting(**dirty).loss, loss), garbage
        for p, q in zip(setting.gradients(**dirty), gradients, strict=True):
            assert p is not None and q is not None and torch.equal(p, q), garbage


# A Posterior's references are rows of one length, so its three cases cannot be cut: test_metrics.py has its law under a mask. The signs of
# a trace weight are drawn entry by entry, so another length has others: its exact form stands for it.
UNCUT = ("flow_matching/posterior", "coefficient/both", "posterior", "trace", "trace/guided", "trace/anchored", "trace/head")


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNCUT])
def test_a_padded_batch_equals_the_batch_without_padding(name: str):
    """A network that treats positions alone: six positions of which four count are four positions."""
    setting = CASES[name].setting("ragged")
    noise = torch.randn(setting.x.shape, generator=torch.Generator().manual_seed(7), dtype=setting.x.dtype)
    short, mask = slice(0, 4), torch.arange(6).expand(12, 6) < 4
    padded, cut = {"noise": noise, "mask": mask}, {"x": setting.x[:, short], "noise": noise[:, short], "mask": None}
    torch.testing.assert_close(setting(**padded).loss, setting(**cut).loss, rtol=1e-12, atol=0)
    for p, q in zip(setting.gradients(**padded), setting.gradients(**cut), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-14)


def test_masked_entries_do_not_reach_a_network_that_mixes_positions():
    setting = CASES["meanflow"].setting("transformer")
    setting.field.eval()
    mask = torch.arange(6).expand(12, 6) < 4
    dirty = torch.where(mask[..., None], setting.x, float("nan"))
    assert torch.equal(setting(x=dirty, mask=mask).loss, setting(mask=mask).loss)


def test_a_row_without_any_entry_adds_nothing():
    setting = CASES["meanflow"].setting("ragged")
    mask = torch.ones(12, 6, dtype=torch.bool)
    mask[::2] = False
    gradients = setting.gradients(mask=mask)
    assert setting(mask=mask).loss.isfinite() and all(g is not None and g.isfinite().all() for g in gradients)
    with torch.no_grad():
        nothing = setting(mask=torch.zeros_like(mask))
    assert nothing.loss == 0


# Costs -------------------------------------------------------------------------------------------------------------------------------


class Recorded(nn.Module):
    """A field that notes how many rows it is asked for: with a tangent, with a gradient, without; and rows with a tangent and r = t."""

    carries_tangents = True

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.paid, self.wasted = net, {"tangent": 0, "gradient": 0, "no gradient": 0}, 0
        self.head = getattr(net, "head", None) and (lambda *a: self._noted(self.net.head, *a))
        self.with_head = getattr(net, "with_head", None) and (lambda *a: self._noted(self.net.with_head, *a))

    def _noted(self, read: Any, z: Any, r: Any, t: Any, y: Any = None) -> Any:
        carried = [p for p in (z, r, t) if isinstance(p, Dual)]
        level = forward_mode._current_level
        recorded = [p for p in (r, t) if isinstance(p, Tensor) and level >= 0 and forward_mode.unpack_dual(p).tangent is not None]
        rows = carried[0].tangent.shape[carried[0].axis] if carried else recorded[0].shape[-1] if recorded else 0
        self.paid["tangent"] += rows * max([len(p.tangents) if isinstance(p, Several) else 1 for p in carried], default=1)
        start, end = (p.primal if isinstance(p, Dual) else p for p in (r, t))
        self.wasted += int((start[:rows] == end[:rows]).sum())
        if not recorded:  # a recorded pass gives the value too: its rows are counted once
            self.paid["gradient" if torch.is_grad_enabled() else "no gradient"] += end.numel()
        return read(z, r, t, y)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self._noted(self.net, z, r, t, y)


# Rows evaluated for a batch of 12: with a tangent, with a gradient, without one. Other fields' (an EMA copy's) are not counted.
COSTS = {
    "flow_matching": (0, 12, 0),
    "flow_matching/posterior": (0, 12, 0),
    "meanflow": (3, 12, 0),
    "meanflow/cifar": (9, 12, 0),
    "meanflow/guided": (3, 12, 24),  # with and without the condition
    "meanflow/instant": (3, 12, 24),
    "meanflow/warmed": (3, 12, 0),
    "meanflow/beside": (3, 12, 0),  # no pass of the field for an auxiliary loss
    "meanflow/central": (0, 12, 6),
    "meanflow/backward": (0, 12, 3),
    "meanflow/through": (3, 12, 0),
    "coefficient/0": (3, 12, 0),
    "coefficient/1": (3, 24, 0),  # the anchor on every row
    "coefficient/half": (3, 18, 0),
    "coefficient/own": (3, 12, 3),
    "coefficient/map": (3, 12, 0),
    "coefficient/both": (3, 12, 0),
    "trace": (18, 12, 0),  # two tangents on each of nine rows
    "trace/exact": (27, 12, 0),  # a tangent for each of the two entries
    "trace/guided": (18, 12, 24),
    "trace/anchored": (6 + 12, 24, 0),
    "trace/head": (12, 12, 6),  # the head's term reads what the probes of the other terms found
    "posterior": (6, 12, 0),
    "improved": (6, 12, 6),  # the head learns on every row, in the same pass
    "improved/own": (6, 12, 6),
    "improved/guided": (6, 24, 54),  # this network has no method with_head
    "alpha/0": (9, 12, 0),
    "alpha/half": (0, 12, 9),
    "alpha/1": (0, 12, 0),
    "alpha/clamped": (0, 12, 9 + 24),
    "modular": (6, 12, 0),
    "curriculum": (3, 12, 0),
    "terminal": (12, 24, 0),
    "terminal/own": (12, 24, 12),  # nothing flows through this derivative: it is carried
    "terminal/guided": (12, 24, 0),
    "rectified": (3, 12, 0),
    "decoupled": (12, 24, 0),
    "discrete": (0, 12, 9),
    "split": (0, 12, 12),
    "split/teacher": (0, 12, 0),
    "solution": (0, 12, 3),
    "transition": (0, 12, 12),
    "transition/directional": (0, 12, 12),
    "shortcut": (0, 12, 0),
    "pixel": (6, 12, 6),
    "pixel/instants": (6, 12, 6),
}


@every_case
def test_the_rows_paid_for(name: str):
    setting = CASES[name].setting("mlp")
    field = Recorded(setting.field)
    setting.loss(field, setting.x, generator=torch.Generator().manual_seed(0), **setting.given)
    assert tuple(field.paid.values()) == COSTS[name], field.paid
    # MeanFlow's CIFAR sampler makes r = t rows among its pairs, as published
    assert field.wasted == 0 or name == "meanflow/cifar"


def test_flow_matching_never_asks_for_a_derivative(monkeypatch: pytest.MonkeyPatch):
    setting = CASES["flow_matching"].setting("mlp", measure=False)
    monkeypatch.setattr(torch.func, "jvp", None)
    monkeypatch.setattr(Dual, "__init__", None)
    setting().loss.backward()


# Conditions --------------------------------------------------------------------------------------------------------------------------


def test_a_condition_may_be_any_structure_of_tensors():
    x, net = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)), CASES["meanflow"].field("mlp", torch.float32)
    seen: list[tuple[int, int]] = []

    def field(z: Tensor, r: Tensor, t: Tensor, y: dict[str, Any]) -> Tensor:
        assert torch.equal(y["rows"].float(), y["deep"][0][:, 0]) and y["nothing"] is None
        seen.append((int(y["rows"][0]), len(y["rows"])))
        return net(z, r, t)

    rows = torch.arange(12)
    y = {"rows": rows, "deep": (rows[:, None].expand(12, 5).float(), [rows]), "nothing": None}
    ms.Loss(recipes.meanflow())(field, x, y)
    assert seen == [(0, 3), (0, 12)]  # forward mode, then one ordinary pass


# Ensembles ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda c: recipes.coefficient(c, own, anchor=0.0, target_beta=c),
        lambda c: recipes.meanflow(rate=Exact(c)),
        lambda c: recipes.meanflow(rate=Backward(c)),
        lambda c: recipes.terminal_velocity(own, through=c),
        lambda c: (ms.Term(Semigroup(c), times.uniform),),
    ],
    ids=["beta", "through", "ratio", "Lagrangian", "split"],
)
def test_a_coefficient_for_each_member(make: Callable[[Any], Any]):
    """A tensor `[members]` gives each member what a number gives it."""
    setting, values = CASES["meanflow"].setting("ensemble"), (0.25, 0.5, 0.875)

    def gradients(c: Any) -> list[Tensor]:
        out = ms.Loss(make(c), batch_dims=2)(setting.field, setting.x, generator=torch.Generator().manual_seed(0))
        return list(torch.autograd.grad(out.loss, list(setting.field.parameters())))

    together = gradients(torch.tensor(values))
    for m, value in enumerate(values):
        for p, q in zip(together, gradients(value), strict=True):
            torch.testing.assert_close(p[m], q[m], rtol=1e-10, atol=1e-13)
