"""Checks of single calls: arguments, output, what is not finite, inputs overwritten, chance, rows that see each other."""

from collections.abc import Callable
from math import isnan, nan
from typing import Any

import torch
from torch import Tensor, nn

from meanstep.fields import Adapted
from meanstep.program.doctor.arguments import FIELD, signature
from meanstep.program.doctor.examined import Examined, seed
from meanstep.program.doctor.findings import FAIL, PASS, ROOTS, WARN, Finding, unmeasured
from meanstep.program.doctor.trace import floats, hooked, label, visits
from meanstep.shapes import tree_map

UNLIKE = 1e-4  # of the norm: float32 kernels on other rows round otherwise, by 1e-6


def arguments(p: Examined) -> Finding:
    """Whether the network is a field as it is; if not, the line that makes it one."""
    net = p.body(p.field)
    called, said = f"called as {_spelled(p)}", signature(net)
    lacking = [what for roles, what in (({"t"}, "t"), ({"r", "gap"}, "r or the gap t - r")) if not roles & p.call.roles]
    if isinstance(net, Adapted):
        lacking = [what for roles, what in (({"t"}, "t"), ({"r", "gap"}, "r or t - r")) if not roles & {*net.order, *net.names.values()}]
    if lacking:
        remedy = "give it another time input, e.g. a second embedding of t - r added to that of t"
        return Finding("arguments", FAIL, f"{said} has no place for {' and '.join(lacking)}", remedy)
    if p.call.native and p.call.known:
        return Finding("arguments", PASS, f"{said} is a field (z, r, t, y)")
    if p.stated:
        return Finding("arguments", PASS, f"{called}, as you say", f"train {p.call.line}")
    if not p.call.known:
        remedy = "state it once by --order (z,r,t or z,t,r ...), or name the arguments z, r, t, y"
        return Finding("arguments", WARN, f"the names in {said} do not say which is r and which t; {called} by position", remedy)
    wrong = f"{said} is no field (z, r, t, y): {_difference(p)}; {called} from here on"
    return Finding("arguments", FAIL, wrong, f"train {p.call.line}")


def _spelled(p: Examined) -> str:
    return f"net({', '.join([*p.call.order, *(f'{name}={role}' for name, role in p.call.names.items())])})"


def _difference(p: Examined) -> str:
    order = p.call.order
    if p.call.names:
        return f"it takes {', '.join(p.call.names)} by keyword"
    if order == FIELD[: len(order)]:
        return f"it takes no {FIELD[len(order)]}"
    place = next(k for k, role in enumerate(order) if role != FIELD[k])
    return f"its argument {place + 1} is {order[place]}, not {FIELD[place]}"


