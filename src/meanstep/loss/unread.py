"""Metrics that are worked out when somebody reads them. Knows no metric."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from meanstep.loss.metrics import metrics_of
from meanstep.loss.rows import Rows
from meanstep.shapes import tree_map
from meanstep.values import told

KEPT = 2
"""Steps of which metrics that nobody has read may stay so; those of earlier ones that are still held are worked out."""


class Unread(MutableMapping[str, Tensor]):
    """A dict that is made when it is first read; until then it holds what it is made of."""

    def __init__(self, make: Callable[[], dict[str, Tensor]]) -> None:
        self._make: Callable[[], dict[str, Tensor]] | None = make
        self._found: dict[str, Tensor] = {}

    def read(self) -> dict[str, Tensor]:
        """The dict."""
        if self._make is not None:
            self._found, self._make = self._make(), None
        return self._found

    def __getitem__(self, name: str) -> Tensor:
        return self.read()[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.read()[name] = value

    def __delitem__(self, name: str) -> None:
        del self.read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.read())

    def __len__(self) -> int:
        return len(self.read())

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return self.read() | dict(other)

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return dict(other) | self.read()

    def __repr__(self) -> str:
        return told(self.read())

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.read(),)

    def copy(self) -> dict[str, Tensor]:
        """A dict of its own."""
        return dict(self.read())


def measured(rows: list[Rows], n: int) -> MutableMapping[str, Tensor]:
    """The metrics of a step's rows, worked out when they are read: later, and to the same numbers.

    At once where there is no later: in a compiled step, under vmap and the like, while a CUDA graph is captured; and where a weight learns,
    which the optimiser will have changed. `RuntimeError` on reading, if the caller's mask, condition or progress was changed in place.
    """
    slopes = not torch.is_inference_mode_enabled()  # they are derivatives
    if torch.compiler.is_compiling() or _now(rows):
        return metrics_of(rows, n, slopes)
    kept, counted, around = [_detached(row) for row in rows], _versions(rows), _autocast(rows[0].error.device.type)

    def make() -> dict[str, Tensor]:
        if _versions(kept) != counted:
            what = "the mask, the condition or the progress of a step was changed in place before the step's metrics were read"
            raise RuntimeError(f"{what}: read out.metrics first, or give each step tensors of its own")
        with torch.inference_mode(False), around():
            return metrics_of(kept, n, slopes)

    found = Unread(make)
    _bounded(found)
    return found


def _now(rows: list[Rows]) -> bool:
    capturing = rows[0].error.is_cuda and torch.cuda.is_current_stream_capturing()
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    return capturing or transformed or any(isinstance(row.weight, nn.Module) for row in rows)


def _autocast(device: str) -> Callable[[], Any]:
    """The autocast of now."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    return partial(torch.autocast, device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))


def _detached(row: Rows) -> Rows:
    """Without the graph, which a step that is over must not keep."""
    inside, beside = (None if part is None else part.detach() for part in (row.inside, row.beside))
    regression = row.regression._replace(prediction=row.regression.prediction.detach())
    return row._replace(regression=regression, error=row.error.detach(), inside=inside, beside=beside)


def _versions(rows: list[Rows]) -> list[Any]:
    """How often the caller's own tensors were changed in place."""

    def version(p: Any) -> int:
        return p._version if isinstance(p, Tensor) and not p.is_inference() else 0

    return [tree_map(version, (b.mask, b.y, b.progress)) for b in (row.bridge for row in rows)]


_waiting: deque[ref[Unread]] = deque()


def _bounded(new: Unread) -> None:
    """Read what is held and unread since more than `KEPT` steps, so that a history of metrics is no history of batches."""
    _waiting.append(ref(new))
    while len(_waiting) > KEPT:
        old = _waiting.popleft()()
        with suppress(Exception):  # whoever reads it will be told
            if old is not None:
                old.read()
