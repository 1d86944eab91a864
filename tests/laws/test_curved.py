"""Values and tangents that are made together, with the gradient of both: against torch's own derivatives of the plain functions."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from meanstep.modulation import gated, modulate
from meanstep.tangents import Dual
from meanstep.tangents.curved import Gelu, along_gelu
from meanstep.tangents.dual import PAIRS, Unsupported

B, N, C = 5, 3, 4
CASES: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "gelu": (F.gelu, ((B, N, C),)),
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), ((B, N, C),)),
    "layer norm": (lambda x: F.layer_norm(x, (C,), eps=1e-6), ((B, N, C),)),
    "modulate": (modulate, ((B, N, C), (B, C), (B, C))),
    "modulate, one token": (modulate, ((B, 1, C), (B, C), (B, C))),
    "gated": (gated, ((B, N, C), (B, C), (B, N, C))),
    "attention": (F.scaled_dot_product_attention, ((B, 2, N, C),) * 3),
    "causal attention": (partial(F.scaled_dot_product_attention, is_causal=True), ((B, 2, N, C),) * 3),
}


def plain_attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
    """Torch's has no forward derivative."""
    scores = q @ k.mT * C**-0.5
    return (scores.masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf) if is_causal else scores).softmax(-1) @ v


def plain_norm(x: Tensor) -> Tensor:
    """Torch's forward derivative of its LayerNorm has a wrong gradient."""
    return (x - x.mean(-1, keepdim=True)) * (x.var(-1, correction=0, keepdim=True) + 1e-6).rsqrt()


SAME = {"layer norm": plain_norm, "attention": plain_attention, "causal attention": partial(plain_attention, is_causal=True)}


@pytest.mark.parametrize("entries", [8, 2**15])
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("read", ["both", "value", "tangent"])
def test_values_tangents_and_gradients_are_torchs(name: str, read: str, entries: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("meanstep.tangents.curved.ENTRIES", entries)
    f, shapes = CASES[name]
    given = torch.Generator().manual_seed(0)
    parts = [torch.randn(shape, generator=given, dtype=torch.float64).requires_grad_() for shape in shapes * 2]
    x, d = parts[: len(shapes)], parts[len(shapes) :]
    called = []
    for key, pair in PAIRS.items():
        monkeypatch.setitem(PAIRS, key, lambda *a, pair=pair, **k: called.append(found := pair(*a, **k)) or found)
    made = f(*(Dual(p, e, -p.ndim, True, recorded=True) for p, e in zip(x, d, strict=True)))
    assert [type(found) for found in called] == [Dual]  # the pair was used
    value, slope = torch.func.jvp(SAME.get(name, f), tuple(x), tuple(d))
    torch.testing.assert_close((made.primal, made.tangent), (value, slope), rtol=1e-12, atol=1e-12)
    weights = torch.randn(2, *value.shape, generator=given, dtype=torch.float64) * torch.tensor([read != "tangent", read != "value"]).view(
        2, *(1,) * value.ndim
    )
    ours = (made.primal, made.tangent) if read == "both" else (made.primal,) if read == "value" else (made.tangent,)
    which = {"both": [0, 1], "value": [0], "tangent": [1]}[read]
    mine = torch.autograd.grad(ours, parts, tuple(weights[which]), materialize_grads=True)
    theirs = torch.autograd.grad((value, slope), parts, tuple(weights), materialize_grads=True)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_mask_that_learns_is_refused_rather_than_left_without_its_gradient():
    x = Dual(torch.randn(B, 2, N, C), torch.randn(B, 2, N, C), -4, True, recorded=True)
    with pytest.raises(Unsupported, match="a mask that learns"):
        F.scaled_dot_product_attention(x, x, x, torch.zeros(N, N, requires_grad=True))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_half_precision_computes_in_float32(approximate: str):
    x, d = torch.linspace(-4, 4, 65).bfloat16(), torch.ones(65).bfloat16()
    y, dy = Gelu.apply(x, d, approximate)
    exact = F.gelu(x.double(), approximate=approximate)
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-6)
    assert y.dtype == dy.dtype == torch.bfloat16


@pytest.mark.parametrize("moving", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("name", ["modulate", "gated"])
def test_some_rows_and_some_arguments_have_tangents(name: str, moving: tuple[int, ...]):
    f, shapes = CASES[name]
    given = torch.Generator().manual_seed(1)
    x = [torch.randn(shape, generator=given, dtype=torch.float64) for shape in shapes]
    d = [torch.randn(2, *shape[1:], generator=given, dtype=torch.float64) for shape in shapes]
    made = f(*(Dual(p, e, -p.ndim, True) if k in moving else p for k, (p, e) in enumerate(zip(x, d, strict=True))))
    zero = tuple(e if k in moving else torch.zeros_like(e) for k, e in enumerate(d))
    slope = torch.func.jvp(f, tuple(p[:2] for p in x), zero)[1]
    torch.testing.assert_close((made.primal, made.tangent), (f(*x), slope), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "f", [partial(F.gelu, approximate="tanh"), partial(F.layer_norm, normalized_shape=(C,))], ids=["gelu", "layer norm"]
)
def test_tangents_without_a_graph_go_through_torchs_transforms(f: Callable[..., Tensor], dtype: torch.dtype):
    """Row by row under vmap, and differentiated once more by forward mode."""
    given = torch.Generator().manual_seed(2)
    x, d = (torch.randn(B, N, C, generator=given, dtype=dtype) for _ in range(2))

    def tangent(x: Tensor, d: Tensor) -> Tensor:
        return f(Dual(x[None], d[None], -x.ndim - 1, torch.is_grad_enabled())).tangent[0]

    def slope(x: Tensor, d: Tensor) -> Tensor:
        return torch.func.jvp(f, (x,), (d,))[1]

    torch.testing.assert_close(torch.func.vmap(tangent)(x, d), slope(x, d))
    torch.testing.assert_close(torch.func.vmap(tangent, (None, 0))(x[0], d), slope(x[0].expand_as(d).clone(), d))
    if f.func is F.gelu:  # torch has no forward derivative of the norm's backward kernel
        ours, theirs = (torch.func.jvp(partial(g, d=d), (x,), (d,)) for g in (tangent, slope))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("rows", [0, 2, B])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "f", [partial(F.gelu, approximate="tanh"), partial(F.layer_norm, normalized_shape=(C,))], ids=["gelu", "layer norm"]
)
def test_tangents_without_a_graph_of_some_rows_are_forward_modes(
    f: Callable[..., Tensor], dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
):
    """In tiles that do not divide the rows, of columns that do not lie together."""
    monkeypatch.setattr("meanstep.tangents.curved.ENTRIES", 7)
    given = torch.Generator().manual_seed(3)
    x = 3 * torch.randn(C, B, N, generator=given, dtype=dtype).permute(1, 2, 0)
    d = torch.randn(C, rows, N, generator=given, dtype=dtype).permute(1, 2, 0)
    made = f(Dual(x, d, -3, True))
    torch.testing.assert_close(made.primal, f(x))
    wanted = torch.func.jvp(f, (x[:rows].contiguous(),), (d.contiguous(),))[1] if rows else d
    torch.testing.assert_close(made.tangent, wanted)


def test_a_gelu_copies_no_number_from_the_host(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "tensor", None)
    x, d = torch.empty(2, B, C, device="meta")
    assert Gelu.apply(x, d, "tanh")[1].shape == along_gelu(d, x).shape == (B, C)
