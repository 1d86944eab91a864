"""What the Diffusion Transformer owes its caller: published sizes, options that do what their papers say, tangents under each of them."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep.fields import DataPrediction, Decoupled, DiT
from meanstep.fields.dit import SIZES
from meanstep.tangents import carried, recorded, separate

ROWS, MOVING = 5, 3


def net(**options: Any) -> DiT:
    """A small one in float64, its gates and its output open."""
    made = DiT(4, 2, 2, 16, 3, 2, generator=ms.key(0), **options).double()
    with torch.no_grad():
        for k, p in enumerate(made.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=ms.key(1, k), dtype=p.dtype))
    return made


def inputs(classes: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    z, t = torch.randn(ROWS, 2, 4, 4, generator=ms.key(2)).double(), torch.rand(ROWS, generator=ms.key(3)).double()
    return z, t * torch.rand(ROWS, generator=ms.key(4)).double(), t, torch.arange(ROWS) % classes if classes else None


# Sizes -------------------------------------------------------------------------------------------------------------------------------


def published(width: int, depth: int, patch: int, channels: int = 4, tokens: int = 0, sigma: bool = True) -> int:
    """Trained values of the published DiT for 1000 classes: counted layer by layer from the paper's figure 3, with its fixed positions."""

    def linear(a: int, b: int) -> int:
        return a * b + b

    patches, features = linear(channels * patch**2, width), patch**2 * channels * (2 if sigma else 1)
    condition = linear(256, width) + linear(width, width) + 1001 * width
    block = linear(width, 3 * width) + linear(width, width) + linear(width, 4 * width) + linear(4 * width, width) + linear(width, 6 * width)
    return patches + condition + depth * block + linear(width, 2 * width) + linear(width, features) + tokens * width


def test_the_count_is_the_published_one():
    """Table 4 of arXiv 2212.09748, in millions."""
    for name, millions in {"S": 33, "B": 130, "M": 307, "L": 458, "XL": 675}.items():  # M: 2505.13447 says 308 with its second embedding
        assert round(published(*SIZES[name][:2], 2) / 1e6) == millions
    assert published(1152, 28, 2, tokens=256) == 675_129_632, "what the public code logs for DiT-XL/2"


