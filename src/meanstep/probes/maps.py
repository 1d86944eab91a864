"""The noise over pairs of times: of an exact flow, from a law whose velocity and covariance are known in closed form, and of measured rows.

What the rows tell of the coefficient as plain numbers, without errors: `optimum` has them with errors.
"""

from typing import Protocol

import torch
from torch import Tensor

from meanstep.coefficients import clipped_optimum, scalar_optimum


class Known(Protocol):
    """A law with a closed form: `[N, D], [N] -> [N, D]` and `[N, D, D]`."""

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """`E[v | z_t = z]`."""

    def covariance(self, z: Tensor, t: Tensor) -> Tensor:
        """`Cov[v | z_t = z]`."""


@torch.no_grad()
def noise_map(law: Known, z: Tensor, bins: int = 8, substeps: int = 8) -> Tensor:
    """`E|J v'|^2`, `E<J v', (J + I) v'>`, `E|(J + I) v'|^2`, `E|v'|^2` of the exact flow, eq. (12), (17), (41): `[4, bins, bins]`.

    - `law`: a distribution with a closed form of its velocity and covariance, such as `fields.Mixture` or one of `fields.PLANAR`.
    - `z`: noise `[N, D]`, float64, where the rows start at `t = 1`; one Runge-Kutta trajectory a row serves every pair of times.
    - `bins`: along each axis, 8; `substeps`: steps of the solver in a bin, 8.

    Entry `[i, j]` is at the centres of bin `i` of `t` and bin `j` of `r`, nan where `r > t`. The draws are plain: on separated modes the
    mean at `beta = 0` is too low (docs/theory.md, section 4).
    """
    rows, dim = z.shape
    growth = torch.eye(dim, dtype=torch.float64).expand(rows, dim, dim).clone()
    centres = [(k + 0.5) / bins for k in range(bins)]
    states, t = {}, 1.0
    for centre in reversed(centres):
        z, growth = _transport(law, z, growth, (t, centre), substeps)
        states[centre], t = (z, growth), centre
    out = torch.full((4, bins, bins), float("nan"), dtype=torch.float64)
    for i, late in enumerate(centres):
        z, start = states[late]
        covariance = law.covariance(z, torch.full((rows,), late, dtype=torch.float64))
        for j in range(i + 1):
            jacobi = -torch.linalg.solve(start.mT, states[centres[j]][1].mT).mT
            out[:, i, j] = torch.stack(_moments(jacobi, covariance))
    return out


def _moments(j: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    """`E Tr(J S J^T)`, `E Tr(J S (J + I)^T)`, `E Tr((J + I) S (J + I)^T)`, `E Tr S`."""
    k = j + torch.eye(j.shape[-1], dtype=j.dtype)

    def mean(p: Tensor, q: Tensor) -> Tensor:
        return torch.einsum("nij,njk,nik->n", p, s, q).mean()

    return mean(j, j), mean(j, k), mean(k, k), torch.einsum("nii->n", s).mean()


def _transport(law: Known, z: Tensor, growth: Tensor, times: tuple[float, float], steps: int) -> tuple[Tensor, Tensor]:
    """RK4 for the flow and its Jacobian `growth` `[N, D, D]` from `times[0]` to `times[1]`, both above 0.

    The velocity's own Jacobian needs no derivative: on the linear interpolant it is `(I - (1 - t) S) / t`.
    """
    t, h = times[0], (times[1] - times[0]) / steps

    def slope(t: float, z: Tensor, growth: Tensor) -> tuple[Tensor, Tensor]:
        full = torch.full_like(z[:, 0], t)
        return law.velocity(z, full), (growth - (1 - t) * law.covariance(z, full) @ growth) / t

    for _ in range(steps):
        k1 = slope(t, z, growth)
        k2 = slope(t + h / 2, z + h / 2 * k1[0], growth + h / 2 * k1[1])
        k3 = slope(t + h / 2, z + h / 2 * k2[0], growth + h / 2 * k2[1])
        k4 = slope(t + h, z + h * k3[0], growth + h * k3[1])
        z, growth = (p + h / 6 * (a + 2 * b + 2 * c + d) for p, a, b, c, d in zip((z, growth), k1, k2, k3, k4, strict=True))
        t += h
    return z, growth


def measured_map(r: Tensor, t: Tensor, jn: Tensor, n: Tensor, bins: int = 8) -> Tensor:
    """The same means as of `noise_map`, of measured rows: `[4, bins, bins]`, float64, nan where there is no row.

    `r`, `t`: times `[N]`; `n`: the noise of the rows `[N, D]`; `jn`: `J n`, alike; `bins`: along each axis, 8.
    """
    inner = torch.arange(1, bins) / bins
    cell = torch.bucketize(t, inner) * bins + torch.bucketize(r, inner)
    count = torch.zeros(bins * bins, dtype=torch.float64).index_add_(0, cell, torch.ones(len(cell), dtype=torch.float64))
    swing = jn + n

    def mean(x: Tensor) -> Tensor:
        total = torch.zeros(bins * bins, dtype=torch.float64).index_add_(0, cell, x.sum(-1).double())
        return (total / count).view(bins, bins)

    return torch.stack([mean(jn * jn), mean(jn * swing), mean(swing * swing), mean(n * n)])


def ratio(x: Tensor, y: Tensor) -> float:
    """`|x|^2 / |y|^2` over all entries of two tensors of one shape; nan or inf where `y` is 0."""
    return float(x.double().square().sum() / y.double().square().sum())


def optima(jn: Tensor, n: Tensor, jb: Tensor, bias: Tensor) -> dict[str, float]:
    """Predicted coefficients by name: the scalar form with `|kappa|` and with the signed one, eq. (19), (19b); the matrix form, eq. (20).

    `n` and `bias`: the noise and the proxy's bias of rows, `[N, D]`; `jn`, `jb`: `J` times the noise and `J + I` times the bias, alike.
    `norm` is not clipped; `signed`, `matrix` and `matrix_biased` (which counts the bias) lie in [0, 1].
    """
    jn, n, jb, bias = (p.double() for p in (jn, n, jb, bias))
    noise, square = n.square().sum(), bias.square().sum()
    norm, signed = (jn.square().sum() / noise).sqrt(), (jn * n).sum() / noise
    swing = jn + n
    unbiased, curvature = (jn * swing).sum(), swing.square().sum()
    return {
        "norm": float(scalar_optimum(norm, noise, square)),
        "signed": float(clipped_optimum(signed, noise, square)),
        "matrix": float((unbiased / curvature).clamp(0, 1)),
        "matrix_biased": float((unbiased / (curvature + jb.square().sum())).clamp(0, 1)),
    }
