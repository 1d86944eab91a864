"""Flat ensembles: every pass written out by hand against autograd on the `MLP` that shares the parameters, in float64."""

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep.fields.flat import Passes, Plain, Runner, Shape


def drawn(members: int = 3, rows: int = 20, dim: int = 2) -> tuple[Shape, Tensor, tuple[Tensor, Tensor, Tensor]]:
    shape, g = Shape(dim, width=16, depth=2), ms.key(0, "flat")
    flat = torch.stack([shape.initial(ms.key(k)) for k in range(members)]).double()
    z = torch.randn(members, rows, dim, generator=g, dtype=torch.float64)
    r, t = (q.double() for q in ms.times.uniform((members, rows), g))
    return shape, flat, (z, r, t)


def test_initial_weights_are_those_of_the_perceptron():
    shape = Shape(3, width=8, depth=2)
    net, flat = ms.MLP(3, 8, 2, generator=ms.key(5)), shape.initial(ms.key(5))
    twin = shape.as_module(flat[None])
    for mine, theirs in zip(twin.parameters(), net.parameters(), strict=True):
        assert torch.equal(mine[0].reshape(theirs.shape), theirs)
    assert shape.size == sum(p.numel() for p in net.parameters())


def test_the_module_shares_the_storage():
    shape, flat, where = drawn()
    net = shape.as_module(flat)
    before = net(*where)
    flat.mul_(0.5)
    assert not torch.equal(net(*where), before)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("moving", [1, 7, 20])
def test_forward_and_tangent_equal_forward_mode(members: int, moving: int):
    shape, flat, (z, r, t) = drawn(members)
    w = torch.randn(z.shape, generator=ms.key(1), dtype=torch.float64)
    net, passes, layers = shape.as_module(flat), Passes(shape, members, 20, flat), shape.layers(flat)
    u, du = torch.func.jvp(lambda z, t: net(z, r, t), (z, t), (w, torch.ones_like(t)))
    torch.testing.assert_close(passes.forward(layers, shape.inputs(z, r, t)), u, rtol=1e-13, atol=1e-13)
    dh = torch.cat([w, shape.input_tangents(t, t - r)], -1)[:, :moving]
    torch.testing.assert_close(passes.tangent(layers, dh), du[:, :moving], rtol=1e-12, atol=1e-12)


def test_backward_equals_autograd_and_norms_equal_single_rows():
    shape, flat, where = drawn()
    net, passes, layers = shape.as_module(flat), Passes(shape, 3, 20, flat), shape.layers(flat)
    cotangent = torch.randn(3, 20, 2, generator=ms.key(2), dtype=torch.float64)
    passes.forward(layers, shape.inputs(*where))
    grads = torch.full_like(flat, float("nan"))
    passes.backward(layers, shape.layers(grads), cotangent)
    out = (net(*where) * cotangent).sum(-1)
    expected = torch.autograd.grad(out.sum(), list(net.parameters()), retain_graph=True)
    half = len(net.weights)
    for (w, b), dw, db in zip(shape.layers(grads), expected[:half], expected[half:], strict=True):
        torch.testing.assert_close(w, dw, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(b, db, rtol=1e-12, atol=1e-13)
    norms = passes.norms(layers, cotangent)
    for row in (0, 11, 19):
        single = torch.autograd.grad(out[:, row].sum(), list(net.parameters()), retain_graph=True)
        squares = torch.stack([g.flatten(1).square().sum(1) for g in single]).sum(0)
        torch.testing.assert_close(norms[:, row], squares, rtol=1e-12, atol=1e-13)


def test_passes_without_buffers_are_those_with():
    shape, flat, where = drawn(1)
    h, layers, grads = shape.inputs(*where), shape.layers(flat), torch.zeros_like(flat)
    dh, cotangent = (torch.randn(1, n, size, generator=ms.key(3), dtype=torch.float64) for n, size in ((7, h.shape[2]), (20, 2)))
    one, other = Passes(shape, 1, 20, flat), Plain(shape)
    for name, given in (("forward", (h,)), ("tangent", (dh,)), ("forward", (h, False)), ("forward", (h,))):
        found, expected = (getattr(passes, name)(layers, *given) for passes in (other, one))
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
    for passes in (one, other):
        passes.backward(layers, shape.layers(grads), cotangent)
    torch.testing.assert_close(other.grad, grads, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(other.norms(layers, cotangent), one.norms(layers, cotangent), rtol=1e-12, atol=1e-13)


def test_a_runner_is_the_field_whatever_the_block():
    shape, flat, (z, r, t) = drawn()
    expected = shape.as_module(flat)(z, r, t)
    for block in (1, 7, 64):
        torch.testing.assert_close(Runner(shape, flat, block)(z, r, t), expected, rtol=1e-13, atol=1e-13)
    shared = Runner(shape, flat)(z[:1], r[:1], t[:1])  # one set of rows for all members
    torch.testing.assert_close(shared[2], shape.as_module(flat[2:])(z[:1], r[:1], t[:1])[0], rtol=1e-13, atol=1e-13)
