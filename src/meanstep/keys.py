"""Named random streams: the same seed and path give the same numbers, whatever else was drawn. Never touches the global state."""

import hashlib
import operator

import torch


def key(seed: int, *path: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for the stream `path` of integers and strings under `seed`, e.g. `key(0, "train", rank, samples_seen)`.

    It lives on `device`, the processor by default: other devices make other numbers. `TypeError` for a seed or part that is neither.
    """
    name = [part if isinstance(part, str) else operator.index(part) for part in (seed, *path)]  # a numpy integer is an integer
    digest = hashlib.sha256(repr(tuple(name)).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
