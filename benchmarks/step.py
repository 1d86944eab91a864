"""What a training step costs, as a ratio to a flow-matching step of the same network, batch and optimiser in the same run.

    python benchmarks/step.py                                   # one CPU thread: DiT 6 x 256, 64 tokens, batch 32
    python benchmarks/step.py --networks small S/4 --kinds eager step blocks
    python benchmarks/step.py --device cuda --networks B/4 XL/2 --kinds eager step

Every variant makes one step in each round, one after the other, so that a pause of a busy machine hits all alike; the ratio is the median
over the rounds of the ratio within a round. A quarter of the rows has r < t. Draws, loss, backward pass and fused AdamW are part of
every step. Memory is the peak of what a step allocates beyond weights and optimiser. The floor counts forward passes: one forward is 1,
forward and backward 3, a tangent as much as its rows' forward. `--kinds step` compiles the loss in one graph, `blocks` each block of the
network by itself, which compiles one block whatever the depth; the public form is missing there, since torch has no forward mode through a
compiled block. With `--seconds` the rounds end when a table has taken so long, after three at least.

`--go-on` is for a machine that is there for minutes: a row is written as soon as it is measured, by three rounds first; what the file has
is not made again, no variant begins when the seconds are over, and one that fails, for memory or in a compiler, has its reason in place
of numbers. The exit code is 75 if something is left to make. Where a whole step is a captured graph its memory is not measured: the graph
keeps what it needs.
"""

import argparse
import copy
import functools
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import options
import torch
from memory import peak
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import meanstep as ms
from meanstep.fields import DiT
from meanstep.program.errors import first_line
from meanstep.program.machine import environment
from meanstep.rates import Exact
from meanstep.recipes import Recipe, coefficient, meanflow, solution_flow, terminal_velocity, trace_weighted, transition
from meanstep.tangents import carried, recorded, separate

SHARE = 0.25
LEAST = 3  # rounds
LEFT = 75  # the exit code that says: call again for the rest
UNENDED = "its first steps did not end in the time that was left"
SMALL = {"size": 16, "patch": 2, "width": 256, "depth": 6, "heads": 4}
BIG = {"size": 32, "patch": 2, "width": 384, "depth": 12, "heads": 6}


class Case(NamedTuple):
    """A network and the rows of its batch."""

    network: Callable[..., DiT]
    batch: int


CASES = {
    "small": Case(functools.partial(DiT, **SMALL), 32),
    "toy": Case(functools.partial(DiT, size=8, patch=2, width=16, depth=1, heads=2), 16),
    "big": Case(functools.partial(DiT, **BIG), 8),
    "S/4": Case(functools.partial(DiT.named, "S/4"), 32),
    "B/4": Case(functools.partial(DiT.named, "B/4"), 16),
    "XL/2": Case(functools.partial(DiT.named, "XL/2"), 16),
}


class Variant(NamedTuple):
    """A way to train: `step(net, ema, x) -> loss`, and the forwards that it cannot avoid beyond 3."""

    make: Callable[[nn.Module, nn.Module], Callable[[Tensor], Tensor]]
    extra: float


def flow_matching(net: nn.Module, ema: nn.Module) -> Callable[[Tensor], Tensor]:
    """As everybody writes it."""

    def loss(x: Tensor) -> Tensor:
        e, t = torch.randn_like(x), torch.sigmoid(torch.randn(len(x), device=x.device) - 0.4)
        z = torch.lerp(x, e, t[:, None, None, None])
        return (net(z, t, t) - (e - x)).square().mean()

    return loss


def public(net: nn.Module, ema: nn.Module, apart: bool = False, proxy: bool = False, anchor: bool = False) -> Callable[[Tensor], Tensor]:
    """MeanFlow as most public code has it: forward mode on the whole batch, with its graph, on unfused attention."""

    def loss(x: Tensor) -> Tensor:
        e, pair = torch.randn_like(x), torch.sigmoid(torch.randn(2, len(x), device=x.device) - 0.4)
        r, t = pair.amin(0), pair.amax(0)
        r = torch.where(torch.arange(len(x), device=x.device) < SHARE * len(x), r, t)
        z, v = torch.lerp(x, e, t[:, None, None, None]), e - x
        with torch.no_grad():
            w = ema(z, t, t) if proxy else v
        with sdpa_kernel(SDPBackend.MATH):
            u, du = torch.func.jvp(net, (z, r, t), (w, torch.zeros_like(r), torch.ones_like(t)))
        u = net(z, r, t) if apart else u
        error = (u - (v - (t - r)[:, None, None, None] * du).detach()).square().sum((1, 2, 3))
        total = (error / (error.detach() + 0.01)).mean()
        return total + 0.5 * (net(z, t - 0.005, t) - v).square().mean() if anchor else total

    return loss


