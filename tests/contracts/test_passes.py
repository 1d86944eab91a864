"""What the ways to a derivative owe their caller: one loss, one gradient, whatever the network, the recipe and torch's tools around it."""

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import meanstep as ms
from meanstep import objectives, recipes
from meanstep.fields import DiT
from meanstep.objectives import Eulerian
from meanstep.rates import Backward, Central, Exact
from meanstep.tangents import (
    VERDICTS,
    Way,
    automatic,
    automatic_recorded,
    carried,
    derivative,
    has_rule,
    recorded,
    separate,
    taped,
    trusted,
)
from meanstep.tangents.choice import GRAPHS
from meanstep.tangents.dual import RULES, Dual
from meanstep.terms import Recipe
from meanstep.types import Bridge, Field

from .table import CASES, SHAPES, Conv, Transformer

ROWS, MOVING = 6, 4
WAYS: dict[str, Way] = {"carried": carried, "separate": separate, "recorded": recorded, "automatic": automatic}

# Networks -----------------------------------------------------------------------------------------------------------------------------


class Sequences(nn.Module):
    """A stranger's network of sequences `[B, L, 8]` around one layer; a decoder looks at a constant."""

    def __init__(self, layer: nn.Module, mask: Tensor | None = None) -> None:
        super().__init__()
        self.times, self.layer, self.mask = nn.Linear(2, 8), layer, mask

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = z + self.times(torch.stack([r, t], -1))[..., None, :]
        match self.layer:
            case nn.MultiheadAttention():
                return self.layer(h, h, h, attn_mask=self.mask)[0]
            case nn.TransformerEncoderLayer():
                return self.layer(h, src_mask=self.mask)
            case nn.TransformerDecoder():
                return self.layer(h, torch.linspace(-1, 1, 24, dtype=h.dtype).reshape(3, 8).expand(len(h), 3, 8))
        return self.layer(h)


class Block(nn.Module):
    """As in timm: attention from one projection, LayerScale, and an MLP with GELU."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2, self.scale = nn.LayerNorm(8), nn.LayerNorm(8), nn.Parameter(torch.full((8,), 0.5))
        self.qkv, self.proj, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.q_norm, self.k_norm, self.causal = nn.LayerNorm(4), nn.RMSNorm(4), causal

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, is_causal=self.causal)
        x = x + self.scale * self.proj(h.transpose(1, 2).reshape(b, n, c))
        return x + self.scale * self.down(F.gelu(self.up(self.norm2(x))))


class Normed(nn.Module):
    """BatchNorm between convolutions, for eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        maps = torch.stack([r, t], -1)[..., None, None].expand(-1, -1, *z.shape[2:])
        return self.out(F.silu(self.norm(self.stem(torch.cat([z, maps], 1)))))


def dit(**options: Any) -> DiT:
    return DiT(4, 2, 2, 16, 2, 2, **options)


class Recurrent(nn.Module):
    """A recurrent layer over the places of a sequence, `[B, T, D]`."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.out = nn.Linear((layer.proj_size or layer.hidden_size) * (1 + layer.bidirectional), layer.input_size - 2)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = torch.cat([z, torch.stack([r, t], -1)[:, None].expand(-1, z.shape[1], -1)], -1)
        if not self.layer.batch_first:
            h = h.transpose(0, 1)
        h, last = self.layer(h)
        h = h if self.layer.batch_first else h.transpose(0, 1)
        last = last[0] if isinstance(last, tuple) else last
        return self.out(h) + last.mean((0, 2))[:, None, None]


class Rotary(nn.Module):
    """Positions as turns of complex numbers, and an input that is looked at before it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        if not torch.is_tensor(t):
            raise TypeError("times are tensors")
        h = self.into(torch.cat([z, torch.stack([r, t], -1)[:, None].expand(-1, z.shape[1], -1)], -1))
        turns = torch.polar(torch.ones(4, dtype=z.dtype), torch.arange(4, dtype=z.dtype)) ** torch.arange(z.shape[1])[:, None]
        pairs = torch.view_as_complex(h.unflatten(-1, (4, 2))) * turns
        pairs = pairs + torch.complex(h[..., :4], torch.zeros_like(h[..., 4:]))
        return self.out(torch.tanh(torch.view_as_real(pairs).flatten(-2)))


Make = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "mlp": (lambda: ms.MLP(2, 8, 2), (ROWS, 2)),
    "mlp/head": (lambda: ms.MLP(2, 8, 2, head=True, classes=3), (ROWS, 2)),
    "ensemble": (lambda: ms.MLP(2, 8, 2, members=(3,)), (3, ROWS, 2)),
    "ensembles": (lambda: ms.MLP(2, 8, 1, members=(2, 3), head=True), (2, 3, ROWS, 2)),
    "dit": (dit, (ROWS, 2, 4, 4)),
    "dit/rms": (lambda: dit(qk_norm=True, rms=True), (ROWS, 2, 4, 4)),
    "dit/head": (lambda: dit(qk_norm=True, head=True), (ROWS, 2, 4, 4)),
    "dit/classes": (lambda: dit(classes=3), (ROWS, 2, 4, 4)),
    "dit/checkpointing": (lambda: dit(checkpointing=True, head=True), (ROWS, 2, 4, 4)),
    "conv": (lambda: ms.as_field(Conv(False, False), ("z", "t", "gap")), (ROWS, 1, 8, 8)),
    "transformer": (lambda: ms.as_field(Transformer(False, False), ("z", "r", "t")), (ROWS, 6, 4)),
    "encoder": (lambda: Sequences(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)), (ROWS, 5, 8)),
    "MultiheadAttention": (lambda: Sequences(nn.MultiheadAttention(8, 2, batch_first=True)), (ROWS, 5, 8)),
    "masked": (lambda: Sequences(nn.MultiheadAttention(8, 2, batch_first=True), torch.ones(5, 5).triu(1).bool()), (ROWS, 5, 8)),
    "stack": (lambda: Sequences(nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2)), (ROWS, 5, 8)),
    "decoder": (lambda: Sequences(nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1)), (ROWS, 5, 8)),
    "timm": (lambda: Sequences(Block()), (ROWS, 5, 8)),
    "causal": (lambda: Sequences(Block(causal=True)), (ROWS, 5, 8)),
    "odd": (lambda: Odd(torch.sin), (ROWS, 2)),
    "BatchNorm": (Normed, (ROWS, 1, 4, 4)),
    "rnn": (lambda: Recurrent(nn.RNN(5, 4, 2, bidirectional=True, dropout=0.5)), (ROWS, 6, 3)),
    "relu": (lambda: Recurrent(nn.RNN(5, 4, nonlinearity="relu", bias=False, batch_first=True)), (ROWS, 6, 3)),
    "gru": (lambda: Recurrent(nn.GRU(5, 4, 2, batch_first=True, bidirectional=True)), (ROWS, 6, 3)),
    "lstm": (lambda: Recurrent(nn.LSTM(5, 4, 2, batch_first=True)), (ROWS, 6, 3)),
    "lstm/projected": (lambda: Recurrent(nn.LSTM(5, 4, proj_size=3, bidirectional=True)), (ROWS, 6, 3)),
    "rotary": (Rotary, (ROWS, 6, 3)),
}
OURS = [name for name in NETWORKS if name.split("/")[0] in ("mlp", "ensemble", "ensembles", "dit")]
every_network = pytest.mark.parametrize("name", NETWORKS)


