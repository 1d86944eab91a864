"""Checks of the times: whether r, t and the labels are read, and how fast u answers to a small change of t."""

from collections.abc import Iterable
from math import isfinite, nan

import torch
from torch import Tensor
from torch.utils import _pytree

from meanstep.fields import MLP
from meanstep.keys import key
from meanstep.program.doctor.derivatives import difference
from meanstep.program.doctor.examined import Examined
from meanstep.program.doctor.findings import FAIL, NONE, PASS, WARN, Finding, unmeasured
from meanstep.program.doctor.slopes import precision
from meanstep.program.doctor.trace import Visit, coarse, floats, visits
from meanstep.shapes import tree_map

STEP = 0.005  # of rates.Central: over this change of t a field must be nearly straight
FAST, TOO_FAST = 0.1, 0.4  # of its whole answer to t; meanstep.MLP gives 0.04, times of 1000 t in sines 0.6 and more
INFLATED = 30.0  # |d_t u| / |u|, and |d_t u| beside velocities of size 1; meanstep.MLP has 1 to 2, 1000 t in sines 50 to 90
TINY = 1e-4  # a table of 1000 times answers to that in one row of ten
READ = 1e-6  # of u: less than this is rounding
LARGE = (0.02, 0.05, 0.1, 0.2)


def used(p: Examined) -> Finding:
    """Whether u depends on r, on t, and on the labels."""
    _, r, t, _ = p.rows
    field = p.fresh()
    with torch.no_grad():
        u = p.u(field)
        dr = _most(_gap(p.u(field, r=r * share), u) for share in (0.5, 0.0))
        dt = _most(_gap(p.u(field, t=t + step), u) for step in LARGE)
    sizes = f"u changes by {dr:.2g} of its norm with r, by {dt:.2g} with t"
    if not isfinite(dr + dt):
        return unmeasured("times", sizes)
    if min(dr, dt) < READ:
        name = "r" if dr < READ else "t"
        remedy = f"embed {'r (or t - r)' if name == 'r' else 't'} and add it to the condition; without it u is no average velocity"
        return Finding("times", FAIL, f"u does not depend on {name}: {sizes}", remedy)
    return Finding("times", PASS, sizes)


def labels(p: Examined) -> Finding:
    """Whether the condition is read: all its parts go to the next row together."""
    y = p.rows[3]
    parts = [part for part in _pytree.tree_leaves(y) if isinstance(part, Tensor)]
    if not parts:
        return Finding("labels", NONE, "no condition was given", "give --classes N to check labels")
    if all(bool((part == part[:1]).all()) for part in parts):
        return Finding(
            "labels",
            NONE,
            "the condition of all rows is the same",
            "give --classes N above 1, more rows, or an example whose rows differ in it",
        )
    field = p.fresh()
    with torch.no_grad():
        change = _gap(p.u(field, y=tree_map(lambda part: part.roll(1, 0), y)), p.u(field))
    if not isfinite(change):
        return unmeasured("labels", f"u changes by {change:.2g} with the labels")
    if change < READ:
        return Finding("labels", WARN, f"u changes by {change:.2g} with the labels", "pass y on to an embedding, or train without labels")
    return Finding("labels", PASS, f"u changes by {change:.2g} of its norm with the labels")


def _gap(a: Tensor, b: Tensor) -> float:
    return ((a - b).double().norm() / b.double().norm().clamp(min=1e-30)).item()


def _most(gaps: Iterable[float]) -> float:
    """The largest of those that are finite, for a large step may leave the times that a network knows; nan where none is."""
    return max(filter(isfinite, gaps), default=nan)


