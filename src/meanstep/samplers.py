"""From noise to data: functions of a field, noise and a time grid. A sample is a seed: batch size does not matter. Knows no training."""

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from meanstep.calls import called, samples
from meanstep.catalogue import marked
from meanstep.conditions import hidden, hides
from meanstep.keys import key
from meanstep.paths import Path, linear
from meanstep.shapes import tree_map
from meanstep.types import Field

F = TypeVar("F", bound=Callable[..., Tensor])


def sampler(*, reads: str) -> Callable[[F], F]:
    """Enter a function `(field, z, times, y) -> x` into the table of samplers, under its name.

    `reads`: "average" or "instantaneous", the velocity that it uses. The function may also take `fresh(k)`, noise like `z` for its step k,
    and the `path` of the training.
    """
    return marked(reads=reads)


def noise(
    seeds: Sequence[int], shape: Sequence[int], stream: int = 0, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise `[len(seeds), *shape]`, each row from its own seed.

    `stream` numbers several draws of one seed, as for `renoise`. They are drawn on the processor, the same ones for every `device`.
    `TypeError` for a seed that is not an integer (`0.5` is not seed 0), or a `dtype` that is not real.
    """
    if isinstance(seeds, int):
        raise TypeError(f"seeds is a sequence, one for each sample: noise(range({seeds}), shape)")
    if not dtype.is_floating_point:
        raise TypeError(f"noise is made of real floating-point numbers, got dtype={dtype}")
    rows = [torch.randn(*shape, generator=key(_seed(seed), "sample", stream), dtype=dtype) for seed in seeds]
    return torch.stack(rows).to(device) if rows else torch.empty(0, *shape, dtype=dtype, device=device)


def _seed(seed: object) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        return operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a seed is an integer, got {seed!r}: noise(range(n), shape) has the seeds 0 to n - 1") from None


def grid(steps: int) -> list[float]:
    """`steps + 1` equally spaced times from 1 to 0; `ValueError` unless `steps >= 1`."""
    if steps < 1:
        raise ValueError(f"a sampler makes at least one step, got {steps}")
    return [1 - k / steps for k in range(steps + 1)]


def _pairs(times: Iterable[float]) -> list[tuple[float, float]]:
    try:
        falling = [float(t) for t in times]
    except TypeError:
        raise TypeError(f"a time grid is a sequence such as (1, 0.5, 0) or samplers.grid(4), got {times!r}") from None
    if len(falling) < 2 or not all(1 >= t > r >= 0 for t, r in pairwise(falling)):
        raise ValueError(f"a time grid falls strictly within [0, 1], e.g. (1, 0.5, 0), got {tuple(falling)}")
    return list(pairwise(falling))


def _u(field: Field, z: Tensor, r: float, t: float, y: Any, batch_dims: int) -> Tensor:
    samples(z, batch_dims)
    full = torch.ones(z.shape[:batch_dims], dtype=z.dtype, device=z.device)
    return called(field, z, r * full, t * full, y)


@sampler(reads="average")
@torch.no_grad()
def walk(field: Field, z: Tensor, times: Iterable[float] = (1.0, 0.0), y: Any = None, batch_dims: int = 1) -> Tensor:
    """Jump from time to time by the average velocity, `z <- z - (t - r) u(z, r, t)`, eq. (36); one jump by default, eq. (6).

    - `z`: noise `[*B, *E]`; the result has this shape. `batch_dims` is the number of axes in `*B`.
    - `times`: falling, in [0, 1]; `ValueError` otherwise. `y`: the condition.
    """
    for t, r in _pairs(times):
        z = z - (t - r) * _u(field, z, r, t, y, batch_dims)
    return z


@torch.no_grad()
def jump(field: Field, e: Tensor, y: Any = None, batch_dims: int = 1, last: float = 1.0) -> Tensor:
    """One step from noise to data, `x = e - u(e, 0, last)`, eq. (6).

    `last`: the last time that was trained, if it is below 1: rectified MeanFlow's is 80/81, and its jump is as long as from 1.
    `ValueError` for one outside (0, 1].
    """
    if not 0 < last <= 1:
        raise ValueError(f"the last trained time lies in (0, 1], got {last:g}")
    return e - _u(field, e, 0.0, last, y, batch_dims)


@sampler(reads="average")
@torch.no_grad()
def renoise(
    field: Field,
    z: Tensor,
    fresh: Callable[[int], Tensor],
    times: Iterable[float] = (1.0, 0.5, 0.0),
    y: Any = None,
    batch_dims: int = 1,
    path: Path = linear,
) -> Tensor:
    """Jump to the data, mix the result with fresh noise for the next time, and repeat, eq. (37).

    - `fresh`: a function of the step k = 1, 2, ... that returns noise like `z`. With `lambda k: noise(seeds, shape, k)` a seed determines
      its sample. It is converted to z's type and moved to its device.
    - `path`: the path of the training. Other arguments are those of `walk`.
    """
    for k, (t, r) in enumerate(_pairs(times), start=1):
        x = z - t * _u(field, z, 0.0, t, y, batch_dims)
        z = path(x, _like(fresh(k), z), torch.full(z.shape[:batch_dims], r, dtype=z.dtype, device=z.device))[0] if r > 0 else x
    return z


def _like(e: Tensor, z: Tensor) -> Tensor:
    if e.shape != z.shape or not e.is_floating_point():
        raise ValueError(f"fresh noise must be real and of the shape of the samples, {tuple(z.shape)}, got {tuple(e.shape)} {e.dtype}")
    return e.to(z)


@sampler(reads="instantaneous")
@torch.no_grad()
def euler(field: Field, z: Tensor, times: Iterable[float], y: Any = None, batch_dims: int = 1) -> Tensor:
    """Follow the instantaneous velocity `u(z, t, t)` by Euler's method (first order, many steps). Arguments as of `walk`."""
    for t, r in _pairs(times):
        z = z - (t - r) * _u(field, z, t, t, y, batch_dims)
    return z


@sampler(reads="instantaneous")
@torch.no_grad()
def heun(field: Field, z: Tensor, times: Iterable[float], y: Any = None, batch_dims: int = 1) -> Tensor:
    """Follow the instantaneous velocity by Heun's method (second order, many steps, two evaluations per step). Arguments as of `walk`."""
    for t, r in _pairs(times):
        v = _u(field, z, t, t, y, batch_dims)
        z = z - (t - r) / 2 * (v + _u(field, z - (t - r) * v, r, r, y, batch_dims))
    return z


@torch.no_grad()
def couplings(
    field: Field, e: Tensor, times: Iterable[float] | None = None, y: Any = None, longest: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Make pairs of data and noise for `recipes.rectified_meanflow` with a flow-matching field and Heun's method; arXiv 2511.23342.

    Returns `(x, e, kept)`: data and noise of the kept pairs, and the mask `[B]` of them. Train with `loss(net, x, noise=e)`.

    - `e`: noise `[B, *E]`; `times`: falling, 32 steps by default; `y`: the condition.
    - `longest`: pairs with this mean squared distance or more are dropped (0.87 in the source's latents); None keeps all.
      `ValueError` unless positive.
    """
    if longest is not None and not longest > 0:
        raise ValueError(f"the longest mean squared distance of a pair is a positive number, got {longest:g}")
    x = heun(field, e, grid(32) if times is None else times, y)
    distance = (e - x).flatten(1).square().mean(1)
    kept = torch.ones_like(distance, dtype=torch.bool) if longest is None else distance < longest
    return x[kept], e[kept], kept


def guided(field: Field, scale: float, null: Any) -> Field:
    """The field under guidance at sampling time, `u(null) + scale (u(y) - u(null))`, both in one pass; eq. (60). Scale 1: the field itself.

    For a network that was trained with hidden conditions. On `r = t` it is classifier-free guidance, which `euler` and `heun` follow; a
    jump extrapolates the two ends, which is another law wherever the fields are not affine in `z`. `null`: as of `LabelDropout`, or its
    `dropout.hidden` for a condition that holds a scale. Needs a condition at each call; `ValueError` for a scale that is not
    finite, `TypeError` for a null that hides nothing.
    """
    if not math.isfinite(scale):
        raise ValueError(f"a guidance scale is a finite number, 1 for none, got {scale:g}")
    if scale == 1:
        return field
    hides(null)

    def both(z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        if y is None:
            raise ValueError(f"guidance {scale:g} compares a condition with none: give one, y=")
        axis = t.ndim - 1  # of the rows: members of an ensemble come before
        conditions = tree_map(lambda p, q: torch.cat([p, q], axis), y, hidden(null, y))
        z, r, t = (torch.cat([p, p], axis) for p in (z, r, t))
        known, unknown = called(field, z, r, t, conditions).chunk(2, axis)
        return torch.lerp(unknown, known, scale)

    return both


def sample(
    field: Field,
    shape: Sequence[int],
    y: Any = None,
    count: int = 1,
    *,
    seeds: Sequence[int] | None = None,
    steps: int | Iterable[float] = 1,
    guidance: float = 1.0,
    null: Any = None,
    sampler: Callable[..., Tensor] = walk,
) -> Tensor:
    """`count` samples `[count, *shape]` of one condition, from the seeds 0 to `count - 1`: `sample(net, (16, 2), {"o": seen}, 64)`.

    - `y`: *one* condition, without a batch axis: a number, a tensor, or a tree of them; None for none.
    - `seeds`: others, one for each sample, in place of `count`; `fresh` noise is of them too. `steps`: of the `sampler`, or its times.
    - `guidance`, `null`: see `guided`. Noise and conditions are made where the network's weights are, in their type.
    """
    place = (
        next((p for p in field.parameters() if p.is_floating_point()), torch.empty(0)) if isinstance(field, nn.Module) else torch.empty(0)
    )
    own = range(count) if seeds is None else seeds
    e = noise(own, shape).to(place)
    conditions = tree_map(lambda part: _repeated(part, len(e), place), y)
    more = {"fresh": lambda k: noise(own, shape, k).to(place)} if "fresh" in inspect.signature(sampler).parameters else {}
    return sampler(guided(field, guidance, null), e, times=_times(steps), y=conditions, **more)


def _times(steps: Any) -> Iterable[float]:
    """The times themselves, or a grid of so many steps, any kind of integer."""
    try:
        return grid(operator.index(steps))
    except TypeError:
        return cast(Iterable[float], steps)


def _repeated(part: Any, count: int, place: Tensor) -> Tensor:
    """One condition on so many rows, numbers in the network's type."""
    x = torch.as_tensor(part)
    return x.to(place.device, place.dtype if x.is_floating_point() else x.dtype).expand(count, *x.shape).contiguous()
