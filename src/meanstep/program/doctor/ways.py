"""Checks of training: the way that `rates.Exact` takes, what a step costs, and what half precision does to the derivative."""

import re
import time
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from meanstep import recipes
from meanstep.loss import Loss
from meanstep.program.console import first_line
from meanstep.program.doctor.derivatives import off
from meanstep.program.doctor.examined import Examined
from meanstep.program.doctor.findings import FAIL, NONE, PASS, WARN, Finding, reason
from meanstep.program.doctor.slopes import SCRIPT, SCRIPTED, WITHOUT, remedy_for
from meanstep.program.doctor.trace import scripted
from meanstep.tangents import VERDICTS, automatic

HALF = 0.05  # bfloat16 keeps 8 bits: 0.4 percent an operation
ROUNDS, PATIENCE = 4, 3.0  # of the step's cost: at least so many, more while fewer seconds are spent


def way(p: Examined) -> Finding:
    """How `rates.Exact` makes the derivative of this network, why, and what a training step costs beside flow matching."""
    if where := scripted(p.body(p.field)):
        return Finding("way", FAIL, SCRIPTED, f"{SCRIPT}; {WITHOUT}", where)
    field, (z, r, t, y) = p.fresh(), p.rows
    try:
        torch.default_generator.manual_seed(0)
        automatic(field, z, r, t, y, (z, None, torch.ones_like(t)))
        cost = _cost(p)
    except Exception as error:
        return Finding("way", FAIL, f"a training step fails: {reason(error)}", f"{remedy_for(reason(error))} (see forward-mode); {WITHOUT}")
    verdict = VERDICTS.get(field)
    costs = f"a step with a quarter of its rows at r < t takes {cost} one of flow matching here"
    if verdict is None:
        return Finding("way", PASS, f"carried (the network declares it); {costs}")
    if not verdict.reason:
        return Finding("way", PASS, f"carried beside one forward pass by rules; {costs}")
    remedy = "fine for small networks: the r < t rows pay a forward-mode pass more. To have it carried, " + _to_carry(p, verdict.reason)
    return Finding("way", WARN, f"separate, since {verdict.reason[:110]}; {costs}", remedy)


def _to_carry(p: Examined, why: str) -> str:
    if re.search(r"attention|heads", why):
        return "build attention without add_bias_kv and add_zero_attn, or write it with F.scaled_dot_product_attention"
    if "off by" not in why:
        return "use functions that have rules, or add one: docs/extending.md"
    calm, (z, r, t, y) = p.fresh().eval(), p.rows
    automatic(calm, z, r, t, y, (z, None, torch.ones_like(t)))
    if not VERDICTS[calm].reason:
        return "draw random numbers by nn.Dropout only: in eval mode it is carried, in train mode its two trials draw others"
    return "look for detach(), .data or constants made of z"


def _cost(p: Examined) -> str:
    """A step of MeanFlow over one of flow matching, in rounds of both: the median and the range, on which no verdict rests."""
    z, _, _, y = p.rows
    z = torch.cat([z, z]) if len(z) < 4 else z
    y = torch.cat([y, y]) if isinstance(y, Tensor) and len(y) < len(z) else y
    losses = Loss(recipes.flow_matching(), measure=False), Loss(recipes.meanflow(), measure=False)
    fields, ratios, started = (p.fresh(), p.fresh()), [], time.monotonic()
    for call in range(1, 16):
        plain, ours = (_spent(loss, field, z, y) for loss, field in zip(losses, fields, strict=True))
        if call & (call - 1):  # in calls 1, 2, 4, 8 and so on tangents.automatic tries the network
            ratios.append(ours / plain)
        if len(ratios) >= ROUNDS and time.monotonic() - started > PATIENCE:
            break
    unit = "the CPU time of" if z.device.type == "cpu" else "the time of"
    return f"{median(ratios):.2f} (in {len(ratios)} rounds {min(ratios):.2f} to {max(ratios):.2f}) times {unit}"


def _spent(loss: Loss, field: nn.Module, z: Tensor, y: Any) -> float:
    """Seconds of a step: of this process's processors, whose time others do not take; on an accelerator, of the clock."""
    here = z.device.type == "cpu"
    clock, finish = (time.process_time, lambda device: None) if here else (time.perf_counter, torch.accelerator.synchronize)
    finish(z.device)
    started = clock()
    loss(field, z, y).loss.backward()
    finish(z.device)
    return max(clock() - started, 1e-9)


def autocast(p: Examined) -> Finding:
    """The derivative under bfloat16 autocast against the one in full precision."""
    z, r, t, y = p.rows
    along = (torch.ones_like(z), None, torch.ones_like(t))

    def run(half: bool) -> tuple[Tensor, Tensor]:
        torch.default_generator.manual_seed(0)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=half), torch.no_grad():
            u, du = automatic(p.fresh(), z, r, t, y, along)
        return u.detach(), du.detach()

    try:
        (u, du), (half_u, half_du) = run(False), run(True)
    except Exception as error:
        if _no_derivative(p):
            return Finding("autocast", NONE, "the derivative fails in full precision, too: see `way`")
        return Finding("autocast", WARN, f"it fails: {first_line(error)}", "train in float32")
    eu, edu = off(half_u, u), off(half_du, du)
    found = f"bfloat16: u off by {eu:.1g}, its derivative by {edu:.1g} of its norm"
    if edu <= HALF:
        return Finding("autocast", PASS, found)
    remedy = "keep the time embedding out: with torch.autocast(device, enabled=False) around it, or train in float32"
    return Finding("autocast", WARN, found, remedy)


def _no_derivative(p: Examined) -> bool:
    z, r, t, y = p.rows
    try:
        automatic(p.fresh(), z, r, t, y, (z, None, torch.ones_like(t)))
    except Exception:
        return True
    return False
