"""What the networks of grids owe their caller: signals, rectangles and video, conditions as channels or vectors, exact tangents."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import meanstep as ms
from meanstep.fields import MLP, DiT, UNet
from meanstep.fields.given import on_grid
from meanstep.tangents import carried, trusted

ROWS = 4
CONDITIONS = {"kind": 3, "age": (), "seen": (2, 3)}


def opened(net: Any) -> Any:
    """In float64, with no weight at zero."""
    net.double()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=ms.key(1, k)))
    return net


def dit(shape: tuple[int, ...], patch: Any = 1, **more: Any) -> DiT:
    return opened(DiT(shape[1:], shape[0], patch, 16, 2, 2, generator=ms.key(0), **more))


def unet(shape: tuple[int, ...], **more: Any) -> UNet:
    return opened(UNet(shape, 8, (1, 2), 1, (1,), 2, generator=ms.key(0), **more))


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.rand(ROWS, generator=ms.key(3)).double()
    return torch.randn(ROWS, *shape, generator=ms.key(2)).double(), t / 2, t


def given(low: tuple[int, ...] | None = None) -> dict[str, Tensor]:
    g = ms.key(4)
    y = {
        "kind": torch.arange(ROWS) % 4,
        "age": torch.randn(ROWS, generator=g).double(),
        "seen": torch.randn(ROWS, 2, 3, generator=g).double(),
    }
    return y if low is None else y | {"low": torch.randn(ROWS, *low, generator=g).double()}


NETS = {
    "dit signal": (lambda **o: dit((2, 6), 2, **o), (2, 6)),
    "dit rectangle": (lambda **o: dit((2, 4, 6), (2, 3), **o), (2, 4, 6)),
    "dit video": (lambda **o: dit((1, 2, 4, 6), (1, 2, 2), **o), (1, 2, 4, 6)),
    "unet signal": (lambda **o: unet((2, 7), **o), (2, 7)),
    "unet rectangle": (lambda **o: unet((2, 3, 6), **o), (2, 3, 6)),
    "unet video": (lambda **o: unet((1, 2, 3, 4), **o), (1, 2, 3, 4)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("more", ["alone", "conditions", "head"])
def test_tangents_are_torchs_forward_mode(name: str, more: str):
    """By the fast way, which is trusted with it: values and derivatives along `(dz, 0, 1)` to 1e-12 in float64."""
    make, shape = NETS[name]
    low = (1, *shape[1:])
    options = {"alone": {}, "conditions": {"conditions": CONDITIONS | {"low": low}}, "head": {"head": True, "classes": 3}}[more]
    net, (z, r, t) = make(**options), inputs(shape)
    y: Any = {"alone": None, "conditions": given(low), "head": torch.arange(ROWS) % 4}[more]
    dz, one = torch.randn(z.shape, generator=ms.key(5)).double(), torch.ones(ROWS).double()
    assert trusted(net)
    u, du = carried(net, z, r, t, y, (dz, None, one))
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no forward mode
        v, dv = torch.func.jvp(lambda z, r, t: net(z, r, t, y), (z, r, t), (dz, torch.zeros_like(r), one))
    assert u.shape == z.shape and dv.abs().max() > 1e-3
    torch.testing.assert_close(u, v, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(du, dv, rtol=1e-12, atol=1e-12)
    if more == "head":
        both = net.with_head(z, r, t, y)
        assert torch.equal(both[0], net(z, r, t, y)) and torch.equal(both[1], net.head(z, r, t, y)) and not torch.equal(*both)


@pytest.mark.parametrize("name", NETS)
def test_every_part_of_a_condition_is_seen_and_every_weight_takes_part(name: str):
    make, shape = NETS[name]
    low = (1, *shape[1:])
    net, (z, r, t), y = make(conditions=CONDITIONS | {"low": low}), inputs(shape), given(low)
    u = net(z, r, t, y)
    for part, value in y.items():
        other = net(z, r, t, y | {part: (value + 1) % 4 if part == "kind" else value + 1})
        assert (other - u).flatten(1).abs().amax(1).min() > 1e-6, part
    u.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    with pytest.raises(ValueError, match=r"takes the conditions kind, age, seen, low, and y is None"):
        net(z, r, t)
    with pytest.raises(ValueError, match=r"the condition seen has shape \(4, 6\), and this \w+ takes rows of shape \(2, 3\)"):
        net(z, r, t, y | {"seen": torch.zeros(ROWS, 6)})


def test_a_signal_of_one_patch_is_the_linear_map_of_its_tokens():
    """Before the blocks: each token is its own entries, channel by channel, times the weights, plus its place."""
    net, (z, _, _) = dit((2, 6), 3), inputs((2, 6))
    tokens = torch.stack([torch.cat([z[:, c, 3 * k : 3 * k + 3] for c in range(2)], 1) for k in range(2)], 1)
    torch.testing.assert_close(net.stem(z), net.patches(tokens) + net.positions.double())
    rates = 10000.0 ** (-torch.arange(8) / 8)
    expected = torch.stack([torch.cat([(k * rates).sin(), (k * rates).cos()]) for k in range(2)])
    torch.testing.assert_close(net.positions.float(), expected, rtol=0, atol=1e-6)


def test_square_pictures_are_cut_and_put_together_as_ever():
    """The code of the square DiT, written out as it was."""
    net, (z, r, t) = dit((3, 4, 4), 2), inputs((3, 4, 4))
    tokens = z.reshape(-1, 3, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    rates = 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    row, column = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
    angles = torch.stack([column, row], -1).flatten(0, 1)[..., None] * rates
    places = torch.cat([angles.sin(), angles.cos()], -1).flatten(-2).float()
    assert torch.equal(net.positions.float(), places)
    h, c = net.patches(tokens) + net.positions, net.time(t) + net.gap(t - r)
    for block in net.blocks:
        h = block(h, c)
    patches = net.last(h, c).unflatten(1, (2, 2)).unflatten(-1, (-1, 2, 2))
    assert torch.equal(net(z, r, t), patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3))
    assert "positions" not in net.state_dict() and torch.equal(net(z, r, t), dit((3, 4, 4), (2, 2))(z, r, t))


def test_a_patch_in_the_middle_of_video_comes_back_where_it_was():
    """A network whose output is its patches: cutting and putting together are inverse along every axis."""
    net = dit((2, 2, 4, 6), (1, 2, 3))
    z = inputs((2, 2, 4, 6))[0]
    net.patches = torch.nn.Identity()  # type: ignore[assignment]
    net.positions = torch.zeros(8, 12).double()
    net.last = type("Last", (torch.nn.Module,), {"forward": lambda self, h, c: h})()  # type: ignore[assignment]
    assert torch.equal(net.final(net.stem(z), z), z)


@pytest.mark.parametrize("shape", [(1, 9), (2, 5, 7), (1, 3, 2, 5)])
def test_a_unet_starts_at_zero_and_takes_any_length(shape: tuple[int, ...]):
    net, t = UNet(shape, 8, (1, 2), 1, (1,), 2, generator=ms.key(0)), torch.ones(2)
    z = torch.randn(2, *shape)
    assert torch.equal(net(z, t / 2, t), torch.zeros_like(z))
    again = UNet(shape, 8, (1, 2), 1, (1,), 2, generator=ms.key(0))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_places_of_a_unet_see_their_neighbours_and_attention_sees_all():
    """One level: a place sees 3 convolutions a block and the two at the ends, and with attention everything."""
    for attention, far in (((), False), ((0,), True)):
        net = opened(UNet((1, 40), 8, (1,), 1, attention, 2, generator=ms.key(0)))
        for module in net.modules():  # norms see the whole row
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x  # type: ignore[method-assign]
        z = torch.zeros(1, 1, 40).double()
        t = torch.ones(1).double()
        moved = z.index_fill(2, torch.tensor([0]), 1.0)
        change = (net(moved, t, t) - net(z, t, t))[0, 0].abs()
        assert change[0] > 0 and (change[20:].max() > 0) == far


@pytest.mark.parametrize(
    ("shape", "grid", "expected"),
    [
        ((1, 8, 8), (8, 8), True),
        ((3, 4, 2), (8, 8), True),
        ((3, 3, 8), (8, 8), False),
        ((3, 1, 1), (8, 8), False),
        ((2, 16), (16,), True),
        ((2, 8), (16,), False),
        ((16,), (16,), False),
        ((), (16,), False),
        (3, (16,), False),
    ],
)
def test_which_arrays_are_channels(shape: Any, grid: tuple[int, ...], expected: bool):
    assert on_grid(shape, grid) == expected


def test_a_coarser_picture_is_repeated_beside_the_row():
    net = UNet((1, 4, 6), 8, (1,), 1, (), 1, conditions={"low": (2, 2, 3)})
    z, low = torch.zeros(1, 1, 4, 6), torch.arange(12.0).reshape(1, 2, 2, 3)
    found = net.given.beside(z, low)  # type: ignore[union-attr]
    assert torch.equal(found[:, 1:], low.repeat_interleave(2, 2).repeat_interleave(2, 3)) and found.shape == (1, 3, 4, 6)


def test_an_activation_is_a_function_between_the_layers():
    net, z, t = MLP(3, 8, 1, activation=torch.tanh, generator=ms.key(0)), torch.randn(2, 3), torch.ones(2)
    other = MLP(3, 8, 1, generator=ms.key(0))
    other.activation = torch.tanh
    assert torch.equal(net(z, t, t), other(z, t, t)) and not torch.equal(net(z, t, t), MLP(3, 8, 1, generator=ms.key(0))(z, t, t))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiT((9,), 1, 2), r"patch divides every axis of the grid, which is 9, got 2: give 1, 3, 9"),
        (lambda: DiT((4, 6), 1, 4), r"which is 4 x 6, got 4: give 1, 2"),
        (lambda: DiT((4, 6), 1, (2, 2, 2)), "patch is a number, or one for each axis of the grid"),
        (lambda: DiT((), 1, 2), "patch is a number, or one for each axis"),
        (lambda: DiT(8, 1, 2, 16, 1, 2, classes=2, conditions={"a": 2}), "give classes or conditions"),
        (lambda: DiT(8, 1, 2, 16, 1, 2, conditions={"a": (2, 0)}), "conditions: a has"),
        (lambda: UNet((3,)), "shape is channels and one to three axes"),
        (lambda: UNet((3, 8), 6), "width is a multiple of 4, got 6"),
        (lambda: UNet((3, 8), 8, ()), "multipliers, blocks and heads are at least 1"),
        (lambda: UNet((3, 8), 8, (1, 2), attention=(2,)), "attention names levels from 0 to 1"),
        (lambda: UNet((3, 8), 8, (1, 1), attention=(1,), heads=3), "heads divide the width"),
        (lambda: UNet((3, 2), 8, (1, 1, 1), attention=()), "3 levels halve .* below one place"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(make: Any, message: str):
    with pytest.raises(ValueError, match=message) as told:
        make()
    assert "\n" not in str(told.value)
