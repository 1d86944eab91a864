"""Flow-matching networks with a gap: unchanged at the start, the network at r = t for good, exact tangents, copies, files, compile."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import meanstep as ms
from meanstep.fields import Gapped, with_gap
from meanstep.program.runs.restored import put

B = 6


class Points(nn.Module):
    """`v(z, t)` of points: a perceptron of `(z, t)`."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.body(torch.cat([z, t[:, None]], -1))


class Pictures(nn.Module):
    """`v(z, t, y)` of pictures: two convolutions, an embedding of time and label between."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 8))
        self.label = nn.Embedding(3, 8)
        self.stem, self.out = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        c = self.time(t[:, None]) + (0 if y is None else self.label(y))
        return self.out(nn.functional.silu(self.stem(z) + c[..., None, None]))


class Tokens(nn.Module):
    """`v(z, t)` of sequences: a linear layer over `[B, L, D]`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.out(torch.tanh(self.stem(z) + t[:, None, None]))


def sample_of(out: Any) -> Tensor:
    """What diffusers wraps the result in."""
    found: Tensor = out.sample
    return found


def unet() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    small = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    found: nn.Module = diffusers.UNet2DModel(sample_size=4, in_channels=1, out_channels=1, num_class_embeds=3, **small, **blocks)
    return found


UNET = {"order": ("z", "t"), "names": {"class_labels": "y"}, "output": sample_of, "scale": 1000.0}
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool, dict[str, Any]]] = {
    "points": (Points, (2,), False, {}),
    "points, second layer": (Points, (2,), False, {"layer": "body.2"}),
    "tokens": (Tokens, (5, 3), False, {}),
    "pictures": (Pictures, (1, 4, 4), True, {"layer": "time"}),
    "pictures, convolution": (Pictures, (1, 4, 4), True, {"layer": "stem"}),
    "reversed": (Points, (2,), False, {"reverse": True, "scale": 2.0}),
    "unet": (unet, (1, 4, 4), True, {**UNET, "layer": "time_embedding"}),
    "unet, first layer": (unet, (1, 4, 4), True, UNET),
}


def made(name: str) -> tuple[nn.Module, Gapped, Tensor, Tensor, Tensor, Any]:
    """Network, field, and rows `z, r, t, y` in float64."""
    build, shape, labelled, given = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build().double()
        field = with_gap(net, **given, generator=ms.key(3))
    z = torch.randn(B, *shape, generator=ms.key(1), dtype=torch.float64)
    r, t = torch.rand(2, B, generator=ms.key(2), dtype=torch.float64).sort(0).values
    return net, field, z, r, t, torch.arange(B) % 3 if labelled else None


def plain(name: str, net: nn.Module, z: Tensor, t: Tensor, y: Any) -> Tensor:
    """The network called by hand."""
    if name.startswith("unet"):
        found: Tensor = net(z, 1000 * t, class_labels=y).sample
        return found
    return -net(z, 2 * (1 - t)) if name == "reversed" else net(z, t) if y is None else net(z, t, y)


def trained(field: Gapped) -> Gapped:
    """With an embedding that is no longer 0."""
    with torch.no_grad():
        field.gap.last.normal_(0, 1, generator=ms.key(4))
    return field


@pytest.mark.parametrize("name", CASES)
def test_it_starts_as_the_network_for_every_r_and_stays_it_at_r_equals_t(name: str):
    net, field, z, r, t, y = made(name)
    expected = plain(name, net, z, t, y)
    for start in (r, t, 0 * t):
        assert torch.equal(field(z, start, t, y), expected)
    trained(field)
    assert torch.equal(field(z, t, t, y), expected)
    assert float((field(z, 0 * t, t, y) - expected).detach().abs().max()) > 1e-3
    assert torch.equal(plain(name, net, z, t, y), expected), "called alone it is what it was"


@pytest.mark.parametrize("name", CASES)
def test_the_first_step_reaches_the_embedding_and_the_network(name: str):
    net, field, z, r, t, y = made(name)
    field(z, r, t, y).square().sum().backward()
    assert float(field.gap.last.grad.abs().max()) > 0 and all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", CASES)
def test_the_derivative_in_the_loss_is_torchs_and_a_central_difference(name: str):
    """Along the path, in float64. diffusers' UNet has its time in float32, whose rounding a difference shows, and no torch.func.jvp."""
    _, field, z, r, t, y = made(name)
    trained(field)
    w, h = torch.randn(z.shape, generator=ms.key(5), dtype=z.dtype), 1e-4 if name.startswith("unet") else 1e-5
    found = ms.objectives.Eulerian()(field, ms.Bridge(z, w, r, t, y))
    with torch.no_grad():
        u = field(z, r, t, y)
        slope = (field(z + h * w, r, t + h, y) - field(z - h * w, r, t - h, y)) / (2 * h)
    gap = (t - r).reshape(-1, *(1,) * (z.ndim - 1))
    residual = (found.prediction - found.target).detach()
    expected = u + gap * slope - w
    if name.startswith("unet"):
        assert float((residual - expected).norm() / (gap * slope).norm()) < 5e-3
    else:
        torch.testing.assert_close(residual, expected, rtol=1e-5, atol=1e-6)
        v, du = torch.func.jvp(lambda z, r, t: field(z, r, t, y), (z, r, t), (w, 0 * r, torch.ones_like(t)))
        torch.testing.assert_close(residual, (v + gap * du - w).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["points", "pictures", "unet"])
