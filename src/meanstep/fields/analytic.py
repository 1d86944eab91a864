"""Exact fields: Gaussians and Gaussian mixtures in any dimension, and the average velocity of any velocity by an ODE solver.

Linear interpolant. Use float64: the solver's tolerance is far below float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from meanstep.keys import drawn, picked
from meanstep.paths import linear
from meanstep.precise import uncast
from meanstep.shapes import over
from meanstep.values import told

Marginal = Callable[[Tensor, Tensor], Tensor]
Differential = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Mixture:
    """A mixture of Gaussians with diagonal covariances as data distribution.

    `means` `[K, D]`; `stds` a number, `[K]`, `[K, 1]` or `[K, D]`, positive; `weights` `[K]`, positive, normalised here.
    `ValueError` for other shapes or signs.
    """

    path = linear

    def __init__(self, means: Tensor, stds: float | Tensor = 1.0, weights: Tensor | None = None) -> None:
        if means.ndim != 2:
            raise ValueError(f"means must have shape [K, D], got {tuple(means.shape)}")
        k, d = means.shape
        s = torch.as_tensor(stds, dtype=means.dtype, device=means.device)
        if s.shape not in ((), (k,), (k, 1), (k, d)):
            raise ValueError(f"stds are a number, or have shape ({k},), ({k}, 1) or ({k}, {d}), got {tuple(s.shape)}")
        self.means, self.stds = means, (s[:, None] if s.ndim == 1 else s).expand_as(means)
        w = torch.ones_like(means[:, 0]) if weights is None else weights.to(means)
        if w.shape != (k,):
            raise ValueError(f"weights must have shape ({k},), one for each mean, got {tuple(w.shape)}")
        if not (self.stds > 0).all() or not (w > 0).all():
            raise ValueError("standard deviations and weights of a mixture must be positive")
        self.weights = w / w.sum()

    def __repr__(self) -> str:
        return f"Mixture({told(self.means)}, {told(self.stds)}, {told(self.weights)})"

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """`n` draws, `[n, D]`."""
        k, dim = picked(self.weights, n, generator), self.means.shape[1]
        noise = drawn(torch.randn, n, dim, generator=generator, dtype=self.means.dtype, device=self.means.device)
        return self.means[k] + self.stds[k] * noise

    def _components(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Responsibilities `[*B, K]`, component velocities, scores (minus) and noise variances `[*B, K, D]` at `z` `[*B, D]`."""
        t = t[..., None, None]
        variance = (1 - t) ** 2 * self.stds**2 + t**2
        d = z[..., None, :] - (1 - t) * self.means
        logits = self.weights.log() - (d * d / variance + variance.log()).sum(-1) / 2
        return logits.softmax(-1), (t - (1 - t) * self.stds**2) / variance * d - self.means, d / variance, self.stds**2 / variance

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """The marginal velocity `E[v | z_t]`, eq. (3): `[*B, D], [*B] -> [*B, D]`."""
        p, v, _, _ = self._components(z, t)
        return (p[..., None] * v).sum(-2)

    def covariance(self, z: Tensor, t: Tensor) -> Tensor:
        """The noise `S = Cov(v | z_t)`, eq. (3): `[*B, D, D]`."""
        p, v, _, c = self._components(z, t)
        v = v - (p[..., None] * v).sum(-2, keepdim=True)
        with uncast(z):
            return torch.einsum("...k,...ki,...kj->...ij", p, v, v) + torch.diag_embed((p[..., None] * c).sum(-2))

    def differential(self, z: Tensor, t: Tensor, dz: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """The marginal velocity and its derivative along `(dz, dt)`, in closed form: `[*B, D]` both."""
        p, v, score, _ = self._components(z, t)
        t, dt, dz, s2 = t[..., None, None], dt[..., None, None], dz[..., None, :], self.stds**2
        variance, dvariance = (1 - t) ** 2 * s2 + t**2, 2 * (t - (1 - t) * s2) * dt
        gain, d, dd = (t - (1 - t) * s2) / variance, score * variance, dz + self.means * dt
        dgain = ((1 + s2) * dt - gain * dvariance) / variance
        dlogits = -(score * dd - score**2 * dvariance / 2 + dvariance / variance / 2).sum(-1)
        dp = p * (dlogits - (p * dlogits).sum(-1, keepdim=True))
        return (p[..., None] * v).sum(-2), (dp[..., None] * v + p[..., None] * (dgain * d + gain * dd)).sum(-2)

    def conditional_draws(self, z: Tensor, t: Tensor, generator: Generator | None = None) -> Tensor:
        """One exact draw of the conditional velocity given each `z_t`: `[*B, D], [*B] -> [*B, D]`; `t > 0`."""
        p, v, _, c = self._components(z, t)
        k = picked(p.reshape(-1, p.shape[-1]), 1, generator).reshape(t.shape)
        rows = k[..., None, None].expand(*z.shape[:-1], 1, z.shape[-1])
        noise = drawn(torch.randn, z.shape, generator=generator, dtype=z.dtype, device=z.device)
        return v.gather(-2, rows).squeeze(-2) + c.expand_as(v).gather(-2, rows).squeeze(-2).sqrt() * noise

    def field(self, rtol: float = 1e-10, atol: float = 1e-12) -> "Averaged":
        """The exact average velocity, eq. (4), by the solver with its tolerances `rtol` and `atol`, see `Averaged`."""
        return Averaged(self.velocity, rtol, atol, self.differential)


class Gaussian:
    """One Gaussian `N(mean, diag(std^2))` in closed form, and its own field, eq. (4). `mean` `[D]`; `std` a number or `[D]`."""

    path = linear

    def __init__(self, mean: Tensor, std: float | Tensor = 1.0) -> None:
        self.mean, self.std = mean, torch.as_tensor(std, dtype=mean.dtype, device=mean.device).expand_as(mean)
        self.mixture = Mixture(mean[None], self.std[None])
        self.velocity, self.covariance, self.sample = self.mixture.velocity, self.mixture.covariance, self.mixture.sample

    def __repr__(self) -> str:
        return f"Gaussian({told(self.mean)}, {told(self.std)})"

    def _growth(self, r: Tensor, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(sd_t - sd_r) / (t - r)`, without a difference and so exact at `r = t`; `sd_t`; `sd_r`."""
        r, t, s2 = over(r, z), over(t, z), self.std**2
        sd_r, sd_t = ((1 - r) ** 2 * s2 + r**2).sqrt(), ((1 - t) ** 2 * s2 + t**2).sqrt()
        slope = ((t + r) - (2 - t - r) * s2) / (sd_t + sd_r)
        return slope, sd_t, sd_r

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity `[*B, D]`."""
        slope, sd_t, _ = self._growth(r, t, z)
        return slope / sd_t * (z - (1 - over(t, z)) * self.mean) - self.mean

    def flow(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """The flow map from `t` to `r`, eq. (5): `[*B, D]`."""
        return z - over(t - r, z) * self(z, r, t)

    def flow_jacobian(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """`d_z` of the flow map, `[*B, D, D]`: diagonal with entries `sd_r / sd_t`."""
        _, sd_t, sd_r = self._growth(r, t, z)
        return torch.diag_embed((sd_r / sd_t).expand_as(z))


class Averaged:
    """The average velocity of any instantaneous velocity `(z, t) -> v`, eq. (35), by scipy's DOP853; exact at `r = t` too.

    A field: `[*B, *E]` in and out, with a forward-mode derivative but no gradient. `RuntimeError` with the solver's reason if it fails.

    - `velocity`: `[*B, *E], [*B] -> [*B, *E]`.
    - `rtol`, `atol`: the relative and absolute tolerance of an entry; 1e-10 and 1e-12, for float64.
    - `differential`: `(z, t, dz, dt) -> (v, dv)` where a closed form is known; by default forward mode through the velocity.
    """

    def __init__(self, velocity: Marginal, rtol: float = 1e-10, atol: float = 1e-12, differential: Differential | None = None) -> None:
        self.velocity, self.rtol, self.atol = velocity, rtol, atol
        self.differential = differential or self._by_forward_mode

    def __repr__(self) -> str:
        owner = getattr(self.velocity, "__self__", None)
        of = told(self.velocity) if owner is None else f"{told(owner)}.{told(self.velocity)}"
        return f"Averaged({of}, rtol={self.rtol:g}, atol={self.atol:g})"

    def _by_forward_mode(self, z: Tensor, t: Tensor, dz: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        v, dv = torch.func.jvp(self.velocity, (z, t), (dz, dt))[:2]
        return v, dv

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        """The average velocity `[*B, *E]`."""
        out: Tensor = _Average.apply(self, z, r, t)  # type: ignore[no-untyped-call]
        return out

    def flow(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """The flow map from `t` to `r`, eq. (5): `[*B, *E]`."""
        return z - over(t - r, z) * self(z, r, t)

    def directional(self, z: Tensor, r: Tensor, t: Tensor, dz: Tensor, dr: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """`u` and its derivative along `(dz, dr, dt)` in one integration."""
        gap, dgap = over(t - r, z), over(dt - dr, z)

        def slope(s: float, state: Tensor) -> Tensor:
            u, du = state
            return torch.stack(self.differential(z - gap * u, t + s * (r - t), dz - dgap * u - gap * du, dt + s * (dr - dt)))

        u, du = _integrate(slope, torch.zeros(2, *z.shape, dtype=z.dtype, device=z.device), self.rtol, self.atol)
        return u, du

    def average(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """`u` alone."""
        gap = over(t - r, z)
        return _integrate(lambda s, u: self.velocity(z - gap * u, t + s * (r - t)), torch.zeros_like(z), self.rtol, self.atol)

    def flow_jacobian(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """`d_z` of the flow map for events `[D]`: `[*B, D, D]`."""
        d = z.shape[-1]
        many = z.expand(d, *z.shape).contiguous()
        basis = torch.eye(d, dtype=z.dtype, device=z.device).reshape(d, *(1,) * (z.ndim - 1), d).expand_as(many)
        r, t = r.expand(d, *r.shape), t.expand(d, *t.shape)
        zero = torch.zeros_like(t)
        _, du = self.directional(many, r, t, basis, zero, zero)
        return (basis - over(t - r, many) * du).movedim(0, -1)


class _Average(torch.autograd.Function):
    """Gives the solver's result its forward-mode derivative: the linearised equation beside it."""

    @staticmethod
    def forward(field: Averaged, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return field.average(z, r, t)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.field = inputs[0]
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        primals = ctx.saved_tensors
        full = (torch.zeros_like(p) if d is None else d for d, p in zip(tangents, primals, strict=True))
        out: Tensor = _Derivative.apply(ctx.field, *primals, *full)  # type: ignore[no-untyped-call]
        return out


class _Derivative(torch.autograd.Function):
    """The solver's derivative: a function of its own because torch.func hands only a `forward` tensors that numpy can read."""

    @staticmethod
    def forward(field: Averaged, *inputs: Tensor) -> Tensor:
        return field.directional(*inputs)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing to keep: there is no second derivative."""


def _integrate(slope: Callable[[float, Tensor], Tensor], start: Tensor, rtol: float, atol: float) -> Tensor:
    """The state at `s = 1`; `RuntimeError` with the solver's reason if it fails."""
    import numpy as np
    from scipy.integrate import solve_ivp

    def rhs(s: float, flat: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        out = slope(s, torch.from_numpy(flat).to(start).reshape(start.shape))
        return out.detach().double().cpu().numpy().ravel()

    solution = solve_ivp(rhs, (0.0, 1.0), start.double().cpu().numpy().ravel(), method="DOP853", rtol=rtol, atol=atol, t_eval=[1.0])
    if not solution.success:
        raise RuntimeError(f"the ODE solver failed: {solution.message}")
    return torch.from_numpy(solution.y[:, -1]).to(start).reshape(start.shape)


def residual_noise(jacobian: Tensor, covariance: Tensor, beta: float | Tensor) -> Tensor:
    """`Tr(N S N^T)`, `N = (1 - beta) J - beta I`, eq. (17): a residual's exact noise, `[*B]`.

    `jacobian`: the factor `J` `[*B, D, D]`; `covariance`: `S` `[*B, D, D]`; `beta`: a number or `[*B]`.
    """
    beta = beta[..., None, None] if isinstance(beta, Tensor) else beta
    n = (1 - beta) * jacobian - beta * torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    with uncast(n):
        return torch.einsum("...ij,...jk,...ik->...", n, covariance, n)
