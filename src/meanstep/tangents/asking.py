"""What networks of others ask of a tensor before they take it, answered for `Dual`s."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from meanstep.tangents.dual import Dual

_asking = threading.Lock()
_is_tensor = torch.is_tensor
_inside: list[None] = []  # one for each network that runs on Duals now, in any thread


def _tensor_or_dual(x: Any) -> bool:
    return isinstance(x, Dual) or _is_tensor(x)


@contextmanager
def taken_for_tensors() -> Iterator[None]:
    """While a network runs on `Dual`s: `torch.is_tensor`, which diffusers asks, says yes to them, and einops treats them as torch's.

    `isinstance(x, Tensor)` stays False: torch hands what says so to code that takes its memory for a tensor's.
    """
    if torch.compiler.is_compiling():
        yield
        return
    _tell_einops()
    with _asking:
        _inside.append(None)
        torch.is_tensor = _tensor_or_dual  # type: ignore[assignment]
    try:
        yield
    finally:
        with _asking:
            _inside.pop()
            if not _inside:
                torch.is_tensor = _is_tensor


def _tell_einops() -> None:
    backends = sys.modules.get("einops._backends")
    known = getattr(backends, "_type2backend", None)
    if isinstance(known, dict) and Dual not in known:
        known[Dual] = backends.get_backend(torch.empty(0))  # type: ignore[union-attr]
