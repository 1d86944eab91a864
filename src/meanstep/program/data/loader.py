"""Batches of a cache in an order that depends on the seed alone, read ahead by one thread."""

import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Generator as Draws
from torch import Tensor

from meanstep.keys import key
from meanstep.program.console import UserError
from meanstep.program.data import order
from meanstep.program.data.batch import Batch
from meanstep.program.data.cache import Cache

_END = object()


def batch(cache: Cache, at: Tensor, flip: Tensor | None = None, start: int = 0, drawn: Draws | None = None) -> Batch:
    """The rows `at` `[B]` of a cache with all that belongs to them, mirrored where `flip` `[B]`: what training and diagnosis see.

    `drawn`: a generator of the posterior's draws, where the cache holds one; None is its mean.
    """
    return Batch(start, cache.rows(at, flip, drawn)[0], cache.condition(at), cache.start(at), cache.mask(at))


@dataclass(frozen=True)
class Loader:
    """`chunk(start, count)`: the samples at global positions `start ... start + count - 1`; `flips` mirrors each with probability 1/2.

    `pin`: in page-locked memory, for copies to an accelerator that do not wait. Raises `UserError` if the cache has no mirror images.
    """

    cache: Cache
    seed: int
    flips: bool = False
    pin: bool = False

    def __post_init__(self) -> None:
        if self.flips and self.cache.manifest.flips == "none":
            raise UserError(f"{self.cache.path} was made without mirror images: make it with --flips, or train without")

    def chunk(self, start: int, count: int) -> Batch:
        """`x` float32 `[count, *E]` as the network sees it, `y`, `noise`, `mask` as the cache gives condition, start and mask.

        Nothing but the arguments matters.
        """
        n = len(self.cache)
        flip = order.flips(n, self.seed, start, count) if self.flips else None
        drawn = key(self.seed, "posterior", start) if self.cache.manifest.posterior else None
        found = batch(self.cache, order.rows(n, self.seed, start, count), flip, start, drawn)
        return found.map(lambda p: p.pin_memory()) if self.pin else found

    def stream(self, starts: Iterable[int], count: int, ahead: int = 3) -> Generator[Batch, None, None]:
        """The batch of every start, at most `ahead` of them read before they are asked for.

        Closing the generator ends the thread; an error of the thread is raised where the batch would have been.
        """
        done, box = threading.Event(), queue.Queue[Any](maxsize=max(1, ahead))
        thread = threading.Thread(target=self._fill, args=(box, done, starts, count), name="meanstep-loader", daemon=True)
        thread.start()
        try:
            while (item := box.get()) is not _END:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            done.set()
            thread.join()

    def _fill(self, box: "queue.Queue[Any]", done: threading.Event, starts: Iterable[int], count: int) -> None:
        last: Any = _END
        try:
            for start in starts:
                if done.is_set() or not _put(box, done, self.chunk(start, count)):
                    return
        except BaseException as error:
            last = error
        _put(box, done, last)


def _put(box: "queue.Queue[Any]", done: threading.Event, item: Any) -> bool:
    """Wait for room, but not longer than somebody listens."""
    while not done.is_set():
        try:
            box.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