def built(make: Make, dtype: torch.dtype = torch.float64, scale: float = 0.15) -> Any:
    """In eval mode, with random weights: gates and heads that start from zero would hide mistakes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make().to(dtype).eval()
        for p in net.parameters():
            p.data.add_(scale * torch.randn_like(p))
    return net


def labels(net: Any, batch: tuple[int, ...]) -> Tensor | None:
    return torch.arange(batch[-1]).expand(batch) % 3 if getattr(net, "classes", 0) else None


def asked(net: Any, shape: tuple[int, ...], n: int = MOVING, which: str = "zt", dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """`(z, r, t, y, along)` with directions for the first `n` rows."""
    g, dims = torch.Generator().manual_seed(1), shape.index(ROWS) + 1
    z, w = (torch.randn(shape, generator=g).to(dtype) for _ in range(2))
    t, s = (torch.rand(shape[:dims], generator=g).to(dtype) for _ in range(2))
    one = torch.ones_like(t).narrow(dims - 1, 0, n)
    along = (w.narrow(dims - 1, 0, n) if "z" in which else None, one if "r" in which else None, one if "t" in which else None)
    return z, t * s, t, labels(net, shape[:dims]), along


def pulled(u: Tensor, du: Tensor, net: nn.Module) -> list[Tensor]:
    """The gradient of a loss in which `u` regresses on something of `du`."""
    assert not du.requires_grad or du.grad_fn is not None
    axis = next((k for k in range(u.ndim) if u.shape[k] != du.shape[k]), 0)
    loss = (u.narrow(axis, 0, du.shape[axis]) - du.detach()).square().sum() + u.sin().sum()
    return list(torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad], allow_unused=True, materialize_grads=True))


def close(a: Any, b: Any, rtol: float = 1e-12, of: str = "") -> None:
    """To `rtol` of the norm of all together; `of`: what a failure is told to be of."""
    p, q = (torch.cat([x.flatten() for x in parts]) for parts in (a, b))
    assert (p - q).norm() <= rtol * q.norm(), f"{of}: off by {(p - q).norm() / q.norm():.2g}"


@every_network
@pytest.mark.parametrize("which", ["zt", "r", "zrt"])
def test_every_way_gives_the_same_value_derivative_and_gradient(name: str, which: str):
    net = built(NETWORKS[name][0])
    z, r, t, y, along = asked(net, NETWORKS[name][1], which=which)
    plain, axis = net(z, r, t, y), t.ndim - 1
    first = [None if p is None else p.narrow(axis, 0, MOVING) for p in (z, r, t, y)]
    wanted = derivative(net, *first, along)[1].detach()
    gradient = pulled(plain, wanted, net)
    for spelled, way in WAYS.items():
        if way is recorded and name == "dit/checkpointing":
            continue  # torch cannot compute a recorded forward-mode pass anew, see tests/contracts/test_rates.py
        u, du = way(net, z, r, t, y, along)
        close([u], [plain], of=spelled)
        close([du], [wanted], of=spelled)
        close(pulled(u, du, net), gradient, of=spelled)


@every_network
@pytest.mark.parametrize("which", ["zt", "r"])
def test_a_taped_derivative_has_the_recorded_ones_gradient(name: str, which: str):
    """In value, derivative and the gradient of both in samples and weights; with rows that have no derivative."""
    net = built(NETWORKS[name][0])
    if name == "dit/checkpointing":
        pytest.skip("torch cannot compute a recorded forward-mode pass anew, the next test compares it with no checkpoints")
    z, r, t, y, along = asked(net, NETWORKS[name][1], which=which)
    leaves = [z.requires_grad_(), *net.parameters()]
    found = []
    for way in (taped, recorded):
        u, du = way(net, z, r, t, y, along)
        loss = u.sin().sum() + (2 * du).sin().sum()
        found.append([u.detach(), du.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)])
    assert name in ("rotary", "odd") or any(p.any() for p in found[0][2:])
    for p, q in zip(found[0][:3], found[1][:3], strict=True):
        close([p], [q])
    close(found[0][3:], found[1][3:])


class Padded(nn.Module):
    """Attention over tokens of which some see none: all of one row, and the first of every row."""

    def __init__(self, boolean: bool) -> None:
        super().__init__()
        self.qkv, self.boolean = nn.Linear(4, 12), boolean

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        q, k, v = self.qkv(z * (1 + t - r)[:, None, None]).chunk(3, -1)
        keep = torch.arange(5) < torch.tensor([0, 3, 5, 1, 2, 4])[:, None, None]
        keep = keep & (torch.arange(5)[:, None] > 0)
        mask = keep if self.boolean else torch.zeros(keep.shape, dtype=z.dtype).masked_fill(~keep, -torch.inf)
        return z + F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], mask[:, None])[:, 0]


@pytest.mark.parametrize("boolean", [True, False])
def test_tokens_that_see_none_have_the_same_derivative_and_gradient_every_way(boolean: bool):
    net = built(lambda: Padded(boolean))
    batch = asked(net, (ROWS, 5, 4), ROWS)  # the mask belongs to all rows
    plain, wanted = net(*batch[:4]), separate(net, *batch)[1]
    gradient = pulled(plain, wanted, net)
    for way in WAYS.values():
        u, du = way(net, *batch)
        close([u], [plain], of=way.__name__)
        close([du], [wanted], of=way.__name__)
        close(pulled(u, du, net), gradient, of=way.__name__)
    both = []
    for way in (taped, recorded):
        u, du = way(net, *batch)
        close([u, du], [plain, wanted], of=way.__name__)
        both.append(torch.autograd.grad(u.square().sum() + du.sin().sum(), list(net.parameters())))
    assert all(g.isfinite().all() and g.any() for g in both[1])
    close(*both)


def test_a_taped_derivative_is_computed_anew_under_checkpoints():
    found = []
    for checkpointing in (False, True):
        net = built(lambda c=checkpointing: dit(checkpointing=c))
        u, du = taped(net, *asked(net, (ROWS, 2, 4, 4), which="r"))
        found.append(
            list(torch.autograd.grad(u.sin().sum() + du.sin().sum(), list(net.parameters()), materialize_grads=True, allow_unused=True))
        )
    close(*found)


class Watched(nn.Module):
    """Part of it is computed anew, or without a gradient; notes whether what it saw there had a tangent, and in which types."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind, self.seen = nn.Linear(4, 2), kind, []

    def part(self, h: Tensor) -> Tensor:
        h = h * 2
        self.seen.append(type(h) is Dual)
        return h.sin()

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.layer(torch.cat([z, torch.stack([r, t], -1)], -1))
        if self.kind == "anew":
            return checkpoint(self.part, h, use_reentrant=False)
        if self.kind == "wider":
            h = h.float() + torch.ones(2, dtype=torch.float64)
            self.seen.append(h.tangent.dtype)
            return h
        with torch.no_grad():
            return h + self.part(h)


