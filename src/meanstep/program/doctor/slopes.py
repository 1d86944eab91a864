"""Checks of derivatives: gradients of the weights, and forward mode against differences."""

import re
from collections.abc import Callable
from contextlib import suppress
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.program.doctor.derivatives import Difference, difference, directions, flat, forward, off
from meanstep.program.doctor.examined import Examined
from meanstep.program.doctor.findings import FAIL, NONE, PASS, ROOTS, WARN, Finding, reason, some
from meanstep.program.doctor.trace import Visit, coarse, function_of, hooked, scripted, visits
from meanstep.tangents import carried

EXACT = 1e-3  # of the derivative's norm: the tolerance of tangents.automatic
SCRIPTED = "is a TorchScript module, which has no reliable forward derivative"
SCRIPT = "pass the module before torch.jit.script"
WITHOUT = "or train without forward mode: rate=ms.rates.Central() or Backward(0.1)"

REMEDIES = (
    (r"BatchNorm|batch_norm|running_mean", "BatchNorm in train mode has no such derivative: use GroupNorm or LayerNorm"),
    (r"attention", "use F.scaled_dot_product_attention as it comes (no forced kernel, no flex_attention): meanstep switches it to math"),
    (r"grid_sampler", "grid_sample has no forward mode: gather and weight the pixels by hand, or use F.interpolate"),
    (r"cdist", "write the distances out: (a[:, :, None] - b[:, None]).square().sum(-1)"),
    (r"CheckpointFunction|reentrant", "checkpoint with use_reentrant=False"),
    (
        r"setup_context|jvp function|autograd.Function",
        "give the autograd function forward, setup_context and jvp, or a rule: tangents.has_rule",
    ),
    (r"in-place|inplace|in place", "the operation writes into a tensor from outside the call (a buffer): write it out of place"),
    (
        r"_rnn",
        "torch's fused recurrent kernel has none: set torch.backends.mkldnn.enabled (on a GPU cudnn.enabled) = False, or use a GRUCell",
    ),
    (r"view size", "torch's own derivative of the layer wants contiguous input: call .contiguous() before it"),
    (r"storage|numpy", "no .numpy(), .data_ptr() or compiled foreign kernels inside: use torch operations"),
)


# Gradients ---------------------------------------------------------------------------------------------------------------------------


def gradients(p: Examined) -> Finding:
    """Whether every parameter that u depends on gets a gradient."""
    field = p.fresh()
    if where := scripted(p.body(field)):
        return Finding("gradients", NONE, "no gradient reaches the weights of a TorchScript module's copy", SCRIPT, where)
    weights = {n: w for n, w in p.body(field).named_parameters() if w.requires_grad}
    if not weights:
        return Finding("gradients", FAIL, "no parameter requires a gradient", "unfreeze what shall be trained")
    used: list[str] = []
    with hooked(p.body(field), lambda text, *_: used.append(text)):
        u = p.u(field)
    if u.requires_grad:
        (u.float() * torch.randn(u.shape, generator=torch.Generator().manual_seed(2)).to(u.device)).sum().backward()
    without = [n for n, w in weights.items() if w.grad is None or not w.grad.any()]
    lost = [n for n in without if _matters(p, field, n)]
    if lost:
        remedy = "a detach(), .data, torch.no_grad(), .item() or tensor(...) lies between it and u: remove it, or freeze it on purpose"
        found = f"{some(lost)} {'change' if len(lost) > 1 else 'changes'} u but {'get' if len(lost) > 1 else 'gets'} no gradient"
        return Finding("gradients", FAIL, found, remedy, _last_owner(lost, used, p, field))
    if without:
        remedy = "remove or freeze what is not used: DDP refuses it unless find_unused_parameters=True"
        return Finding("gradients", WARN, f"{len(without)} of {len(weights)} parameters do not reach u: {some(without)}", remedy)
    return Finding("gradients", PASS, f"all {len(weights)} trainable parameters get a gradient")


@torch.no_grad()
def _matters(p: Examined, field: nn.Module, name: str) -> bool:
    """Whether another value of a parameter gives another u."""
    weight, before = dict(p.body(field).named_parameters())[name], p.u(field)
    kept = weight.clone()
    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).to(weight) * (0.1 + weight.abs().mean()))
    after = p.u(field)
    weight.copy_(kept)
    return not torch.allclose(before, after, rtol=1e-6, atol=1e-7 * before.abs().max().item())


def _last_owner(lost: list[str], order: list[str], p: Examined, field: nn.Module) -> str:
    """The module that ran last among those whose parameters are lost."""
    owners = {name.rpartition(".")[0] for name in lost}
    ran = [text for text in order if text.partition(" (")[0] in owners]
    return ran[-1] if ran else lost[-1]


# Forward mode ------------------------------------------------------------------------------------------------------------------------