@pytest.mark.parametrize(("name", "patch"), list(product(["S", "B", "M", "L", "XL"], [2, 4, 8])))
def test_parameter_counts(name: str, patch: int):
    """The published network without learned variance, and one embedding more, that of the gap; a split has none."""
    width, depth = SIZES[name][:2]
    with torch.device("meta"):
        plain, split = (DiT.named(f"{name}/{patch}", 32, 4, classes=1000, **options) for options in ({}, {"split": depth * 2 // 3}))
    count, gap = published(width, depth, patch, sigma=False), 256 * width + width + width * width + width
    assert sum(p.numel() for p in plain.parameters()) == count + gap
    assert sum(p.numel() for p in split.parameters()) == count
    assert plain.heads * 64 == width or name == "XL"


@pytest.mark.parametrize("name", ["Ti", "Mini", "Nano"])
def test_small_sizes(name: str):
    small = DiT.named(f"{name}/4", 8, 1, classes=10)
    assert sum(p.numel() for p in small.parameters()) < 10e6
    assert small(torch.randn(2, 1, 8, 8), torch.zeros(2), torch.ones(2)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", ["X/2", "B", "B/x", "b/2"])
def test_another_size_is_refused(name: str):
    with pytest.raises(ValueError, match=f"one of S, B, M, L, XL, Ti, Mini, Nano and a patch, such as B/4, got '{name}'"):
        DiT.named(name)


# Options -----------------------------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "split": {"split": 2},
    "split 0": {"split": 0},
    "split all": {"split": 3},
    "data": {"data_floor": 0.3},
    "scale": {"time_scale": 5.0},
}
WITH: dict[str, dict[str, Any]] = {
    "": {},
    "classes": {"classes": 3},
    "head": {"head": True},
    "norms": {"qk_norm": True, "rms": True},
    "head, checkpointing": {"head": True, "checkpointing": True},
    "data": {"data_floor": 0.3, "head": True, "classes": 3},
}
COMBINATIONS = [
    pytest.param(first | second, id=f"{a}, {b}".strip(", "))
    for (a, first), (b, second) in product(OPTIONS.items(), WITH.items())
    if not first.keys() & second.keys()
]


@pytest.mark.parametrize("options", COMBINATIONS)
def test_tangents_agree_with_forward_mode(options: dict[str, Any]):
    """`D_t [(t - r) u]`'s ingredients: values, the derivative along `(dz, 0, 1)` and `(dz, dr, dt)`, and the gradient of the values."""
    made, (z, r, t, y) = net(**options), inputs(options.get("classes", 0))
    dz, dr = torch.randn(MOVING, 2, 4, 4, generator=ms.key(5)).double(), torch.randn(MOVING, generator=ms.key(6)).double()
    for along in ((dz, None, torch.ones(MOVING).double()), (dz, dr, torch.ones(MOVING).double())):
        u, du = carried(made, z, r, t, y, along)
        for way in (separate,) if options.get("checkpointing") else (separate, recorded):
            other, slope = way(made, z, r, t, y, along)
            torch.testing.assert_close(u, other, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(du, slope, rtol=1e-9, atol=1e-11)
        step = 1e-5
        ahead, behind = ((z[:MOVING] + s * dz, r[:MOVING] + (0 if along[1] is None else s * dr), t[:MOVING] + s) for s in (step, -step))
        label = None if y is None else y[:MOVING]
        with torch.no_grad():
            slope = (made(*ahead, label) - made(*behind, label)) / (2 * step)
        torch.testing.assert_close(du, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", COMBINATIONS)
def test_one_loss_and_gradient_by_every_way(options: dict[str, Any]):
    made, x = net(**options), torch.randn(8, 2, 4, 4, generator=ms.key(7)).double()
    recipe = ms.recipes.improved_meanflow() if options.get("head") else ms.recipes.meanflow()
    y = torch.arange(8) % 3 if options.get("classes") else None
    found = []
    for way in (None, separate):
        rate = ms.rates.Exact() if way is None else ms.rates.Exact(way=way)
        terms = tuple(_with_rate(term, rate) for term in recipe)
        made.zero_grad()
        out = ms.Loss(terms)(made, x, y, generator=ms.key(8))
        out.loss.backward()
        found.append([out.loss.detach(), *(p.grad.clone() for p in made.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) == 1 + len(list(made.parameters())), "each weight takes part"
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def _with_rate(term: Any, rate: Any) -> Any:
    return replace(term, objective=replace(term.objective, rate=rate)) if hasattr(term.objective, "rate") else term


@pytest.mark.parametrize("split", [0, 2, 3])
def test_blocks_below_the_split_see_t_and_the_others_r(split: int):
    """Against the adapter for other people's networks, given the same parts."""

    class Parts(torch.nn.Module):
        def __init__(self, made: DiT) -> None:
            super().__init__()
            self.made, self.blocks, self.stem, self.final = made, made.blocks, made.stem, made.final

        def embed(self, t: Tensor, y: Tensor | None = None) -> Tensor:
            return self.made.time(t) + self.made.labels(y)

    made, (z, r, t, y) = net(split=split, classes=3), inputs(3)
    torch.testing.assert_close(made(z, r, t, y), Decoupled(Parts(made), split)(z, r, t, y), rtol=0, atol=0)
    assert torch.equal(made(z, r, t, y), made(z, r, 0.9 * t, y)) == (split == 0)
    assert not torch.equal(made(z, r, t, y), made(z, 0.9 * r, t, y)), "the last layer sees r"


def test_a_dit_is_not_split_twice():
    with pytest.raises(
        TypeError, match=r"DiT cannot be decoupled: it lacks embed; build it with DiT\(split=\.\.\.\), which does this itself"
    ):
        Decoupled(net())


@pytest.mark.parametrize("head", [False, True])
def test_data_prediction_is_the_adapters(head: bool):
    one, (z, r, t, _) = net(head=head, data_floor=0.3), inputs()
    other = net(head=head)
    other.load_state_dict(one.state_dict())
    other = DataPrediction(other, 0.3)
    assert t.min() < 0.3 < t.max()
    assert torch.equal(one(z, r, t), other(z, r, t))
    if head:
        assert torch.equal(one.head(z, r, t), other.head(z, r, t))
        assert all(torch.equal(a, b) for a, b in zip(one.with_head(z, r, t), other.with_head(z, r, t), strict=True))


def test_a_time_scale_multiplies_the_times_that_are_embedded():
    made, plain = net(time_scale=7.0), net()
    t = torch.rand(4, generator=ms.key(0)).double()
    torch.testing.assert_close(made.time(t), plain.time(7 * t), rtol=1e-6, atol=1e-6)
    assert torch.equal(made.gap(t), plain.gap(t)), "a gap is not scaled"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": -1}, r"split is a number of blocks in \[0, 3\], got -1"),
        ({"split": 4}, r"split is a number of blocks in \[0, 3\], got 4"),
        ({"data_floor": 0.0}, r"data_floor is a time in \(0, 1\], got 0"),
        ({"data_floor": float("nan")}, r"data_floor is a time in \(0, 1\], got nan"),
        ({"time_scale": 0.0}, "time_scale is a positive number, got 0"),
        ({"time_scale": float("inf")}, "time_scale is a positive number, got inf"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        net(**options)
