"""The common ground of the claims: an exact mixture, a random smooth network, rows of bridges, and noise that integrates exactly."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from meanstep.fields import MLP, Mixture
from meanstep.keys import key
from meanstep.paths import linear
from meanstep.times import uniform
from meanstep.types import Bridge, Field, Objective


def mixture() -> Mixture:
    """Three unequal Gaussians in the plane, with different widths along the axes."""
    means = torch.tensor([[1.5, 0.0], [-0.8, 1.2], [-0.5, -1.4]], dtype=torch.float64)
    stds = torch.tensor([[0.5, 0.3], [0.4, 0.6], [0.3, 0.3]], dtype=torch.float64)
    return Mixture(means, stds, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


def network(seed: int, width: int = 24, **options: bool) -> MLP:
    """A small random network in float64."""
    return MLP(2, width, 2, frequencies=3, generator=key(seed, "network", width), **options).double()  # type: ignore[arg-type]


def rows(data: Mixture, n: int, seed: int, name: str) -> Bridge:
    """`n` bridges whose `v` is the marginal velocity: noise is added by `noisy`."""
    g = key(seed, "rows", name)
    x, e = data.sample(n, g), torch.randn(n, data.means.shape[1], generator=g, dtype=torch.float64)
    r, t = (q.double() for q in uniform((n,), g))
    r, t = 0.9 * r, t.clamp(min=0.02)  # away from the corners where a recipe has a least step
    z, _ = linear(x, e, t)
    return Bridge(z, data.velocity(z, t), r, t, aux=torch.rand(n, 4, generator=g, dtype=torch.float64), progress=0.5)


def sigma_points(covariance: Tensor) -> Tensor:
    """`2 D` equally likely vectors with mean 0 and exactly this covariance, `[2 D, *B, D]`: quadratics integrate without error."""
    d = covariance.shape[-1]
    columns = torch.linalg.cholesky(covariance).movedim(-1, 0) * d**0.5
    return torch.cat([columns, -columns])


def noisy(b: Bridge, noise: Tensor) -> Bridge:
    """The bridge with noise `v'` added to its marginal velocity."""
    return b._replace(v=b.v + noise)


def residual(objective: Objective, field: Field, b: Bridge) -> Tensor:
    """Prediction minus target."""
    p, q, *_ = objective(field, b)
    return p - q


def field_jacobian(field: Field, b: Bridge) -> Tensor:
    """`d_z u` `[B, D, D]` by forward mode, one column at a time."""

    def u(z: Tensor) -> Tensor:
        return field(z, b.r, b.t, b.y)

    columns = [torch.func.jvp(u, (b.z,), (e.expand_as(b.z).contiguous(),))[1] for e in torch.eye(b.z.shape[-1], dtype=b.z.dtype)]
    return torch.stack(columns, -1).detach()


def jacobi(field: Field, b: Bridge) -> Tensor:
    """`J = (t - r) d_z u - I`, eq. (12)."""
    du = field_jacobian(field, b)
    return b.gap[:, None, None] * du - torch.eye(du.shape[-1], dtype=du.dtype)


def noise_response(f: Callable[[Bridge], Tensor], b: Bridge, h: float = 1e-3) -> Tensor:
    """`d f / d v'` `[B, D, D]` by central differences: exact where `f` is affine in the velocity."""
    steps = (h * e.expand_as(b.z) for e in torch.eye(b.z.shape[-1], dtype=b.z.dtype))
    return torch.stack([(f(noisy(b, s)) - f(noisy(b, -s))) / (2 * h) for s in steps], -1).detach()


def worst(a: Tensor, b: Tensor | float = 0.0) -> float:
    """Largest absolute difference, relative to the largest entry of `b` where it exceeds 1."""
    scale = max(1.0, b.abs().max().item()) if isinstance(b, Tensor) else 1.0
    return (a - b).abs().max().item() / scale


def slope(steps: list[float], errors: list[float]) -> float:
    """Least-squares slope of log error on log step."""
    x, y = torch.tensor(steps, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    x = x - x.mean()
    return ((x * (y - y.mean())).sum() / x.square().sum()).item()


def gradients(loss: Tensor, net: torch.nn.Module) -> Tensor:
    """The gradient of a scalar in all parameters, flat; unused ones count as 0."""
    parameters = list(net.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(found, parameters, strict=True)])


def each(b: Bridge) -> Iterator[Bridge]:
    """The rows of a bridge, one at a time."""
    for i in range(len(b.t)):
        yield Bridge(b.z[i : i + 1], b.v[i : i + 1], b.r[i : i + 1], b.t[i : i + 1])


def quadratic(jacobian: Tensor, covariance: Tensor) -> Tensor:
    """`Tr(J S J^T)`, `[B]`."""
    return torch.einsum("bij,bjk,bik->b", jacobian, covariance, jacobian)


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """`[..., D, D] @ [..., D]`."""
    return (matrix @ vector[..., None]).squeeze(-1)