def test_what_is_computed_anew_has_no_tangents():
    net = built(lambda: Watched("anew"))
    u, du = carried(net, *asked(net, (ROWS, 2)))
    pulled(u, du, net)
    assert net.seen == [True, False]


def test_a_tangent_has_the_type_of_its_value_where_a_constant_is_wider():
    net = built(lambda: Watched("wider"))
    carried(net, *asked(net, (ROWS, 2)))
    assert net.seen == [torch.float64]


def test_a_network_that_switches_the_gradient_off_inside_is_not_carried():
    net = built(lambda: Watched("without"))
    automatic(net, *asked(net, (ROWS, 2)))
    assert "switches the gradient on or off" in VERDICTS[net].reason


@every_network
def test_derivatives_with_a_graph_are_taped(name: str):
    """Not by forward mode, which costs a third more."""
    net = built(NETWORKS[name][0])
    automatic_recorded(net, *asked(net, NETWORKS[name][1], which="r"))
    assert GRAPHS[net].reason == ""


class Forgetful(nn.Module):
    """Its own function has a rule whose tangent has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return cubed(z) * self.weight * (t - r)[:, None] ** 2


@has_rule(lambda out, x: (3 * x.tangent.detach() * x.rows.detach() ** 2, x.axis))
def cubed(x: Tensor) -> Tensor:
    return x**3


def test_a_rule_of_ones_own_is_not_taped():
    net = built(Forgetful)
    z, r, t, y, along = asked(net, (ROWS, 2))
    z = z.requires_grad_()
    found = [torch.autograd.grad(way(net, z, r, t, y, along)[1].square().sum(), [z, net.weight]) for way in (automatic_recorded, recorded)]
    close(*found)
    assert "gradient nobody knows" in GRAPHS[net].reason


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_of_one_row_is_carried(name: str, rows: int):
    net = built(NETWORKS[name][0])
    shape = NETWORKS[name][1]
    cut = shape.index(ROWS)
    z, r, t, y, along = asked(net, shape)
    one = [None if p is None else p.narrow(cut, 0, rows) for p in (z, r, t, y)]
    few = tuple(None if d is None else d.narrow(cut, 0, 1) for d in along)
    first = [None if p is None else p.narrow(cut, 0, 1) for p in one]
    close([carried(net, *one, few)[1]], [derivative(net, *first, few)[1]])


@every_network
def test_networks_of_plain_layers_are_carried(name: str):
    """Not refused: `carried` costs no second pass. Ours say so themselves, and are not tried."""
    net = built(NETWORKS[name][0])
    automatic(net, *asked(net, NETWORKS[name][1]))
    assert trusted(net) if name in OURS else VERDICTS[net].reason == ""


def exact(field: nn.Module, batch: tuple[Any, ...], graph: bool = True) -> None:
    """Carried, and to 1e-12 of forward mode in value, derivative and the gradient of both, without a graph and with one."""
    for auto, verdicts, way, other in (
        (automatic, VERDICTS, carried, separate),
        *([(automatic_recorded, GRAPHS, taped, recorded)] if graph else ()),
    ):
        auto(field, *batch)
        assert verdicts[field].reason == ""
        (u, du), (v, dv) = way(field, *batch), other(field, *batch)
        close([u], [v])
        close([du], [dv])
        close(pulled(u, du, field), pulled(v, dv, field))


class Timed(nn.Module):
    """A network of diffusers that takes the gap in place of a label."""

    def __init__(self, net: nn.Module, **given: Tensor) -> None:
        super().__init__()
        self.net, self.given = net, given

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        given = {name: x.to(z).expand(len(z), -1, -1) for name, x in self.given.items()}
        return self.net(z, 1000 * t, class_labels=1000 * (t - r), **given).sample


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other people's
@pytest.mark.parametrize("kind", ["UNet2DModel", "UNet2DConditionModel"])
def test_networks_of_diffusers_are_carried(kind: str):
    """They ask `torch.is_tensor`, and their attention gives GroupNorm a transposed view, on which torch has no forward mode."""
    diffusers = pytest.importorskip("diffusers")
    places = ("Down", "AttnDown", "AttnUp", "Up") if kind == "UNet2DModel" else ("CrossAttnDown", "Down", "Up", "CrossAttnUp")
    blocks = [f"{place}Block2D" for place in places]
    options: dict[str, Any] = {} if kind == "UNet2DModel" else {"cross_attention_dim": 16, "attention_head_dim": 4}
    made = getattr(diffusers, kind)(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=blocks[:2], up_block_types=blocks[2:], class_embed_type="timestep", **options,
    )  # fmt: skip
    made.class_embedding.register_forward_pre_hook(lambda _, given: (given[0].double(),))  # its times are float32
    field = built(lambda: Timed(made, **({"encoder_hidden_states": torch.ones(1, 5, 16)} if options else {})), scale=0.05)
    exact(field, asked(field, (ROWS, 3, 8, 8)), graph=False)
    assert torch.is_tensor(object()) is False and torch.is_tensor.__module__ == "torch"  # it is as it was


class Rearranged(nn.Module):
    """A network of pictures in the words of einops: patches as tokens, attention with heads apart, a mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.qkv, self.out, self.times = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 8), nn.Linear(2, 16)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        from einops import rearrange, reduce, repeat

        times = repeat(self.times(torch.stack([r, t], -1)), "b c -> b n c", n=4)
        h = self.into(rearrange(z, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)) + times
        q, k, v = rearrange(self.qkv(h), "b n (s h d) -> s b h n d", s=3, h=2).unbind(0)
        h = h + rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
        h = F.silu(h + reduce(h, "b n c -> b 1 c", "mean"))
        return rearrange(self.out(h), "b (h w) (p q c) -> b c (h p) (w q)", h=2, p=2, q=2)


def test_a_network_in_the_words_of_einops_is_carried():
    pytest.importorskip("einops", reason="einops is not installed")
    field = built(Rearranged)
    exact(field, asked(field, (ROWS, 2, 4, 4)))


