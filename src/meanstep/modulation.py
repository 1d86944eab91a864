"""Scales, shifts and gates of tokens by a condition: what adaptive LayerNorm does between a Transformer's layers. Knows no networks."""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x (1 + scale) + shift` for tokens `[B, N, width]` and a shift and scale `[B, width]`."""
    if _overridden(x, shift, scale):
        found: Tensor = handle_torch_function(modulate, (x, shift, scale), x, shift, scale)
        return found
    return x * (1 + scale[:, None]) + shift[:, None]


def gated(h: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """`h + gate x` for tokens `[B, N, width]` and a gate `[B, width]`."""
    if _overridden(h, gate, x):
        found: Tensor = handle_torch_function(gated, (h, gate, x), h, gate, x)
        return found
    return h + gate[:, None] * x


def _overridden(*parts: Tensor) -> bool:
    """Whether some are no tensors but know what to do with a whole function, as values with a tangent do; a compiler sees the steps."""
    return not torch.compiler.is_compiling() and has_torch_function(parts)
