"""`nn.MultiheadAttention` and what is built of it (`nn.TransformerEncoderLayer`), written out in functions that have rules.

Torch calls `F.multi_head_attention_forward` as one function, whose parts a `Dual` would not reach. The primal's kernel is
`F.scaled_dot_product_attention`, as torch's own, or where the weights are asked for, or dropped, their explicit form: a kernel that drops
some does not say which. On an accelerator such a kernel drops others than the explicit form, and a trial of `automatic` tells them apart.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meanstep.tangents.dual import WHOLE, Dual, Unsupported, duals, rule


@rule("multi_head_attention_forward", table=WHOLE, places=(F,))
def _multi_head(
    query: Any,
    key: Any,
    value: Any,
    width: int,
    heads: int,
    weight: Tensor | None,
    bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    zero: bool,
    dropout_p: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    **options: Any,
) -> tuple[Any, Any]:
    """`[L, B, E]`, `[S, B, E]`, `[S, B, E]` -> the attention's output `[L, B, E]` and its weights, or None if they are not asked for."""
    if bias_k is not None or zero or options.get("static_k") is not None or options.get("static_v") is not None:
        raise Unsupported("attention with bias_k, add_zero_attn or static keys")
    if options.get("is_causal") and options.get("attn_mask") is None:
        raise Unsupported("attention that is said to be causal, without its mask")  # torch complains of it by itself
    if query.ndim != 3 or any(x.axis != -2 for x in duals((query, key, value), {})):
        raise Unsupported("attention without batch, or along the batch axis (batch_first)")
    named = [options.get(f"{name}_proj_weight") for name in "qkv"] if options.get("use_separate_proj_weight") else weight
    q, k, v = (_split(x, heads) for x in _projected((query, key, value), named, bias))
    p = dropout_p if options.get("training", True) else 0.0
    need = options.get("need_weights", True)
    mask, causal = _mask(q, heads, bool(need or p), options)
    seen: Any = None
    if need or p:
        out, seen = _explicit(q, k, v, mask, p)
    else:
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    seen = None if not need else seen.mean(1) if options.get("average_attn_weights", True) else seen
    return F.linear(out.permute(2, 0, 1, 3).flatten(-2), out_weight, out_bias), seen


def _projected(inputs: tuple[Any, Any, Any], weight: Any, bias: Tensor | None) -> Any:
    """Queries, keys and values; in as few products as torch does it, where some of the three are one input."""
    q, k, v = inputs
    if isinstance(weight, Tensor) and q is k is v:
        return F.linear(q, weight, bias).chunk(3, -1)
    weights = weight.chunk(3) if isinstance(weight, Tensor) else weight
    biases = (None, None, None) if bias is None else bias.chunk(3)
    if isinstance(weight, Tensor) and k is v:
        both = F.linear(k, weight[len(weights[0]) :], None if bias is None else bias[len(weights[0]) :])
        return F.linear(q, weights[0], biases[0]), *both.chunk(2, -1)
    return [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]


def _split(x: Any, heads: int) -> Any:
    """`[L, B, E] -> [B, H, L, E / H]`."""
    return x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)


def _mask(q: Any, heads: int, explicit: bool, options: dict[str, Any]) -> tuple[Tensor | None, bool]:
    """What is added to the scores `[B, H, L, S]`, and whether a kernel's own causal mask takes its place."""
    mask, padding = options.get("attn_mask"), options.get("key_padding_mask")
    if any(isinstance(x, Dual) for x in (mask, padding)):
        raise Unsupported("no tangent rule for an attention mask that depends on the inputs")
    causal = bool(options.get("is_causal")) and padding is None and not explicit
    if mask is not None:
        mask = _added(mask, q) if mask.ndim == 2 else _added(mask, q).unflatten(0, (-1, heads))  # type: ignore[no-untyped-call]
    if padding is not None:
        padding = _added(padding, q)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return (None, True) if causal else (mask, False)


def _added(mask: Tensor, q: Any) -> Tensor:
    """A boolean mask, true where a key is left out, as numbers."""
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask


def _explicit(q: Any, k: Any, v: Any, mask: Tensor | None, p: float) -> tuple[Any, Any]:
    """The output and the weights, which dropout has thinned as in torch."""
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    weights = F.dropout(F.softmax(scores if mask is None else scores + mask, -1), p)
    return weights @ v, weights
