"""The trace weight: closed forms, its estimate by one probe, the authors' write-out on the same draws, masks, members and bad numbers."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep import recipes, times, weights
from meanstep.loss import settled
from meanstep.objectives import Eulerian, Lagrangian, Matching, Semigroup, random_split
from meanstep.rates import Backward, Exact
from meanstep.tangents import carried, derivative, recorded, separate, several_along
from meanstep.terms import Term
from meanstep.types import Bridge
from meanstep.velocities import own

from ..contracts.table import CASES, SHAPES
from . import authors

SIGMA: dict[str, Callable[[Tensor], Tensor]] = {
    "one": lambda t: 1 + 0 * t,
    "t": lambda t: t,
    "t2": lambda t: t * t,
    "bridge": lambda t: (t * (1 - t)) ** 0.5,
    "scale": lambda t: ((1 - t) ** 2 + t**2) ** -0.5,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bridge(n: int, d: int, uniforms: Tensor | None = None) -> Bridge:
    """Rows with gaps, in float64, with uniforms for signs."""
    g = generator()
    z, v = (torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2))
    r, t = (p.double() for p in times.uniform((n,), g))
    own = torch.rand(n, d, generator=g, dtype=torch.float64) if uniforms is None else uniforms
    return Bridge(z, v, r, t, aux=torch.cat([torch.rand(n, 4, generator=g, dtype=torch.float64), own], 1))


def linear(a: Tensor) -> Callable[..., Tensor]:
    return lambda z, r, t, y=None: z @ a.T


def rows(weight: Any, field: Any, b: Bridge) -> Tensor:
    """The weights of the rows: what multiplies an error of 1."""
    return settled(weight, field, b)(torch.ones_like(b.t), b) / b.z.shape[1]


# Closed forms --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", SIGMA)
def test_the_exact_weight_of_a_linear_field(sigma: str):
    """`u = A z`: `J = (t - r) A - I` on every row, whatever `z`."""
    b, a = bridge(16, 3), torch.randn(3, 3, generator=generator(1), dtype=torch.float64)
    j = b.gap[:, None, None] * a - torch.eye(3, dtype=torch.float64)
    expected = 1 / (1 + SIGMA[sigma](b.t) ** 2 * (j**2).sum((1, 2)) / 3)
    for name in (sigma, SIGMA[sigma]):
        torch.testing.assert_close(rows(weights.trace(name, exact=True), linear(a), b), expected, rtol=1e-13, atol=0)


def test_one_probe_gives_the_trace_in_expectation():
    """The mean of `|J e|^2` over all sign vectors is the trace; where `J` is diagonal every one of them gives it."""
    a = torch.randn(3, 3, generator=generator(2), dtype=torch.float64)

    def traces(a: Tensor) -> Tensor:
        found = []
        for signs in itertools.product((0.0, 1.0), repeat=3):
            b = bridge(8, 3, torch.tensor(signs, dtype=torch.float64).expand(8, 3))
            found.append(1 / rows(weights.trace(), linear(a), b) - 1)
        return torch.stack(found)

    exact = 1 / rows(weights.trace(exact=True), linear(a), bridge(8, 3)) - 1
    torch.testing.assert_close(traces(a).mean(0), exact, rtol=1e-12, atol=0)
    assert traces(a).std(0).min() > 1e-3
    diagonal = a.diagonal().diag()
    exact = 1 / rows(weights.trace(exact=True), linear(diagonal), bridge(8, 3)) - 1
    torch.testing.assert_close(traces(diagonal), exact.expand(8, 8), rtol=1e-12, atol=0)


def test_rows_with_r_equal_to_t_have_a_known_weight_and_ask_for_nothing():
    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        raise AssertionError("no derivative is needed")

    b = bridge(8, 3)
    b = b._replace(r=b.t)
    torch.testing.assert_close(rows(weights.trace("t"), field, b), 1 / (1 + b.t**2), rtol=1e-14, atol=0)
    apart = b._replace(r=b.t.clone())  # equal in value: the derivative counts nothing
    torch.testing.assert_close(rows(weights.trace("t"), linear(torch.ones(3, 3).double()), apart), 1 / (1 + b.t**2), rtol=1e-14, atol=0)


# The authors' toy --------------------------------------------------------------------------------------------------------------------


def toy() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Two sets of weights of the authors' network, larger than at its start."""
    g = generator(3)
    shapes = [(2 + 4 * authors.SINES, 16), (16, 16), (16, 2)]
    layers = [(torch.randn(s, generator=g).double() / s[0] ** 0.5, torch.randn(s[1], generator=g).double() / 4) for s in shapes]
    yield layers
    yield [(w + 0.1 * torch.randn(w.shape, generator=g).double(), b) for w, b in layers]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("sigma", ["one", "t2"])
