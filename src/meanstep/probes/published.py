"""The estimators of the best coefficient as arXiv 2605.09235's drafts make them, beside ours in `optimum`, so that both can be compared.

`coefficients.scalar_optimum` makes the published scalar coefficient of the first two. What differs: `kappa` is a norm and so never
negative; the bias is the distance of the network from its own average, on Gaussian inputs that no data make; the matrix form leaves the
bias out. Settings are theirs, as read in their public code and tables.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from meanstep.calls import called
from meanstep.keys import drawn
from meanstep.paths import linear
from meanstep.probes.jacobian import product
from meanstep.probes.noise import moments
from meanstep.probes.rows import inner, signs
from meanstep.types import Bridge, Field

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Times of the published probes."""
GAP = 0.25
"""Their gap `t - r`."""
EARLIEST = 1e-4
"""Their least `r`."""
Draw = Callable[[int], Tensor]


def at_times(x: Tensor, noise: Tensor, t: float, gap: float = GAP, y: Any = None) -> Bridge:
    """The rows `x` `[B, *E]` and `noise` `[B, *E]` on the straight path at one time `t` in (0, 1], with `r = max(t - gap, 1e-4)`.

    `gap`: 0.25, as published; `y`: the condition of the rows.
    """
    times = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    z, v = linear(x, noise, times)
    return Bridge(z, v, torch.full_like(times, max(t - gap, EARLIEST)), times, y)


@torch.no_grad()
def norm_kappa(field: Field, b: Bridge, *, generator: Generator | None = None) -> float:
    """`kappa` as a norm: the root of `E|J g|^2 / d` over the rows of `b`, one vector of random signs `g` a row, eq. (54).

    1 for a network that does not move its input at all, `J = -I`, where the signed `kappa` is -1. `generator` draws the signs.
    """
    g = signs(b.z, generator or Generator().manual_seed(0))
    found = product(field, b, g)
    return float((inner(found, found, b).sum() / inner(g, g, b).sum()).sqrt())


@torch.no_grad()
def average_gap(
    field: Field,
    average: Field,
    shape: Sequence[int],
    *,
    rows: int = 128,
    t: float = 0.5,
    y: Any = None,
    generator: Generator | None = None,
    like: Tensor | None = None,
) -> float:
    """The published `|b|^2`: mean of `|u(z, t, t) - u_average(z, t, t)|^2`, summed over the event, on standard normal `z`, eq. (54).

    It is how far the average lags behind, not how far either is from the marginal velocity.

    - `average`: a field, the EMA copy; `shape`: of the event.
    - `rows`: how many are drawn, 128; `t`: their time, 0.5; both as published. `y`: their condition `[rows, ...]`.
    - `like`: a tensor of the type and on the device of the fields; float32 on the processor.
    """
    z = drawn(torch.randn, (rows, *shape), generator=generator, dtype=torch.float32, device="cpu" if like is None else like.device)
    z = z if like is None else z.to(like)
    times = torch.full((rows,), t, dtype=z.dtype, device=z.device)
    difference = called(field, z, times, times, y) - called(average, z, times, times, y)
    return float(difference.double().square().flatten(1).sum(1).mean())


def _boundary(field: Field, b: Bridge) -> Tensor:
    return called(field, b.z, b.t, b.t, b.y)


@torch.no_grad()
def matrix_bound(
    field: Field, draw: Draw, *, rows: int = 512, times: Sequence[float] = TIMES, gap: float = GAP, generator: Generator | None = None
) -> float:
    """The published matrix form without its bias: `sum_t E<J v', (J + I) v'> / sum_t E|(J + I) v'|^2`, eq. (54).

    `v' = v_c - u(z, t, t)`, the network's own boundary in place of the marginal velocity. Conditions are not shown to the field. nan for a
    field that does not depend on `z`.

    - `draw`: `n` to data rows `[n, *E]`; `rows`: how many at each time, 512, as published.
    - `times`: 0.1, 0.3, ... 0.9; `gap`: `t - r`, 0.25; both as published.
    """
    above, below = 0.0, 0.0
    for t in times:
        x = draw(rows)
        b = at_times(x, drawn(torch.randn, x.shape, generator=generator, dtype=x.dtype, device=x.device), t, gap)
        table = moments(field, b, _boundary)
        above, below = above + float(table.mean("b").value), below + float(table.mean("c").value)
    return above / below if below > 0 else float("nan")
