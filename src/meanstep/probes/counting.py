"""What a computation costs, counted: rows that pass through networks, and tangents. Measures no time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.autograd.forward_ad as fwad
from torch import Tensor, nn

from meanstep.tangents.dual import Dual, Several


@contextmanager
def counting(nets: Iterable[nn.Module]) -> Iterator[dict[str, int]]:
    """Counts, within it, the rows that the networks are asked for by any of their methods: without a gradient, with one, tangents."""
    counts = {"forwards": 0, "backwards": 0, "tangents": 0}
    asked: list[nn.Module] = []

    def watched(net: nn.Module, name: str) -> None:
        call = getattr(net, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            if not asked:  # one method may call another
                _note([p for p in (*args, *kwargs.values()) if isinstance(p, Tensor | Dual)], counts)
            asked.append(net)
            try:
                return call(*args, **kwargs)
            finally:
                asked.pop()

        setattr(net, name, counting)

    each = {id(net): net for net in nets}.values()
    methods = [(net, name) for net in each for name in ("forward", "head", "with_head") if callable(getattr(type(net), name, None))]
    for net, name in methods:
        watched(net, name)
    try:
        yield counts
    finally:
        for net, name in methods:
            delattr(net, name)


def _note(parts: list[Any], counts: dict[str, int]) -> None:
    rows, carried = len(_primal(parts[0])), max(map(_carried, parts))
    counts["forwards"] += rows
    counts["tangents"] += carried
    if torch.is_grad_enabled():  # through a derivative in torch's forward mode as well, ours never carries a gradient
        counts["backwards"] += rows + (0 if isinstance(parts[0], Dual) else carried)


def _primal(p: Any) -> Tensor:
    return p.primal if isinstance(p, Dual) else p


def _carried(p: Any) -> int:
    """Rows of an input that carry a tangent, times how many: by our rules, or by torch's forward mode."""
    if isinstance(p, Dual):
        return int(p.tangent.shape[0]) * (len(p.tangents) if isinstance(p, Several) else 1)
    there = fwad._current_level >= 0 and fwad.unpack_dual(p).tangent is not None  # type: ignore[no-untyped-call]
    return len(p) if there else 0
