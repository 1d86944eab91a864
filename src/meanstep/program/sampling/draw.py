"""Samples of a field, a batch at a time: seeds, labels, steps, guidance. Knows no files and no decoding."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from meanstep.keys import key
from meanstep.samplers import euler, grid, heun, noise, walk
from meanstep.types import Field

SAMPLERS: dict[str, Callable[..., Tensor]] = {"average": walk, "euler": euler, "heun": heun}
"""`average`: jumps by the average velocity; the others follow the instantaneous one, as a network trained by flow matching needs it."""


def latents(
    field: Field,
    shape: Sequence[int],
    seeds: Sequence[int],
    *,
    steps: int | Sequence[float] = 1,
    labels: Tensor | None = None,
    guidance: float = 1.0,
    null: int = 0,
    batch: int = 64,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    sampler: str = "average",
) -> Tensor:
    """What the field makes of the noise of each seed, float32 `[len(seeds), *shape]`, on the processor.

    `steps`: their number, equally spaced, or a falling grid of times from 1 to 0; `labels` int64 `[len(seeds)]`; `guidance`: 1 asks the
    network once a step, another scale twice and extrapolates from the label `null`. `batch` changes nothing beyond rounding. `sampler`:
    one of `SAMPLERS`; `dtype`: the field's. A seed's noise is drawn in float32, so that it is the same for every field.
    """
    times = grid(steps) if isinstance(steps, int) else list(steps)
    guided = field if guidance == 1 or labels is None else _Guided(field, guidance, null)
    parts = []
    for start in range(0, len(seeds), batch):
        e = noise(seeds[start : start + batch], shape, device=device).to(dtype)
        y = labels[start : start + batch].to(device) if labels is not None else None
        parts.append(SAMPLERS[sampler](guided, e, times, y).float().cpu())
    return torch.cat(parts) if parts else torch.empty(0, *shape)


class _Guided:
    """`u(null) + scale (u(y) - u(null))`, both in one pass."""

    def __init__(self, field: Field, scale: float, null: int) -> None:
        self.field, self.scale, self.null = field, scale, null

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        twice = self.field(torch.cat([z, z]), torch.cat([r, r]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, self.null)]))
        with_label, without = twice.chunk(2)
        return torch.lerp(without, with_label, self.scale)


def drawn_labels(seeds: Iterable[int], classes: int) -> Tensor:
    """A label for each seed, uniform over the classes and always the same for that seed, int64 `[len(seeds)]`."""
    return torch.tensor([int(torch.randint(classes, (), generator=key(int(seed), "label"))) for seed in seeds], dtype=torch.int64)