def ours(recipe: Callable[[nn.Module], Recipe], adapted: bool = False, **options: bool) -> Any:
    """The public `Loss`; `adapted`: on a module that it knows nothing about."""

    def make(net: nn.Module, ema: nn.Module) -> Callable[[Tensor], Tensor]:
        field = ms.as_field(net) if adapted else net
        loss = ms.Loss(recipe(ema), **{"check": False, "measure": False, **options})
        return lambda x: loss(field, x, progress=0.5).loss

    return make


def anchored(ema: nn.Module) -> Recipe:
    return coefficient(1.0, ema, anchor_share=SHARE)


def teacher(ema: nn.Module) -> Recipe:
    """Terminal velocity as published: every row jumps, and the velocity at the arrival is a slow copy's."""
    return terminal_velocity(ema)


def trace(ema: nn.Module, **options: Any) -> Recipe:
    """The trace weight at the row share of the others, beside the tangent of `coefficient, EMA tangent`."""
    return trace_weighted(proxy=ema, diagonal_share=1 - SHARE, **options)


EAGER = {
    "flow matching": Variant(flow_matching, 0),
    "meanflow": Variant(ours(lambda ema: meanflow()), SHARE),
    "meanflow, checks and metrics": Variant(ours(lambda ema: meanflow(), check=True, measure=True), SHARE),
    "meanflow, a stranger's module": Variant(ours(lambda ema: meanflow(), adapted=True), SHARE),
    "meanflow, by forward mode": Variant(ours(lambda ema: meanflow(rate=Exact(way=separate))), 2 * SHARE),
    "meanflow, by a recorded pass": Variant(ours(lambda ema: meanflow(rate=Exact(way=recorded))), SHARE),
    "coefficient, EMA tangent": Variant(ours(lambda ema: coefficient(1.0, ema, anchor=0.0)), 2 * SHARE),
    "coefficient, by forward mode": Variant(ours(lambda ema: coefficient(1.0, ema, anchor=0.0, rate=Exact(way=separate))), 3 * SHARE),
    "coefficient, anchor on a quarter": Variant(ours(anchored), 5 * SHARE),
    "trace weight, EMA tangent": Variant(ours(trace), 3 * SHARE),
    "trace weight, by forward mode": Variant(ours(functools.partial(trace, rate=Exact(way=separate))), 5 * SHARE),
    "solution flow": Variant(ours(lambda ema: solution_flow()), SHARE),
    "transition": Variant(ours(lambda ema: transition()), 4 * SHARE),
    "terminal velocity": Variant(ours(teacher), 7),
    "public meanflow": Variant(public, 1),
    "public, a forward of its own": Variant(functools.partial(public, apart=True), 2),
    "public, EMA tangent and anchor": Variant(functools.partial(public, apart=True, proxy=True, anchor=True), 6),
}
COMPILED = {
    "flow matching": EAGER["flow matching"],
    "meanflow": Variant(ours(lambda ema: meanflow(rate=Exact(way=carried))), SHARE),
    "meanflow, a stranger's module": Variant(ours(lambda ema: meanflow(rate=Exact(way=recorded))), SHARE),
    "coefficient, EMA tangent": EAGER["coefficient, EMA tangent"],
    "coefficient, anchor on a quarter": EAGER["coefficient, anchor on a quarter"],
    "trace weight, EMA tangent": EAGER["trace weight, EMA tangent"],
    "solution flow": EAGER["solution flow"],
    "transition": EAGER["transition"],
    "terminal velocity": EAGER["terminal velocity"],
    "public meanflow": Variant(public, 1),
}
TABLES = {"eager": EAGER, "step": COMPILED, "blocks": {k: v for k, v in EAGER.items() if k in COMPILED and "public" not in k}}
TITLES = {"eager": "eager", "step": "compiled step", "blocks": "compiled blocks"}


class Bench:
    """One network, its EMA copy, its optimiser, and a batch of noise in place of data."""

    def __init__(self, case: Case, device: torch.device, autocast: bool) -> None:
        torch.manual_seed(0)
        with device:
            self.net = case.network()
            self.x = torch.randn(case.batch, self.net.channels, *self.net.grid)
        for p in self.net.parameters():  # a DiT starts with closed gates
            p.data.add_(0.02 * torch.randn_like(p))
        self.ema = copy.deepcopy(self.net).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), lr=1e-5, fused=True)
        self.device, self.autocast, self.case = device, autocast, case

    def step(self, loss: Callable[[Tensor], Tensor]) -> None:
        self.optimiser.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            value = loss(self.x)
        value.backward()
        self.optimiser.step()

    def seconds(self, loss: Callable[[Tensor], Tensor]) -> float:
        """Of processor time on a CPU, else of wall time."""
        clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        self.wait()
        start = clock()
        self.step(loss)
        self.wait()
        return clock() - start

    def peak(self, loss: Callable[[Tensor], Tensor]) -> float:
        """Megabytes that a step allocates at most, beyond what is there before it."""
        self.step(loss)
        self.optimiser.zero_grad()
        return peak(lambda: self.step(loss), self.device.type != "cpu") / 2**20

    def clear(self) -> None:
        """Gives back what a variant that failed held."""
        self.optimiser.zero_grad()
        gc.collect()
        if self.device.type != "cpu":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        if self.device.type != "cpu":
            torch.cuda.synchronize()


