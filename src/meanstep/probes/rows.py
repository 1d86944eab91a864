"""What a probe knows of each row, and the numbers made of it with their errors. Knows no fields and no objectives.

A probe returns a `Table`: a float64 value a row and column. Means and smooth functions of means come with the delta method's standard
error, eq. (44), which is what a jackknife over rows gives to first order.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from meanstep import shapes
from meanstep.coefficients import part
from meanstep.keys import drawn
from meanstep.types import Bridge
from meanstep.values import record

NORMAL = 1.959963984540054  # the normal distribution's 97.5 percent point
EDGES = torch.linspace(0, 1, 9, dtype=torch.float64)


class Estimate(NamedTuple):
    """A number with its standard error; 0-d, or one value an ensemble member, coefficient or bin.

    `dof`: the effective number of rows behind the error, less 1: `(sum psi^2)^2 / sum psi^4` of the rows' influences `psi`, eq. (44).
    A third of the rows where these are normal, few where a few rows carry everything.
    """

    value: Tensor
    error: Tensor
    dof: Tensor

    def __repr__(self) -> str:
        return record(self)

    def interval(self) -> tuple[Tensor, Tensor]:
        """The 95 percent interval, with Student's quantile at `dof`. It knows of rows it has seen: too short if the seams are missed."""
        reach = student(self.dof) * self.error
        return self.value - reach, self.value + reach

    def positive_interval(self) -> tuple[Tensor, Tensor]:
        """The 95 percent interval of a positive number, on the logarithm: for skewed ones such as a trace."""
        factor = (student(self.dof) * self.error / self.value).exp()
        return self.value / factor, self.value * factor

    def clipped(self) -> "Clipped":
        """The number and its interval on [0, 1]."""
        low, high = self.interval()
        return Clipped(self.value.clamp(0, 1), low.clamp(0, 1), high.clamp(0, 1))


class Clipped(NamedTuple):
    """A coefficient on [0, 1] with its 95 percent interval."""

    value: Tensor
    low: Tensor
    high: Tensor

    def __repr__(self) -> str:
        return record(self)


def student(dof: Tensor) -> Tensor:
    """Student's 97.5 percent point at `dof` degrees of freedom, by its expansion in `1 / dof`: 2 percent off at 2, 0.1 percent at 5."""
    z, n = NORMAL, dof.clamp(min=1)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def influenced(value: Tensor, psi: Tensor) -> Estimate:
    """The estimate `value` whose rows have the influences `psi` `[*M, N]`, eq. (44)."""
    n, square = psi.shape[-1], psi.square()
    total = square.sum(-1)
    dof = total.square() / square.square().sum(-1).clamp(min=torch.finfo(torch.float64).tiny) - 1
    return Estimate(value, (total / max(n * (n - 1), 1)).sqrt(), dof)


