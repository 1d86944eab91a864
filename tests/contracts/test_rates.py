"""What `rates.py` owes its caller: derivatives of other people's networks, the order of differences, and torch's own tools around it."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import meanstep as ms
from meanstep.objectives import Eulerian, Lagrangian, Matching, Semigroup
from meanstep.rates import Backward, Central, Exact
from meanstep.tangents import Way, derivative, differentiable_kernels, recorded, taped
from meanstep.tangents.forward_mode import WrittenOut
from meanstep.types import Bridge, Rate, Regression
from meanstep.velocities import own


def bridge(*event: int, rows: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Bridge:
    g = torch.Generator().manual_seed(seed)
    z, v = (torch.randn(rows, *event, generator=g, dtype=dtype) for _ in range(2))
    t = 0.2 + 0.7 * torch.rand(rows, generator=g, dtype=dtype)
    return Bridge(z, v, t * torch.rand(rows, generator=g, dtype=dtype), t)


def smooth(seed: int = 0, width: int = 16) -> nn.Module:
    return ms.MLP(2, width, 2, frequencies=3, generator=torch.Generator().manual_seed(seed)).double()


def squares(regression: Regression) -> Tensor:
    return (regression.prediction - regression.target).square().mean()


def gradients(field: nn.Module, objective: Any, b: Bridge) -> list[Tensor]:
    return list(torch.autograd.grad(squares(objective(field, b)), list(field.parameters())))


def close(a: list[Tensor], b: list[Tensor], rtol: float = 1e-9) -> None:
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=1e-12)


def difference(field: Callable[..., Tensor], b: Bridge, w: Tensor, h: float = 1e-4) -> Tensor:
    """`(t - r) D_t u` along `w` by a central difference of fourth order, in the test's own hand."""

    def at(s: float) -> Tensor:
        return field(b.z + s * w, b.r, b.t + s)

    with torch.no_grad():
        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        return (b.t - b.r).reshape(-1, *(1,) * (b.z.ndim - 1)) * slope