def test_the_recipe_is_the_authors_loss_on_the_documented_draws(sigma: str, exact: bool):
    """Noise, four uniforms a row, the times of each term, then a uniform for each sign: value and gradient to 1e-12."""
    layers, average = toy()
    parameters = [p.requires_grad_() for layer in layers for p in layer]
    x = torch.randn(16, 2, generator=generator(4), dtype=torch.float64)
    proxy = ms.velocities.of(lambda z, r, t, y=None: authors.network(average, z, r, t))
    loss = ms.Loss(recipes.trace_weighted(sigma, exact, proxy, times=times.capped(times.uniform, 0.5)))
    ours = loss(lambda z, r, t, y=None: authors.network(layers, z, r, t), x, generator=generator(5)).loss

    g = generator(5)
    e = torch.randn(16, 2, generator=g, dtype=torch.float64)
    torch.rand(16, 4, generator=g, dtype=torch.float64)
    pairs = [torch.stack([torch.rand(n, generator=g), torch.rand(n, generator=g)]).double() for n in (12, 4)]
    t = torch.cat([pair.amax(0) for pair in pairs])
    r = torch.cat([torch.maximum(pairs[0].amin(0), pairs[0].amax(0) - 0.5), pairs[1].amax(0)])
    signs = None if exact else torch.where(torch.rand(16, 2, generator=g, dtype=torch.float64) < 0.5, -1.0, 1.0).double()
    assert (t - r > 0.49).any()
    weight = authors.trace_weight(layers, (1 - t)[:, None] * x + t[:, None] * e, r, t, SIGMA[sigma](t), signs)
    theirs = authors.loss(layers, average, x, e, r, t, 1.0, weight)
    # the cap is taken in float32 by ours
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    a, b = (torch.cat([p.flatten() for p in torch.autograd.grad(found, parameters)]) for found in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))
    held = loss.draw(x, generator=generator(5))
    r, t = (torch.cat([getattr(b, name) for _, b in held]) for name in ("r", "t"))
    weight = authors.trace_weight(layers, (1 - t)[:, None] * x + t[:, None] * e, r, t, SIGMA[sigma](t), signs)
    theirs = authors.loss(layers, average, x, e, r, t, 1.0, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    b = torch.cat([p.flatten() for p in torch.autograd.grad(theirs, parameters)])
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(b.abs().max()))


def test_the_weight_carries_no_gradient_of_slopes_or_scale():
    x = torch.randn(5, 2, generator=ms.key(0, "rows"), dtype=torch.float64)
    r, t = torch.full((5,), 0.2).double(), torch.full((5,), 0.7).double()
    b = Bridge(x, x, r, t, aux=torch.rand(5, 6, generator=ms.key(0, "aux"), dtype=torch.float64))
    scale, slopes = torch.ones((), dtype=torch.float64, requires_grad=True), torch.zeros(1, 5, 2, dtype=torch.float64, requires_grad=True)
    found = weights.trace(lambda t: scale * t).answered(b, slopes)(torch.ones(5, dtype=torch.float64), b)
    assert not found.requires_grad
    assert not weights.trace(lambda t: t).answered(b, slopes)(torch.ones(5, dtype=torch.float64), b).requires_grad


