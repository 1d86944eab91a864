"""`doctor(net, example)`: examines a network for use as a MeanFlow field. Checks live in the other files."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from meanstep.program.console import first_line
from meanstep.program.doctor import calls, compiling, machinery, slopes, times, ways
from meanstep.program.doctor.examined import Examined, admit, undisturbed
from meanstep.program.doctor.findings import CHECKS, WARN, Finding, Report
from meanstep.program.flags import among

RUN: dict[str, Callable[[Examined], Finding]] = dict(
    zip(
        CHECKS,
        (
            calls.arguments,
            calls.output,
            calls.finite,
            calls.inputs,
            calls.repeatable,
            calls.rows,
            slopes.gradients,
            times.used,
            times.scale,
            times.labels,
            slopes.forward_mode,
            ways.way,
            ways.autocast,
            machinery.types,
            machinery.devices,
            machinery.checkpoints,
            compiling.compiled,
            machinery.ddp,
            machinery.fsdp,
        ),
        strict=True,
    )
)


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
    among(only, CHECKS, "check")
    started, place = time.perf_counter(), torch.device(device)
    with undisturbed(place, _size(net)):
        told("reading the network")
        examined = admit(net, example, batch, classes, order, place)
        found = []
        for name in CHECKS:
            if not only or name in only:
                told(name)
                found.append(_made(name, examined))
    return Report(tuple(found), described(examined.body(examined.field)), examined.call.line, time.perf_counter() - started)


def _made(name: str, examined: Examined) -> Finding:
    try:
        return RUN[name](examined)
    except (Exception, SystemExit) as error:  # a network can do anything
        return Finding(name, WARN, f"this check could not be made: {first_line(error)}", "look at the other findings first")


def described(net: nn.Module) -> str:
    """A network's class and size."""
    return f"{type(net).__name__} with {_size(net):,} parameters"


def _size(net: nn.Module) -> int:
    weights = net.parameters() if isinstance(net, nn.Module) else ()
    return sum(p.numel() for p in weights if not isinstance(p, nn.parameter.UninitializedParameter))
