"""Checks of what is put around a network: types, devices, checkpoints, DDP and FSDP2 in a group of one process."""

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from meanstep.program.console import first_line
from meanstep.program.doctor.compiling import Owner
from meanstep.program.doctor.examined import Examined
from meanstep.program.doctor.findings import FAIL, NONE, PASS, WARN, Finding, some
from meanstep.program.doctor.trace import hooked, where_it_stops
from meanstep.shapes import tree_map


def types(p: Examined) -> Finding:
    """The types of weights and result, and tensors that no `.to` would find."""
    net, z = p.body(p.field), p.rows[0]
    kinds = sorted({_name(w.dtype) for w in net.parameters()})
    loose = [f"{n}.{a}".lstrip(".") for n, m in net.named_modules() for a, v in vars(m).items() if isinstance(v, Tensor)]
    if loose:
        remedy = "register it: self.register_buffer(name, tensor, persistent=False)"
        return Finding("types", WARN, f"{some(loose)} is a plain attribute: .to(device), DDP and a checkpoint leave it out", remedy)
    if len(kinds) > 1 or kinds == ["bfloat16"] or kinds == ["float16"]:
        remedy = "keep weights in float32 and use torch.autocast: the loss takes float32 or float64 data"
        return Finding("types", WARN, f"weights are {', '.join(kinds)}", remedy)
    if isinstance(p.raw, Tensor) and p.raw.dtype != z.dtype:
        return Finding("types", WARN, f"u is {_name(p.raw.dtype)} for z of {_name(z.dtype)}", "return z's type")
    double = "also runs in float64" if p.double() else "insists on float32 (a cast inside), so derivatives are compared in float32"
    return Finding("types", PASS, f"weights and u are {kinds[0] if kinds else _name(z.dtype)}; {double}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def devices(p: Examined) -> Finding:
    """A call on the meta device: tensors made on the wrong device inside show there."""
    spread = sorted({str(w.device) for w in (*p.field.parameters(), *p.field.buffers())})
    if len(spread) > 1:
        return Finding("devices", FAIL, f"weights lie on {', '.join(spread)}", "move the whole network: net.to(device)")
    field = p.fresh().to("meta")
    given = tree_map(lambda x: x.to("meta"), p.rows)
    run = lambda: field(*given)  # noqa: E731
    try:
        with torch.no_grad():
            run()
    except Exception as error:
        text, where = first_line(error, 120), where_it_stops(p.body(field), run)
        if re.search(r"device", text) and not re.search(r"item\(\)|data-dependent|not implemented", text):
            remedy = "make tensors where the input is: torch.arange(n, device=x.device), buffers, torch.zeros_like(x)"
            return Finding("devices", WARN, f"it makes a tensor on a fixed device: {text}", remedy, where)
        return Finding(
            "devices", WARN, f"it reads values inside: {text}", "no .item(), bool(tensor) or nonzero: each waits for the device", where
        )
    return Finding("devices", PASS, f"all on {spread[0] if spread else 'no device'}, and what it makes inside follows its input")


# Checkpoints -------------------------------------------------------------------------------------------------------------------------


def checkpoints(p: Examined) -> Finding:
    """Whether activations are checkpointed inside, and by which kind."""
    field = p.fresh()
    inside: list[str] = []
    found: list[tuple[str, str]] = []

    def seen(kind: str) -> None:
        found.append((kind, inside[-1] if inside else ""))

    with _spied(seen), hooked(p.body(field), lambda text, *_: inside.append(text), lambda *_: inside.pop()):
        p.u(field)
    if not found:
        return Finding("checkpoints", NONE, "no activation checkpointing inside")
    reentrant = [where for kind, where in found if kind == "reentrant"]
    if reentrant:
        remedy = "pass use_reentrant=False: a reentrant checkpoint has no forward derivative"
        return Finding("checkpoints", FAIL, f"{len(reentrant)} reentrant checkpoints", remedy, reentrant[0])
    return Finding("checkpoints", PASS, f"{len(found)} checkpoints, none reentrant", "", found[0][1])


@contextmanager
def _spied(seen: Callable[[str], None]) -> Iterator[None]:
    """torch's two kinds of checkpoint tell when they are used."""
    module: Any = torch.utils.checkpoint
    one: Any = module.CheckpointFunction
    two = module._checkpoint_without_reentrant_generator

    class Reentrant(one):  # type: ignore[misc]
        @classmethod
        def apply(cls, *args: Any) -> Any:
            seen("reentrant")
            return one.apply(*args)

    def other(*args: Any, **kwargs: Any) -> Any:
        seen("non-reentrant")
        return two(*args, **kwargs)

    module.CheckpointFunction, module._checkpoint_without_reentrant_generator = Reentrant, other
    try:
        yield
    finally:
        module.CheckpointFunction, module._checkpoint_without_reentrant_generator = one, two


# DDP and FSDP2 -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def _group() -> Iterator[bool]:
    """A gloo group of this process alone; false if the process is in a group already, which is left alone."""
    dist: Any = importlib.import_module("torch.distributed")  # loaded late: it takes a while

    if not dist.is_available() or dist.is_initialized():
        yield False
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield True
    finally:
        dist.destroy_process_group()


def ddp(p: Examined) -> Finding:
    """Two training steps under DDP, and buffers that a step changes."""
    owner = Owner(p.fresh().cpu())
    data = tree_map(lambda x: x.cpu(), (p.rows[0], p.rows[3]))
    before = {n: b.clone() for n, b in owner.field.named_buffers()}
    with _group() as alone:
        if not alone:
            return Finding("ddp", NONE, "a process group is running here already")
        try:
            _steps(nn.parallel.DistributedDataParallel(owner), data)
        except Exception as error:
            if "finished reduction" not in str(error):
                return _unfit("ddp", p, owner, error, data)
            remedy = "remove or freeze them (see gradients), or pass find_unused_parameters=True"
            return Finding("ddp", WARN, "the second step fails: parameters without a gradient", remedy)
    changed = [n for n, b in owner.field.named_buffers() if not torch.equal(b, before.get(n, b))]
    if changed:
        remedy = "each process has its own and rank 0's are sent to all: prefer layers without running statistics"
        return Finding("ddp", WARN, f"a step changes the buffers {some(changed)}", remedy)
    return Finding("ddp", PASS, "two steps of a wrapped owner of network and loss; no buffer changes")


def fsdp(p: Examined) -> Finding:
    """Two training steps with every block sharded by itself: a forward that reads another module's weights fails there."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    owner = Owner(p.fresh().cpu())
    data = tree_map(lambda x: x.cpu(), (p.rows[0], p.rows[3]))
    parts = list(_parts(p.body(owner.field)))
    with _group() as alone:
        if not alone:
            return Finding("fsdp", NONE, "a process group is running here already")
        mesh = init_device_mesh("cpu", (1,))
        try:
            for part in (*parts, owner):
                fully_shard(part, mesh=mesh)
            _steps(owner, data)
        except Exception as error:
            return _unfit("fsdp", p, owner, error, data)
    return Finding("fsdp", PASS, f"two steps with {len(parts)} blocks sharded by themselves")


def _parts(net: nn.Module) -> Iterator[nn.Module]:
    """The members of a network's lists of layers, and its other children; only what is called and has weights of its own."""
    seen: set[int] = set()
    for child in net.children():
        members = list(child) if isinstance(child, (nn.ModuleList, nn.Sequential)) else [child]
        for part in members:
            weights = {id(w) for w in part.parameters()}
            containers = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
            if weights and not weights & seen and not isinstance(part, containers):
                seen |= weights
                yield part


def _steps(owner: nn.Module, data: tuple[Tensor, Any]) -> None:
    for _ in range(2):
        owner.zero_grad()
        owner(*data).backward()


def _unfit(check: str, p: Examined, owner: Owner, error: Exception, data: tuple[Tensor, Any]) -> Finding:
    try:
        _steps(Owner(p.fresh().cpu()), data)
    except Exception:
        return Finding(check, NONE, "a training step fails without it, too: see `way`")
    where = where_it_stops(p.body(owner.field), lambda: _steps(owner, data))
    if "DTensor" in str(error):
        remedy = "a module reads the weights of another one: call that module, or shard both as one"
        return Finding(check, WARN, "mixed plain and sharded weights", remedy, where)
    return Finding(check, WARN, f"a step fails: {first_line(error)}", "see the message; wrap a module that owns network and loss", where)
