"""The order of training: a function of the seed and the position alone, whoever asks and however often. Knows no files and no ranks."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from meanstep.keys import key


@lru_cache(maxsize=2)  # a chunk touches one epoch, or the end of one and the start of the next
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=key(seed, "order", epoch))


@lru_cache(maxsize=2)
def _coins(n: int, seed: int, epoch: int) -> Tensor:
    return torch.rand(n, generator=key(seed, "flip", epoch)) < 0.5


def rows(n: int, seed: int, start: int, count: int) -> Tensor:
    """The rows int64 `[count]` of a set of `n` at the positions `start ... start + count - 1`; each epoch of `n` is a fresh permutation.

    Raises `ValueError` for `n < 1`, or a negative `start` or `count`.
    """
    return _gather(_permutation, n, seed, start, count)


def flips(n: int, seed: int, start: int, count: int) -> Tensor:
    """Fair coins bool `[count]` for the same positions: whether a row is shown mirrored."""
    return _gather(_coins, n, seed, start, count)


def subset(n: int, count: int = 0) -> Tensor:
    """The first `count` numbers int64 of a fixed permutation of `0 ... n - 1`, all for 0: a sample that no order of the data spoils."""
    return torch.randperm(n, generator=key(0, "subset", n))[: count or n]


def _gather(of_epoch: Callable[[int, int, int], Tensor], n: int, seed: int, start: int, count: int) -> Tensor:
    if n < 1 or start < 0 or count < 0:
        raise ValueError(f"the order of {n} rows from position {start} for {count}: at least one row, neither number negative")
    parts, position, end = [], start, start + count
    while position < end:
        epoch, at = divmod(position, n)
        parts.append(of_epoch(n, seed, epoch)[at : at + end - position])
        position += len(parts[-1])
    return torch.cat(parts) if parts else of_epoch(n, seed, start // n)[:0].clone()
