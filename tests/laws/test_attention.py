"""Attention with a tangent against the plain formula in float64, forward mode through math attention, and PyTorch's own attention."""

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanstep import attention
from meanstep.attention import attention_with_tangent, backward, chunked, derivative

SCRIPTS = Path(__file__).parents[1] / "triton"
DOUBLE = torch.float64

with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (kernels extra)")


def plain(q, k, v, dq, dk, dv, mask=None, causal=False, scale=None):
    """Eq. (42) with every matrix in memory, in float64."""
    q, k, v, dq, dk, dv = (x.double() for x in (q, k, v, dq, dk, dv))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    s, ds = scale * q @ k.mT, scale * (dq @ k.mT + q @ dk.mT)
    if mask is not None:
        s = s.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else s + mask
    if causal:
        s = s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).triu(1), -torch.inf)
    p = s.softmax(-1).nan_to_num(0)
    o = p @ v
    return o, p @ dv + (p * ds) @ v - (p * ds).sum(-1, keepdim=True) * o


def drawn(batch: Sequence[int], n: int, m: int, d: int, dv: int | None = None, dtype: torch.dtype = DOUBLE, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, d), (m, d), (m, dv or d)] * 2
    return [torch.randn(*batch, *shape, generator=generator, dtype=DOUBLE).to(dtype) for shape in shapes]


def masks(n: int, m: int) -> dict[str, Tensor]:
    """For scores `[2, 3, n, m]`. Rows without a key: some of `holes`, `added` and `lowest`, all keys of one sample of `padding`."""
    keep = torch.rand(3, n, m, generator=torch.Generator().manual_seed(1)) > 0.5
    keep[:, 0] = False
    padding = torch.arange(m) < torch.tensor([0, (m + 1) // 2])[:, None, None, None]
    added = torch.randn(n, m, generator=torch.Generator().manual_seed(2)).masked_fill(~keep[0], -torch.inf)
    lowest = torch.zeros(2, 1, n, m).masked_fill(~keep[0], torch.finfo(torch.float32).min)
    return {"holes": keep, "padding": padding, "row": keep[0, -1], "added": added, "lowest": lowest}


def errors(found: Sequence[Tensor], expected: Sequence[Tensor]) -> list[float]:
    """Largest error of `o` and `do` relative to the largest entry, or to 1."""
    assert all(a.isfinite().all() for a in found)
    return [((a.double() - e).abs().max() / e.abs().max().clamp(min=1)).item() for a, e in zip(found, expected, strict=True)]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch):
    """Tiles of 16 keys and 4 queries, so that short sequences pass through many."""
    monkeypatch.setattr(chunked, "KEYS", 16)
    monkeypatch.setattr(chunked, "SCORES", 64)


# --- the formula


@pytest.mark.parametrize("d", [8, 16, 40, 64, 72, 80, 128])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (17, 17), (64, 64), (130, 130), (17, 130), (64, 1)])
def test_it_is_the_formula(d: int, n: int, m: int):
    inputs = drawn((2, 3), n, m, d)
    assert max(errors(attention_with_tangent(*inputs), plain(*inputs))) < 1e-12


def test_it_is_the_formula_over_many_blocks_of_keys():
    inputs = drawn((2,), 70, 3 * chunked.KEYS + 5, 8, 24)
    assert max(errors(attention_with_tangent(*inputs), plain(*inputs))) < 1e-12


@pytest.mark.parametrize("mask", [None, "holes", "padding", "row", "added", "lowest"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "m"), [(50, 50), (33, 70), (70, 33)])
@pytest.mark.usefixtures("small_tiles")
def test_it_is_the_formula_under_masks_whatever_the_tiles(n: int, m: int, causal: bool, mask: str | None):
    inputs, given = drawn((2, 3), n, m, 8, 5), mask and masks(n, m)[mask]
    found = attention_with_tangent(*inputs, given, causal=causal, scale=0.7)
    assert max(errors(found, plain(*inputs, given, causal, 0.7))) < 1e-12


