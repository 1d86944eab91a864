"""`meanstep doctor` and `doctor(net, example)`: examines a network for use as a MeanFlow field. Checks live in the other files."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from meanstep.program.console import UserError, first_line
from meanstep.program.doctor import calls, machinery, slopes, times
from meanstep.program.doctor.examined import Examined, admit, undisturbed
from meanstep.program.doctor.findings import FAIL, NONE, PASS, WARN, Finding, Report

__all__ = ["CHECKS", "FAIL", "NONE", "PASS", "WARN", "Finding", "Report", "doctor"]

CHECKS: dict[str, Callable[[Examined], Finding]] = {
    "arguments": calls.arguments,
    "output": calls.output,
    "finite": calls.finite,
    "inputs": calls.inputs,
    "repeatable": calls.repeatable,
    "rows": calls.rows,
    "gradients": slopes.gradients,
    "times": times.used,
    "time-scale": times.scale,
    "labels": times.labels,
    "forward-mode": slopes.forward_mode,
    "way": slopes.way,
    "autocast": slopes.autocast,
    "types": machinery.types,
    "devices": machinery.devices,
    "checkpoints": machinery.checkpoints,
    "compile": machinery.compiled,
    "ddp": machinery.ddp,
    "fsdp": machinery.fsdp,
}


def doctor(
    net: nn.Module,
    example: Any = None,
    *,
    batch: int = 8,
    classes: int = 0,
    order: str = "",
    device: torch.device | str = "cpu",
    only: Sequence[str] = (),
    told: Callable[[str], None] = lambda check: None,
) -> Report:
    """Examine a network as a field `u(z, r, t, y)`; it is copied, never changed. See docs/doctor.md for every check.

    `example`: a batch of samples `[B, *E]`, the shape `(*E,)` of one, or a dict of `z` (or `shape`), `r`, `t`, `y`, `order`; `classes`:
    number of labels; `order`: how it is called, such as `"z,t,r"` or `"z,timestep=t,delta=gap"`; `only`: names of checks; `told` is called
    with each check's name. Raises `UserError` for a network that does not run on the example.
    """
    unknown = [name for name in only if name not in CHECKS]
    if unknown:
        raise UserError(f"there is no check {unknown[0]!r}: choose among {', '.join(CHECKS)}")
    started, place = time.perf_counter(), torch.device(device)
    with undisturbed(place, _size(net)):
        told("reading the network")
        examined = admit(net, example, batch, classes, order, place)
        found = []
        for name in CHECKS:
            if not only or name in only:
                told(name)
                found.append(_made(name, examined))
    return Report(tuple(found), described(net), examined.call.line, time.perf_counter() - started)


def _made(name: str, examined: Examined) -> Finding:
    try:
        return CHECKS[name](examined)
    except Exception as error:  # a network can do anything
        return Finding(name, WARN, f"this check could not be made: {first_line(error)}", "look at the other findings first")


def described(net: nn.Module) -> str:
    """A network's class and size."""
    return f"{type(net).__name__} with {_size(net):,} parameters"


def _size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters()) if isinstance(net, nn.Module) else 0
