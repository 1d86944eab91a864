"""What a call allocates at most, for the benchmarks beside it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


@contextmanager
def quiet() -> Iterator[None]:
    """Drops what the profiler's library writes to the error stream."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def peak(run: Callable[[], Any], cuda: bool) -> int:
    """Bytes above what was allocated before, at most. What `run` frees must be its own: the profiler does not know its size."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        kept = run()
    del kept
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        highest = max(highest, total)
    return highest