def test_copies_pickles_and_files_are_the_same_field_and_share_nothing(name: str):
    _, field, z, r, t, y = made(name)
    trained(field)
    expected = field(z, r, t, y)
    box = io.BytesIO()
    torch.save(field, box)
    box.seek(0)
    copies = [copy.deepcopy(field), torch.load(box, weights_only=False)] if "unet" not in name else [copy.deepcopy(field)]
    _, other, *_ = made(name)
    other.load_state_dict(field.state_dict())
    for made_again in (*copies, other, ms.Average(field, 0.5).module):  # an average's weights have no gradient: other kernels
        torch.testing.assert_close(made_again(z, r, t, y), expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        field.gap.last.zero_()
    for found in copies:
        torch.testing.assert_close(found(z, r, t, y), expected, rtol=1e-12, atol=1e-12)
    assert float((field(z, r, t, y) - expected).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", [pytest.param("points", marks=pytest.mark.slow), "pictures"])
def test_it_compiles_whole(name: str):
    _, field, z, r, t, y = made(name)
    trained(field)
    compiled = torch.compile(field, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, r, t, y), field(z, r, t, y))
    torch.testing.assert_close(compiled(z, 0 * r, t, y), field(z, 0 * r, t, y))
    torch._dynamo.reset()


def test_half_precision_of_the_layer_is_kept():
    _, field, z, r, t, _ = made("points")
    trained(field).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert field(z.float(), r.float(), t.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("before", ["model.", "model.module.", "_orig_mod."])
def test_a_checkpoint_of_lightning_or_ddp_is_loaded_before_the_gap_is_added(before: str, tmp_path: Path):
    net, field, z, r, t, _ = made("points")
    torch.save({"state_dict": {f"{before}{k}": v for k, v in net.state_dict().items()}}, tmp_path / "last.ckpt")
    fresh = Points().double()
    put(fresh, torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"], tmp_path / "last.ckpt")
    assert torch.equal(with_gap(fresh)(z, r, t), field(z, r, t))


def test_a_training_step_of_the_loss_lowers_it():
    _, field, *_ = made("points")
    loss, x = ms.Loss(ms.recipes.meanflow(weight=ms.weights.constant)), torch.randn(64, 2, generator=ms.key(7), dtype=torch.float64)
    optimiser = torch.optim.Adam(field.parameters(), 1e-2)
    seen = []
    for _ in range(60):
        optimiser.zero_grad()
        out = loss(field, x, generator=ms.key(8))
        out.loss.backward()
        optimiser.step()
        seen.append(float(out.loss.detach()))
    assert seen[-1] < 0.9 * seen[0] and float(field.gap.last.detach().abs().max()) > 0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: with_gap(Points(), "head"), "has no layer 'head'; it has body, body.0"),
        (lambda: with_gap(Points(), "body.1"), "holds no linear layer"),
        (lambda: with_gap(nn.Identity()), "no linear layer and no convolution"),
        (lambda: with_gap(Points(), order=("z", "r")), "one of z, t, y, got 'r'"),
        (lambda: with_gap(Points(), scale=0), "scale is"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], Any], told: str):
    with pytest.raises(ValueError, match=told):
        call()


def test_a_layer_that_is_not_called_is_named():
    class Idle(Points):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Linear(2, 2)

    z, t = torch.zeros(3, 2), torch.ones(3)
    with pytest.raises(RuntimeError, match="does not call its layer 'aside'"):
        with_gap(Idle(), "aside")(z, t, t)
    with pytest.raises(TypeError, match="torch module"):
        with_gap(lambda z, t: z)  # type: ignore[arg-type]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_that_is_computed_again_in_the_backward_pass_is_an_error(reentrant: bool):
    class Again(Points):
        def forward(self, z: Tensor, t: Tensor) -> Tensor:
            given = torch.cat([z, t[:, None]], -1).requires_grad_()
            return checkpoint(self.body, given, use_reentrant=reentrant)

    net = Again()
    field, z, t = with_gap(net), torch.ones(3, 2), torch.ones(3)
    loss = field(z, t / 2, t).square().sum()
    with pytest.raises(RuntimeError, match="the Linear that the gap enters is computed again in the backward pass"):
        loss.backward()
    net(z, t).sum().backward()  # the network by itself has no gap to lose
