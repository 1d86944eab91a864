"""What is spent around the products: a training step of a small network, beside the same step written out by hand.

    taskset -c 0 python benchmarks/overhead.py                        # an MLP 2 x 64 on 64 points, some minutes with the compiled step
    taskset -c 0 python benchmarks/overhead.py --json overhead.json   # and the numbers

In each round every variant takes `READ` steps in turn; its time is their mean, its ratio that to the step by hand in the same round.
Processor time, one thread. Draws, loss, backward pass and fused AdamW are part of every step, and a quarter of the rows has r < t.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import options
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep.program.machine import environment
from meanstep.recipes import meanflow

WIDTH, DEPTH, BATCH, SHARE = 64, 2, 64, 0.25
READ = 50  # steps of a round, of which one has its metrics read
HAND = "by hand, forward mode on all rows"
LEAST = 3  # rounds
Step = Callable[[Tensor], Tensor]


def flow_matching(net: nn.Module) -> Step:
    """As everybody writes it."""

    def loss(x: Tensor) -> Tensor:
        e, t = torch.randn_like(x), torch.sigmoid(torch.randn(len(x)) - 0.4)
        return (net(torch.lerp(x, e, t[:, None]), t, t) - (e - x)).square().mean()

    return loss


def by_hand(net: nn.Module) -> Step:
    """MeanFlow as most public code has it, with its adaptive weight."""

    def loss(x: Tensor) -> Tensor:
        e, pair = torch.randn_like(x), torch.sigmoid(torch.randn(2, len(x)) - 0.4)
        r, t = pair.amin(0), pair.amax(0)
        r = torch.where(torch.arange(len(x)) < SHARE * len(x), r, t)
        z, v = torch.lerp(x, e, t[:, None]), e - x
        u, du = torch.func.jvp(net, (z, r, t), (v, torch.zeros_like(r), torch.ones_like(t)))
        error = (u - (v - (t - r)[:, None] * du).detach()).square().sum(1)
        return (error / (error.detach() + 0.01)).mean()

    return loss


def by_hand_in_parts(net: nn.Module) -> Step:
    """The same by somebody who takes the derivative on the rows with r < t alone, and without its graph."""

    def loss(x: Tensor) -> Tensor:
        n, e = round(SHARE * len(x)), torch.randn_like(x)
        t, pair = torch.sigmoid(torch.randn(len(x)) - 0.4), torch.sigmoid(torch.randn(2, round(SHARE * len(x))) - 0.4)
        t[:n] = pair.amax(0)
        r = t.clone()
        r[:n] = pair.amin(0)
        z, v = torch.lerp(x, e, t[:, None]), e - x
        with torch.no_grad():
            du = torch.func.jvp(net, (z[:n], r[:n], t[:n]), (v[:n], torch.zeros_like(t[:n]), torch.ones_like(t[:n])))[1]
            goal = torch.cat([v[:n] - (t - r)[:n, None] * du, v[n:]])
        error = (net(z, r, t) - goal).square().sum(1)
        return (error / (error.detach() + 0.01)).mean()

    return loss


def ours(every: int = 0, compiled: bool = False, **options: bool) -> Callable[[nn.Module], Step]:
    """The public `Loss`; its metrics are read at one step in `every`, if at any."""

    def make(net: nn.Module) -> Step:
        loss, steps = ms.Loss(meanflow(), **options), 0

        def step(x: Tensor) -> Tensor:
            nonlocal steps
            out, steps = loss(net, x), steps + 1
            if every and steps % every == 0:
                list(out.metrics.values())
            return out.loss

        return torch.compile(lambda x: loss(net, x).loss, fullgraph=True) if compiled else step

    return make


VARIANTS: dict[str, Callable[[nn.Module], Step]] = {
    "flow matching": flow_matching,
    HAND: by_hand,
    "by hand, on r < t rows, no graph": by_hand_in_parts,
    "ours, metrics read one step in fifty": ours(READ),
    "ours, metrics read at every step": ours(1),
    "ours, no checks, no metrics": ours(check=False, measure=False),
    "ours, compiled": ours(compiled=True, check=False, measure=False),
}


def measure(variants: dict[str, Callable[[nn.Module], Step]], rounds: int, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    net, x = ms.MLP(2, WIDTH, DEPTH), torch.randn(BATCH, 2)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)

    def train(loss: Step, steps: int) -> float:
        begin = time.process_time()
        for _ in range(steps):
            optimiser.zero_grad()
            loss(x).backward()
            optimiser.step()
        return (time.process_time() - begin) / steps

    losses = {name: make(net) for name, make in variants.items()}
    for loss in losses.values():
        train(loss, READ)
    times: dict[str, list[float]] = {name: [] for name in losses}
    end = time.monotonic() + seconds
    for done in range(rounds):
        if done >= LEAST and time.monotonic() > end:
            break
        for name, loss in losses.items():
            times[name].append(train(loss, READ))
    rows = {}
    for name, found in times.items():
        ratios = sorted(a / b for a, b in zip(found, times[HAND], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
        rows[name] = {"seconds": statistics.median(found), "ratio": statistics.median(ratios), "ratio_low": low, "ratio_high": high}
    return {"rounds": len(times[HAND]), "rows": rows}


def main() -> None:
    parser = options.parser(__doc__)
    options.rounds(parser, 40)
    parser.add_argument("--seconds", type=float, default=math.inf, help="then no round begins (default: no limit)")
    parser.add_argument("--eager", action="store_true", help="without the compiled step")
    options.file(parser)
    asked = options.read(parser, "rounds")
    torch.set_num_threads(1)
    machine = environment()
    print(f"{machine['processor']}, torch {machine['torch']}, one thread: MLP {DEPTH} x {WIDTH}, batch {BATCH}")
    variants = {name: make for name, make in VARIANTS.items() if not (asked.eager and "compiled" in name)}
    found = measure(variants, asked.rounds, asked.seconds)
    for name, row in found["rows"].items():
        print(f"{name:40} {1e6 * row['seconds']:7.0f} us {row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]")
    if asked.json:
        options.write(asked.json, {"environment": machine, **found})


if __name__ == "__main__":
    main()
