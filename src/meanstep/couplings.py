"""Couplings: which noise goes with which row. A coupling `(x, noise, y, generator) -> noise` reorders a draw, or puts a partner there.

    loss(net, x, y, noise=couplings.drawn(couplings.OptimalTransport(), x, y, generator), generator=generator)

Rows are those of one call, `x` `[B, *E]`: the first axis. What a coupling changes in the mathematics is in `docs/couplings.md`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from meanstep import keys
from meanstep.shapes import tree_map
from meanstep.values import Value

Coupling = Callable[[Tensor, Tensor, Any, Generator | None], Tensor]
"""`(x, noise, y, generator) -> noise`: `[B, *E], [B, *E], any -> [B, *E]`; its random numbers are the generator's alone."""
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)


def independent(x: Tensor, noise: Tensor, y: Any = None, generator: Generator | None = None) -> Tensor:
    """The noise as it was drawn: what every recipe is published with but `rectified_meanflow`."""
    return noise


@dataclass(frozen=True, repr=False, eq=False)
class OptimalTransport(Value):
    """The rows' noise in the order of least squared distance to the data; minibatch optimal transport, eq. (58); arXiv 2302.00482.

    A permutation, exact: the law of the noise stays, and so does that of the data. `classes`: only rows of one condition change places,
    `y` being whole numbers `[B]`, or a tree of them (or a condition with such a `label`), so that the noise knows nothing of it; without
    it a condition is not looked at, and the noise of rows with a given condition is no longer standard normal. `regularisation` above 0,
    as a share of the mean squared distance: each row draws its partner from the entropic plan, which needs POT (`meanstep[transport]`);
    rows may then share a partner. `ValueError` for labels that are none, `ImportError` without POT. Time of order `B^3`, on the processor.
    """

    classes: bool = False
    regularisation: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.regularisation < float("inf"):
            raise ValueError(f"regularisation is a share of the mean squared distance, 0 for the exact plan, got {self.regularisation:g}")

    @torch.no_grad()
    def __call__(self, x: Tensor, noise: Tensor, y: Any = None, generator: Generator | None = None) -> Tensor:
        """The partner of each row, `[B, *E]`."""
        if noise.shape != x.shape or x.ndim < 2:
            raise ValueError(f"a coupling takes rows [B, *E] and as much noise, got {tuple(x.shape)} and {tuple(noise.shape)}")
        order = torch.arange(len(x))
        for rows in self._groups(y, len(x)):
            cost = -x[rows].flatten(1).cpu().double() @ noise[rows].flatten(1).cpu().double().T
            if not cost.isfinite().all():
                raise ValueError("the data or the noise of a coupling are not finite")
            order[rows.cpu()] = rows.cpu()[self._order(cost, x[rows], noise[rows], generator)]
        return noise[order.to(noise.device)]

    def _groups(self, y: Any, n: int) -> Iterator[Tensor]:
        """Row numbers of the groups in which places are changed."""
        if not self.classes:
            yield torch.arange(n)
            return
        parts: list[Any] = []
        tree_map(parts.append, getattr(y, "label", y))
        for label in parts or [y]:
            if not isinstance(label, Tensor) or label.dtype not in WHOLE or tuple(label.shape) != (n,):
                got = f"{label.dtype} {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
                raise ValueError(f"a coupling within classes takes labels, whole numbers of shape {(n,)}, got {got}")
        group = torch.unique(torch.stack([label.long() for label in parts], 1), dim=0, return_inverse=True)[1]
        yield from (torch.nonzero(group == k)[:, 0] for k in torch.unique(group))

    def _order(self, cost: Tensor, x: Tensor, noise: Tensor, generator: Generator | None) -> Tensor:
        """For each row which noise of the group; `cost`: minus the inner products, half the squared distances up to the rows' own parts."""
        if self.regularisation:
            squares = (p.flatten(1).cpu().double().square().sum(1) for p in (x, noise))
            return _entropic(2 * cost + next(squares)[:, None] + next(squares), self.regularisation, generator)
        from scipy.optimize import linear_sum_assignment

        return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def _entropic(distance: Tensor, share: float, generator: Generator | None) -> Tensor:
    try:
        import ot
    except ImportError:
        raise ImportError("a regularised transport needs POT: pip install 'meanstep[transport]', or leave regularisation at 0") from None
    scaled = distance / distance.mean().clamp(min=1e-300)
    plan = torch.as_tensor(ot.sinkhorn([], [], scaled.numpy(), share, method="sinkhorn_log", numItermax=10_000, warn=False))
    return keys.picked(plan.double(), 1, generator)[:, 0]


@dataclass(frozen=True, repr=False, eq=False)
class Pairs(Value):
    """A partner row as the source of the flow, eq. (59): `y`, or the entry `part` of a dict `y`, `[B, *E]`, plus `std` times the noise.

    For restoration (the partner is the degraded row), translation, and reflow (the partner is the noise that a model made the row of).
    Sampling starts from such a partner: `jump(net, partner + std * noise, y)`. `ValueError` for a partner that does not fit.
    """

    part: str | None = None
    std: float = 0.0

    def __call__(self, x: Tensor, noise: Tensor, y: Any = None, generator: Generator | None = None) -> Tensor:
        """The source of each row, `[B, *E]`."""
        found = y if self.part is None else y.get(self.part) if isinstance(y, dict) else None
        what = "y" if self.part is None else f"y[{self.part!r}]"
        if not isinstance(found, Tensor) or not found.is_floating_point() or found.shape != x.shape:
            got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"a pair's partner {what} is a floating-point row like the data {tuple(x.shape)}, got {got}")
        return found.to(x) + self.std * noise if self.std else found.to(x)


def drawn(coupling: Coupling, x: Tensor, y: Any = None, generator: Generator | None = None) -> Tensor:
    """Noise for `x` `[B, *E]` under a coupling: the numbers that the loss itself would draw from the generator first, coupled.

    A `Loss` that is then given this `noise` and the same generator draws the times that it would have drawn. A regularised plan draws its
    partners in between, and the times are others. None: torch's global one.
    """
    return coupling(x, keys.drawn(torch.randn, x.shape, generator=generator, dtype=x.dtype, device=x.device), y, generator)
