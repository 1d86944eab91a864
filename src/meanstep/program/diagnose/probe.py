"""The measurement: growing batches of rows until the precision is reached or the budget is spent. Knows no rules and no files."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor

from meanstep import probes
from meanstep import times as at_times
from meanstep.keys import key
from meanstep.loss import Loss
from meanstep.probes.rows import inner, tabulated
from meanstep.program.data.batch import Batch
from meanstep.program.diagnose.case import Case
from meanstep.program.diagnose.gradient import Gradient, gradient
from meanstep.program.diagnose.pull import pull
from meanstep.program.diagnose.reading import second
from meanstep.program.diagnose.tables import finite, joined, stacked
from meanstep.shapes import over
from meanstep.tangents import automatic
from meanstep.terms import Term, moving
from meanstep.types import Bridge
from meanstep.velocities import conditional, own

FIRST, LARGEST, LEAST, EXACT = 32, 4096, 1024, 16
"""Rows of the first batch at most, of the largest, the fewest that end by precision; entries of a row up to which J is exact."""
NEEDED = ("noise over (r, t)", "derivative", "Jacobian", "time derivative", "roles at r = t")
PRECISION, BUDGET, REACHED, ROWS, STOPPED = "precision", "budget", "the wanted precision was reached", "all --rows were drawn", "Ctrl-C"
Told = Callable[[str, float, int], None]


@dataclass
class Measured:
    """Tables by name, and what they cost. `ended`: why the drawing of rows ended."""

    tables: dict[str, probes.Table] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    gradient: Gradient | None = None
    rows: int = 0
    batches: int = 0
    lost: int = 0
    evaluations: int = 0
    elapsed: float = 0.0
    ended: str = BUDGET


def measure(case: Case, budget: float, precision: float, most: int, told: Told = lambda what, share, rows: None) -> Measured:
    """Draw and probe rows. Ctrl-C ends it with what is there; before the first batch is complete it is passed on."""
    found, started = Measured(), time.perf_counter()

    def left() -> float:
        return budget - (time.perf_counter() - started)

    def tell(what: str) -> None:
        told(what, 1 - left() / budget, found.rows)

    with _Counted(case.probed.field) as asked:
        try:
            size = _warm(case, found, left, most, tell)
            while size:
                size = _step(case, found, size, left, precision, most, tell)
        except KeyboardInterrupt:
            if not found.batches:
                raise
            found.ended = STOPPED
    found.elapsed, found.evaluations = time.perf_counter() - started, asked.rows
    return found


def _warm(case: Case, found: Measured, left: Callable[[], float], most: int, tell: Callable[[str], None]) -> int:
    """The size of the first batch, from a few rows that do not count: what torch does once is not the price of a row.

    They do count where there is no time for more; where they were quick they are asked again, for what they cost once that is done.
    """
    rows, took = min(most, max(2, ceil(1 / min(term.share for term in case.method.recipe)))), 0.0
    for _ in range(2):
        first, before = Measured(), time.perf_counter()
        _timed(found, "first calls", partial(_batch, case, first, rows, left, lambda what: tell(f"first calls: {what}")))
        took = time.perf_counter() - before
        if took > 0.1 * left():
            break
    if left() < took:
        found.tables, found.rows, found.batches, found.lost = first.tables, first.rows, first.batches, first.lost
        return 0
    return min(most, max(rows, min(FIRST, int(0.4 * left() * rows / took))))


def _step(
    case: Case, found: Measured, size: int, left: Callable[[], float], precision: float, most: int, tell: Callable[[str], None]
) -> int:
    """One batch, after the first the gradient, and the size of the next."""
    before = time.perf_counter()
    _batch(case, found, size, left, tell)
    took = time.perf_counter() - before
    if found.batches == 1 and left() > 0:
        tell("gradient")
        _timed(found, "gradient", partial(_gradient, case, found, left(), took / size))
    return _next(found, size, took, left(), precision, most)


def _gradient(case: Case, found: Measured, left: float, cost: float) -> None:
    loss = Loss(case.method.recipe, case.method.path, measure=False).to(case.device)
    found.gradient = gradient(loss, case, left, cost)


def _next(found: Measured, size: int, seconds: float, left: float, precision: float, most: int) -> int:
    """The size of the next batch; 0 ends it, and `found.ended` says why."""
    if found.rows >= most:
        found.ended = ROWS
        return 0
    if found.rows >= LEAST and precise(found) <= precision:
        found.ended = REACHED
        return 0
    fits = int(0.6 * left * size / max(seconds, 1e-9))
    size = min(4 * size, LARGEST, most - found.rows, fits)
    found.ended = BUDGET
    return size if size >= 4 or size == most - found.rows > 0 else 0


def precise(found: Measured) -> float:
    """The larger half width of two 95 percent intervals: of the noise at beta = 0, relative, and of the quietest beta on [0, 1].

    Of the squared residual, relative, where all rows have r = t. Of fewer than three rows, or without noise, infinite: nothing is known.
    """
    still = "map" not in found.tables
    table = found.tables["still"] if still else found.tables.get("train", found.tables["map"])
    if len(table.t) < 3:
        return inf
    if still:
        return _width(table.mean("residual"))
    best = probes.matrix(table).clipped()
    least = float(best.high - best.low) / 2  # nan where there is no curvature, and so no quietest beta
    return max(_width(table.ratio("a", "s")), least if least == least else 0.0)


def _width(e: probes.Estimate) -> float:
    low, high = e.interval()
    return float(((high - low) / (high + low)).nan_to_num(inf))


# One batch ---------------------------------------------------------------------------------------------------------------------------


def _batch(case: Case, found: Measured, n: int, left: Callable[[], float], told: Callable[[str], None]) -> None:
    """All probes on `n` fresh rows, or those of the maps alone where the time is over; they count only when all are there."""
    number = found.batches
    new: dict[str, probes.Table] = {}
    b = case.drawn(n, "rows", number)
    loss = Loss(case.method.recipe, case.method.path, measure=False).to(case.device)
    smallest = min(term.share for term in case.method.recipe)
    how: dict[str, Any] = {"noise": b.noise, "mask": b.mask, "progress": case.progress, "generator": key(case.seed, "draws", number)}
    draws = loss.draw(b.x, b.y, **how) if n * smallest >= 1 else []
    for name, what in _sections(case, draws, _everywhere(case, b, number)).items():
        if left() < 0 and name not in NEEDED:
            continue
        told(name)
        _timed(found, name, partial(_kept, new, what))
    kept, lost = finite(new)
    found.lost += lost
    found.tables = {name: joined(found.tables.get(name), table) for name, table in (found.tables | kept).items() if name in kept} | {
        name: table for name, table in found.tables.items() if name not in kept
    }
    found.rows, found.batches = found.rows + n, number + 1


def _kept(new: dict[str, probes.Table], what: Callable[[], dict[str, probes.Table]]) -> None:
    new.update(what())


def _timed(found: Measured, name: str, work: Callable[[], None]) -> None:
    started = time.perf_counter()
    try:
        work()
    finally:
        found.seconds[name] = found.seconds.get(name, 0.0) + time.perf_counter() - started


def _everywhere(case: Case, b: Batch, number: int) -> Bridge:
    """Rows with (r, t) uniform over the triangle, whatever the recipe draws: for the maps. Masked entries are 0, as in the loss."""
    g, path = key(case.seed, "everywhere", number), case.method.path
    e = torch.randn(b.x.shape, generator=g, dtype=b.x.dtype)
    r, t = (p.to(b.x) for p in at_times.uniform((len(b.x),), g))
    x, e = b.x, e.to(b.x) if b.noise is None else b.noise
    if b.mask is not None:
        x, e = (torch.where(over(b.mask, p), p, 0.0) for p in (x, e))
    z, v = path(x, e, t)
    aux = torch.rand(len(x), 4, generator=g, dtype=x.dtype).to(x)
    return Bridge(z, v, r, t, b.y, b.mask, aux, case.progress, path, b.noise is None)


def _sections(case: Case, draws: list[tuple[Term, Bridge]], b: Bridge) -> dict[str, Callable[[], dict[str, probes.Table]]]:
    field, center, proxy = case.probed.field, case.center.velocity, second(case.probed, case.center)[1]
    chunk = max(1, min(case.chunk, 4_000_000 // case.center.cost))
    run = [(term, bridge) for term, bridge in draws if moving(term)]
    still = [(term, bridge) for term, bridge in draws if not moving(term)]
    anchor = b._replace(r=b.t)
    boundary = {"r = t": lambda: {"boundary": probes.proxy_bias(field, anchor, own, center, chunk=chunk).rows}}
    boundary = boundary if case.center.kind != "own" else {}
    if case.method.still:
        slope = {"time derivative": lambda: {"answers": slopes(case, anchor, chunk)}}
        return slope | {"roles at r = t": lambda: _roles(case, run, still, chunk)} | boundary
    sections: dict[str, Callable[[], dict[str, probes.Table]]] = {
        "noise over (r, t)": lambda: {"map": probes.moments(field, b, center, chunk=chunk)},
        "derivative": lambda: {"answers": answers(case, b, chunk)},
        "Jacobian": lambda: {"jacobian": probes.factor(field, b, draws=1, steps=0, exact=EXACT, chunk=chunk)},
    }
    if run:
        sections["noise over beta"] = lambda: {"train": stacked([probes.moments(field, p, center, proxy, chunk=chunk) for _, p in run])}
        sections["center"] = lambda: _shift(case, run[0][1], chunk)
    if draws:
        sections["roles"] = lambda: _roles(case, run, still, chunk)
    return sections | boundary


def answers(case: Case, b: Bridge, chunk: int) -> probes.Table:
    """What the field gives and how it changes on every row: `u`, `change` (t - r) du/dt along the recipe's tangent, `slope` d_t u.

    Squares, summed over the event; `moved` is (t - r) d_t u alone, the rest of `change` comes through z.
    """
    objective = next((term.objective for term in case.method.recipe if hasattr(term.objective, "tangent")), None)
    tangent = objective.tangent if objective is not None else conditional
    field = case.probed.field

    @torch.no_grad()
    def probe(p: Bridge) -> dict[str, Tensor]:
        one = torch.ones_like(p.t)
        u, whole = automatic(field, p.z, p.r, p.t, p.y, (tangent(field, p).to(p.z), None, one))
        slope = automatic(field, p.z, p.r, p.t, p.y, (None, None, one))[1]
        gap = p.gap.double().square()
        return {
            "u": inner(u, u, p),
            "change": gap * inner(whole, whole, p),
            "slope": inner(slope, slope, p),
            "moved": gap * inner(slope, slope, p),
        }

    return tabulated(b, chunk, probe)


def slopes(case: Case, b: Bridge, chunk: int) -> probes.Table:
    """`u` and `slope` of `answers` at r = t, where both times move: all that a network which never saw r < t can be asked."""

    @torch.no_grad()
    def probe(p: Bridge) -> dict[str, Tensor]:
        one = torch.ones_like(p.t)
        u, slope = automatic(case.probed.field, p.z, p.t, p.t, p.y, (None, one, one))
        return {"u": inner(u, u, p), "slope": inner(slope, slope, p)}

    return tabulated(b, chunk, probe)


def _shift(case: Case, b: Bridge, chunk: int) -> dict[str, probes.Table]:
    """The center's error, taken to be its distance to a better one: half a posterior's reference to all of it."""
    if not case.center.halves:
        return {}
    half = probes.moments(case.probed.field, b, case.center.halves[0], chunk=chunk)
    return {"half": half, "shift": probes.moments(case.probed.field, b, case.center.halves[0], case.center.velocity, chunk=chunk)}


def _roles(case: Case, run: list[tuple[Term, Bridge]], still: list[tuple[Term, Bridge]], chunk: int) -> dict[str, probes.Table]:
    """The noise by role on moving and on r = t rows, and what the weight makes of every row's residual."""
    found: dict[str, list[probes.Table]] = {"moving": [], "still": [], "pull": []}
    for name, terms in (("moving", run), ("still", still)):
        for term, b in terms:
            table = probes.roles(case.probed.field, b, term.objective, case.center.velocity, chunk=chunk)
            found[name].append(table)
            found["pull"].append(pull(case, term, b, table, chunk))
    return {name: stacked(tables) for name, tables in found.items() if tables}


class _Counted:
    """Counts the rows that a module is called on."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.rows = module, 0

    def __enter__(self) -> "_Counted":
        self.handle = self.module.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _count(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape = getattr(args[0] if args else next(iter(kwargs.values())), "shape", (1,))
        self.rows += int(shape[0]) if len(shape) else 1