class Gapped(nn.Module):
    """A network of diffusers that takes one time; the gap is another channel."""

    def __init__(self, net: Any, **given: Any) -> None:
        super().__init__()
        self.net, self.given = net, given

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        gap = (t - r).reshape(-1, *(1,) * (z.ndim - 1)).expand(-1, 1, *z.shape[2:])
        return self.net(torch.cat([z, gap], 1), 1000 * t, **{k: v.expand(len(z)) for k, v in self.given.items()}).sample


@pytest.mark.filterwarnings("ignore")  # other people's
@pytest.mark.parametrize("kind", ["UNet1DModel", "DiTTransformer2DModel"])
def test_networks_of_diffusers_with_one_time_are_carried(kind: str):
    """In float64 to 1e-12 of forward mode, with and without a graph."""
    diffusers = pytest.importorskip("diffusers")
    if kind == "UNet1DModel":
        made = diffusers.UNet1DModel(32, in_channels=3, out_channels=2, extra_in_channels=64)
        field, shape = built(lambda: Gapped(made), scale=0.05), (ROWS, 2, 32)
    else:
        made = diffusers.DiTTransformer2DModel(
            2, 8, in_channels=3, out_channels=2, num_layers=2, sample_size=8, patch_size=4, norm_num_groups=1
        )
        field, shape = built(lambda: Gapped(made, class_labels=torch.zeros((), dtype=torch.int64)), scale=0.05), (ROWS, 2, 8, 8)
    batch = asked(field, shape)
    exact(field, batch)


class OfTorchcfm(nn.Module):
    """The U-Net of torchcfm; the gap is another channel."""

    def __init__(self) -> None:
        from torchcfm.models.unet import UNetModel

        super().__init__()
        self.net = UNetModel((3, 8, 8), 32, 1, channel_mult=[1, 2], attention_resolutions="4", num_heads=2)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        gap = (t - r)[:, None, None, None].expand(-1, 1, *z.shape[2:])
        return self.net(t, torch.cat([z, gap], 1))[:, :2]


