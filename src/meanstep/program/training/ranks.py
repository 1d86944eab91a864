"""The processes of a run: one without a launcher, else those that torchrun started. The only place that speaks to torch.distributed."""

import itertools
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from meanstep.program.machine import available, resolved


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size` processes, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def largest(self, number: int | bool) -> int:
        """The largest of the ranks' numbers; all ranks must ask together."""
        if self.size == 1:
            return int(number)
        found = torch.tensor([int(number)], device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks of what is a number, `nan` where no rank has one."""
        if self.size == 1:
            return values
        there = torch.isfinite(values)
        sums = torch.stack([torch.where(there, values, 0.0), there.to(values)])
        dist.all_reduce(sums)
        return torch.where(sums[1] > 0, sums[0] / sums[1].clamp(min=1), torch.nan)

    def told(self, value: Any) -> Any:
        """The first rank's value, on all ranks."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def wrap(self, owner: nn.Module, parallel: str) -> nn.Module:
        """The module that owns network and loss, with gradients averaged over the ranks; sharded networks stay as they are."""
        if self.size == 1 or parallel == "fsdp":
            return owner
        ids = [self.device.index or 0] if self.device.type == "cuda" else None
        return DistributedDataParallel(owner, device_ids=ids, forward_sync_buffers=False)

    def shard(self, module: nn.Module) -> nn.Module:
        """Shard a network's blocks, if it has some, and the rest; between two passes each rank holds its share only."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # takes a second

        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")  # nobody here changes an output in place
        mesh = init_device_mesh(self.device.type, (self.size,))
        for part in (*getattr(module, "blocks", ()), module):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)
        if hasattr(module, "with_head"):
            register_fsdp_forward_method(module, "with_head")
        return module


def syncing(owner: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    """Within it a backward pass averages gradients over ranks only if `wanted`: not before the last of several chunks."""
    for module in owner.modules():
        set_sync: Any = getattr(module, "set_requires_gradient_sync", None)  # FSDP2's
        if set_sync is not None:
            set_sync(wanted)
    if isinstance(owner, DistributedDataParallel) and not wanted:
        return owner.no_sync()
    return nullcontext()


@contextmanager
def ranks(device: str, timeout: float = 600.0) -> Iterator[Ranks]:
    """Join the processes that a launcher started, if one did; `timeout`: seconds after which a rank gives up waiting for the others.

    A process group that is there already, the caller's own, is used and left as it is.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    here = _device(device)
    if size == 1:
        yield Ranks(0, 1, here)
        return
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if dist.is_initialized():
        yield Ranks(rank, size, here)
        return
    limit, backend = timedelta(seconds=timeout), "nccl" if here.type == "cuda" else "gloo"
    # the store outlives a group, and a later one of the same name would read the addresses of sockets that are closed
    store = _c10d.PrefixStore(f"meanstep/{next(_GROUPS)}", _store(limit))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    try:
        yield Ranks(rank, size, here)
    finally:
        dist.destroy_process_group()


_c10d: Any = dist  # has more than its types say
_GROUPS = itertools.count()
"""One number for each group of this process: every rank makes the same calls."""


@cache
def _store(limit: timedelta) -> Any:
    """Where the launcher's processes find one another, kept while this process lives."""
    store, _, _ = next(_c10d.rendezvous("env://", timeout=limit))
    return store


def _device(name: str) -> torch.device:
    """The device of this rank: of several cards the one at its place on this machine."""
    name = resolved(name)
    return available(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name)
