"""The trace weight: what it is, which noise it bounds, and what the expected gradient of a row becomes."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from meanstep.loss import settled
from meanstep.objectives import Eulerian
from meanstep.program.verify.rows import Row, below
from meanstep.program.verify.setting import each, gradients, jacobi, mixture, network, noisy, quadratic, residual, rows, sigma_points, worst
from meanstep.types import Bridge, Field
from meanstep.weights import trace

STEEP = (1.0, 10.0, 100.0)
"""Factors of the network's velocity: a map that hardly moves its input, and ones that expand it."""


def signed(b: Bridge) -> Iterator[Bridge]:
    """The rows under every vector of signs, in the uniforms that the weight reads them from."""
    n, d = b.z.shape
    for uniforms in itertools.product((0.25, 0.75), repeat=d):
        own = torch.tensor(uniforms, dtype=b.z.dtype).expand(n, d)
        yield b._replace(aux=torch.cat([torch.zeros(n, 4, dtype=b.z.dtype), own], 1))


def weight(field: Field, b: Bridge, sigma: Callable[[Tensor], Tensor], exact: bool = True) -> Tensor:
    """The weights of the rows."""
    return settled(trace(sigma, exact, lambda error, b: error), field, b)(torch.ones_like(b.t), b)


def trace_weight(seed: int) -> Iterator[Row]:
    """`sigma^2` is the largest eigenvalue of each row's noise, so that the noise is at most isotropic with it."""
    m, net = mixture(), network(seed)
    b = rows(m, 6, seed, "trace weight")
    s = m.covariance(b.z, b.t)
    found = [_measured(steep, net, b, s) for steep in STEEP]
    largest, least = ({name: edge(one[name] for one in found) for name in found[0]} for edge in (max, min))
    yield below("w against its formula with the dense J, exact trace", "55", largest["w"], 1e-12)
    yield below("mean over all signs of |J e|^2 over Tr J J', less 1", "55", largest["probe"], 1e-12)
    yield Row("noise of a row without the weight, Tr(J S J') / d, largest", "56", largest["plain"], 1.0, relation=">=")
    yield below("   with it: w Tr(J S J') / d, largest", "56", largest["noise"], 1.0)
    yield below("   Tr Cov of the weighted gradient over d |g|^2, largest", "56", largest["gradient"], 1.0)
    yield _unseen()
    yield below("E over e and v' of w(e) grad against E[w(e)] E[grad], relative", "57", largest["mean"], 1e-10)
    yield Row("   E[w(e)] over w, least", "57", least["least"], 1 - 1e-12, relation=">=")
    yield Row("   and largest: E[w(e)] is not w", "57", largest["most"], 1.001, relation=">=", unless="only where J'J is diagonal")


def _measured(steep: float, net: torch.nn.Module, b: Bridge, s: Tensor) -> dict[str, float]:
    """The numbers of the claims for one factor of the network's velocity."""

    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        out: Tensor = net(z, r, t)
        return steep * out

    points, d, square = sigma_points(s), b.z.shape[1], torch.linalg.eigvalsh(s)[:, -1]
    j, w = jacobi(field, b), weight(field, b, lambda t: square.sqrt())
    power, noise = j.square().sum((-2, -1)), quadratic(j, s) / d
    probed = torch.stack([1 / weight(field, p, torch.ones_like, exact=False) - 1 for p in signed(b)]) * d
    by_probe = [torch.stack([weight(field, noisy(p, n), lambda t: square.sqrt(), exact=False) for p in signed(b)]) for n in points]
    spread, apart = [], []
    for i, row in enumerate(each(b)):
        g = torch.stack([gradients(component, net) for component in field(row.z, row.r, row.t)[0]])
        plain = torch.stack([gradients(residual(Eulerian(), field, noisy(row, n[i : i + 1])).square().sum(), net) for n in points])
        covariance = w[i] ** 2 * (plain - plain.mean(0)).square().sum(-1).mean()
        spread.append((covariance / (d * torch.linalg.matrix_norm(g, 2).square())).item())
        weighted = torch.stack([(found[:, i, None] * one).mean(0) for found, one in zip(by_probe, plain, strict=True)]).mean(0)
        product = by_probe[0][:, i].mean() * plain.mean(0)
        apart.append(((weighted - product).norm() / product.norm()).item())
    ratio = by_probe[0].mean(0) / w
    return {
        "w": worst(w, 1 / (1 + square * power / d)),
        "probe": worst(probed.mean(0) / power, 1.0),
        "plain": noise.max().item(),
        "noise": (w * noise).max().item(),
        "gradient": max(spread),
        "mean": max(apart),
        "least": ratio.min().item(),
        "most": ratio.max().item(),
    }


def _unseen() -> Row:
    """A factor that one of the two probes does not see: the noise of that row is as without the weight."""
    one = torch.ones(1, dtype=torch.float64)
    b = Bridge(torch.zeros(1, 2).double(), torch.zeros(1, 2).double(), 0.25 * one, 0.75 * one)
    j = 10 * torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
    a = (j + torch.eye(2, dtype=torch.float64)) / b.gap

    def field(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return z @ a.T

    seen = torch.stack([weight(field, p, torch.ones_like, exact=False) for p in signed(b)]).max()
    claim = "   by one probe, J = 10 (1, -1; 1, -1): w Tr(J J') / d, largest"
    return Row(claim, "56", (seen * j.square().sum() / 2).item(), 1.0, relation=">=", unless="only with the exact trace")