@pytest.mark.parametrize("case", [{}, {"is_causal": True}, {"scale": -0.3}, {"attn_mask": "holes"}, {"attn_mask": "added"}])
def test_it_is_forward_mode_through_math_attention(case: dict):
    if "attn_mask" in case:
        mask = masks(40, 40)[case["attn_mask"]][..., 1:, :]  # the first row sees no key: forward mode gives NaN there
        case = {"attn_mask": mask if mask.dtype == torch.bool else mask.double()}
    inputs = drawn((2, 3), 39 if "attn_mask" in case else 40, 40, 16)
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.func.jvp(lambda *x: F.scaled_dot_product_attention(*x, **case), tuple(inputs[:3]), tuple(inputs[3:]))
    given = {"mask": case.get("attn_mask"), "causal": case.get("is_causal", False), "scale": case.get("scale")}
    assert max(errors(attention_with_tangent(*inputs, **given), expected)) < 1e-12


@pytest.mark.parametrize("mask", ["holes", "padding", "added", "lowest"])
def test_rows_without_a_key_are_as_pytorch_has_them(mask: str):
    inputs = drawn((2, 3), 20, 30, 8, dtype=torch.float32)
    given = masks(20, 30)[mask]
    o, do = attention_with_tangent(*inputs, given)
    torch.testing.assert_close(o, F.scaled_dot_product_attention(*inputs[:3], attn_mask=given), rtol=1e-5, atol=1e-6)
    blind = (~given if given.dtype == torch.bool else given == -torch.inf).all(-1).expand(2, 3, 20)
    assert blind.any() == (mask != "lowest")
    assert (o[blind] == 0).all() and (do[blind] == 0).all()


def test_large_scores_do_not_overflow():
    inputs = drawn((2,), 30, 40, 8, dtype=torch.float32)
    inputs[0] *= 1e4
    for scale in (1.0, -1.0):
        o, _ = attention_with_tangent(*inputs, scale=scale)
        torch.testing.assert_close(o, plain(*inputs, scale=scale)[0].float(), rtol=1e-4, atol=1e-4)


# --- the derivative alone


@pytest.mark.parametrize("scores", [chunked.SCORES, 16 * 20 * 30, 4])
@pytest.mark.parametrize("batch", [(), (3,), (5, 2), (2, 1, 3)])
def test_the_derivative_alone_is_the_formulas(batch: tuple[int, ...], scores: int, monkeypatch: pytest.MonkeyPatch):
    """All heads at once, head by head, and in parts of a head's rows."""
    monkeypatch.setattr(chunked, "SCORES", scores)
    inputs = drawn(batch, 20, 30, 8, 5)
    found = chunked.derivative(*inputs, scale=0.7)
    assert found.shape == (*batch, 20, 5)
    assert errors([found], [plain(*inputs, scale=0.7)[1]])[0] < 1e-12
    assert max(errors(chunked.together(*inputs, scale=0.7), plain(*inputs, scale=0.7))) < 1e-12


