"""The check of torch.compile: the field and a training step in one graph each."""

import re
import time
from collections.abc import Callable
from math import inf, isnan
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from meanstep import recipes
from meanstep.loss import Loss
from meanstep.program.console import first_line
from meanstep.program.doctor.derivatives import off
from meanstep.program.doctor.examined import Examined, dispatch_kept, seed
from meanstep.program.doctor.findings import NONE, PASS, WARN, Finding
from meanstep.tangents import trusted


def compiled(p: Examined) -> Finding:
    """The field, then a training step after one without compile, in one graph each, by the backend that generates no code."""
    import torch._dynamo as dynamo

    field, started = p.fresh().eval(), time.perf_counter()
    dynamo.reset()
    try:
        with torch.no_grad():
            u = torch.compile(field, backend="aot_eager", fullgraph=True)(*p.rows)
        error = off(u, p.u(p.fresh().eval()))
    except Exception as broken:
        remedy = "compile the blocks one by one, or take what breaks the graph out of forward"
        return Finding("compile", WARN, f"the graph breaks: {_reason(broken)}", remedy)
    finally:
        dynamo.reset()
    with dispatch_kept():
        way, step = _compiled_step(p)
    if way == BROKEN:
        return Finding("compile", NONE, f"u is one graph (off by {error:.1g}); a training step fails without compile, too: see `way`")
    if isinstance(step, str):
        return Finding("compile", WARN, f"u is one graph (off by {error:.1g}); a training step is not ({way}): {step}", _to_compile(way))
    worst = max(error, step, key=lambda x: inf if isnan(x) else x)
    found = f"u and a training step ({way}) are one graph each, off by {worst:.1g}; traced in {time.perf_counter() - started:.1f} s"
    if not worst < 1e-3:
        return Finding("compile", WARN, found, "compare a few compiled steps before training")
    return Finding("compile", PASS, found, "" if way == DECLARED else _to_compile(way))


DECLARED, FOUND, RECORDED = "carried, as its class declares", "carried, as found right in a step before", "its derivative recorded"
BROKEN = "no way"
FIRST = "call the loss once before it is compiled, or say carries_tangents = True in the network's class"


def _to_compile(way: str) -> str:
    """What makes a compiled step take the way that was looked at, or a better one."""
    if way == FOUND:
        return f"{FIRST}: else its derivative is recorded, which torch cannot compile through LayerNorm and GroupNorm"
    if way == RECORDED:
        return f"have it carried (see way) and {FIRST}; or compile the blocks only; or use a rate without forward mode"
    return "compile the blocks only, or use a rate without forward mode"


def _compiled_step(p: Examined) -> tuple[str, float | str]:
    """The way that a compiled step takes after one without compile, and how far its loss and gradients are off, or why it breaks."""
    import torch._dynamo as dynamo

    owner, way, error = Owner(p.fresh(), check=False), BROKEN, 1.0
    try:
        for training in (True, False):  # a compiled program drops others than an ordinary one: then eval mode tells
            owner.train(training)
            _gradients(owner, owner, p)
            module = getattr(owner.field, "headed", owner.field)
            way = DECLARED if trusted(owner.field) else FOUND if getattr(module, "_tangents_found_right", False) else RECORDED
            true = _gradients(owner, owner, p)
            error = off(_gradients(owner, torch.compile(owner, backend="aot_eager", fullgraph=True), p), true)
            if error < 1e-3:
                break
        return way, error
    except Exception as broken:
        return way, _reason(broken)
    finally:
        dynamo.reset()


def _gradients(owner: nn.Module, step: Callable[..., Tensor], p: Examined) -> Tensor:
    """Loss and gradients of a step on given draws."""
    owner.zero_grad()
    z, _, _, y = p.rows
    seed(z.device)
    loss = step(z, y, z.flip(0))
    loss.backward()
    found = [w.grad.flatten() for w in owner.parameters() if w.grad is not None]
    return torch.cat([loss.detach()[None], *found])


def _reason(error: Exception) -> str:
    """torch's explanation of a graph break in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    wanted = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("Explanation:", "Hint:"))][:1]
    place = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    where = f" ({place[-1][0].rpartition('/')[2]}, line {place[-1][1]})" if place else ""
    text = re.sub(r" at 0x[0-9a-f]+", "", (wanted or [first_line(error)])[0])
    return f"{text[:140]}{where}"


def _even(shape: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Times without chance: a compiled program has random numbers of its own."""
    t = torch.linspace(0.4, 0.8, shape[-1]).expand(shape)
    return 0.4 * t, t


class Owner(nn.Module):
    """What is wrapped for training on several devices, or compiled: the network and the loss that calls it.

    Without `check` its loss has no graph breaks, and its times are stated.
    """

    def __init__(self, field: nn.Module, check: bool = True) -> None:
        super().__init__()
        recipe = recipes.meanflow() if check else recipes.meanflow(times=_even)
        self.field, self.loss = field, Loss(recipe, check=check, measure=False)

    def forward(self, z: Tensor, y: Any, noise: Tensor | None = None) -> Tensor:
        """The loss on data of the rows' shape."""
        loss: Tensor = self.loss(self.field, z, y, noise=noise).loss
        return loss
