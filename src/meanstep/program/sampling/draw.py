"""Samples of a field, a batch at a time: seeds, labels, steps, guidance. Knows no files and no decoding."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from meanstep.keys import key
from meanstep.paths import Path, linear
from meanstep.program.errors import naming
from meanstep.program.factories import attribute
from meanstep.program.registry import SAMPLERS
from meanstep.samplers import grid, guided, noise, walk
from meanstep.shapes import tree_map
from meanstep.types import Field


def latents(
    field: Field,
    shape: Sequence[int],
    seeds: Sequence[int],
    *,
    steps: int | Sequence[float] = 1,
    labels: Any = None,
    guidance: float = 1.0,
    null: Any = 0,
    batch: int = 64,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    sampler: Callable[..., Tensor] = walk,
    path: Path = linear,
    start: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """What the field makes of the noise of each seed, float32 `[len(seeds), *shape]`, on the processor.

    `steps`: their number, equally spaced, or a falling grid of times from 1 to 0; `labels` int64 `[len(seeds)]`, or other
    conditions with that axis; `guidance`: 1 asks the network once a step, another scale twice and extrapolates from the label `null`.
    `batch` changes nothing beyond rounding. `sampler`: of `meanstep.samplers` or alike; one that takes `fresh` or `path` is given noise of
    the same seeds, and the `path` of the training; `dtype`: the field's. A seed's noise is drawn in float32, so that it is the same for
    every field. `start` `[len(seeds), *shape]`: where the flow starts instead of at noise. `mask`, bool of that shape: where rows are;
    elsewhere noise, velocity and sample are 0, as in training.
    """
    times = grid(steps) if isinstance(steps, int) else list(steps)
    asked = field if labels is None else guided(field, guidance, null)
    takes, parts = inspect.signature(sampler).parameters, []
    for first in range(0, len(seeds), batch):
        here = seeds[first : first + batch]
        placed = partial(_placed, piece=slice(first, first + batch), device=device, dtype=dtype)
        e = placed(start) if start is not None else noise(here, shape, device=device).to(dtype)
        y, fresh = tree_map(placed, labels), partial(_fresh, here, shape, device, dtype)
        only = None if mask is None else _Only(placed(mask))
        extras: dict[str, Any] = {"fresh": fresh if only is None else only.after(fresh), "path": path}
        given = {name: value for name, value in extras.items() if name in takes}
        if only is None:
            parts.append(sampler(asked, e, times=times, y=y, **given).float().cpu())
        else:
            parts.append(only(sampler(only.after(asked), only(e), times=times, y=y, **given)).float().cpu())
    return torch.cat(parts) if parts else torch.empty(0, *shape)


def _placed(part: Tensor, piece: slice, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Rows of a condition, on the field's device, its numbers of the field's type."""
    return part[piece].to(device, dtype if part.is_floating_point() else part.dtype)


def named(sampler: str) -> Callable[..., Tensor]:
    """The sampler of that name, or one of the user's own, `package.module:function`."""
    with naming("--sampler"):
        found: Callable[..., Tensor] = SAMPLERS[sampler].load() if sampler in SAMPLERS else attribute(sampler)
    return found


def asks(sampler: str, what: str) -> bool:
    """Whether the sampler of that name takes this argument."""
    return what in inspect.signature(named(sampler)).parameters


def _fresh(seeds: Sequence[int], shape: Sequence[int], device: torch.device | str, dtype: torch.dtype, k: int) -> Tensor:
    """Noise for step `k` of samples of these seeds."""
    return noise(seeds, shape, k, device=device).to(dtype)


class _Only:
    """0 where a mask is false."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, 0.0)

    def after(self, f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function with 0 there in what it returns."""
        return lambda *given, **named: self(f(*given, **named))


def drawn_labels(seeds: Iterable[int], classes: int | Sequence[int]) -> Tensor:
    """A label for each seed, uniform over so many or these classes and always the same for that seed, int64 `[len(seeds)]`."""
    among = range(classes) if isinstance(classes, int) else classes
    drawn = [among[int(torch.randint(len(among), (), generator=key(int(seed), "label")))] for seed in seeds]
    return torch.tensor(drawn, dtype=torch.int64)