def forward_mode(p: Examined) -> Finding:
    """torch's forward mode, and tangents carried by the rules, against differences."""
    if where := scripted(p.body(p.field)):
        return Finding("forward-mode", FAIL, SCRIPTED, SCRIPT, where)
    field, given = p.double() or (p.fresh(), p.rows)
    y, inputs = given[3], given[:3]

    def f(*x: Tensor) -> tuple[Tensor, ...]:
        return (p.u(field, z=x[0], r=x[1], t=x[2], y=y),)

    along = directions(inputs)
    true = difference(f, inputs, along)
    plain, switched = _against(true, f, inputs, along, False), _against(true, f, inputs, along, True)
    ours = _carried(p, true, given, field)
    if isinstance(switched, float) and isnan(switched):
        where = _first(p, field, lambda: f(*inputs), _unknown)
        return Finding("forward-mode", FAIL, "the derivative, by torch's forward mode or by differences, is not finite", ROOTS, where)
    if isinstance(switched, float) and switched > max(EXACT, 5 * true.doubt):
        if low := coarse(p.body(field), lambda: f(*inputs)):
            found = f"off by {switched:.2g} of its norm from differences, which the steps of {low[1]} numbers inside spoil"
            return Finding("forward-mode", FAIL, found, precision(low[1]), low[0])
        if _calm(p, field, inputs, along, f):
            return _by_chance(switched, ours)
        return _wrong(p, field, switched, lambda: f(*inputs))
    if not isinstance(switched, float):
        return _lacking(p, field, switched, ours, lambda: f(*inputs))
    measured = f"off by {switched:.1g} from differences"
    if isinstance(plain, float):
        return Finding("forward-mode", PASS, measured)
    where = _guilty(p, field, lambda: f(*inputs), switched=False)[0]
    measured = f"as meanstep runs it {measured}; torch alone has none ({reason(plain)})"
    if "attention" not in str(plain):
        return Finding("forward-mode", WARN, measured, f"for torch.compile: {remedy_for(f'{where} {plain}')}", where)
    if ours is not None:
        return Finding("forward-mode", PASS, f"{measured}, but rules carry it through fused attention", "", where)
    return Finding("forward-mode", WARN, measured, "attention is switched to math by itself: that pass stores N x N scores", where)


def precision(kind: str) -> str:
    """What to do about times that are computed in less than float32."""
    return f"u is a staircase of t in {kind}: compute the time embedding in float32, and round its result only"


def _calm(p: Examined, field: nn.Module, inputs: Any, along: Any, f: Any) -> bool:
    """Whether forward mode agrees with differences in eval mode."""
    try:
        field.eval()
        true = difference(f, inputs, along)
        error = _against(true, f, inputs, along, True)
        return isinstance(error, float) and error <= max(EXACT, 5 * true.doubt)
    finally:
        field.train()


def _by_chance(error: float, ours: float | None) -> Finding:
    """Dropout of what is not contiguous: torch's forward mode drops other elements than an ordinary pass."""
    found = f"torch's forward mode drops other elements than an ordinary pass (off by {error:.2g} in train mode, not in eval mode)"
    if ours is not None:
        return Finding("forward-mode", PASS, f"{found}, but rules carry the mask (off by {ours:.1g})")
    remedy = "call .contiguous() before nn.Dropout, or build it with dropout 0: value and derivative of a row see two masks"
    return Finding("forward-mode", WARN, found, remedy)


def _against(true: Difference, f: Any, inputs: Any, along: Any, switched: bool) -> float | Exception:
    try:
        return off(forward(f, inputs, along, switched), true.slope)
    except Exception as error:  # what is looked for
        return error


def _carried(p: Examined, true: Difference, given: Any, field: nn.Module) -> float | None:
    """The error of carried tangents, or None if they cannot be carried or are wrong."""
    try:
        z, r, t, y = given
        d = directions((z, r, t))
        torch.default_generator.manual_seed(0)
        found = off(flat([carried(field, z, r, t, y, (d[0], d[1], d[2]))[1]]), true.slope)
    except Exception:
        return None
    return found if found <= max(EXACT, 5 * true.doubt) else None


def _wrong(p: Examined, field: nn.Module, error: float, run: Callable[[], Any]) -> Finding:
    remedy = "a detach(), .data or .item() hides a dependence on z, r or t there, or a jvp of its own is wrong"
    found = f"off by {error:.2g} of its norm from differences"
    return Finding("forward-mode", FAIL, found, remedy, _first(p, field, run, _disagrees))


def _first(p: Examined, field: nn.Module, run: Callable[[], Any], guilty: Callable[[Any, Any], bool]) -> str:
    """The first module, children before parents, that is guilty by its function and what it is given."""
    for visit in visits(p.body(field), run):
        f, inputs = function_of(visit)
        with suppress(Exception):  # not this one
            if inputs and guilty(f, inputs):
                return visit.label
    return ""


def _disagrees(f: Any, inputs: Any) -> bool:
    along = directions(inputs)
    true = difference(f, inputs, along)
    return off(forward(f, inputs, along), true.slope) > max(1e-2, 5 * true.doubt)


def _unknown(f: Any, inputs: Any) -> bool:
    return not bool(forward(f, inputs, directions(inputs)).isfinite().all())


def _lacking(p: Examined, field: nn.Module, error: Exception, ours: float | None, run: Callable[[], Any]) -> Finding:
    where, inner = _guilty(p, field, run)
    inner = inner or error
    text, remedy = f"torch has no forward derivative: {reason(inner)}", remedy_for(f"{where} {inner}")
    if ours is not None:
        return Finding("forward-mode", WARN, f"{text}; the rules carry it (off by {ours:.1g})", f"for torch.compile: {remedy}", where)
    return Finding("forward-mode", FAIL, text, f"{remedy}; {WITHOUT}", where)


def _guilty(p: Examined, field: nn.Module, run: Callable[[], Any], switched: bool = True) -> tuple[str, Exception | None]:
    """The first module, children before parents, that has no forward mode on what it is given, and torch's reason."""
    for visit in visits(p.body(field), run):
        refusal = _refusal(visit, switched)
        if refusal is not None:
            return visit.label, refusal
    return "", None


def _refusal(visit: Visit, switched: bool) -> Exception | None:
    f, inputs = function_of(visit)
    if not inputs:
        return None
    try:
        forward(f, inputs, directions(inputs), switched)
    except Exception as error:
        return error
    return None


def remedy_for(text: str) -> str:
    """What to do about an operation without a forward derivative."""
    return next((remedy for pattern, remedy in REMEDIES if re.search(pattern, text)), "write this part by other torch operations")
