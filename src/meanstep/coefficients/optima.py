"""The closed-form optima: functions of the Jacobian's action, the noise and the proxy's bias, whoever measured them."""

import torch
from torch import Tensor


def scalar_optimum(kappa: float | Tensor, noise: float | Tensor, bias: float | Tensor = 0.0) -> float | Tensor:
    """The paper's `kappa / (kappa + 1) * noise / (noise + bias)`, eq. (19): the unconstrained minimiser for `J = kappa I`.

    `kappa`: signed Jacobi factor; `noise`: `Tr S`; `bias`: squared norm of the proxy's bias. A trained field has `kappa < 0`: the
    value is then outside [0, 1] and must not be clipped blindly, use `clipped_optimum`. Singular at `kappa = -1` (every `r = t` row).
    Source: arXiv 2605.09235, Theorem 4 (as summarised; its sign convention is discussed in docs/theory.md).
    """
    return kappa / (kappa + 1) * noise / (noise + bias)


def clipped_optimum(kappa: Tensor, noise: Tensor, bias: Tensor) -> Tensor:
    """The minimiser of the same parabola on [0, 1], eq. (19b), for any sign of `kappa`; at `kappa = -1` every beta is equal and it is 0."""
    curvature = (kappa + 1) ** 2 * (noise + bias)
    slope = kappa * (kappa + 1) * noise
    return torch.where(curvature > 0, slope / torch.where(curvature > 0, curvature, 1.0), 0.0).clamp(0, 1)


def matrix_optimum(jn: Tensor, n: Tensor, jb: Tensor | None = None) -> Tensor:
    """The minimiser on [0, 1] of the mean of `|jn - beta (jn + n)|^2 + beta^2 |jb|^2`, eq. (20): one number for all rows, 0-d.

    `n`: draws of the noise `v' = v - E[v | z]`, `jn`: `J n`, `jb`: `(J + I) b` with the proxy's bias `b`; all `[N, *E]`.
    """
    swing = jn + n
    curvature = swing.square().sum() + (jb.square().sum() if jb is not None else 0.0)
    return ((jn * swing).sum() / curvature).clamp(0, 1) if curvature > 0 else torch.zeros_like(curvature)