def test_the_unet_of_torchcfm_is_carried():
    """In float32, which its norms, times and attention compute in whatever they are given."""
    pytest.importorskip("torchcfm", reason="torchcfm is not installed")
    field = built(OfTorchcfm, torch.float32, scale=0.05)
    batch = asked(field, (ROWS, 2, 8, 8), dtype=torch.float32)
    automatic(field, *batch)
    assert VERDICTS[field].reason == ""
    (u, du), (v, dv) = carried(field, *batch), separate(field, *batch)
    close([u], [v], 1e-5)
    close([du], [dv], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_in_attention_is_carried_under_the_mask_of_the_value(dtype: torch.dtype):
    """Torch's forward mode drops others after attention, whose result is not contiguous: differences decide there."""
    net = built(NETWORKS["encoder"][0], dtype).train()
    z, r, t, y, along = asked(net, NETWORKS["encoder"][1], dtype=dtype)

    def u(s: float) -> Tensor:
        torch.manual_seed(2)
        moved = [p if d is None else torch.cat([p[:MOVING] + s * d, p[MOVING:]]) for p, d in zip((z, r, t), along, strict=True)]
        return net(*moved, y).detach()

    torch.manual_seed(2)
    found, slope = automatic(net, z, r, t, y, along)
    h = torch.finfo(dtype).eps ** (1 / 3)
    assert VERDICTS[net].reason == ""
    close([found], [u(0.0)], 1e-5 if dtype == torch.float32 else 1e-12)
    close([slope], [(u(h) - u(-h))[:MOVING] / (2 * h)], 1e-2 if dtype == torch.float32 else 1e-8)


# Recipes ------------------------------------------------------------------------------------------------------------------------------

RECIPES: dict[str, Callable[[nn.Module], Recipe]] = {
    "meanflow": lambda ema: recipes.meanflow(diagonal_share=0.25),
    "coefficient": lambda ema: recipes.coefficient(1.0, ema, anchor_share=0.25, diagonal_share=0.25),
    "improved": lambda ema: recipes.improved_meanflow(),
    "terminal": recipes.terminal_velocity,
    "terminal/0": lambda ema: recipes.terminal_velocity(ema, through=0.0),
    "alpha": lambda ema: recipes.alpha_flow(0.5),
    "split": lambda ema: recipes.split_meanflow(),
}


def copied(net: nn.Module) -> nn.Module:
    """An average of the weights, some time ago."""
    other = copy.deepcopy(net)
    for p in other.parameters():
        p.data.mul_(0.9)
    return other


def by(way: Way, recipe: Recipe) -> Recipe:
    def term(t: ms.Term) -> ms.Term:
        exact = isinstance(t.objective, Eulerian) and isinstance(t.objective.rate, Exact)
        return replace(t, objective=replace(t.objective, rate=Exact(way=way))) if exact else t

    return tuple(term(t) for t in recipe)


def stepped(net: nn.Module, shape: tuple[int, ...], recipe: Recipe, field: Field | None = None, **options: Any) -> list[Tensor]:
    """The loss and its gradient."""
    x = torch.randn(shape, generator=ms.key(1), dtype=next(net.parameters()).dtype)
    loss = ms.Loss(recipe, batch_dims=shape.index(ROWS) + 1, measure=False)
    value = loss(net if field is None else field, x, labels(net, shape[: loss.batch_dims]), generator=ms.key(0), **options).loss
    return [value.detach(), *torch.autograd.grad(value, list(net.parameters()), allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["mlp/head", "ensembles", "dit/head", "timm"])
def test_every_way_gives_every_recipe_the_same_gradient(name: str, recipe: str, monkeypatch: pytest.MonkeyPatch):
    if recipe == "improved" and name == "timm":
        pytest.skip("no head")
    net, shape = built(NETWORKS[name][0]), NETWORKS[name][1]
    found = []
    for way in WAYS.values():
        monkeypatch.setattr(objectives, "automatic", way)
        found.append(stepped(net, shape, by(way, RECIPES[recipe](copied(net)))))
    for other in found[1:]:
        close(other[:1], found[0][:1])
        close(other[1:], found[0][1:])


class Apart(nn.Module):
    """A network whose head is another pass."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.head, self.carries_tangents = net, net.head, True

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.net(z, r, t, y)


@pytest.mark.parametrize("name", ["mlp/head", "ensembles", "dit/head", "dit/checkpointing"])
def test_a_head_read_off_the_same_pass_is_the_head(name: str):
    net, shape = built(NETWORKS[name][0]), NETWORKS[name][1]
    together, apart = (stepped(net, shape, recipes.improved_meanflow(), field) for field in (net, Apart(net)))
    close(together[:1], apart[:1])
    close(together[1:], apart[1:])


@pytest.mark.parametrize("name", CASES)
def test_all_terms_in_one_pass_equal_term_after_term(name: str):
    """The slow twin: every objective asks the field by itself."""
    for kind in SHAPES:
        one_pass(name, kind)


def one_pass(name: str, kind: str) -> None:
    setting = CASES[name].setting(kind)
    setting.field.eval()
    draws = setting.loss.draw(setting.x, generator=ms.key(0), **setting.given)
    rows = setting.loss._regress(setting.field, draws, setting.x.shape[setting.loss.batch_dims - 1])
    alone = [term.objective(setting.field, b) for term, b in draws]
    parameters, wanted, found = list(setting.field.parameters()), [], []
    for row, regression in zip(rows, alone, strict=True):
        close([row.regression.prediction.detach(), row.regression.target], [regression.prediction.detach(), regression.target], of=kind)
        wanted.append(regression.prediction.sub(regression.target).square().sum())
        found.append(row.regression.prediction.sub(row.regression.target).square().sum())
    gradients = [torch.autograd.grad(torch.stack(x).sum(), parameters, materialize_grads=True, allow_unused=True) for x in (found, wanted)]
    close(*gradients, rtol=1e-11, of=kind)


# Dropout ------------------------------------------------------------------------------------------------------------------------------


class Dropped(nn.Module):
    """A perceptron that drops hidden units once or `twice`."""

    def __init__(self, twice: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.drop, self.twice = nn.Dropout(0.4), twice

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.drop(F.silu(self.first(torch.cat([z, r[:, None], t[:, None]], -1))))
        h = F.silu(self.second(h))
        return self.last(self.drop(h) if self.twice else h)


def seeded(f: Callable[[], Any]) -> tuple[Any, Tensor]:
    """The result at a seed, and the random state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return f(), torch.get_rng_state()


def slope(field: Field, z: Tensor, r: Tensor, t: Tensor, y: Any, along: Any, h: float = 1e-5) -> Tensor:
    """The derivative along `(dz, dr, dt)` by a central difference of fourth order, every pass with the same dropout."""

    def at(s: float) -> Tensor:
        moved = [p if d is None else p + s * torch.cat([d, torch.zeros_like(p[len(d) :])]) for p, d in zip((z, r, t), along, strict=True)]
        return seeded(lambda: field(*moved, y))[0].detach()

    n = next(len(d) for d in along if d is not None)
    return ((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h))[:n]


def test_carried_dropout_drops_the_same_in_value_and_derivative():
    """One ordinary pass: its numbers, its random state, and the derivative at its mask."""
    net = built(Dropped).train()
    batch = asked(net, (ROWS, 2))
    (u, du), after = seeded(lambda: carried(net, *batch))
    plain, state = seeded(lambda: net(*batch[:4]))
    assert torch.equal(u, plain) and torch.equal(after, state)
    close([du], [slope(net, *batch)], 1e-8)


@pytest.mark.parametrize("n", [MOVING, ROWS])
def test_separate_dropout_drops_the_same_in_value_and_derivative(n: int):
    """An ordinary pass of the rows with a derivative, then one of the others if there are any."""
    net = built(Dropped).train()
    z, r, t, y, along = asked(net, (ROWS, 2), n)
    (u, du), after = seeded(lambda: separate(net, z, r, t, y, along))
    parts = [rows for rows in (slice(0, n), slice(n, ROWS)) if rows.start < ROWS]
    plain, state = seeded(lambda: torch.cat([net(z[k], r[k], t[k]) for k in parts]))
    assert torch.equal(u, plain) and torch.equal(after, state)
    close([du], [slope(net, z[:n], r[:n], t[:n], y, along)], 1e-8)


@pytest.mark.parametrize("twice", [False, True])
def test_a_rehearsal_draws_no_random_numbers(twice: bool):
    """Whatever `automatic` chooses, value and random state are those of ordinary passes."""
    net, net2 = built(lambda: Dropped(twice)).train(), built(lambda: Dropped(twice)).train()
    batch = asked(net, (ROWS, 2))
    (u, du), after = seeded(lambda: automatic(net, *batch))
    way = separate if VERDICTS[net].reason else carried
    (plain, wanted), state = seeded(lambda: way(net2, *batch))
    assert torch.equal(u, plain) and torch.equal(du, wanted) and torch.equal(after, state)


def test_dropout_is_no_reason_against_carrying():
    net = built(Dropped).train()
    seeded(lambda: automatic(net, *asked(net, (ROWS, 2))))
    assert VERDICTS[net].reason == ""


# Half precision -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")  # torch's RMSNorm under autocast
@pytest.mark.parametrize("name", ["mlp", "dit", "dit/rms", "timm", "conv"])
def test_half_precision_keeps_the_gradient(name: str):
    net, shape = built(NETWORKS[name][0], torch.float32, 0.05), NETWORKS[name][1]
    full = torch.cat([g.flatten() for g in stepped(net, shape, by(carried, RECIPES["meanflow"](net)))[1:]])
    errors = {}
    for way in (carried, separate):
        with torch.autocast("cpu", torch.bfloat16):
            half = stepped(net, shape, by(way, RECIPES["meanflow"](net)))[1:]
        assert all(g.dtype == torch.float32 and g.any() for g in half)
        errors[way] = (torch.cat([g.flatten() for g in half]) - full).norm() / full.norm()
    assert errors[carried] < 0.03 and errors[carried] < 1.5 * errors[separate] + 1e-3


def test_the_change_of_a_half_precision_pass_is_float32():
    net, b = built(dit, torch.float32), asked(None, NETWORKS["dit"][1], ROWS, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        u, change = Exact(way=carried)(net, Bridge(b[0], b[4][0], b[1], b[2]), b[4][0])
    assert change.dtype == torch.float32 and u.requires_grad and not change.requires_grad


# Activation checkpoints ---------------------------------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    """A stranger that computes its middle anew in the backward pass, unless `reentrant` is None."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.reentrant = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), reentrant

    def body(self, h: Tensor) -> Tensor:
        return h + F.silu(self.middle(F.layer_norm(h, (8,))))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = self.first(torch.cat([z, r[:, None], t[:, None]], -1))
        h = self.body(h) if self.reentrant is None else checkpoint(self.body, h, use_reentrant=self.reentrant)
        return self.last(h)


def test_checkpoints_inside_the_network_change_nothing():
    for make, other in ((lambda: dit(head=True), lambda: dit(head=True, checkpointing=True)), (Checkpointed, lambda: Checkpointed(False))):
        shape = (ROWS, 2, 4, 4) if other().__class__ is DiT else (ROWS, 2)
        net = built(other)
        found, wanted = stepped(net, shape, RECIPES["meanflow"](net)), stepped(built(make), shape, RECIPES["meanflow"](net))
        assert all(torch.equal(p, q) for p, q in zip(found, wanted, strict=True))
        assert net not in VERDICTS or VERDICTS[net].reason == ""


@pytest.mark.filterwarnings("ignore:.*use_reentrant.*:UserWarning")
def test_reentrant_checkpoints_are_never_silently_wrong():
    net = built(lambda: Checkpointed(True))
    with pytest.raises(TypeError, match="use_reentrant=False"):
        stepped(net, (ROWS, 2), RECIPES["meanflow"](net))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("make", [lambda: dit(head=True), lambda: dit(head=True, checkpointing=True)], ids=["plain", "nested"])
def test_a_checkpoint_around_the_whole_loss_changes_nothing(make: Make, reentrant: bool):
    """The loss itself is computed anew inside the backward pass, tangents and all."""
    net, loss = built(make), ms.Loss(recipes.meanflow(diagonal_share=0.25), measure=False)
    x = torch.randn(ROWS, 2, 4, 4, dtype=torch.float64, generator=ms.key(1), requires_grad=True)

    def value(x: Tensor) -> Tensor:
        return loss(net, x, generator=ms.key(0)).loss

    gradients = []
    for f in (value, lambda x: checkpoint(value, x, use_reentrant=reentrant)):
        net.zero_grad()
        f(x).backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    close(*gradients)


# Networks that would lose a tangent ---------------------------------------------------------------------------------------------------


class Cube(torch.autograd.Function):
    """Without `jvp`, as most are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * g


class Halved(torch.autograd.Function):
    """The identity, with another gradient, as in tensor parallelism and domain adaptation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g / 2


class Odd(nn.Module):
    """A perceptron with something odd in the middle."""

    def __init__(self, oddity: Callable[[Any], Any]) -> None:
        super().__init__()
        self.first, self.last, self.oddity = nn.Linear(4, 8), nn.Linear(8, 2), oddity

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.last(self.oddity(F.silu(self.first(torch.cat([z, r[:, None], t[:, None]], -1)))))


def written(h: Any) -> Any:
    out = torch.zeros(h.shape, dtype=h.dtype)
    out[:, :4] = h[:, :4].sin()
    return out


def doubled(h: Any) -> Any:
    """Another name of the same tensor."""
    h = h * 1
    same = h
    h += 1
    return same


def summed(h: Any) -> Any:
    total = torch.ones(h.shape, dtype=h.dtype)
    total += h
    return total


def hooked(h: Any) -> Any:
    h = h * 1
    if h.requires_grad:
        h.register_hook(lambda g: g / 2)
    return h


ODDITIES: dict[str, Callable[[Any], Any]] = {
    "custom function": Cube.apply,
    "identity with a gradient of its own": Halved.apply,
    "detach": lambda h: h + h.detach().sin(),
    "data": lambda h: h + h.data.sin(),
    "no_grad": lambda h: h * torch.no_grad()(torch.sin)(h),
    "float": lambda h: h * float(h.square().sum()),
    "item": lambda h: h * h.mean().item(),
    "numpy": lambda h: h + torch.from_numpy(h.detach().numpy().copy()),
    "list": lambda h: h + torch.tensor(h.tolist(), dtype=h.dtype),
    "over the batch": lambda h: h - h.mean(0),
    "sorted": lambda h: h.sort(-1).values,
    "written": written,
    "another name": doubled,
    "added to a constant": summed,
    "in place": lambda h: F.silu(h * 1, inplace=True),
    "hook": hooked,
    "equal": lambda h: h * (h == h),
    "by integers": lambda h: h * (10 * h).to(torch.int64),
}
MIXES = {"float", "item", "over the batch"}
"""The rows see each other, so the derivative on a part of them is another one."""


@pytest.mark.parametrize("name", ODDITIES)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
def test_no_oddity_is_silently_wrong(name: str):
    """Either the derivative is right, and the gradient that of an ordinary pass, or there is a `TypeError`."""
    net = built(lambda: Odd(ODDITIES[name]))
    z, r, t, y, along = asked(net, (ROWS, 2), ROWS if name in MIXES else MOVING)
    try:
        u, du = automatic(net, z, r, t, y, along)
    except TypeError:
        return
    n = len(along[2])
    wanted = slope(net, z, r, t, y, along)
    plain = net(z, r, t, y)
    close([u], [plain])
    assert name in ("detach", "data", "no_grad", "numpy", "list", "float", "item") or (du[:n] - wanted).norm() < 1e-6 * wanted.norm()
    close(pulled(u, du, net), pulled(plain, du, net))


class Late(nn.Module):
    """Loses its tangent behind a gate that starts from zero."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.gate, self.deep = nn.Linear(4, 2), nn.Parameter(torch.zeros(())), nn.Linear(4, 2)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        h = torch.cat([z, r[:, None], t[:, None]], -1)
        lost = getattr(h, "primal", h)
        return self.plain(h) + self.gate * self.deep(lost)


@pytest.mark.parametrize(("opened", "found"), [(1, 2), (2, 4), (3, 4), (4, 8), (7, 8)])
def test_what_a_gate_hides_at_first_is_found_out_later(opened: int, found: int):
    """The calls number 1, 2, 4, 8 and so on look again; a verdict is final."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Late().double()
    batch = asked(net, (ROWS, 2))
    for call in range(1, 10):
        _, du = automatic(net, *batch)
        assert (VERDICTS[net].reason != "") == (call >= found)
        if call >= found:
            close([du], [slope(net, *batch)], 1e-8)
        if call == opened:
            net.gate.data.fill_(1.0)


# The verdict --------------------------------------------------------------------------------------------------------------------------


def test_an_unsupported_module_runs_by_separate_and_the_reason_is_kept():
    net = built(lambda: Odd(lambda h: h.cumsum(-1)))
    batch = asked(net, (ROWS, 2))
    for _ in range(3):
        for p, q in zip(automatic(net, *batch), separate(net, *batch), strict=True):
            assert torch.equal(p, q)
    assert "cumsum" in VERDICTS[net].reason and VERDICTS[net].calls == 3


@pytest.mark.parametrize("make", [lambda: Odd(torch.sin), lambda: ms.MLP(2, 8, 1)])
def test_rows_that_do_not_fit_say_nothing_of_the_network(make: Callable[[], nn.Module]):
    net = built(make)
    good, bad = asked(net, (ROWS, 2)), asked(net, (ROWS, 3))
    for batch in (bad, bad, good, bad):
        if batch is good:
            automatic(net, *batch)
        else:
            with pytest.raises((RuntimeError, ValueError)):
                automatic(net, *batch)
    assert VERDICTS[net].reason == "" and VERDICTS[net].calls == 1 and getattr(net, "_tangents_found_right", True)


def test_a_verdict_dies_with_its_module():
    before, net = len(VERDICTS), built(lambda: Odd(torch.sin))
    automatic(net, *asked(net, (ROWS, 2)))
    assert len(VERDICTS) == before + 1
    del net
    assert len(VERDICTS) == before


def test_a_function_runs_by_separate():
    net = built(Checkpointed)

    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        assert isinstance(z, Tensor)
        return net(z, r, t)

    batch, before = asked(net, (ROWS, 2)), len(VERDICTS)
    for p, q in zip(automatic(field, *batch), separate(field, *batch), strict=True):
        assert torch.equal(p, q)
    assert len(VERDICTS) == before


def test_per_sample_gradients_of_a_module_by_vmap():
    net = built(Checkpointed)
    z, r, t, _, along = asked(net, (ROWS, 2), ROWS)

    def row(p: dict[str, Tensor], z: Tensor, w: Tensor, r: Tensor, t: Tensor) -> Tensor:
        class Called(nn.Module):
            def forward(self, *a: Any) -> Tensor:
                return torch.func.functional_call(net, p, a)

        u, du = automatic(Called(), z[None], r[None], t[None], None, (w[None], None, torch.ones_like(t[None])))
        return (u - du.detach()).square().sum()

    each = torch.func.vmap(torch.func.grad(row), (None, 0, 0, 0, 0))(dict(net.named_parameters()), z, along[0], r, t)
    u, du = carried(net, z, r, t, None, along)
    wanted = torch.autograd.grad((u - du).square().sum(), list(net.parameters()))
    close([each[name].sum(0) for name, _ in net.named_parameters()], wanted)


# Compile ------------------------------------------------------------------------------------------------------------------------------


class Owner(nn.Module):
    """What the documentation says to compile."""

    def __init__(self, net: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.net, self.loss = net, ms.Loss(recipe, check=False, measure=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.loss(self.net, x).loss


class Fixed(Owner):
    """The same on given draws: a compiled program has random numbers of its own."""

    def forward(self, draws: list[Any]) -> Tensor:
        pairs = list(zip(self.loss.recipe, draws, strict=True))
        return torch.stack([row.error.sum() for row in self.loss._regress(self.net, pairs, ROWS)]).sum()


@pytest.fixture
def graphs() -> Iterator[list[Any]]:
    """The graphs that torch.compile makes, collected from an empty cache."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def in_one_graph(module: nn.Module, graphs: list[Any]) -> Callable[..., Tensor]:
    def backend(graph: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        graphs.append(graph)
        return aot_eager(graph, inputs)

    return torch.compile(module, backend=backend, fullgraph=True)


COMPILED: dict[str, tuple[str, Callable[[nn.Module], Recipe]]] = {
    "mlp/meanflow": ("mlp", RECIPES["meanflow"]),
    "dit/coefficient": ("dit", RECIPES["coefficient"]),
    "timm/meanflow": ("timm", RECIPES["meanflow"]),
    "encoder/meanflow": ("encoder", RECIPES["meanflow"]),
    "mlp/improved": ("mlp/head", RECIPES["improved"]),
    "dit/improved": ("dit/head", RECIPES["improved"]),
    "mlp/terminal": ("mlp", RECIPES["terminal"]),
    "mlp/terminal/0": ("mlp", RECIPES["terminal/0"]),
    "mlp/split": ("mlp", RECIPES["split"]),
    "mlp/alpha": ("mlp", RECIPES["alpha"]),
    "mlp/central": ("mlp", lambda ema: recipes.meanflow(diagonal_share=0.25, rate=Central())),
    "mlp/backward": ("mlp", lambda ema: recipes.meanflow(diagonal_share=0.25, rate=Backward(0.1))),
    "dit/rms": ("dit/rms", RECIPES["meanflow"]),
    "odd/meanflow": ("odd", RECIPES["meanflow"]),
    "conv/meanflow": ("conv", RECIPES["meanflow"]),
    "ensemble/meanflow": ("ensemble", RECIPES["meanflow"]),
}
QUICK = ("mlp/improved", "odd/meanflow")
every_compiled = pytest.mark.parametrize("name", [pytest.param(k, marks=[pytest.mark.slow] * (k not in QUICK)) for k in COMPILED])


@every_compiled
def test_a_hundred_compiled_steps_are_one_graph_with_the_same_gradients(name: str, graphs: list[Any]):
    kind, recipe = COMPILED[name]
    shape = NETWORKS[kind][1]
    net = built(NETWORKS[kind][0], torch.float32)
    terms = recipe(copied(net))
    owner, fixed = Owner(net, terms), Fixed(net, terms)
    owner.loss.batch_dims = fixed.loss.batch_dims = shape.index(ROWS) + 1
    x = torch.randn(shape, generator=ms.key(1))
    if kind in (
        "timm",
        "conv",
        "encoder",
    ):  # norms with weights: torch cannot compile forward mode through them, so they must be found right first
        owner(x)
    step = in_one_graph(owner, graphs)
    for _ in range(100):
        loss = step(x)
    loss.backward()
    assert len(graphs) == 1 and loss.isfinite()
    draws = [b for _, b in owner.loss.draw(x, generator=ms.key(0))]
    gradients = [
        torch.autograd.grad(f(draws), list(net.parameters()), allow_unused=True, materialize_grads=True)
        for f in (fixed, in_one_graph(fixed, graphs))
    ]
    close(*gradients, rtol=1e-5)


@pytest.mark.slow
# dynamo's own: it looks at the tensors that enter a block
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_checkpointed_step_is_not_compiled_and_its_blocks_are(graphs: list[Any]):
    """A compiled checkpoint takes tensors only; torch says which operator."""
    make, shape = NETWORKS["dit/checkpointing"]
    net, plain = built(make), built(make)
    with pytest.raises(Exception, match="tag_activation_checkpoint"):
        in_one_graph(Owner(net, RECIPES["meanflow"](net)), graphs)(torch.randn(shape, dtype=torch.float64))
    torch._dynamo.reset()
    for block in net.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    close(stepped(net, shape, RECIPES["meanflow"](net), net), stepped(plain, shape, RECIPES["meanflow"](plain), plain))


@pytest.mark.slow
# dynamo's own: it looks at the results that come out of the first part of a broken graph
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_network_compiled_by_itself_changes_nothing(graphs: list[Any]):
    for make, shape in (NETWORKS["dit"], NETWORKS["timm"]):
        net = built(make)
        torch._dynamo.reset()
        close(
            stepped(net, shape, RECIPES["meanflow"](net), torch.compile(net, backend="aot_eager")),
            stepped(net, shape, RECIPES["meanflow"](net)),
        )


# torch's own: it looks at the results that come out of the first part of a broken graph
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_default_loss_compiles_with_its_breaks(graphs: list[Any]):
    """Its metrics and checks break the graph; what crosses the break is right. (Parts of a split crossed it on a wrong base.)"""
    net, loss = built(NETWORKS["mlp"][0]), ms.Loss(RECIPES["meanflow"](built(NETWORKS["mlp"][0])))
    x = torch.randn(NETWORKS["mlp"][1], dtype=torch.float64)
    out = torch.compile(lambda x: loss(net, x), backend="aot_eager")(x)
    out.loss.backward()
    assert out.loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


class Inheriting(ms.MLP):
    """A user's network made of ours; it says nothing of tangents and calls what no rule covers."""

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return super().forward(torch.cumsum(z, -1), r, t, y)


def test_trust_is_not_inherited():
    net = built(lambda: Inheriting(2))
    assert not trusted(net) and trusted(built(lambda: ms.MLP(2)))
    batch = asked(net, (ROWS, 2))
    for p, q in zip(automatic(net, *batch), separate(net, *batch), strict=True):
        torch.testing.assert_close(p, q)
    assert "cumsum" in VERDICTS[net].reason


def test_an_unseen_module_is_not_carried_under_compile(graphs: list[Any]):
    """`h += 1` on a value with two names: carried it would be wrong, and without an eager call nobody has looked."""
    net = built(lambda: Odd(ODDITIES["another name"]))
    batch = asked(net, (ROWS, 2))
    compiled = in_one_graph(Through(net), graphs)(*batch)
    for p, q in zip(compiled, recorded(net, *batch), strict=True):
        torch.testing.assert_close(p, q)


class Through(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *batch: Any) -> tuple[Tensor, Tensor]:
        return automatic(self.net, *batch)


def test_a_rule_of_ones_own_leaves_compiled_steps_alone(graphs: list[Any], monkeypatch: pytest.MonkeyPatch):
    """Dynamo reads the whole table of rules, whatever a user put in."""
    monkeypatch.setattr("meanstep.tangents.dual.RULES", dict(RULES))
    has_rule(lambda out, x: (x.tangent, x.axis))(Rounded.apply)
    net = built(lambda: ms.MLP(2))
    u, du = in_one_graph(Through(net), graphs)(*asked(net, (ROWS, 2)))
    assert u.isfinite().all() and du.isfinite().all()


class Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def test_members_with_labels_share_one_pass():
    net, calls = ms.MLP(2, members=(3,), classes=4), []
    net.register_forward_pre_hook(lambda m, a: calls.append(a[2].shape))
    ms.Loss(RECIPES["meanflow"](net), batch_dims=2)(net, torch.randn(3, ROWS, 2), torch.randint(4, (3, ROWS)))
    assert len(calls) == 1


# Memory -------------------------------------------------------------------------------------------------------------------------------


def saved(net: nn.Module, x: Tensor, recipe: Recipe) -> int:
    """Bytes that a step keeps for its backward pass, parameters not counted, every storage once."""
    held: dict[int, int] = {}
    kept: list[Tensor] = []
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def pack(p: Tensor) -> Tensor:
        place = p.untyped_storage().data_ptr()
        if place not in weights:
            held[place] = p.untyped_storage().nbytes()
            kept.append(p)  # or its place is used again
        return p

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda p: p):
        ms.Loss(recipe, measure=False)(net, x, generator=ms.key(0))
    return sum(held.values())


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "rms": True, "head": True}], ids=["plain", "rms"])
def test_a_carried_tangent_keeps_nothing_for_the_backward_pass(options: dict[str, Any]):
    """A MeanFlow step holds what a flow-matching step on the same rows does."""
    net, x = built(lambda: DiT(8, 2, 2, 32, 2, 2, **options), torch.float32), torch.randn(8, 2, 8, 8, generator=ms.key(1))
    matching, meanflow = saved(net, x, recipes.flow_matching()), saved(net, x, recipes.meanflow(diagonal_share=0.0))
    assert abs(meanflow - matching) < 0.03 * matching


# Norms over the channels of tokens ---------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """A picture's pixels as tokens; around attention a group norm of their channels, transposed there and back."""

    def __init__(self, form: str, place: str, checkpointed: bool) -> None:
        super().__init__()
        self.form, self.place, self.checkpointed = form, place, checkpointed
        self.into, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.norm, self.qkv, self.attention = nn.GroupNorm(2, 8), nn.Linear(8, 24), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        times = torch.stack([r, t], -1)[:, :, None, None].expand(-1, -1, *z.shape[2:])
        h = self.into(torch.cat([z, times], 1))
        tokens = h.flatten(2).transpose(1, 2)
        body = checkpoint(self.body, tokens, use_reentrant=False) if self.checkpointed else self.body(tokens)
        return self.out(body.transpose(1, 2).reshape(h.shape))

    def body(self, h: Tensor) -> Tensor:
        if self.place == "before":
            return h + self.attended(self.normed(h))
        return self.normed(h + self.attended(h)) if self.place == "after" else h + self.normed(self.attended(h))

    def normed(self, h: Tensor) -> Tensor:
        return self.norm(h.transpose(1, 2)).transpose(1, 2)

    def attended(self, h: Tensor) -> Tensor:
        if self.form != "function":
            return self.attention(h, h, h, need_weights=self.form == "module with weights")[0]
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(h).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("form", ["module", "module with weights", "function"])
def test_a_group_norm_of_attentions_tokens_has_a_way(form: str):
    """`carried` does not take a checkpoint around the module with weights; the automatic way then takes another."""
    torch.manual_seed(0)
    x = torch.randn(4, 1, 3, 3).contiguous(memory_format=torch.channels_last)
    for place, checkpointed, training in itertools.product(("before", "after", "inside"), (False, True), (False, True)):
        net = Tokens(form, place, checkpointed).to(memory_format=torch.channels_last).train(training)
        found = []
        for way in (automatic, separate):
            out = ms.Loss(ms.recipes.meanflow(rate=ms.rates.Exact(way=way)))(net, x, generator=ms.key(0))
            found.append((out.loss.detach(), *torch.autograd.grad(out.loss, (net.into.weight, net.norm.weight, net.out.weight))))
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


# Trials ------------------------------------------------------------------------------------------------------------------------------


class Held(nn.Module):
    """A network whose graph keeps a buffer, and that counts its passes in another, behind autograd's back."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.norm = ms.MLP(2, 8, 1, generator=ms.key(0)), nn.BatchNorm1d(2)
        self.register_buffer("scale", torch.full((2,), 3.0))
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        self.passes.data.add_(1)
        return self.norm(self.net(z, r, t) * self.scale)


def test_a_trial_leaves_the_buffers_of_an_earlier_graph_alone():
    net, x, loss = Held().eval(), torch.randn(8, 2, generator=ms.key(1)), ms.Loss(recipes.meanflow())
    first = loss(net, x).loss
    assert net.passes == 1  # of the step itself
    (first + loss(net, x).loss).backward()
    assert all(p.grad is not None for p in net.parameters())


class Low(nn.Module):
    """Of bfloat16 weights, with dropout that forward mode draws in another order: differences decide."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.drop = nn.Linear(4, 2).bfloat16(), nn.Dropout(0.3)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.into(self.drop(torch.cat([z, torch.stack([r, t], -1)], -1).mT).mT).float()


def test_a_trial_of_low_weights_keeps_autocast():
    with torch.random.fork_rng(), torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(0)
        assert ms.Loss(recipes.meanflow())(Low(), torch.randn(16, 2)).loss.isfinite()
