"""The Triton kernel on a device: against the formula in float64, its memory, and what falls back."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from meanstep import attention
from meanstep.attention import attention_with_tangent

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

# the formula and the inputs of the CPU's tests
spec = importlib.util.spec_from_file_location("attention_laws", Path(__file__).parents[1] / "laws" / "test_attention.py")
laws = sys.modules.setdefault("attention_laws", importlib.util.module_from_spec(spec))
spec.loader.exec_module(laws)

pytest.importorskip("triton", reason="triton is not installed (kernels extra)")

BOUND = {torch.float32: 40, torch.bfloat16: 2, torch.float16: 2}  # in units of the dtype's eps


def on_device(inputs: list[Tensor]) -> list[Tensor]:
    """With the strides they have here."""
    return [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda").copy_(x) for x in inputs]


MASKS = [(kind, causal) for kind in (None, "holes", "padding", "row", "added", "lowest") for causal in (False, True)]
SIZES = [(1, 1), (17, 130), (64, 64), (130, 17), (130, 130), (600, 1000)]


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("d", [64, 72])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_the_kernel_is_the_formula_under_every_mask(n: int, m: int, d: int, dtype: torch.dtype):
    """The kernel is compiled for each size, head size, type and kind of mask, seconds each."""
    for kind, causal in MASKS:
        check(n, m, d, dtype, kind, causal)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("d", [8, 16, 40, 80, 96, 128, 256])
@pytest.mark.parametrize(("kind", "causal"), [(None, False), ("holes", True), ("added", False)])
def test_the_kernel_is_the_formula_at_every_head_size(kind: str | None, causal: bool, d: int, dtype: torch.dtype):
    if dtype == torch.float32 and d > 96:
        pytest.skip("the kernel takes float32 up to head size 96")
    check(130, 130, d, dtype, kind, causal)


def check(n: int, m: int, d: int, dtype: torch.dtype, kind: str | None, causal: bool):
    inputs = on_device(laws.placed(laws.drawn((2, 3), n, m, d, dtype=dtype), "heads last"))
    mask = None if kind is None else laws.masks(n, m)[kind].cuda()
    found = attention_with_tangent(*inputs, mask, causal=causal)
    assert all(x.dtype == dtype for x in found)
    assert max(laws.errors(found, laws.plain(*inputs, mask, causal))) < BOUND[dtype] * torch.finfo(dtype).eps, (kind, causal)


@pytest.mark.parametrize("layout", ["heads last", "columns first", "packed"])
def test_any_layout_gives_the_same(layout: str):
    inputs = on_device(laws.drawn((2, 3), 70, 70, 72, dtype=torch.bfloat16))
    for a, b in zip(attention_with_tangent(*laws.placed(inputs, layout)), attention_with_tangent(*inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_tf32_is_used_where_torch_uses_it(monkeypatch: pytest.MonkeyPatch):
    inputs = on_device(laws.drawn((2, 3), 200, 200, 64, dtype=torch.float32))
    expected = laws.plain(*inputs)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    assert 1e-6 < max(laws.errors(attention_with_tangent(*inputs), expected)) < 1e-2


def highest(run: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()


def test_memory_is_below_one_and_a_half_times_that_of_plain_forward():
    inputs = [torch.randn(1, 8, 4096, 72, dtype=torch.bfloat16, device="cuda") for _ in range(6)]
    with sdpa_kernel(SDPBackend.MATH):
        plain = highest(lambda: F.scaled_dot_product_attention(*inputs[:3]))
    start = torch.cuda.memory_allocated()
    ours = highest(lambda: attention_with_tangent(*inputs))
    assert ours < 1.5 * plain
    assert ours - start <= 2.1 * inputs[0].nbytes  # the two results and nothing else


def test_compile_keeps_the_graph_whole():
    inputs = on_device(laws.drawn((2, 3), 64, 64, 64, dtype=torch.bfloat16))
    compiled = torch.compile(lambda *x: attention_with_tangent(*(2 * y for y in x)), fullgraph=True)
    for a, b in zip(compiled(*inputs), attention_with_tangent(*(2 * x for x in inputs)), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_the_operator_is_registered_in_full():
    inputs = on_device(laws.drawn((2, 3), 33, 33, 72, dtype=torch.float16))
    torch.library.opcheck(attention.operator, (*inputs, None, True, 0.5))


@pytest.mark.parametrize(
    ("dtype", "d", "reason"),
    [(torch.float64, 64, "no float64"), (torch.float16, 264, "up to 256 .* got 264"), (torch.float32, 128, "up to 96")],
)
def test_what_the_kernel_does_not_cover_takes_the_plain_form_and_says_so_once(dtype: torch.dtype, d: int, reason: str):
    attention._warn.cache_clear()
    inputs = on_device(laws.drawn((2, 3), 50, 60, d, dtype=dtype))
    with pytest.warns(RuntimeWarning, match=reason):
        found = attention_with_tangent(*inputs)
    assert max(laws.errors(found, laws.plain(*inputs))) < 100 * torch.finfo(dtype).eps
    attention_with_tangent(*inputs)
