"""Model-steps per second on one core: the sweep's engine against the plain form that everybody writes, and against the arithmetic limit.

    python benchmarks/sweep.py                    # a table
    python benchmarks/sweep.py --json sweep.json  # and the numbers; with --jax the same step by XLA too
    python benchmarks/sweep.py --device cuda --models 300  # one captured ensemble of 300, wall time, without the limit of a core

All variants train the same model: MLP 34-128-128-128-2, MeanFlow with an EMA tangent (beta = 1), a quarter of the rows with r < t, Adam,
an EMA copy. They run in turn, round after round, in one process on one thread; a figure is the median over the rounds, so a pause of a
busy machine hits all alike. Draws of data, noise and times are part of every variant's step.

The limit: the operations that a step cannot avoid (forward and backward on all rows, a tangent and an EMA forward on the r < t rows),
each matrix product at the rate that this core's sgemm reaches at that shape with its operands in cache, in the same rounds; everything
else free.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import options
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep.fields.flat import Shape
from meanstep.fields.planar import PLANAR
from meanstep.program.machine import environment
from meanstep.program.reproduce.points.draws import BLOCK, Needs, Stream
from meanstep.program.reproduce.points.engine import Cohort
from meanstep.program.reproduce.points.settings import Settings, Spec

WIDTH, DEPTH = 128, 3
SPEC = Spec(beta=1.0, proxy="ema")


def settings(batch: int) -> Settings:
    return Settings(("eight_gaussians",), (1.0,), (0,), ("plain",), 1_000_000, batch, 0.75, "logit-normal", power=1.0)


class Everybody(nn.Module):
    """The network as it is usually written."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", Shape(2).frequencies)
        sizes = (2 + 4 * len(self.frequencies), *[WIDTH] * DEPTH, 2)
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        angles = torch.stack([t, t - r], -1)[..., None] * self.frequencies
        return self.layers(torch.cat([z, angles.sin().flatten(-2), angles.cos().flatten(-2)], -1))


def repeat(step: Callable[[], None], n: int) -> None:
    for _ in range(n):
        step()


def naive(batch: int) -> Callable[[int], None]:
    """`torch.func.jvp` over the whole batch, eager, r = t set on three quarters of the rows."""
    net, ema = Everybody(), Everybody().requires_grad_(False)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    law, still = PLANAR["eight_gaussians"]().to(torch.float32), 3 * batch // 4

    def step() -> None:
        x, e = law.sample(batch), torch.randn(batch, 2)
        a, b = torch.sigmoid(torch.randn(batch) - 0.4), torch.sigmoid(torch.randn(batch) - 0.4)
        t, r = torch.maximum(a, b), torch.minimum(a, b)
        r[:still] = t[:still]
        z, v = (1 - t[:, None]) * x + t[:, None] * e, e - x
        with torch.no_grad():
            w = ema(z, t, t)
        u, du = torch.func.jvp(net, (z, r, t), (w, torch.zeros_like(r), torch.ones_like(t)))
        target = (v - (t - r)[:, None] * du).detach()
        error = (u - target).square().sum(1)
        loss = (error / (error.detach() + 1e-3)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for mine, theirs in zip(ema.parameters(), net.parameters(), strict=True):
                mine.lerp_(theirs, 1e-3)

    return lambda n: repeat(step, n)


def composed(batch: int) -> Callable[[int], None]:
    """The public `Loss` on an `MLP`: forward mode on the r < t rows only, then autograd."""
    net = ms.MLP(2)
    ema = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
    loss = ms.Loss(ms.recipes.coefficient(1.0, ema, anchor=0.0), check=False, measure=False)
    optimiser, law = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True), PLANAR["eight_gaussians"]().to(torch.float32)

    def step() -> None:
        optimiser.zero_grad()
        loss(net, law.sample(batch)).loss.backward()
        optimiser.step()
        ema.update_parameters(net)

    return lambda n: repeat(step, n)