def test_without_the_weight_the_draws_are_the_same():
    """The uniforms of the signs come last, so models with and without the weight are paired."""
    x, proxy = torch.randn(12, 2, generator=generator()), ms.velocities.own
    plain = {"anchor": 0.0, "times": times.uniform, "diagonal_share": 0.25}
    losses = (ms.Loss(recipes.trace_weighted(proxy=proxy)), ms.Loss(recipes.coefficient(1.0, proxy, **plain)))
    (_, a), (_, b) = (loss.draw(x, generator=generator(1))[0] for loss in losses)
    assert a.aux is not None and b.aux is not None and a.aux.shape == (9, 6) and b.aux.shape == (9, 4)
    for name in ("z", "v", "r", "t"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert torch.equal(a.aux[:, :4], b.aux)


# Ways to make the tangents -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("pattern", ["Eulerian", "Lagrangian", "probe alone"])
def test_several_tangents_of_one_pass_are_those_of_a_pass_each(kind: str, pattern: str):
    """Carried, apart and recorded; rows beyond the first four have none."""
    field = CASES["meanflow"].field(kind).eval()
    g, dims = generator(6), 2 if kind == "ensemble" else 1
    z = torch.randn(SHAPES[kind], generator=g, dtype=torch.float64)
    r, t = (p.double() for p in times.uniform(z.shape[:dims], g))
    axis, one = dims - 1, torch.ones_like(t)
    first = [p.narrow(axis, 0, 4) for p in (z, r, t)]
    probes: list[Any] = [(torch.randn(first[0].shape, generator=g, dtype=torch.float64), None, None) for _ in range(2)]
    own: dict[str, list[Any]] = {
        "Eulerian": [(first[0].sin(), None, one.narrow(axis, 0, 4))],
        "Lagrangian": [(None, one.narrow(axis, 0, 4), None)],
    }
    directions = [*own.get(pattern, []), *probes]
    expected = [derivative(field, *first, None, along)[1] for along in directions]
    for way in (carried, separate, recorded):
        u, found = several_along(way, field, z, r, t, None, directions)
        torch.testing.assert_close(u, field(z, r, t), rtol=1e-12, atol=1e-13)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_dropout_drops_the_same_for_every_tangent():
    """One mask for the value, the tangent and the probe: of a network of two dropped layers, linear given its masks."""
    net = ms.as_field(nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5), nn.Linear(64, 3)), ("z",)).double().train()
    z, t = torch.randn(6, 3, generator=generator(), dtype=torch.float64), torch.rand(6, generator=generator()).double()
    for way in (carried, separate):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            u, (first, second) = several_along(way, net, z, 0 * t, t, None, [(z, None, None), (2 * z, None, None)])
            torch.manual_seed(0)
            bias, other = (net(torch.zeros_like(z), 0 * t, t) for _ in range(2))
        assert not torch.allclose(bias, other)  # dropout is at work
        torch.testing.assert_close(first, u - bias, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(second, 2 * first, rtol=1e-12, atol=1e-14)


OBJECTIVES: dict[str, Any] = {
    "exact": Eulerian(),
    "recorded": Eulerian(rate=Exact(0.5)),
    "separate": Eulerian(rate=Exact(way=separate)),
    "difference": Eulerian(rate=Backward(0.3)),
    "own rate": Eulerian(rate=lambda field, b, w: (field(b.z, b.r, b.t, b.y), 0 * b.z)),
    "Lagrangian": Lagrangian(own),
    "semigroup": Semigroup(random_split),
    "matching": Matching(),
    "own objective": lambda field, b: ms.Regression(field(b.z, b.r, b.t, b.y), b.v),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_any_objective_takes_the_weight(name: str):
    """The weight that the loss applies is that of the rows alone, under conditions that are trees."""
    net = ms.MLP(2, 12, 2, classes=3, generator=generator()).double()

    def field(z: Tensor, r: Tensor, t: Tensor, y: Any) -> Tensor:
        return net(z, r, t, y["label"][0]) + y["shift"]

    g = generator(7)
    x = torch.randn(12, 2, generator=g, dtype=torch.float64)
    y = {"label": [torch.arange(12) % 3], "shift": torch.randn(12, 2, generator=g, dtype=torch.float64), "none": None}
    for weight in (weights.trace("t"), weights.trace(exact=True)):
        loss = ms.Loss((Term(OBJECTIVES[name], times.uniform, weight, 0.75), Term(Matching(), times.instants(), weight, 0.25)))
        found, expected = loss(field, x, y, generator=generator(8)).loss, 0.0
        for term, b in loss.draw(x, y, generator=generator(8)):
            p, q, *_ = term.objective(field, b)
            expected = expected + (rows(term.weight, field, b) * (p - q).square().sum(1)).sum() / 12
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        for a, c in zip(*(torch.autograd.grad(e, list(net.parameters()), retain_graph=True) for e in (found, expected)), strict=True):
            torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-13)


# Members, masks, bad numbers -----------------------------------------------------------------------------------------------------------


def test_a_member_of_an_ensemble_is_the_single_network():
    members = 3
    many = ms.MLP(2, 12, 2, members=(members,), generator=generator()).double()
    x = torch.randn(members, 8, 2, generator=generator(1), dtype=torch.float64)
    loss, one = ms.Loss(recipes.trace_weighted(proxy=own), batch_dims=2), ms.MLP(2, 12, 2).double()
    out = loss(many, x, generator=generator(2))
    together = torch.autograd.grad(out.loss, list(many.parameters()))
    draws, total = loss.draw(x, generator=generator(2)), 0.0
    for m in range(members):
        one.load_state_dict({name: p[m] if p.shape[:1] == (members,) else p for name, p in many.state_dict().items()})
        found = 0.0
        for term, b in draws:
            mine = b._replace(**{name: p[m] for name, p in b.rows.items()})
            p, q, *_ = term.objective(one, mine)
            found = found + (rows(term.weight, one, mine) * (p - q).square().sum(1)).sum() / 8
        total = total + found.detach()
        for ours, theirs in zip(together, torch.autograd.grad(found, list(one.parameters())), strict=True):
            torch.testing.assert_close(ours[m], theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(out.loss.detach(), total, rtol=1e-12, atol=0)


@pytest.mark.parametrize("exact", [False, True])
def test_masked_entries_are_neither_counted_nor_probed(exact: bool):
    """Five entries of which three count, under a field that mixes all, are three entries: whatever the others' derivative is."""
    g = generator(9)
    a = torch.randn(5, 5, generator=g, dtype=torch.float64)
    b = bridge(6, 5)
    mask = torch.tensor([True, True, False, True, False]).expand(6, 5)
    kept = [0, 1, 3]
    small = b._replace(z=b.z[:, kept], v=b.v[:, kept], aux=b.aux[:, [0, 1, 2, 3, 4, 5, 7]])
    expected = rows(weights.trace(exact=exact), linear(a[kept][:, kept]), small)
    found = settled(weights.trace(exact=exact), linear(a), b._replace(mask=mask))(torch.ones_like(b.t), b._replace(mask=mask)) / 3
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    a[2] = float("nan")
    worse = settled(weights.trace(exact=exact), linear(a), b._replace(mask=mask))(torch.ones_like(b.t), b._replace(mask=mask)) / 3
    torch.testing.assert_close(worse, expected, rtol=1e-13, atol=0)
    nothing = b._replace(mask=torch.zeros(6, 5, dtype=torch.bool))
    assert settled(weights.trace(exact=exact), linear(a), nothing)(torch.zeros_like(b.t), nothing).eq(0).all()


class Steep(torch.autograd.Function):
    """The identity with a derivative that is not a number beyond 10."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Tensor:
        return d

    @staticmethod
    def jvp(ctx: Any, d: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x > 10, float("nan"), d)


def test_a_derivative_that_is_no_number_is_refused_with_its_row():
    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return Steep.apply(z)

    x = torch.zeros(8, 2, dtype=torch.float64)
    x[3] = 1000.0
    loss = ms.Loss((Term(Matching(), times.uniform, weights.trace()),))
    with pytest.raises(FloatingPointError, match=r"term 0, row 3: .* its weight gives nan"):
        loss(field, x, generator=generator())


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_a_steep_field_gets_no_weight_and_no_nan(size: float):
    """A trace that overflows float32 has the weight 0."""
    b = bridge(8, 2)
    b = b._replace(**{name: p.float() for name, p in b.rows.items()})
    found = rows(weights.trace(), lambda z, r, t, y=None: size * z, b)
    assert found.isfinite().all() and (found >= 0).all() and (found < 1e-2 if size > 1e4 else found < 0.5).all()


def test_half_precision_moves_a_weight_by_a_few_percent():
    net = ms.MLP(2, 16, 2, generator=generator())
    b = bridge(64, 2)
    b = b._replace(**{name: p.float() for name, p in b.rows.items()})
    full = rows(weights.trace(), net, b)
    with torch.autocast("cpu", torch.bfloat16):
        half = rows(weights.trace(), net, b)
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: weights.trace("t^2"), "sigma is one of one, t, t2, bridge, scale, or a function of t, got 't\\^2'"),
        (lambda: weights.trace(of=weights.Cauchy()), "its parameters are lost"),
        (lambda: weights.trace(of=weights.trace())(torch.ones(8), bridge(8, 2)), "cannot ask for derivatives of its own"),
        (lambda: weights.trace()(torch.ones(8), bridge(8, 2)), "the loss asks for them"),
        (lambda: rows(weights.trace(), linear(torch.eye(2).double()), bridge(8, 2)._replace(aux=torch.rand(8, 4))), "aux=torch.rand.*, 6"),
        (
            lambda: rows(weights.trace(exact=True), linear(torch.eye(300)), bridge(1, 300)),
            "each of the 300 entries of a row, which are at most 256",
        ),
        (lambda: rows(weights.trace(lambda t: t[:2]), linear(torch.eye(2).double()), bridge(8, 2)), r"sigma\(t\) has shape \(2,\)"),
    ],
)
def test_a_mistake_is_named(mistake: Callable[[], Any], message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        mistake()


def test_a_compiled_step_is_the_eager_one():
    net = ms.MLP(2, 16, 2, generator=generator())
    loss, x = ms.Loss(recipes.trace_weighted("t2", proxy=own), check=False, measure=False), torch.randn(16, 2, generator=generator(1))

    def gradients(step: Callable[..., Any]) -> list[Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return list(torch.autograd.grad(step(net, x).loss, list(net.parameters())))

    for ours, theirs in zip(gradients(torch.compile(loss, fullgraph=True, backend="aot_eager")), gradients(loss), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
