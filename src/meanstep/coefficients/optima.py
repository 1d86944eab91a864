"""The coefficients of least noise in closed form, from the Jacobian's action, the noise and the proxy's bias. Measures none of these."""

import torch
from torch import Tensor


def scalar_optimum(kappa: float | Tensor, noise: float | Tensor, bias: float | Tensor = 0.0) -> float | Tensor:
    """The paper's optimal coefficient `kappa / (kappa + 1) * noise / (noise + bias)` for `J = kappa I`, eq. (19), not clipped to [0, 1].

    `kappa`: signed Jacobi factor; `noise`: `Tr S`; `bias`: squared norm of the proxy's bias. A trained field has `kappa < 0`: the
    value is then outside [0, 1], and clipping it can be wrong: use `clipped_optimum`. Singular at `kappa = -1` (every `r = t` row).
    Source: arXiv 2605.09235, Theorem 4 (as summarised; docs/theory.md, section 4, has its condition).
    """
    return kappa / (kappa + 1) * noise / (noise + bias)


def clipped_optimum(kappa: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """The optimal coefficient on [0, 1] for `J = kappa I` and any sign of `kappa`, eq. (19b); 0 at `kappa = -1`, where all are equal.

    `noise`: `Tr S`; `bias`: squared norm of the proxy's bias; all tensors of one shape.
    """
    curvature = (kappa + 1) ** 2 * (noise + bias)
    slope = kappa * (kappa + 1) * noise
    return torch.where(curvature > 0, slope / torch.where(curvature > 0, curvature, 1.0), 0.0).clamp(0, 1)


def matrix_optimum(jn: Tensor, n: Tensor, jb: Tensor | None = None) -> Tensor:
    """The optimal coefficient on [0, 1] for any `J`, one 0-d number for all rows, eq. (20).

    It minimises the mean of `|jn - beta (jn + n)|^2 + beta^2 |jb|^2`. `n`: draws of the noise `v' = v_c - E[v_c | z]`; `jn`: `J n`; `jb`:
    `(J + I) b` with the proxy's bias `b`, or None; all `[N, *E]`.
    """
    swing = jn + n
    curvature = swing.square().sum() + (jb.square().sum() if jb is not None else 0.0)
    return ((jn * swing).sum() / curvature).clamp(0, 1) if curvature > 0 else torch.zeros_like(curvature)
