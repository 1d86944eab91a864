"""Samplers of time pairs: `(shape, generator) -> (r, t)` with `0 <= r <= t <= 1`. Numbers are drawn on the generator's device."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from meanstep import boundary
from meanstep.keys import drawn
from meanstep.types import Times
from meanstep.values import value

Shape = tuple[int, ...]
EDGE = 1e-6
"""The largest change of a gap by rounding in float32."""


def _rand(shape: Shape, g: Generator | None) -> Tensor:
    return drawn(torch.rand, shape, generator=g)


def _logistic(shape: Shape, g: Generator | None, mean: float, std: float) -> Tensor:
    return torch.sigmoid(mean + std * drawn(torch.randn, shape, generator=g))


def clipped(r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """`r` at most `t`: more rows with `r = t`."""
    return torch.minimum(r, t), t


def ascending(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller and the larger of each pair of `a` and `b`, two tensors of one shape."""
    return torch.minimum(a, b), torch.maximum(a, b)


def uniform(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
    """Two sorted uniforms of the batch's `shape`, drawn by the generator `g`; None: torch's global one."""
    return ascending(_rand(shape, g), _rand(shape, g))


@value
def logit_normal(mean: float = -0.4, std: float = 1.0) -> Times:
    """Two sorted logit-normals with the normal's `mean` and `std`; MeanFlow's ImageNet sampler, arXiv 2505.13447.

    `ValueError` unless the mean is finite and the deviation positive.
    """
    boundary.spread("logit-normal times", (mean, std))
    return lambda shape, g: ascending(_logistic(shape, g, mean, std), _logistic(shape, g, mean, std))


@value
def logit_normal_pair(
    t: tuple[float, float] = (-0.6, 1.6),
    r: tuple[float, float] = (-4.0, 1.6),
    join: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = clipped,
) -> Times:
    """Independent logit-normals `(mean, std)` for `t` and `r`, then `r = min(r, t)` (more `r = t` rows); MeanFlow on CIFAR, later code.

    `join`: how the pair is made of the two; `clipped`, or `ascending` to sort them. `ValueError` for a mean or deviation that is none.
    """
    boundary.spread("logit-normal times t", t)
    boundary.spread("logit-normal times r", r)
    boundary.function("join", join, "a function (r, t) -> (r, t), such as times.clipped or times.ascending", 2)
    return lambda shape, g: join(_logistic(shape, g, *r), _logistic(shape, g, *t))


def sorted_pair(t: tuple[float, float] = (0.4, 1.0), r: tuple[float, float] = (-1.2, 1.0)) -> Times:
    """Two different logit-normals, sorted; decoupled MeanFlow, arXiv 2510.24474."""
    return logit_normal_pair(t, r, join=ascending)


@value
def mixed(times: Times, other: Times, share: float) -> Times:
    """One sampler's pairs, and on a random `share` of the rows another's; pixel MeanFlow has 0.1 of uniform ones.

    `times` draws the pairs, `other` those of the share of the rows. `ValueError` for a share outside [0, 1].
    """
    boundary.sampler("times", times)
    boundary.sampler("other", other)
    boundary.number("the share of another sampler's rows", share, 0, 1)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        (r, t), (r2, t2), here = times(shape, g), other(shape, g), _rand(shape, g) < share
        found = torch.where(here, t2, t)
        return (found, found) if r is t and r2 is t2 else (torch.where(here, r2, r), found)

    return draw


@value
def separated(times: Times, least: float = 1e-4) -> Times:
    """The pairs of a sampler `times` with a gap of at least `least`: `t` is raised to it, and `r` lowered to `t - least`. For SoFlow.

    `ValueError` for a gap outside [0, 1).
    """
    boundary.sampler("times", times)
    boundary.number("the least gap", least, 0, 1, below=True)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        r, t = times(shape, g)
        t = t.clamp(min=least)
        return torch.minimum(r, t - least).clamp(min=0), t

    return draw


@value
def capped(times: Times, largest_gap: float) -> Times:
    """The pairs of a sampler `times` with `r` raised to `t - largest_gap` where the gap is larger; the toys of arXiv 2605.09235 have 0.5.

    A sample that jumps further than `largest_gap` uses gaps that were never trained. `ValueError` outside (0, 1].
    """
    boundary.sampler("times", times)
    boundary.number("the largest gap", largest_gap, 0, 1, above=True)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        r, t = times(shape, g)
        return (r, t) if r is t else (torch.maximum(r, t - largest_gap), t)

    return draw


@value
def gap_first(gap: tuple[float, float] = (-0.8, 1.0), r: tuple[float, float] = (-0.4, 1.0)) -> Times:
    """A logit-normal gap, then `r` logit-normal truncated to `[0, 1 - gap]` by its inverse distribution function; TVM, arXiv 2511.19797.

    `gap`, `r`: mean and deviation; `ValueError` for others.
    """
    boundary.spread("the gap's logit", gap)
    boundary.spread("the logit of r", r)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        span = _logistic(shape, g, *gap)
        top = torch.special.ndtr((torch.logit(1 - span.double()) - r[0]) / r[1])
        low = torch.sigmoid(r[0] + r[1] * torch.special.ndtri(_rand(shape, g) * top)).to(span)
        return low, (low + span).clamp(max=1)

    return draw


@value
def u_shaped(a: float = 4.0, gap: tuple[float, float] = (-0.8, 1.0), top: float = 80 / 81) -> Times:
    """`t` mostly near 0 and 1 (an exponential density and its mirror), a logit-normal gap, and `r = 0` for long jumps; arXiv 2511.23342.

    `a`: the exponent of the density, 4; `gap`: mean and std of the gap's logit, (-0.8, 1); `top`: the latest time, 80/81. `ValueError` out
    of their ranges.
    """
    boundary.number("the exponent a", a, 0, above=True)
    boundary.spread("the gap's logit", gap)
    boundary.number("the latest time, top,", top, 0, 1, above=True)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        s = torch.log1p(_rand(shape, g) * math.expm1(a)) / a
        t = torch.where(_rand(shape, g) < 0.5, s, 1 - s).clamp(0, top)
        r = (t - _logistic(shape, g, *gap)).clamp(min=0)
        return torch.where((t > 0.8) & (r < 0.4), 0.0, r), t

    return draw


@value
def instants(mean: float = -0.4, std: float = 1.0) -> Times:
    """One logit-normal time for both, `r = t`, with the normal's `mean` and `std`: the flow-matching rows.

    `ValueError` unless the mean is finite and the deviation positive.
    """
    boundary.spread("logit-normal times", (mean, std))

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        t = _logistic(shape, g, mean, std)
        return t, t

    return draw


def uniform_instants(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
    """One uniform time for both, `r = t`, of the batch's `shape`, drawn by the generator `g`; None: torch's global one."""
    t = _rand(shape, g)
    return t, t


@value
def diagonal(times: Times) -> Times:
    """The `t` of another sampler, `times`, with `r = t`: the flow-matching rows."""
    boundary.sampler("times", times)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        _, t = times(shape, g)
        return t, t

    return draw


@value
def terminal(times: Times) -> Times:
    """The `t` of another sampler, `times`, with `r = 0`: jumps to the data."""
    boundary.sampler("times", times)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        _, t = times(shape, g)
        return torch.zeros_like(t), t

    return draw


@value
def anchor(times: Times, low: float = 1e-4, high: float = 1e-2) -> Times:
    """The `t` of another sampler, `times`, with `r = t - delta`, `delta` uniform on [low, high], eq. (18); arXiv 2605.09235.

    Raises `ValueError` unless `0 <= low <= high <= 1`. Where `t < delta` the row gets `r = 0`.
    """
    boundary.sampler("times", times)
    boundary.rising("the anchor's gap", (low, high), 0, 1)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        _, t = times(shape, g)
        return (t - (low + (high - low) * _rand(shape, g))).clamp(min=0), t

    return draw


@value
def dyadic(levels: Sequence[int]) -> Times:
    """Gap `2^-k`, `k` drawn from `levels`, `t` on the grid of that gap; Shortcut models, arXiv 2410.12557.

    `ValueError` for no levels, or one below 0.
    """
    if not isinstance(levels, Sequence) or not levels:
        raise ValueError(f"levels are exponents k >= 0 of the gap 2^-k, such as range(7), got {levels!r:.60}")
    for k in levels:
        boundary.whole("a level, the exponent k of the gap 2^-k,", k, 0)

    def draw(shape: Shape, g: Generator | None) -> tuple[Tensor, Tensor]:
        u = _rand(shape, g)
        k = torch.stack([u.new_full((), level) for level in levels])[(u * len(levels)).long()]
        t = (1 + (_rand(shape, g) * 2**k).floor()) / 2**k
        return t - 2**-k, t

    return draw


DRAWN = 1 << 17
"""Number of pairs in a Monte Carlo mean over a sampler of times."""


def mean_gap(times: Times, n: int = DRAWN) -> float:
    """Monte Carlo mean of `t - r` over the rows of `times` with `r < t`, from `n` draws with a fixed seed; 131,072.

    `ValueError` for no draw; nan without such rows.
    """
    boundary.sampler("times", times)
    boundary.whole("the number of draws n", n, 1)
    r, t = times((n,), torch.Generator().manual_seed(0))
    return (t - r)[r < t].double().mean().item()


def fewest_jumps(largest_gap: float | None) -> int:
    """The smallest number of equal jumps from noise to data that are at most `largest_gap` long; 1 without a cap.

    `ValueError` for a gap outside (0, 1].
    """
    if largest_gap is not None:
        boundary.number("the largest gap", largest_gap, 0, 1, above=True)
    return 1 if largest_gap is None else math.ceil(1 / largest_gap - 1e-9)


def share_of_gaps(times: Times, gap: float, n: int = DRAWN) -> float:
    """The share of pairs of `times` with `t - r >= gap` among those with `r < t`, by Monte Carlo with a fixed seed; 0 if there are none.

    The standard error is `sqrt(p (1 - p) / n)`; a share below `1 / n` reads 0. `ValueError` for a gap outside (0, 1].
    """
    boundary.sampler("times", times)
    boundary.number("a gap", gap, 0, 1, above=True)
    boundary.whole("the number of draws n", n, 1)
    r, t = times((n,), torch.Generator().manual_seed(0))
    moving = (r < t).sum().item()
    return ((t - r).double() >= gap - EDGE).logical_and(r < t).sum().item() / moving if moving else 0.0