class Table(NamedTuple):
    """One value a row and column: `r`, `t` and every column are `[*B]`; the last axis is averaged, others are ensemble members.

    Columns are called by `name`. `above` and `below`: the columns of a ratio. `edges`: of bins along both axes of times, rising `[n + 1]`;
    eight equal ones on [0, 1].
    """

    r: Tensor
    t: Tensor
    columns: dict[str, Tensor]

    def __repr__(self) -> str:
        return record(self)

    def mean(self, name: str) -> Estimate:
        """The mean of a column, `[*M]`."""
        return self.smooth(lambda x: x, name)

    def ratio(self, above: str, below: str) -> Estimate:
        """The ratio of two columns' means, `[*M]`; nan where that below is 0."""
        return self.smooth(lambda x, y: x / y, above, below)

    def smooth(self, f: Callable[..., Tensor], *names: str) -> Estimate:
        """`f` of the columns' means, elementwise over members, by the delta method, eq. (44)."""
        x = torch.stack([self.columns[name].detach() for name in names])
        with torch.enable_grad():
            means = x.mean(-1).requires_grad_()
            value = f(*means)
            (slope,) = torch.autograd.grad(value.sum(), means)
        return influenced(value.detach(), (slope[..., None] * (x - means.detach()[..., None])).sum(0))

    def top(self, name: str, share: float = 0.01) -> Tensor:
        """The part of a non-negative column's sum in its largest rows, a `share` of all (at least one row): how heavy its tail is.

        nan for a table without rows.
        """
        x = self.columns[name]
        n = x.shape[-1]
        return x.topk(min(n, max(1, round(share * n))), -1).values.sum(-1) / x.sum(-1)

    def bins(self, above: str, below: str | None = None, edges: Tensor = EDGES) -> Estimate:
        """The mean of a column, or the ratio of two columns' means, in each bin `[n, n]`, rows by `t`, columns by `r`; nan where empty.

        Members of an ensemble are pooled.
        """
        cell, n = cells(self.r, self.t, edges), len(edges) - 1
        x = self.columns[above].flatten()
        y = torch.ones_like(x) if below is None else self.columns[below].flatten()
        count, top, bottom = (_summed(p, cell, n * n) for p in (torch.ones_like(x), x, y))
        psi = (x - (top / bottom)[cell] * y) / (bottom / count)[cell]
        second, fourth = _summed(psi**2, cell, n * n), _summed(psi**4, cell, n * n)
        error = (second / (count * (count - 1))).sqrt()  # nan with a single row
        found = Estimate(top / bottom, error, second.square() / fourth - 1)
        return Estimate(*(p.view(n, n) for p in found))

    def counts(self, edges: Tensor = EDGES) -> Tensor:
        """The number of rows in each bin, `[n, n]`."""
        n = len(edges) - 1
        return torch.bincount(cells(self.r, self.t, edges), minlength=n * n).view(n, n)


def cells(r: Tensor, t: Tensor, edges: Tensor) -> Tensor:
    """The bin of every row as one index `n i + j`, with `t` in bin `i` and `r` in bin `j` of the `n` between the edges; flat."""
    inner = edges[1:-1].contiguous()
    i, j = (torch.bucketize(p.flatten().contiguous(), inner.to(p)) for p in (t, r))
    return i * (len(edges) - 1) + j


def _summed(x: Tensor, cell: Tensor, n: int) -> Tensor:
    return torch.zeros(n, dtype=x.dtype, device=x.device).index_add_(0, cell, x)


# Rows of a bridge ------------------------------------------------------------------------------------------------------------------


def pieces(b: Bridge, size: int) -> Iterator[Bridge]:
    """A bridge in pieces of at most `size` rows along its last batch axis; `TypeError` for what is no `Bridge`."""
    if not isinstance(b, Bridge):
        raise TypeError(f"a probe is given a Bridge such as loss.draw(x)[0][1], got {type(b).__name__}")
    axis = b.t.ndim - 1
    for start in range(0, b.t.shape[axis], size):
        length = min(size, b.t.shape[axis] - start)
        yield part(b, start, length)


def tabulated(b: Bridge, size: int, probe: Callable[[Bridge], dict[str, Tensor]]) -> Table:
    """The table of a `probe`, from a bridge to columns `[*B]` by name, that is run on pieces of at most `size` rows."""
    found = [probe(piece) for piece in pieces(b, size)]
    return Table(b.r, b.t, {name: torch.cat([part[name] for part in found], -1) for name in found[0]})


def inner(x: Tensor, y: Tensor, b: Bridge) -> Tensor:
    """The inner product of each row's events `x` and `y`, `[*B, *E] -> [*B]`, summed in float64; masked entries do not count."""
    return shapes.inner(x, y, b.t, b.mask)


def signs(like: Tensor, generator: Generator) -> Tensor:
    """Independent signs of `like`'s shape; a probe without a generator makes one of seed 0 for all of its draws."""
    return (2 * drawn(torch.randint, 0, 2, like.shape, generator=generator, device=like.device) - 1).to(like)
