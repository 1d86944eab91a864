"""Attention that carries a tangent: its output and the output's derivative along one direction, in one pass over the keys.

No gradient: MeanFlow's tangent is detached, so nothing here is ever differentiated. Knows no networks.
"""

import functools
import importlib.util
import warnings

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from meanstep.attention import chunked

__all__ = ["attention_with_tangent"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def attention_with_tangent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`o = softmax(scale q k^T + mask) v` and its derivative `do` along `(dq, dk, dv)`, both `[*B, N, Dv]`: eq. (42).

    `q` `[*B, N, D]`, `k` `[*B, M, D]`, `v` `[*B, M, Dv]`; a tangent has its input's shape, and all six have one dtype and device (under
    autocast they are cast, as those of `F.scaled_dot_product_attention` are). `mask` broadcasts to `[*B, N, M]` and has no tangent:
    boolean, true where a key takes part, or added to the scores. `causal`: query i sees the keys 0 .. i; given with a mask, both hold.
    A query that sees no key gets zeros. `scale` is `1 / sqrt(D)` if not given. Half precision accumulates in float32.

    No N x M matrix is stored, and no gradient: an input that requires one while grad mode is on, or that carries a forward-mode
    tangent of its own, is a `RuntimeError`. Sources: arXiv 2410.11081 (the tangent), 1805.02867 (the softmax in one pass).
    """
    inputs = {"q": q, "k": k, "v": v, "dq": dq, "dk": dk, "dv": dv}
    _check_shapes(inputs)
    _check_types(inputs, mask)
    if mask is not None:
        _check_mask(mask, (*q.shape[:-1], k.shape[-2]))
    _check_detached(inputs if mask is None else inputs | {"mask": mask})
    device, cast = q.device.type, q.dtype
    if torch.is_autocast_enabled(device) and cast != torch.float64:
        cast = torch.get_autocast_dtype(device)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    run = operator if followed(q) else _on_cuda if q.is_cuda else chunked.attention
    return run(q.to(cast), k.to(cast), v.to(cast), dq.to(cast), dk.to(cast), dv.to(cast), mask, causal, scale)


def derivative(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """`do` alone, for inputs of one dtype that attention itself has accepted; on a CPU in fewer steps where the keys are few."""
    if mask is None and not causal and not followed(q) and chunked.fits(q, k):
        return chunked.derivative(q, k, v, dq, dk, dv, scale)
    return attention_with_tangent(q, k, v, dq, dk, dv, mask, causal=causal, scale=scale)[1]


def together(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """`o` and `do`, otherwise as `derivative`."""
    if mask is None and not causal and not followed(q) and chunked.fits(q, k):
        return chunked.together(q, k, v, dq, dk, dv, scale)
    return attention_with_tangent(q, k, v, dq, dk, dv, mask, causal=causal, scale=scale)


def followed(x: Tensor) -> bool:
    """Whether torch's compiler, its transforms or a subclass follows every call: then the operator is called, and nothing writes in place.

    Elsewhere the operator does the same after torch has imported its compiler, a second of every start.
    """
    return torch.compiler.is_compiling() or type(x) not in (Tensor, nn.Parameter) or is_functorch_wrapped_tensor(x)


def _check_shapes(inputs: dict[str, Tensor]) -> None:
    q, k, v = (inputs[name].shape for name in "qkv")
    fits = min(len(q), len(k), len(v)) >= 2 and q[:-2] == k[:-2] == v[:-2] and q[-1] == k[-1] > 0 and k[-2] == v[-2]
    if not fits:
        raise ValueError(f"expected q [*B, N, D], k [*B, M, D] and v [*B, M, Dv], got {tuple(q)}, {tuple(k)} and {tuple(v)}")
    for name in "qkv":
        x, dx = inputs[name], inputs["d" + name]
        if x.shape != dx.shape:
            raise ValueError(f"the tangent d{name} must have the shape of {name}, {tuple(x.shape)}, got {tuple(dx.shape)}")


def _check_types(inputs: dict[str, Tensor], mask: Tensor | None) -> None:
    q = inputs["q"]
    mixed = torch.is_autocast_enabled(q.device.type)
    for name, x in inputs.items():
        if x.dtype not in DTYPES:
            raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {x.dtype}")
        if x.dtype != q.dtype and (not mixed or torch.float64 in (x.dtype, q.dtype)):
            raise TypeError(f"{name} must have the dtype of q, {q.dtype}, got {x.dtype}")
    for name, x in (inputs if mask is None else inputs | {"mask": mask}).items():
        if x.device != q.device:
            raise ValueError(f"{name} must be on the device of q, {q.device}, got {x.device}")


def _check_mask(mask: Tensor, scores: tuple[int, ...]) -> None:
    if mask.dtype != torch.bool and mask.dtype not in DTYPES:
        raise TypeError(f"mask must be boolean, or floating point to be added to the scores, got {mask.dtype}")
    fits = mask.ndim <= len(scores) and all(a in (1, b) for a, b in zip(mask.shape[::-1], scores[::-1], strict=False))
    if not fits:
        raise ValueError(f"mask must broadcast to the scores [*B, N, M], {scores}, got {tuple(mask.shape)}")


def _check_detached(inputs: dict[str, Tensor]) -> None:
    for name, x in inputs.items():
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError(f"attention_with_tangent has no gradient and {name} requires one: detach it or call under torch.no_grad()")
        if forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
            raise RuntimeError(
                f"attention_with_tangent has no forward-mode derivative and {name} carries a tangent: pass it as an argument"
            )


@torch.library.custom_op("meanstep::attention_with_tangent", mutates_args=())
def operator(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The operator behind the public function, opaque to `torch.compile`. Plain PyTorch, on any device but CUDA."""
    return chunked.attention(q, k, v, dq, dk, dv, mask, causal, scale)


@operator.register_fake
def _shapes(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    shape = (*q.shape[:-1], v.shape[-1])
    return q.new_empty(shape), q.new_empty(shape)


@operator.register_kernel("cuda")
def _on_cuda(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    if missing := _missing(q.dtype, max(q.shape[-1], v.shape[-1]), q.device):
        _warn(missing)
        return chunked.attention(q, k, v, dq, dk, dv, mask, causal, scale)
    from meanstep.attention import kernel

    return kernel.attention(q, k, v, dq, dk, dv, mask, causal, scale)


@functools.cache
def _missing(dtype: torch.dtype, head: int, device: torch.device) -> str:
    """Why the Triton kernel cannot run, or nothing."""
    if dtype == torch.float64:
        return "the Triton kernel has no float64"
    if head > (most := 96 if dtype == torch.float32 else 256):
        return f"the Triton kernel takes head sizes up to {most} in {dtype}, got {head}"
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return "the Triton kernel is written for NVIDIA devices of compute capability 8.0 and above"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install meanstep[kernels])"
    return ""


@functools.cache
def _warn(missing: str) -> None:
    """Once for each reason."""
    warnings.warn(f"attention_with_tangent falls back to plain PyTorch, several times slower: {missing}", RuntimeWarning, stacklevel=2)