@pytest.mark.parametrize("layout", ["heads last", "columns first", "packed"])
def test_the_derivative_alone_takes_any_layout(layout: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chunked, "SCORES", 4)
    inputs = drawn((2, 3), 20, 20, 8)
    torch.testing.assert_close(chunked.derivative(*placed(inputs, layout), 0.3), plain(*inputs, scale=0.3)[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("m", "mask", "causal"), [(40, None, False), (40, "holes", False), (40, None, True), (600, None, False)])
def test_the_rule_of_attention_has_the_formulas_derivative(m: int, mask: str | None, causal: bool):
    """With many keys, a mask or an order it takes the tiles."""
    inputs, given = drawn((2, 3), 40, m, 8), mask and masks(40, m)[mask]
    found = derivative(*inputs, given, causal, 0.7)
    assert errors([found], [plain(*inputs, given, causal, 0.7)[1]])[0] < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_derivative_alone_errs_by_its_own_rounding(dtype: torch.dtype):
    inputs = drawn((2, 3), 64, 200, 72, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = chunked.derivative(*inputs, scale=72**-0.5)
    assert found.dtype == dtype
    assert errors([found], [plain(*inputs)[1]])[0] < torch.finfo(dtype).eps * (20 if dtype == torch.float32 else 0.6)


# --- with the gradient of both


def opened(mask: Tensor | None, causal: bool, n: int, m: int) -> tuple[Tensor, Tensor]:
    """A mask under which a query that sees no key sees all of them, and which queries these are."""
    boolean = mask is not None and mask.dtype == torch.bool
    keep = torch.ones(n, m, dtype=torch.bool).tril(0 if causal else m)
    keep = keep if mask is None else keep & (mask if boolean else mask > -torch.inf)
    blind = ~keep.any(-1, keepdim=True)
    added = torch.zeros(n, m, dtype=DOUBLE) if mask is None or boolean else mask.double()
    return added.masked_fill(~keep, -torch.inf).masked_fill(blind, 0), blind


@pytest.mark.parametrize("scores", [chunked.SCORES, 16 * 20 * 30, 100, 4])
@pytest.mark.parametrize("mask", [None, "holes", "padding", "row", "added", "lowest"])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_through_both_are_torchs_and_none_of_queries_without_a_key(
    causal: bool, mask: str | None, scores: int, monkeypatch: pytest.MonkeyPatch
):
    """Torch's own derivative has NaN for a query that sees no key: there it gets all of them, and its result is put to zero."""
    monkeypatch.setattr(backward, "SCORES", scores)
    n, m = 20, 30
    inputs = [x.requires_grad_() for x in drawn((2, 3), n, m, 8, 5)]
    given = mask and masks(n, m)[mask]
    shown, blind = opened(given, causal, n, m)
    made = backward.Together.apply(*inputs, given, causal, 0.7)
    with sdpa_kernel(SDPBackend.MATH):
        pair = torch.func.jvp(lambda *x: F.scaled_dot_product_attention(*x, shown, scale=0.7), tuple(inputs[:3]), tuple(inputs[3:]))
    wanted = [x.masked_fill(blind, 0) for x in pair]
    torch.testing.assert_close(list(made), wanted, rtol=1e-12, atol=1e-12)
    weights = torch.randn(2, *made[0].shape, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    for read in ([0], [1], [0, 1]):
        mine, theirs = (
            torch.autograd.grad([outs[k] for k in read], inputs, [weights[k] for k in read], retain_graph=True, materialize_grads=True)
            for outs in (made, wanted)
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (1, 1)])
def test_no_queries_no_keys_and_one_of_each_have_gradients(n: int, m: int):
    inputs = [x.requires_grad_() for x in drawn((2, 3), n, m, 8, 5)]
    o, do = backward.Together.apply(*inputs, None, False, 0.7)
    assert o.shape == do.shape == (2, 3, n, 5)
    found = torch.autograd.grad([o.sum(), do.sum()], inputs)
    wanted = [1.0 if (n, m) == (1, 1) and k in (2, 5) else 0.0 for k in range(6)]  # with one key all weights are 1
    assert all(torch.allclose(g, torch.full_like(g, w), atol=1e-12) for g, w in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_through_both_keep_their_type_and_err_by_its_rounding(dtype: torch.dtype):
    inputs = [x.requires_grad_() for x in drawn((2, 3), 20, 30, 8, dtype=dtype)]
    full = [x.detach().double().requires_grad_() for x in inputs]
    mine, exact = (
        torch.autograd.grad([x.double().sin().sum() for x in backward.Together.apply(*p, None, False, 0.35)], p) for p in (inputs, full)
    )
    assert all(g.dtype == dtype for g in mine)
    assert all((a.double() - b).norm() < 4 * torch.finfo(dtype).eps * b.norm() for a, b in zip(mine, exact, strict=True))


# --- memory layouts, dtypes, sizes


def placed(inputs: list[Tensor], layout: str) -> list[Tensor]:
    """The same values of inputs `[2, 3, N, D]` otherwise placed in memory."""
    if layout == "columns first":
        return [x.mT.contiguous().mT for x in inputs]
    if layout == "heads last":
        return [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    return [x.transpose(1, 2) for x in torch.stack([x.transpose(1, 2) for x in inputs], 2).unbind(2)]


@pytest.mark.parametrize("layout", ["heads last", "columns first", "packed"])
@pytest.mark.usefixtures("small_tiles")
def test_any_layout_gives_the_same(layout: str):
    inputs = drawn((2, 3), 20, 20, 8)
    others = placed(inputs, layout)
    assert not any(x.is_contiguous() for x in others)
    for a, b in zip(attention_with_tangent(*others), attention_with_tangent(*inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_expanded_inputs_give_the_same():
    inputs = [x.expand(2, 3, -1, -1) for x in drawn((1, 3), 20, 20, 8)]
    inputs[3] = inputs[3][..., :1, :1].expand(2, 3, 20, 8)
    assert max(errors(attention_with_tangent(*inputs), plain(*inputs))) < 1e-12


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (2, 1, 3), (2, 3, 1, 2)])
@pytest.mark.usefixtures("small_tiles")
def test_any_batch(batch: tuple[int, ...]):
    inputs, mask = drawn(batch, 9, 20, 4), masks(9, 20)["holes"][0]
    assert max(errors(attention_with_tangent(*inputs, mask), plain(*inputs, mask))) < 1e-12


@pytest.mark.parametrize(("batch", "n", "m"), [((2, 0), 3, 4), ((2,), 0, 4), ((2,), 3, 0), ((), 0, 0)])
def test_nothing_to_attend_to(batch: tuple[int, ...], n: int, m: int):
    inputs = drawn(batch, n, m, 4, 6)
    for x in attention_with_tangent(*inputs, causal=True):
        assert x.shape == (*batch, n, 6) and (x == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", [None, "holes", "added"])
def test_each_dtype_errs_by_its_own_rounding(dtype: torch.dtype, mask: str | None):
    """Half precision sums in float32, so only the result is rounded."""
    inputs, given = drawn((2, 3), 64, 300, 72, dtype=dtype), mask and masks(64, 300)[mask]
    found = attention_with_tangent(*inputs, given)
    assert all(x.dtype == dtype for x in found)
    assert max(errors(found, plain(*inputs, given))) < torch.finfo(dtype).eps * (20 if dtype == torch.float32 else 0.6)


def test_autocast_decides_the_dtype_as_for_pytorchs_attention():
    inputs = drawn((2, 3), 20, 20, 8, dtype=torch.float32)
    mixed = [x.bfloat16() if k % 2 else x for k, x in enumerate(inputs)]
    with torch.autocast("cpu", torch.bfloat16):
        found, theirs = attention_with_tangent(*mixed), F.scaled_dot_product_attention(*inputs[:3])
        exact = attention_with_tangent(*drawn((2,), 4, 4, 4))
    assert found[0].dtype == found[1].dtype == theirs.dtype == torch.bfloat16 and exact[0].dtype == DOUBLE
    expected = attention_with_tangent(*(x.bfloat16() for x in inputs))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


# --- the operator


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_keeps_the_graph_whole(dynamic: bool):
    torch._dynamo.reset()

    def f(*inputs: Tensor) -> Tensor:
        o, do = attention_with_tangent(*(2 * x for x in inputs[:6]), *inputs[6:], causal=True)
        return o + do

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (7, 12):
        inputs = drawn((2, 3), n, n + 3, 8)
        for given in (inputs, [*inputs, masks(n, n + 3)["holes"]]):
            torch.testing.assert_close(compiled(*given), f(*given), rtol=0, atol=0)


@pytest.mark.parametrize("mask", [None, "holes", "added"])
def test_the_operator_is_registered_in_full(mask: str | None):
    inputs = placed(drawn((2, 3), 10, 10, 8), "packed")
    torch.library.opcheck(attention.operator, (*inputs, mask and masks(10, 10)[mask], True, 0.5))


def test_what_would_need_a_derivative_is_refused():
    inputs = drawn((2,), 5, 5, 4)
    inputs[4].requires_grad_()
    with pytest.raises(RuntimeError, match=r"no gradient and dk requires one: detach it or call under torch.no_grad\(\)"):
        attention_with_tangent(*inputs)
    with torch.no_grad():
        assert not attention_with_tangent(*inputs)[0].requires_grad
    inputs[4].requires_grad_(False)
    mask = torch.zeros(5, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match="mask requires one"):
        attention_with_tangent(*inputs, mask)
    with pytest.raises(RuntimeError, match="v carries a tangent"):
        torch.func.jvp(lambda v: attention_with_tangent(*inputs[:2], v, *inputs[3:])[0], (inputs[2],), (inputs[5],))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": torch.zeros(2, 5, 3)}, ValueError, r"expected q .* got \(2, 5, 3\), \(2, 6, 4\) and \(2, 6, 4\)"),
        ({"k": torch.zeros(2, 7, 4)}, ValueError, r"got \(2, 5, 4\), \(2, 7, 4\) and"),
        ({"v": torch.zeros(6, 4)}, ValueError, r"and \(6, 4\)"),
        ({"dv": torch.zeros(2, 6, 5)}, ValueError, r"the tangent dv must have the shape of v, \(2, 6, 4\), got \(2, 6, 5\)"),
        ({"dk": torch.zeros(2, 6, 4, dtype=DOUBLE)}, TypeError, r"dk must have the dtype of q, torch.float32, got torch.float64"),
        ({"q": torch.zeros(2, 5, 4, dtype=torch.int64)}, TypeError, "q must be float16, .* got torch.int64"),
        ({"v": torch.zeros(2, 6, 4, device="meta")}, ValueError, "v must be on the device of q, cpu, got meta"),
        ({"mask": torch.zeros(4, 6)}, ValueError, r"mask must broadcast to the scores \[\*B, N, M\], \(2, 5, 6\), got \(4, 6\)"),
        ({"mask": torch.zeros(1, 2, 5, 6)}, ValueError, r"got \(1, 2, 5, 6\)"),
        ({"mask": torch.zeros(5, 6, dtype=torch.int64)}, TypeError, "mask must be boolean, or floating point .* got torch.int64"),
        ({"mask": torch.zeros(5, 6, device="meta")}, ValueError, "mask must be on the device of q, cpu, got meta"),
    ],
)
def test_bad_input_is_named(change: dict[str, Tensor], error: type[Exception], message: str):
    names = ("q", "k", "v", "dq", "dk", "dv")
    given = dict(zip(names, drawn((2,), 5, 6, 4, dtype=torch.float32), strict=True))
    with pytest.raises(error, match=message):
        attention_with_tangent(**given | change)


# --- the Triton kernel


def script(name: str, *args: object, **variables: str) -> str:
    """What the script prints, run in a process of its own."""
    command = [sys.executable, "-W", "error", SCRIPTS / name, *map(str, args)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **variables}, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def interpreted(cases: list[tuple], folder: Path) -> list[tuple[Tensor, Tensor]]:
    torch.save(cases, folder / "cases.pt")
    try:
        script("interpreted.py", folder / "cases.pt", folder / "results.pt", TRITON_INTERPRET="1")
    except AssertionError as error:  # of triton 3.6, that of torch 2.11: a loop to a bound that is a tensor
        if "only 0-dimensional arrays can be converted" in str(error):
            pytest.skip("this triton's interpreter does not know numpy 2.4: take a numpy below, or a newer triton")
        raise
    return torch.load(folder / "results.pt")


HALF, SINGLE, BRAIN = torch.float16, torch.float32, torch.bfloat16
SIZES = {
    HALF: [(64, 64, 64, 64), (20, 64, 128, 128), (33, 17, 72, 72)],
    SINGLE: [(1, 1, 8, 8), (17, 64, 16, 72), (33, 17, 72, 72)],
    BRAIN: [(17, 40, 40, 80), (33, 17, 72, 72)],
}
"""Head sizes of one part and of two, ragged lengths; the large ones only in float16, which is fast in the interpreter."""


def kernel_cases(dtype: torch.dtype) -> list[tuple]:
    """Layouts, masks and causal attention at each size."""
    cases = []
    for k, (n, m, d, dv) in enumerate(SIZES[dtype]):
        inputs = drawn((2, 3), n, m, d, dv, dtype, seed=k)
        cases.append((*inputs, None, False, d**-0.5))
        cases.append((*placed(inputs, "columns first"), masks(n, m)["added"], True, d**-0.5))
        cases.append((*placed(inputs, "heads last"), masks(n, m)["holes" if k % 2 else "padding"], False, -0.1))
    cases.append((*(x[:1].expand(2, 3, -1, -1) for x in inputs), masks(n, m)["lowest"], False, 0.2))
    cases.append((*(x[0, 0] for x in inputs), masks(n, m)["row"], True, 0.2))
    return cases


@with_triton
def test_the_kernel_is_the_formula(tmp_path: Path):
    """In half precision the weights are rounded before they meet the values."""
    cases = [(dtype, case) for dtype in SIZES for case in kernel_cases(dtype)]
    for (dtype, case), found in zip(cases, interpreted([case for _, case in cases], tmp_path), strict=True):
        bound, about = torch.finfo(dtype).eps * (20 if dtype == SINGLE else 2), f"{dtype}: {[tuple(x.shape) for x in case[:3]]}, {case[6:]}"
        assert all(x.dtype == dtype for x in found), about
        assert max(errors(found, plain(*case))) < bound, about


@pytest.mark.slow
@with_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("d", [8, 16, 40, 64, 72, 80, 128, 160, 256])
def test_the_kernel_is_the_formula_everywhere(d: int, dtype: torch.dtype, tmp_path: Path):
    if dtype == torch.float32 and d > 96:
        pytest.skip("the kernel takes float32 up to head size 96")
    lengths, kinds = [(17, 1), (64, 64), (130, 17), (1, 130)], (None, "holes", "padding", "added", "lowest")
    cases = [
        (*drawn((2, 3), n, m, d, dtype=dtype), kind and masks(n, m)[kind], causal, d**-0.5)
        for (n, m), kind, causal in itertools.product(lengths, kinds, (False, True))
    ]
    bound = torch.finfo(dtype).eps * (40 if dtype == torch.float32 else 2)
    for case, found in zip(cases, interpreted(cases, tmp_path), strict=True):
        assert max(errors(found, plain(*case))) < bound, f"{[tuple(x.shape) for x in case[:3]]}, {case[6:]}"


SHARED = {80: 163, 89: 99, 90: 227, 120: 99}  # KiB that a block may have, by compute capability


@with_triton
def test_the_kernel_compiles_for_a_device_that_is_not_here(tmp_path: Path):
    """At one setting; below at all."""
    found = script("compiled.py", 89, 72, "bfloat16", "masked", TRITON_CACHE_DIR=str(tmp_path))
    assert 0 < int(found) <= SHARED[89] * 1024


@pytest.mark.slow
@with_triton
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize(
    ("dtype", "head"), [("bfloat16", d) for d in (8, 40, 64, 72, 80, 96, 128, 160, 256)] + [("float32", d) for d in (8, 64, 72, 96)]
)
def test_the_kernel_fits_every_device(capability: int, head: int, dtype: str, tmp_path: Path):
    for masked in ([], ["masked"]):
        found = script("compiled.py", capability, head, dtype, *masked, TRITON_CACHE_DIR=str(tmp_path))
        assert 0 < int(found) <= SHARED[capability] * 1024


@with_triton
def test_a_head_size_is_covered_by_two_powers_of_two():
    from meanstep.attention.kernel import split

    for size in range(1, 257):
        main, rest = split(size)
        assert main >= 16 and rest in (0, *(2**k for k in range(4, 8))) and main.bit_count() == 1, size
        assert size <= main + rest <= max(16, 1 << (size - 1).bit_length()), size
    assert split(72) == (64, 16) and split(64) == (64, 0) and split(8) == (16, 0)


def test_what_the_kernel_does_not_cover_takes_the_plain_form_and_says_so_once():
    attention._warn.cache_clear()
    inputs = drawn((2, 3), 20, 20, 8)
    with pytest.warns(RuntimeWarning, match="plain PyTorch, several times slower: the Triton kernel has no float64"):
        found = attention._on_cuda(*inputs, None, False, 0.5)
    assert max(errors(found, plain(*inputs, scale=0.5))) < 1e-12
    attention._on_cuda(*inputs, None, False, 0.5)  # a second warning would be an error
    assert "up to 256 in torch.float16, got 300" in attention._missing(torch.float16, 300, torch.device("cuda"))
    assert "up to 96 in torch.float32, got 128" in attention._missing(torch.float32, 128, torch.device("cuda"))


@with_triton
@pytest.mark.parametrize(("set_by", "wanted"), [("default", "tf32x3"), ("older", "tf32"), ("newer", "tf32"), ("both", "tf32x3")])
def test_products_of_float32_are_as_exact_as_those_of_torch_however_that_was_set(set_by: str, wanted: str):
    from meanstep.attention.kernel import precision

    newer = torch.backends.cuda.matmul
    try:
        if set_by in ("older", "both"):
            torch.set_float32_matmul_precision("high")
        if set_by in ("newer", "both"):
            newer.fp32_precision = "tf32" if set_by == "newer" else "ieee"
        assert precision(SINGLE) == wanted and precision(HALF) == precision(BRAIN) == "ieee"
    finally:
        torch.set_float32_matmul_precision("highest")
        newer.fp32_precision = "none"