Rounds = dict[str, list[float]]
Rows = dict[str, dict[str, Any]]


def measure(
    bench: Bench, table: dict[str, Variant], kind: str, rounds: int, seconds: float, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Times and memory of every variant of a table, the rounds that `seconds` had room for, and the median ratio of each of `pairs`."""
    end = time.monotonic() + seconds
    compile_blocks(bench, kind)
    steps = {name: begun(bench, variant, kind) for name, variant in table.items()}
    times = timed(bench, steps, rounds, end)
    between = {f"{a} / {b}": statistics.median(p / q for p, q in zip(times[a], times[b], strict=True)) for a, b in pairs}
    found = {"rounds": len(times["flow matching"]), "rows": summed(bench, table, steps, times)}
    return {**found, "pairs": between} if pairs else found


def gone_on(
    bench: Bench, table: dict[str, Variant], kind: str, rounds: int, seconds: float, kept: dict[str, Any], keep: Callable[[dict], None]
) -> bool:
    """The same for what `kept`, a run of the file, lacks; `keep` gets the run whenever there is more of it. Whether all is made."""
    end = time.monotonic() + seconds
    compile_blocks(bench, kind)
    rows: Rows = kept.get("rows", {})
    wanted = [name for name in table if "ratio" not in rows.get(name, {}) and name != "flow matching"]
    untried = [name for name in wanted if name not in rows]
    steps = {"flow matching": begun(bench, table["flow matching"], kind)}
    least = LEAST

    def put(names: list[str], times: Rounds) -> None:
        nonlocal least
        least = min([len(times["flow matching"]), *([kept["rounds"]] if set(rows) - set(names) and "rounds" in kept else [])])
        rows.update(summed(bench, table, {name: steps[name] for name in names}, times))
        keep({"rounds": least, "rows": {name: rows[name] for name in table if name in rows}})

    for name in [*untried, *(name for name in wanted if name not in untried)]:  # what failed or stuck before comes last
        if time.monotonic() > end:
            break
        keep({"rounds": least, "rows": {**rows, name: {"why": UNENDED}}})
        try:
            steps[name] = begun(bench, table[name], kind)
            put(["flow matching", name], timed(bench, {k: steps[k] for k in ("flow matching", name)}, LEAST, end))
        except Exception as error:  # the others are measured
            reason = "out of memory" if isinstance(error, torch.OutOfMemoryError) else first_line(error)
            steps.pop(name, None)
            rows[name] = {"why": reason}
            keep({"rounds": least, "rows": rows})
        if name not in steps:  # the error, which held what the variant held, is gone here
            bench.clear()
    put(list(steps), timed(bench, steps, rounds, end))
    return not any(name not in rows or rows[name].get("why") == UNENDED for name in table)


def compile_blocks(bench: Bench, kind: str) -> None:
    for block in (*bench.net.blocks, *bench.ema.blocks) if kind == "blocks" else ():
        block.compile(fullgraph=True, dynamic=False)


class Begun(NamedTuple):
    """A variant that made its first three steps, what these took, and whether its memory can be measured."""

    loss: Callable[[Tensor], Tensor]
    seconds: float
    freed: bool


def begun(bench: Bench, variant: Variant, kind: str) -> Begun:
    mode = None if bench.device.type == "cpu" else "reduce-overhead"
    loss = variant.make(bench.net, bench.ema)
    loss = torch.compile(loss, fullgraph=True, mode=mode) if kind == "step" else loss
    begin = time.perf_counter()
    for _ in range(3):
        bench.step(loss)
    bench.wait()
    return Begun(loss, time.perf_counter() - begin, freed=kind != "step" or mode is None)


def timed(bench: Bench, steps: dict[str, Begun], rounds: int, end: float) -> Rounds:
    """Seconds of a step of each, in turn."""
    times: Rounds = {name: [] for name in steps}
    for done in range(rounds):
        if done >= LEAST and time.monotonic() > end:
            break
        for name, step in steps.items():
            times[name].append(bench.seconds(step.loss))
    return times


def summed(bench: Bench, table: dict[str, Variant], steps: dict[str, Begun], times: Rounds) -> Rows:
    """A row of each variant; those of memory are None where it cannot be measured."""
    base = times["flow matching"]
    memory = {name: bench.peak(step.loss) if step.freed else None for name, step in steps.items()}
    plain, out = memory["flow matching"], {}
    for name, step in steps.items():
        ratios = sorted(a / b for a, b in zip(times[name], base, strict=True))
        peak_mb = memory[name]
        out[name] = {
            "seconds": statistics.median(times[name]),
            "ratio": statistics.median(ratios),
            "ratio_low": ratios[len(ratios) // 4],
            "ratio_high": ratios[(3 * len(ratios)) // 4],
            "floor": (3 + table[name].extra) / 3,
            "peak_mb": peak_mb,
            "peak_ratio": peak_mb / plain if peak_mb is not None and plain else None,
            "first_three_steps_s": step.seconds,
        }
    return out


def report(title: str, table: Rows) -> None:
    print(f"\n{title}\n{'':36} {'ms':>8} {'ratio':>6} {'half of the rounds':>19} {'floor':>6} {'peak MB':>8} {'ratio':>6} {'start s':>8}")
    for name, row in table.items():
        if "why" in row:
            print(f"{name:36} {row['why']}", flush=True)
            continue
        half = f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}"
        line = f"{name:36} {1e3 * row['seconds']:8.1f} {row['ratio']:6.3f} {half:>19} {row['floor']:6.3f}"
        memory = f"{row['peak_mb']:8.0f} {row['peak_ratio']:6.2f}" if row["peak_ratio"] else f"{'':15}"
        print(f"{line} {memory} {row['first_three_steps_s']:8.1f}", flush=True)


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=["small"], help="which networks (default: small)")
    parser.add_argument("--kinds", nargs="+", choices=list(TABLES), default=["eager"], help="compiling takes minutes (default: eager)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    options.rounds(parser, 15)
    parser.add_argument("--seconds", type=float, default=math.inf, help="of a table, then no round begins (default: no limit)")
    parser.add_argument("--batch", type=int, help="rows of a step (default: 32 of small and S/4, 8 of big, 16 of the others)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="variants whose name contains one of these; flow matching always")
    parser.add_argument("--go-on", action="store_true", help="make what the file of --json lacks, and keep each row at once")
    options.file(parser, "add the numbers to this file")
    asked = options.read(parser, "rounds", "threads", "batch")
    if asked.go_on and not asked.json:
        parser.error("--go-on: needs --json, the file to go on with")
    if asked.device not in ("cpu", "cuda") or (asked.device == "cuda" and not torch.cuda.is_available()):
        parser.error(f"--device: {asked.device} is not there; cpu{' and cuda' * torch.cuda.is_available()} can be used")
    if strange := [name for name in asked.only or () if not any(name in variant for variant in EAGER)]:
        parser.error(f"--only: no variant's name contains {strange[0]!r}; there are: {'; '.join(EAGER)}")
    asked.kept = options.kept(parser, asked.json, "runs")
    return asked


def chosen(table: dict[str, Variant], names: list[str] | None) -> dict[str, Variant]:
    return {k: v for k, v in table.items() if names is None or k == "flow matching" or any(name in k for name in names)}


def main() -> None:
    asked = arguments()
    torch.set_num_threads(asked.threads)
    torch._dynamo.config.recompile_limit = 64  # all variants compile the same blocks
    machine, device = environment(), torch.device(asked.device)
    found, made = asked.kept, True
    place = torch.cuda.get_device_name() if asked.device == "cuda" else f"{machine['processor']}, {asked.threads} thread(s)"
    print(f"{place}, torch {machine['torch']}, medians of up to {asked.rounds} rounds", flush=True)

    def keep(title: str, run: dict[str, Any]) -> None:
        found[title] = run
        if asked.json:
            options.write(asked.json, {"environment": machine, "place": place, "runs": found})

    for network in asked.networks:
        for kind in asked.kinds:
            case = CASES[network]._replace(**({"batch": asked.batch} if asked.batch else {}))
            bench = Bench(case, device, autocast=asked.device != "cpu")
            title = f"{network}: {len(bench.net.positions)} tokens, batch {bench.case.batch}, {TITLES[kind]}"
            table, limits = chosen(TABLES[kind], asked.only), (asked.rounds, asked.seconds)
            if asked.go_on:
                made &= gone_on(bench, table, kind, *limits, found.get(title, {}), functools.partial(keep, title))
            else:
                keep(title, measure(bench, table, kind, *limits))
            report(title, found[title]["rows"])
    sys.exit(0 if made else LEFT)


if __name__ == "__main__":
    main()