# Networks of others ------------------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """One attention over `[B, L, 4]`: `fused` by F.scaled_dot_product_attention (causal if asked), else nn.MultiheadAttention."""

    def __init__(self, fused: bool, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem, self.times, self.out = nn.Linear(4, 8), nn.Linear(2, 8), nn.Linear(8, 4)
        self.inner = nn.Linear(8, 24) if fused else nn.MultiheadAttention(8, 2, dropout, batch_first=True)
        self.causal, self.drop = causal, nn.Dropout(dropout)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.drop(self.stem(z)) + self.times(torch.stack([r, t], -1))[..., None, :]
        if isinstance(self.inner, nn.Linear):
            q, k, v = self.inner(h).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            h = h + nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(-2)
        else:
            h = h + self.inner(h, h, h, need_weights=False)[0]
        return self.out(nn.functional.silu(h))


class Encoder(nn.Module):
    """`nn.TransformerEncoderLayer`, whose eval mode has a fast path of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.times, self.layer = nn.Linear(2, 4), nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.layer(z + self.times(torch.stack([r, t], -1))[..., None, :])


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double()


@pytest.mark.parametrize("through", [0.0, 1.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make",
    [lambda: Attention(True), lambda: Attention(True, causal=True), lambda: Attention(False), Encoder],
    ids=["fused", "causal", "MultiheadAttention", "TransformerEncoderLayer"],
)
def test_attention_has_a_derivative(make: Callable[[], nn.Module], training: bool, through: float):
    field, b = built(make).train(training), bridge(5, 4)
    u, change = Exact(through)(field, b, b.v)
    torch.testing.assert_close(u, field(b.z, b.r, b.t), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(change, difference(field, b, b.v), rtol=1e-7, atol=1e-9)
    assert change.requires_grad == (through > 0)


def test_fused_attention_still_has_no_forward_mode():
    """The reason for `differentiable_kernels` (pytorch#128971). When this fails, torch has learned it: remove that context manager."""
    q = torch.randn(1, 2, 5, 4)
    with pytest.raises(RuntimeError, match="forward AD"):
        torch.func.jvp(nn.functional.scaled_dot_product_attention, (q, q, q), (q, q, q))
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(1, 5, 8)
    with pytest.raises(RuntimeError, match=r"forward AD|forward-mode"), torch.no_grad():
        torch.func.jvp(lambda h: attention(h, h, h, need_weights=False)[0], (x,), (x,))
    with differentiable_kernels(), torch.no_grad():
        torch.func.jvp(nn.functional.scaled_dot_product_attention, (q, q, q), (q, q, q))
        torch.func.jvp(lambda h: attention(h, h, h, need_weights=False)[0], (x,), (x,))


def test_the_kernels_are_given_back():
    def state() -> tuple[bool, ...]:
        on = torch.backends.cuda
        return torch.backends.mha.get_fastpath_enabled(), on.flash_sdp_enabled(), on.mem_efficient_sdp_enabled(), on.math_sdp_enabled()

    before = state()
    with pytest.raises(KeyError), differentiable_kernels():
        assert state() != before
        raise KeyError
    assert state() == before


def test_the_gradient_pass_keeps_the_fast_kernels():
    """Only the forward-mode pass is forced onto plain attention."""
    seen = []

    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        return z * t[:, None]

    b = bridge(2)
    Exact()(field, b, b.v)
    assert seen == [False, True]


def test_expanded_inputs_are_accepted():
    field, b = smooth(), bridge(2)
    wide = Bridge(b.z[:1].expand(6, 2), b.v[:1].expand(6, 2), b.r[:1].expand(6), b.t[:1].expand(6))
    for through in (0.0, 1.0):
        u, change = Exact(through)(field, wide, wide.v)
        torch.testing.assert_close(change, difference(field, wide, wide.v), rtol=1e-7, atol=1e-9)
        assert (u == u[0]).all() or (u - u[0]).abs().max() < 1e-14
    lagrangian = Lagrangian(lambda f, b: b.z)(field, wide)
    assert lagrangian.prediction.isfinite().all()


def test_views_of_a_larger_batch_are_accepted():
    field, b = smooth(), bridge(2, rows=12)
    half = Bridge(*(p[::2] for p in b[:4]))
    _, change = Exact()(field, half, half.v)
    torch.testing.assert_close(change, difference(field, half, half.v), rtol=1e-7, atol=1e-9)


# Dropout -----------------------------------------------------------------------------------------------------------------------------


class Dropped(nn.Module):
    """A perceptron with dropout in the middle; `masks` collects the factors that dropout applied, `fixed` applies given ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.drop = nn.Linear(4, 16), nn.Linear(16, 2), nn.Dropout(0.5)
        self.fixed: Tensor | None = None
        self.masks: list[Tensor] = []

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = torch.tanh(self.first(torch.cat([z, r[:, None], t[:, None]], -1)))
        mask = self.drop(torch.ones_like(h)) if self.fixed is None else self.fixed
        self.masks.append(mask)
        return self.last(h * mask)


@pytest.mark.parametrize("rate", [Exact(), Exact(0.3), Backward(0.2), Central()], ids=str)
def test_every_pass_sees_the_same_dropout(rate: Rate):
    field, b = built(Dropped), bridge(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        u, change = rate(field, b, b.v)
        after = torch.get_rng_state()
        torch.manual_seed(1)
        field.masks.clear()
        ordinary = field(b.z, b.r, b.t)
        assert torch.equal(torch.get_rng_state(), after), "the random state must advance as by one ordinary forward pass"
    (field.fixed,) = field.masks
    assert 0.2 < (field.fixed == 0).double().mean() < 0.8
    fixed_u, fixed_change = rate(field, b, b.v)
    torch.testing.assert_close(u, fixed_u, rtol=1e-12, atol=0)
    torch.testing.assert_close(u, ordinary, rtol=1e-12, atol=0)
    torch.testing.assert_close(change, fixed_change, rtol=1e-10, atol=1e-13)


def test_the_three_jumps_of_a_semigroup_see_the_same_dropout():
    field, b = built(Dropped), bridge(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        free = Semigroup(0.3)(field, b)
    first, second, last = field.masks
    assert torch.equal(first, second) and torch.equal(second, last)
    field.fixed = last
    torch.testing.assert_close(free.target, Semigroup(0.3)(field, b).target, rtol=1e-12, atol=0)


# Half precision ----------------------------------------------------------------------------------------------------------------------


def test_central_probes_in_full_precision_under_autocast():
    """The change under bfloat16 autocast is as good as in float32; with probes in bfloat16 it is noise."""
    exact, b = smooth(width=64), bridge(2, rows=64)
    field = ms.MLP(2, 64, 2, frequencies=3, generator=torch.Generator().manual_seed(0))
    half = Bridge(*(p.float() for p in b[:4]))
    rate, truth = Central(0.005), Exact()(exact, b, b.v)[1]

    def error(change: Tensor) -> float:
        return ((change.double() - truth).square().mean().sqrt() / truth.square().mean().sqrt()).item()

    full = error(rate(field, half, half.v)[1])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        ours = error(rate(field, half, half.v)[1])
        up, down = (field(half.z + h * half.v, half.r, half.t + h) for h in (0.005, -0.005))
        naive = error((half.t - half.r)[:, None] * (up - down) / 0.01)
    assert ours < 2e-3 and ours < 2 * full + 1e-5
    assert naive > 50 * ours


def test_central_says_that_it_needs_full_weights_under_autocast():
    field, x = ms.MLP(2, 8, 1, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.zeros(4, 2)
    loss = ms.Loss(ms.recipes.meanflow(rate=Central()))
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(TypeError, match=r"call net\.float\(\)"):
            loss(field, x)
        assert loss(field.float(), x).loss.isfinite()


def test_exact_is_accurate_to_half_precision_under_autocast():
    exact, b = smooth(width=64), bridge(2, rows=64)
    field, half = ms.MLP(2, 64, 2, frequencies=3, generator=torch.Generator().manual_seed(0)), Bridge(*(p.float() for p in b[:4]))
    truth = Exact()(exact, b, b.v)[1]
    with torch.autocast("cpu", torch.bfloat16):
        change = Exact()(field, half, half.v)[1]
    assert change.dtype == torch.float32
    assert (change.double() - truth).norm() < 0.03 * truth.norm()


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.body = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.body(self.norm(self.stem(z)))
        return z * h.mean((1, 2, 3))[:, None, None, None] * t[:, None, None, None]


def test_group_norm_between_convolutions_still_fails_under_cpu_autocast():
    """On a CPU torch gives GroupNorm's bfloat16 output a float32 tangent.

    Drop `should be the same` in tangents/forward_mode.py when this fails.
    """
    field, b = Normed(), bridge(1, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(TypeError, match=r"in body \(Conv2d\).*rate=Central"):
            Exact(way=recorded)(field, b, b.v)
        assert Central()(field, b, b.v)[1].isfinite().all()
        assert Exact()(field, b, b.v)[1].isfinite().all()  # carried by rules


# Orders ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "order", "steps"), [(Backward, 1, (0.1, 0.0125)), (Central, 2, (0.02, 0.0025))], ids=["Backward", "Central"]
)
def test_the_order_of_a_difference(make: Callable[[float], Rate], order: int, steps: tuple[float, float]):
    field, b = smooth(), bridge(2, rows=32)
    exact = Exact()(field, b, b.v)[1]
    errors = [(make(h)(field, b, b.v)[1] - exact).norm() for h in steps]
    slope = torch.log(errors[0] / errors[1]) / torch.log(torch.tensor(steps[0] / steps[1]))
    assert abs(slope.item() - order) < 0.1


def test_backward_ends_in_the_derivative_and_in_no_derivative():
    field, b = smooth(), bridge(2)
    for ratio, other in ((0.0, Exact()), (1e-6, Exact()), (1.0, lambda f, b, w: (f(b.z, b.r, b.t), torch.zeros_like(b.z)))):
        for p, q in zip(Backward(ratio)(field, b, b.v), other(field, b, b.v), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-4)


def test_a_difference_is_divided_by_its_ratio():
    for ratio, divided in ((0, False), (1, False), (0.5, True), (torch.tensor([0.2, 0.5]), True), (lambda b: b.t, True)):
        assert Backward(ratio).divides == divided


def test_a_tensor_ratio_takes_each_row_by_itself():
    field, b = smooth(), bridge(2)
    ratios = torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    _, together = Backward(lambda b: ratios)(field, b, b.v)
    for k in range(6):
        row = Bridge(*(p[k : k + 1] for p in b[:4]))
        torch.testing.assert_close(together[k : k + 1], Backward(ratios[k].item())(field, row, row.v)[1], rtol=1e-9, atol=1e-12)


# The gradient through the derivative -------------------------------------------------------------------------------------------------


def plain(field: nn.Module, b: Bridge, share: float) -> Tensor:
    """The same loss by reverse mode twice: `J w = d/da (a . J)` with a dummy `a`."""
    z, t = b.z.clone().requires_grad_(), b.t.clone().requires_grad_()
    u = field(z, b.r, t)
    dummy = torch.zeros_like(u, requires_grad=True)
    pull = torch.autograd.grad(u, (z, t), dummy, create_graph=True)
    du = torch.autograd.grad((pull[0] * b.v).sum() + pull[1].sum(), dummy, create_graph=True)[0]
    du = share * du + (1 - share) * du.detach()
    return (u + (b.t - b.r)[:, None] * du - b.v).square().mean()


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_through_gives_that_share_of_the_second_order_gradient(share: float):
    field, b = smooth(), bridge(2)
    close(gradients(field, Eulerian(rate=Exact(share)), b), list(torch.autograd.grad(plain(field, b, share), list(field.parameters()))))


@pytest.mark.parametrize("make", [lambda s: Eulerian(rate=Exact(s)), lambda s: Lagrangian(through=s)], ids=["Eulerian", "Lagrangian"])
def test_through_may_differ_from_row_to_row(make: Callable[[Any], Any]):
    field, b = smooth(), bridge(2)
    share = torch.tensor([0.0, 0, 0, 1, 1, 1], dtype=torch.float64)

    def part(rows: slice, through: Any) -> list[Tensor]:
        return gradients(field, make(through), Bridge(*(p[rows] for p in b[:4])))

    mixed = gradients(field, make(lambda b: share), b)
    close(mixed, [(p + q) / 2 for p, q in zip(part(slice(0, 3), 0.0), part(slice(3, 6), 1.0), strict=True)])


def test_the_derivative_in_r_of_the_lagrangian_carries_its_gradient():
    field, b = smooth(), bridge(2)

    def loss(through: float) -> Tensor:
        r = b.r.clone().requires_grad_()
        u = field(b.z, r, b.t)
        dummy = torch.zeros_like(u, requires_grad=True)
        slope = torch.autograd.grad(torch.autograd.grad(u, r, dummy, create_graph=True)[0].sum(), dummy, create_graph=True)[0]
        slope = slope if through else slope.detach()
        landed = b.z - (b.t - b.r)[:, None] * u.detach()
        return (u - (b.t - b.r)[:, None] * slope - field(landed, b.r, b.r).detach()).square().mean()

    for through in (0.0, 1.0):
        want = torch.autograd.grad(loss(through), list(field.parameters()), allow_unused=True)
        close(gradients(field, Lagrangian(through=through), b), [torch.zeros(1)[0] if p is None else p for p in want])


class TwoNorms(nn.Module):
    """Tokens `[B, 3, 6]` between two norms."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.times, self.mix = kind, nn.Linear(2, 6), nn.Linear(6, 6)

    def _norm(self, h: Tensor) -> Tensor:
        match self.kind:
            case "layer":
                return F.layer_norm(h, (6,))
            case "two axes":
                return F.layer_norm(h, (3, 6), torch.linspace(0.5, 1, 18).view(3, 6).to(h), eps=1e-3)
            case "group":
                return F.group_norm(h, 3, torch.linspace(0.5, 1, 3).to(h))
        return F.instance_norm(h)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self._norm(self.mix(self._norm(z + self.times(torch.stack([r, t], -1))[:, None])))


@pytest.mark.parametrize("way", [taped, recorded])
@pytest.mark.parametrize("kind", ["layer", "two axes", "group", "instance"])
def test_the_gradient_of_a_derivative_through_a_norm(kind: str, way: Way):
    """Against symmetric differences of the derivative in the weights. Torch's own is wrong there without a word, pytorch#196700."""
    if kind == "instance" and way is taped:
        pytest.skip("has no rule")
    net, b = built(lambda: TwoNorms(kind)), bridge(3, 6)
    along = (b.v, None, torch.ones_like(b.t))

    def total() -> Tensor:
        return way(net, b.z, b.r, b.t, None, along)[1].sin().sum()

    found = torch.autograd.grad(total(), list(net.parameters()))
    for p, grad in zip(net.parameters(), found, strict=True):
        e, h = torch.randn(p.shape, generator=ms.key(0), dtype=p.dtype), 1e-5
        ends = []
        for s in (h, -h):
            with torch.no_grad():
                p.add_(s * e)
                ends.append(derivative(net, b.z, b.r, b.t, None, along)[1].sin().sum())
                p.sub_(s * e)
        torch.testing.assert_close((grad * e).sum(), (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-7)


def test_torch_still_forgets_a_part_of_layer_norms_second_derivative():
    """When this fails, `forward_mode.WrittenOut` can go."""
    x = torch.randn(3, 6, generator=ms.key(0), dtype=torch.float64, requires_grad=True)
    d, found = torch.randn(3, 6, generator=ms.key(1), dtype=torch.float64), []
    for written in (WrittenOut(), nullcontext()):
        with written:
            slope = torch.func.jvp(lambda p: F.layer_norm(p, (6,)), (x,), (d,))[1]
        found.append(torch.autograd.grad(slope.sin().sum(), x)[0])
    assert (found[0] - found[1]).norm() > 0.1 * found[0].norm()


def test_two_recorded_passes_equal_one_when_nothing_is_dropped():
    field, b = smooth(), bridge(2)
    u, du = derivative(field, b.z, b.r, b.t, b.y, (b.v, None, torch.ones_like(b.t)))
    value, change = Exact()(field, b, b.v)
    torch.testing.assert_close(u, value, rtol=1e-13, atol=0)
    torch.testing.assert_close((b.t - b.r)[:, None] * du, change, rtol=1e-12, atol=0)


def leaky(field: Any, b: Bridge) -> Tensor:
    """A user's velocity that forgot `torch.no_grad`."""
    return field(b.z, b.t, b.t)


@pytest.mark.parametrize(
    "make",
    [
        Matching,
        lambda v: Eulerian(v, v),
        lambda v: Eulerian(v, v, Exact(1.0)),
        lambda v: Eulerian(v, v, Backward(0.1)),
        lambda v: Eulerian(v, v, Central()),
        Lagrangian,
    ],
    ids=["Matching", "Exact", "through", "Backward", "Central", "Lagrangian"],
)
def test_no_gradient_comes_through_a_users_velocity(make: Callable[[Any], Any]):
    field, b = smooth(), bridge(2)
    regression = make(leaky)(field, b)
    assert not regression.target.requires_grad and (regression.tangent is None or not regression.tangent.requires_grad)
    close(gradients(field, make(leaky), b), gradients(field, make(own), b))


# Torch's own tools -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled():
    """torch.compile without a code generator, started afresh; its first use warns about torch's own scripting, see pyproject.toml."""
    torch._dynamo.reset()

    def compile(f: Callable[..., Any], fullgraph: bool = True) -> Callable[..., Any]:
        return torch.compile(f, backend="aot_eager", fullgraph=fullgraph)

    yield compile
    torch._dynamo.reset()


@pytest.mark.parametrize("through", [0.0, 1.0])
def test_compiled_in_one_graph_the_gradients_are_the_same(compiled: Any, through: float):
    field, b, objective = smooth(), bridge(2), Eulerian(rate=Exact(through))
    close(gradients(field, compiled(objective), b), gradients(field, objective, b))


def test_compiled_attention_in_one_graph(compiled: Any):
    field, b = built(lambda: Attention(True)), bridge(5, 4)
    close(gradients(field, compiled(Eulerian()), b), gradients(field, Eulerian(), b))


# dynamo's own: it looks at the results that come out of the first part of a broken graph
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_differences_compile_with_breaks(compiled: Any):
    """They draw the same dropout twice, which torch.compile cannot trace: it leaves the graph there and gives the same numbers."""
    field, b = smooth(), bridge(2)
    for rate in (Backward(0.1), Central()):
        close(gradients(field, compiled(Eulerian(rate=rate), fullgraph=False), b), gradients(field, Eulerian(rate=rate), b))


@pytest.mark.parametrize("rate", [Exact(), Exact(1.0), Backward(0.1), Central()], ids=str)
def test_per_sample_gradients_by_vmap_sum_to_the_batch_gradient(rate: Rate):
    field, b = smooth(), bridge(2)
    parameters = dict(field.named_parameters())

    def row(p: dict[str, Tensor], z: Tensor, v: Tensor, r: Tensor, t: Tensor) -> Tensor:
        def u(*a: Any) -> Tensor:
            return torch.func.functional_call(field, p, a)

        return squares(Eulerian(rate=rate)(u, Bridge(z[None], v[None], r[None], t[None])))

    each = torch.func.vmap(torch.func.grad(row), (None, 0, 0, 0, 0))(parameters, *b[:4])
    assert all(each[name].shape == (6, *p.shape) for name, p in parameters.items())
    close([each[name].mean(0) for name in parameters], gradients(field, Eulerian(rate=rate), b))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant, self.first = reentrant, nn.Linear(4, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Dropout(0.3), nn.Linear(8, 2))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.first(torch.cat([z, r[:, None], t[:, None]], -1))
        return self.body(h) if self.reentrant is None else checkpoint(self.body, h, use_reentrant=self.reentrant)


def seeded(reentrant: bool | None, rate: Rate) -> list[Tensor]:
    field = built(lambda: Checkpointed(reentrant))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return gradients(field, Eulerian(rate=rate), bridge(2))


@pytest.mark.parametrize("rate", [Exact(), Backward(0.1), Central()], ids=str)
def test_activation_checkpoints_change_nothing(rate: Rate):
    close(seeded(False, rate), seeded(None, rate))


def test_reentrant_checkpoints_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match="use_reentrant=False"):
        seeded(True, Exact())


def test_a_recorded_derivative_still_fails_under_checkpoints():
    """With `through` > 0 the forward-mode pass itself is recorded, and torch cannot recompute that. When this fails, say so in the docs."""
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        seeded(False, Exact(1.0))


def test_weights_without_gradient_and_inference_mode():
    field, b = smooth().requires_grad_(False), bridge(2)
    with torch.inference_mode():
        u, change = Exact()(field, b, b.v)
    with warnings.catch_warnings():
        again = Exact()(field, b, b.v)
    assert torch.equal(u, again[0]) and torch.equal(change, again[1]) and not again[0].requires_grad
