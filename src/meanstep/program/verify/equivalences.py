"""One discrete target for many methods: each published form written out beside the library's."""

from collections.abc import Iterator

import torch
from torch import Tensor

from meanstep import recipes
from meanstep.objectives import Eulerian, Semigroup
from meanstep.program.verify.rows import Row, below, near
from meanstep.program.verify.setting import gradients, mixture, network, noisy, residual, rows, slope, worst
from meanstep.rates import Backward
from meanstep.shapes import over
from meanstep.types import Bridge, Field


def discrete(field: Field, b: Bridge, alpha: float, w: Tensor) -> Tensor:
    """`G(alpha, w)`, eq. (21), as a paper would write it."""
    s = alpha * b.r + (1 - alpha) * b.t
    return (alpha * w + (1 - alpha) * field(b.z - over(alpha * b.gap, w) * w, b.r, s)).detach()


def equivalences(seed: int) -> Iterator[Row]:
    """Residuals of composed recipes against written-out published targets, float64."""
    m, net, ema = mixture(), network(seed), network(seed + 1)
    b = rows(m, 32, seed, "equivalences")
    b = noisy(b, 0.5 * torch.randn(b.z.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    u, alpha = net(b.z, b.r, b.t), 0.3
    goal = discrete(net, b, alpha, b.v)
    ours = residual(Eulerian(rate=Backward(alpha)), net, b)
    yield below("alpha-Flow: (u - G(alpha, v)) / alpha", "22", worst(ours, (u - goal) / alpha), 1e-12)

    late = b.t + (b.r - b.t) * alpha
    moved = b.z + b.v * (late - b.t)[:, None]
    f = b.z + (b.r - b.t)[:, None] * u
    f_late = moved + (b.r - late)[:, None] * net(moved, b.r, late)
    quotient = (f - f_late) / (b.t - late)[:, None]
    objective = recipes.solution_flow(alpha)[0].objective
    yield below(
        "SoFlow: the quotient (f_t - f_l) / (t - l) is minus that residual", "21", worst(residual(objective, net, b), -quotient), 1e-11
    )

    first = net(b.z, b.t - alpha * b.gap, b.t).detach()
    halves = ema(b.z, b.t - b.gap / 2, b.t).detach()
    yield below(
        "SplitMeanFlow: u - G(lambda, u(t, s))", "9", worst(residual(Semigroup(alpha), net, b), u - discrete(net, b, alpha, first)), 1e-12
    )
    yield below(
        "Shortcut: u - G(1/2, u_ema(t, s))", "9", worst(residual(Semigroup(0.5, ema), net, b), u - discrete(ema, b, 0.5, halves)), 1e-12
    )
    yield below("alpha = 1 is trajectory flow matching: u - v", "21", worst(residual(Eulerian(rate=Backward(1.0)), net, b), u - b.v), 1e-12)

    exact = gradients(residual(Eulerian(), net, b).square().mean(), net)
    alphas = [0.04, 0.02, 0.01]
    errors = [worst(gradients(residual(Eulerian(rate=Backward(a)), net, b).square().mean(), net), exact) for a in alphas]
    yield near("alpha -> 0 is MeanFlow: order of the gradient's error in alpha", "21", slope(alphas, errors), 1.0, 0.1)

    published = net(b.z, b.r, b.t) - (b.v - over(b.gap, b.z) * _derivative(net, b)).detach()
    same = gradients(published.square().mean(), net)
    yield below("MeanFlow: u against sg(v - (t - r) du) has the same gradient", "11", worst(exact, same), 1e-12)


def _derivative(field: Field, b: Bridge) -> Tensor:
    primals, tangents = (b.z, b.r, b.t), (b.v, torch.zeros_like(b.r), torch.ones_like(b.t))
    return torch.func.jvp(field, primals, tangents)[1]
