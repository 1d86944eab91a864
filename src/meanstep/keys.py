"""Named random streams: the same seed and path give the same numbers, whatever else was drawn. Never touches the global state."""

import hashlib
import operator
from collections.abc import Callable

import torch
from torch import Generator, Tensor


def key(seed: int, *path: int | str, device: torch.device | str = "cpu") -> Generator:
    """A generator for the stream `path` of integers and strings under `seed`, e.g. `key(0, "train", rank, samples_seen)`.

    It lives on `device`, the processor by default: other devices make other numbers. `TypeError` for a seed or part that is neither.
    """
    name = [part if isinstance(part, str) else operator.index(part) for part in (seed, *path)]  # a numpy integer is an integer
    digest = hashlib.sha256(repr(tuple(name)).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def drawn(
    sampler: Callable[..., Tensor],
    *size: object,
    generator: Generator | None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """`sampler(*size)`, `torch.randn` or its like, drawn where the generator lives and brought to `device`; None leaves it there.

    Without a generator torch's global one of `device` draws, that of the processor for None. `dtype` None: the sampler's own.
    """
    if generator is None:
        return sampler(*size, dtype=dtype, device=device)
    numbers = sampler(*size, generator=generator, dtype=dtype, device=generator.device)
    return numbers if device is None else numbers.to(device)


def picked(weights: Tensor, n: int, generator: Generator | None) -> Tensor:
    """`n` places on the last axis of `weights` `[*B, K]`, drawn by weight and with replacement: int64 `[*B, n]`, on the weights' device."""
    if not n:
        return torch.empty(*weights.shape[:-1], 0, dtype=torch.int64, device=weights.device)
    place = weights.device if generator is None else generator.device
    return torch.multinomial(weights.to(place), n, replacement=True, generator=generator).to(weights.device)