def output(p: Examined) -> Finding:
    """The result's type and shape."""
    z, raw, where = p.rows[0], p.raw, label("", p.body(p.field))
    if p.call.output is not None:
        shape = list(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
        return Finding("output", FAIL, f"it returns {shape} for samples {list(z.shape)}", f"train {p.call.line}", where)
    if not isinstance(raw, Tensor):
        return Finding("output", FAIL, f"it returns {type(raw).__name__}", "return one velocity per entry of z, or use output=", where)
    if raw.shape != z.shape:
        remedy = "return one velocity per entry of z (the last layer's width, a missing reshape), or pick it by as_field(..., output=)"
        return Finding("output", FAIL, f"it returns {list(raw.shape)} for samples {list(z.shape)}", remedy, _last(p))
    return Finding("output", PASS, f"{list(raw.shape)} as z, {str(raw.dtype).removeprefix('torch.')}")


def _last(p: Examined) -> str:
    """The last module that returned before the network itself."""
    field = p.fresh()
    found = visits(p.body(field), lambda: p.u(field))
    return found[-2].label if len(found) > 1 else found[-1].label


def finite(p: Examined) -> Finding:
    """Values and gradients at the corners of the times and far from the data."""
    z, r, t, _ = p.rows
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    corners = {"r < t": (z, r, t), "r = t": (z, t, t), "r = t = 0": (z, zero, zero), "r = 0, t = 1": (z, zero, one), "10 z": (10 * z, r, t)}
    for name, (z, r, t) in corners.items():
        field = p.fresh()
        run = lambda field=field, z=z, r=r, t=t: p.u(field, z=z, r=r, t=t)  # noqa: E731
        u = run()
        if not torch.isfinite(u).all():
            found = visits(p.body(field), run)
            first = next((v.label for v in found if any(not x.isfinite().all() for x in floats(v.out))), "")
            bad = (~torch.isfinite(u)).sum().item()
            remedy = "guard divisions, roots and logarithms there (eps, clamp): training visits these times"
            return Finding("finite", FAIL, f"at {name} {bad} of {u.numel()} values are not finite", remedy, first)
        u.float().square().mean().backward() if u.requires_grad else None
        lost = [n for n, w in p.body(field).named_parameters() if w.grad is not None and not w.grad.isfinite().all()]
        if lost:
            return Finding("finite", FAIL, f"at {name} the gradient of {lost[0]} is not finite", ROOTS)
    return Finding("finite", PASS, f"u and its gradients are finite at {', '.join(corners)}")


def inputs(p: Examined) -> Finding:
    """Whether z, r, t or y are overwritten, and by which module."""
    field, given = p.fresh(), tree_map(lambda x: x.clone(), p.rows)
    versions: list[int] = []
    guilty: list[str] = []

    def leave(text: str, module: nn.Module, arguments: Any, out: Any) -> None:
        before, now = versions.pop(), _version(given)
        if now != before and not guilty:
            guilty.append(text)

    with torch.no_grad(), hooked(p.body(field), lambda *_: versions.append(_version(given)), leave):
        p.u(field, **dict(zip("zrty", given, strict=True)))
    changed = [name for name, a, b in zip("zrty", given, p.rows, strict=True) if isinstance(a, Tensor) and not torch.equal(a, b)]
    if changed or guilty:
        what = " and ".join(changed) or "an input"
        remedy = "write x = x * a in place of x *= a (add, not add_; no inplace=True on the input), or clone it first"
        return Finding("inputs", FAIL, f"{what} is changed in place", remedy, guilty[0] if guilty else "")
    return Finding("inputs", PASS, "z, r, t and y are left as they are")


def _version(rows: Any) -> int:
    return sum(x._version for x in rows if isinstance(x, Tensor))


def repeatable(p: Examined) -> Finding:
    """Chance and memory: the same numbers give the same u, and in eval mode u does not depend on chance."""
    field = p.fresh()
    with torch.no_grad():
        first, again = p.u(field), p.u(field)
        other = _other_chance(p, field)
        field.eval()
        calm, chance = p.u(field), _other_chance(p, field)
    if not all(u.isfinite().all() for u in (first, again, other, calm, chance)):
        return unmeasured("repeatable", "u, in train or in eval mode")
    if not torch.equal(first, again):
        remedy = "the network remembers its last call (a counter, a cache, a running mean that it reads): pass a state in and out"
        return Finding("repeatable", WARN, f"two equal calls in train mode differ by {_share(again, first):.2g} of u", remedy)
    if not torch.equal(calm, chance):
        remedy = "draw noise only if self.training: samples are not a function of their seed otherwise"
        return Finding(
            "repeatable", WARN, f"in eval mode u depends on random numbers, by {_share(chance, calm):.2g}", remedy, _chancy(p, 0)
        )
    if not torch.equal(first, other):
        remedy = "fine: both velocities of a row see one mask; where the way is `separate`, such rows get a second pass"
        return Finding(
            "repeatable", PASS, f"train mode draws random numbers (u varies by {_share(other, first):.2g})", remedy, _chancy(p, 1)
        )
    return Finding("repeatable", PASS, "equal calls give equal u, in train and in eval mode")


def _other_chance(p: Examined, field: nn.Module) -> Tensor:
    seed(p.rows[0].device)
    torch.rand(1, device=p.rows[0].device)
    out: Tensor = field(*p.rows)
    return out


def _chancy(p: Examined, training: int) -> str:
    """The first module that draws random numbers."""
    field = p.fresh().train(bool(training))
    found: list[str] = []
    states: list[Tensor] = []

    def leave(text: str, *_: Any) -> None:
        if not torch.equal(states.pop(), torch.get_rng_state()):
            found.append(text)

    with torch.no_grad(), hooked(p.body(field), lambda *_: states.append(torch.get_rng_state()), leave):
        p.u(field)
    return found[0] if found else ""


def _share(a: Tensor, b: Tensor) -> float:
    return ((a - b).float().norm() / b.float().norm().clamp(min=1e-30)).item()


def rows(p: Examined) -> Finding:
    """Whether a row's velocity depends on other rows: all of row 0 is changed, the others are looked at."""
    field = p.fresh()
    first = visits(p.body(field), lambda: _changed(p, field, keep=True))
    field = p.fresh()
    second = visits(p.body(field), lambda: _changed(p, field, keep=False))
    mixed = _mixed(p, first[-1].out, second[-1].out)
    if isnan(mixed):
        return unmeasured("rows", "the other rows, before or after row 0 is another")
    if mixed <= UNLIKE:
        return Finding("rows", PASS, f"another row 0 changes the others by {mixed:.1g} of u")
    pairs = (v for v, w in zip(first, second, strict=False) if v.label == w.label and _mixed(p, v.out, w.out) > UNLIKE)
    guilty = next(pairs, first[-1])
    return Finding("rows", FAIL, f"another row 0 changes the others by {mixed:.2g} of u", _remedy(guilty.module), guilty.label)


@torch.no_grad()
def _changed(p: Examined, field: nn.Module, keep: bool) -> Tensor:
    z, r, t, y = tree_map(lambda q: q.clone(), p.rows)
    if not keep:
        z[0], r[0], t[0] = 3 * z[0] + 1, 0.9 * r[0], 0.5 * (1 + t[0])
    return p.u(field, z=z, r=r, t=t, y=y)


def _mixed(p: Examined, a: Any, b: Any) -> float:
    """How much the other rows of a result changed; 0 for what does not begin with the batch, nan if one is not finite."""
    batch, found = p.rows[2].shape[0], [0.0]
    for x, y in zip(floats(a), floats(b), strict=False):
        if x.shape == y.shape and x.ndim and x.shape[0] == batch:
            found.append(((x[1:] - y[1:]).norm() / x[1:].norm().clamp(min=1e-30)).item())
    return nan if any(map(isnan, found)) else max(found)


MIXERS: tuple[tuple[type | tuple[type, ...], Callable[[Any], bool], str], ...] = (
    (nn.modules.batchnorm._BatchNorm, lambda m: True, "BatchNorm in train mode mixes the rows: use GroupNorm or LayerNorm"),
    (nn.MultiheadAttention, lambda m: not m.batch_first, "it attends along the batch: build it with batch_first=True"),
    ((nn.RNNBase,), lambda m: not m.batch_first, "it runs along the batch: build it with batch_first=True"),
)


def _remedy(module: nn.Module) -> str:
    for kinds, applies, text in MIXERS:
        if isinstance(module, kinds) and applies(module):
            return text
    return "a row's velocity is its own: no statistics, attention or products over axis 0"