def scale(p: Examined) -> Finding:
    """How much of its answer to t the network gives within a step of 0.005, and its derivative in t, beside a reference network's."""
    field = p.fresh()
    at, far = _answers(p, field)
    share, (size, slope) = _share(at, far), sizes(p)
    ratio = slope / max(size, 1e-30)
    found = (
        f"{share:.2g} of its answer to t comes within {STEP}; |d_t u| / |u| = {slope:.2g} / {size:.2g} (a reference: {_reference():.2g})"
    )
    if not isfinite(share + size + slope):
        return unmeasured("time-scale", found)
    if far == 0:
        return Finding("time-scale", NONE, "u does not depend on t")
    if _stands(p, field):
        low = coarse(p.body(field), lambda: p.u(field))
        remedy = precision(low[1]) if low else "times are in [0, 1] and continuous: no rounding, .long() or table of integer steps"
        return Finding(
            "time-scale",
            FAIL,
            f"most rows do not answer to a change of t by {TINY:g}, and by {far:.2g} of u to a large one",
            remedy,
            _where(p, flat=True),
        )
    if share > FAST or max(ratio, slope) > INFLATED:
        remedy = "times are in [0, 1]: feed t, not 1000 t, into the embedding (or lower its highest frequency)"
        return Finding("time-scale", FAIL if share > TOO_FAST else WARN, found, remedy, _where(p))
    return Finding("time-scale", PASS, found)


@torch.no_grad()
def _answers(p: Examined, field: torch.nn.Module) -> tuple[float, float]:
    """How far u moves within a small step of t, and at most within large ones."""
    u, t = p.u(field), p.rows[2]
    return _gap(p.u(field, t=t + STEP), u), _most(_gap(p.u(field, t=t + step), u) for step in LARGE)


@torch.no_grad()
def _stands(p: Examined, field: torch.nn.Module) -> bool:
    """Whether most rows give exactly the same u at a slightly later t."""
    u, t = p.u(field), p.rows[2]
    same = (p.u(field, t=t + TINY) == u).flatten(1).all(1)
    return bool(same.sum() * 2 > len(same))


def _unmoved(a: Visit, b: Visit) -> bool:
    same = [x == y for x, y in zip(floats(a.out), floats(b.out), strict=True) if x.shape == y.shape]
    return bool(same) and all(x.float().mean() > 0.5 for x in same)


def _share(at: float, far: float) -> float:
    return at / far if far else 0.0


def sizes(p: Examined) -> tuple[float, float]:
    """Root mean squares of `u` and `d_t u`, by differences."""
    field, rows = p.double() or (p.fresh(), p.rows)
    given = dict(zip("zrty", rows, strict=True))
    f = lambda t: (p.u(field, **(given | {"t": t})),)  # noqa: E731
    slope = difference(f, (given["t"],), (torch.ones_like(given["t"]),)).slope
    return f(given["t"])[0].detach().double().square().mean().sqrt().item(), slope.square().mean().sqrt().item()


def _reference() -> float:
    """The same of a small `meanstep.MLP`."""
    net, g = MLP(2, generator=key(0, "reference")).double(), key(0, "rows")
    z, t = torch.randn(64, 2, generator=g).double(), torch.linspace(0.2, 0.7, 64).double()
    u, du = torch.func.jvp(lambda t: net(z, t / 2, t), (t,), (torch.ones_like(t),))[:2]
    return (du.norm() / u.norm()).item()


@torch.no_grad()
def _where(p: Examined, flat: bool = False) -> str:
    """The first module whose result answers that fast, or not at all, to a small change of t."""
    t = p.rows[2]

    def run(step: float) -> list[Visit]:
        field = p.fresh()
        return visits(p.body(field), lambda: p.u(field, t=t + step))

    still, moved = run(0.0), run(TINY if flat else STEP)
    far = [run(step) for step in LARGE]
    for k, visit in enumerate(still):
        if any(len(other) <= k or len(floats(other[k].out)) != len(floats(visit.out)) for other in (moved, *far)):
            continue
        at, most = _moved(moved[k], visit), max(_moved(other[k], visit) for other in far)
        fast = _share(at, most) > FAST or _speed(moved[k], visit) > INFLATED
        if most > READ and (_unmoved(moved[k], visit) if flat else fast):
            return visit.label
    return ""


def _speed(a: Visit, b: Visit) -> float:
    pairs = [(x, y) for x, y in zip(floats(a.out), floats(b.out), strict=True) if x.shape == y.shape]
    return max(((x - y).double().square().mean().sqrt().item() / STEP for x, y in pairs), default=0.0)


def _moved(a: Visit, b: Visit) -> float:
    pairs = [(x, y) for x, y in zip(floats(a.out), floats(b.out), strict=True) if x.shape == y.shape]
    return max((_gap(x, y) for x, y in pairs), default=0.0)