def engine(batch: int, models: int = 1, compiled: bool = False) -> Callable[[int], None]:
    """The sweep's: `models` models share their draws, as those of one set and seed do; one call counts a step of each."""
    shape, stream, wanted = Shape(2, WIDTH, DEPTH), Stream(PLANAR["eight_gaussians"]().to(torch.float32), "x", 0), settings(batch)
    cohorts = [Cohort(shape, [SPEC], shape.initial(ms.key(k))[None], [0], wanted) for k in range(models)]
    index = [0]
    for cohort in cohorts if compiled else ():
        cohort.compile(stream.block(0, shape, wanted, Needs.of([SPEC])))

    def run(n: int) -> None:
        for _ in range(n // BLOCK):
            block = stream.block(index[0], shape, wanted, Needs.of([SPEC]))
            for cohort in cohorts:
                cohort.run(block, index[0] * BLOCK, (index[0] + 1) * BLOCK)
            index[0] += 1

    return run


def ensemble(batch: int, models: int, device: str) -> Callable[[int], None]:
    """`models` models as one batched product, which is a captured graph on a GPU; all read one stream; one call counts a step of each."""
    shape, wanted = Shape(2, WIDTH, DEPTH), replace(settings(batch), ensemble=True)
    stream = Stream(PLANAR["eight_gaussians"]().to(torch.float32), "x", 0, device=device)
    initial = torch.stack([shape.initial(ms.key(k)) for k in range(models)]).to(device)
    cohort, index = Cohort(shape, [SPEC] * models, initial, [0] * models, wanted), [0]

    def run(n: int) -> None:
        for _ in range(n // BLOCK):
            block = stream.block(index[0], shape, wanted, Needs.of([SPEC]))
            cohort.run(block, index[0] * BLOCK, (index[0] + 1) * BLOCK)
            index[0] += 1

    return run


def xla(batch: int) -> Callable[[int], None]:
    """The engine's step by JAX, on the engine's draws."""
    from sweep_xla import given, scanned

    shape, stream, wanted = Shape(2, WIDTH, DEPTH), Stream(PLANAR["eight_gaussians"]().to(torch.float32), "x", 0), settings(batch)
    (block, state), index = scanned(shape, wanted), 0

    def run(n: int) -> None:
        nonlocal state, index
        for _ in range(n // BLOCK):
            state = block(state, given(stream.block(index, shape, wanted, Needs.of([SPEC]))))
            index += 1
        state[0].block_until_ready()

    return run


def products(batch: int) -> Iterator[tuple[int, int, int]]:
    """Shapes `(m, k, n)` of the matrix products that a step cannot avoid."""
    sizes = Shape(2, WIDTH, DEPTH).sizes
    for layer, (fan_in, fan_out) in enumerate(sizes):
        yield from ((rows, fan_in, fan_out) for rows in (batch, batch // 4, batch // 4))  # forward, tangent, EMA forward
        yield fan_in, batch, fan_out  # gradient in the weights
        if layer:
            yield batch, fan_out, fan_in  # gradient in the inputs


def arithmetic(batch: int) -> Callable[[int], None]:
    """Those products alone, each in the fastest layout (a thin one differs severalfold) and repeated, which keeps its operands in cache."""
    pairs = [fastest(m, k, n) for m, k, n in products(batch)]

    def run(n: int) -> None:
        for a, b, out in pairs:
            for _ in range(n):
                torch.mm(a, b, out=out)

    return run


def fastest(m: int, k: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Operands of a product in the layout that this machine multiplies fastest."""
    layouts = [
        (a, b, out)
        for a in (torch.randn(m, k), torch.randn(k, m).mT)
        for b in (torch.randn(k, n), torch.randn(n, k).mT)
        for out in (torch.empty(m, n), torch.empty(n, m).mT)
    ]

    def seconds(operands: tuple[Tensor, Tensor, Tensor]) -> float:
        a, b, out = operands
        found = []
        for _ in range(7):
            start = time.perf_counter()
            for _ in range(5):
                torch.mm(a, b, out=out)
            found.append(time.perf_counter() - start)
        return min(found)

    return min(layouts, key=seconds)


def together(batch: int, models: int, device: str, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """The ensemble alone, on any device, by the clock: what waits for the draws and the device counts."""
    run, rates = ensemble(batch, models, device), []
    run(BLOCK)
    for _ in range(rounds):
        done, start = 0, time.perf_counter()
        while not done or time.perf_counter() - start < seconds:
            run(BLOCK)
            done += BLOCK
        rates.append(done * models / (time.perf_counter() - start))
    rate = statistics.median(rates)
    return {"one ensemble": {"steps_per_second": rate, "gflops": rate * sum(2 * m * k * n for m, k, n in products(batch)) / 1e9}}


def measure(batch: int, rounds: int, seconds: float, jax: bool = False) -> dict[str, dict[str, float]]:
    variants: dict[str, tuple[Callable[[int], None], int]] = {
        "naive": (naive(batch), 1),
        "composed": (composed(batch), 1),
        "engine": (engine(batch), 1),
        "engine, 9 models share draws": (engine(batch, 9), 9),
        "engine, compiled": (engine(batch, compiled=True), 1),
        "engine, compiled, 9 models share draws": (engine(batch, 9, compiled=True), 9),
        **({"XLA, by JAX": (xla(batch), 1)} if jax else {}),
        "limit": (arithmetic(batch), 1),
    }
    counts, rates = {}, {name: [] for name in variants}
    for name, (run, _) in variants.items():
        run(BLOCK)
        start = time.perf_counter()
        run(BLOCK)
        counts[name] = BLOCK * max(1, round(seconds / (time.perf_counter() - start)))
    for _ in range(rounds):
        for name, (run, models) in variants.items():
            start = time.process_time()
            run(counts[name])
            rates[name].append(counts[name] * models / (time.process_time() - start))
    flops = sum(2 * m * k * n for m, k, n in products(batch))
    ratio = {name: statistics.median(a / b for a, b in zip(rate, rates["naive"], strict=True)) for name, rate in rates.items()}
    share = {name: statistics.median(a / b for a, b in zip(rate, rates["limit"], strict=True)) for name, rate in rates.items()}
    return {
        name: {
            "steps_per_second": statistics.median(rate),
            "to_naive": ratio[name],
            "of_limit": share[name],
            "gflops": statistics.median(rate) * flops / 1e9,
        }
        for name, rate in rates.items()
    }


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 256], help="rows of a step (default: 1024 256)")
    options.rounds(parser, 9)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one variant's turn (default: 0.5)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the ensemble of --models (default: cpu)")
    parser.add_argument("--models", type=int, help="measure one ensemble of so many models instead of the table of one core")
    parser.add_argument("--jax", action="store_true", help="the same step by XLA too; needs JAX")
    options.file(parser)
    asked = options.read(parser, "rounds", "models")
    if asked.device == "cuda" and not (asked.models and torch.cuda.is_available()):
        parser.error("--device cuda: needs --models, and a CUDA device")
    if any(batch < 1 or batch % 4 for batch in asked.batches):
        parser.error("--batches: a batch is at least 4, and divided by 4")
    torch.set_num_threads(1)
    machine = environment(asked.device)
    if asked.models:
        tables = {str(batch): together(batch, asked.models, asked.device, asked.rounds, asked.seconds) for batch in asked.batches}
        for batch, table in tables.items():
            print(
                f"batch {batch}, {asked.models} models: {table['one ensemble']['steps_per_second']:.0f} model-steps/s, {machine['device']}"
            )
        record = {"environment": machine, "models": asked.models, "batches": tables}
        if asked.json:
            options.write(asked.json, record)
        return
    found = {str(batch): measure(batch, asked.rounds, asked.seconds, asked.jax) for batch in asked.batches}
    print(f"{machine['processor']}, torch {machine['torch']}, one thread, medians of {asked.rounds} rounds\n")
    for batch, table in found.items():
        print(f"batch {batch}\n{'':30} {'model-steps/s/core':>18} {'to naive':>9} {'of the limit':>13} {'GFLOP/s':>8}")
        for name, row in table.items():
            print(f"{name:30} {row['steps_per_second']:18.0f} {row['to_naive']:9.2f} {row['of_limit']:13.2f} {row['gflops']:8.0f}")
        print()
    if asked.json:
        options.write(asked.json, {"environment": machine, "batches": found})


if __name__ == "__main__":
    main()
