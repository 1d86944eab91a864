"""The adaptive weight and the modes of low-dimensional rows: shares of modes and sliced W1 for powers and constants. Minutes on one core.

Five networks of one arm train side by side, each on rows of its own; all arms see the same rows, noise and times. Every line of
records.jsonl is one task and arm, and a second call goes on where the first one stopped. tables.py makes the report.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

import meanstep as ms
from meanstep.metrics import directions, sliced_wasserstein
from meanstep.times import instants, uniform
from meanstep.weights import adaptive, constant

SEEDS, STEPS, BATCH, RATE, WIDTH, DEPTH, DECAY = 5, 3000, 128, 2e-3, 64, 3, 0.995
SITUATIONS, EACH = 16, 256
"""Observations of the policy at which modes are counted, and samples of each; other tasks draw as many samples in all."""
WAYS = {"1 jump": 1, "4 jumps": 4, "32 evaluations of v": 16}

Rows = tuple[Tensor, dict[str, Tensor] | None, Tensor]
"""Data `[M, B, D]`, condition, and which mode a row has `[M, B]`."""


@dataclass(frozen=True)
class Task:
    """`draw(members, count, generator, y)`: rows, of `y` if given; `mode(x, y)`: the nearest mode; `weights`: the rarest last."""

    dim: int
    draw: Callable[..., Rows]
    mode: Callable[[Tensor, dict[str, Tensor] | None], Tensor]
    weights: tuple[float, ...]
    conditions: dict[str, list[int]] | None = None


def _picked(weights: tuple[float, ...], members: int, count: int, g: Generator) -> Tensor:
    return torch.multinomial(torch.tensor(weights), members * count, replacement=True, generator=g).reshape(members, count)


def policy(extra: int = 0) -> Task:
    """Actions of four numbers on either side of an obstacle, equally likely; `extra` more are noise of variance 1."""
    a, b = torch.tensor([1.0, 1, 1, 1]) / 2, torch.tensor([1.0, -1, 1, -1]) / 2

    def draw(members: int, count: int, g: Generator, y: dict[str, Tensor] | None = None) -> Rows:
        o = 2 * torch.rand(members, count, 2, generator=g) - 1 if y is None else y["o"]
        side = _picked((0.5, 0.5), members, count, g)
        x = (1 - 2 * side)[..., None] * (1 + o[..., :1] / 2) * a + o[..., 1:] / 2 * b
        x = x + 0.05 * torch.randn(members, count, 4, generator=g)
        return torch.cat([x, torch.randn(members, count, extra, generator=g)], -1), {"o": o}, side

    return Task(4 + extra, draw, lambda x, y: (x[..., :4] @ a < 0).long(), (0.5, 0.5), {"o": [2]})


def plane(extra: int = 0) -> Task:
    """Three narrow Gaussians on a circle, with the weights 0.5, 0.3 and 0.2; `extra` more numbers are noise of variance 1."""
    weights, angle = (0.5, 0.3, 0.2), torch.arange(3) * 2 * math.pi / 3
    centres = 1.5 * torch.stack([angle.cos(), angle.sin()], -1)

    def draw(members: int, count: int, g: Generator, y: None = None) -> Rows:
        mode = _picked(weights, members, count, g)
        x = centres[mode] + 0.1 * torch.randn(members, count, 2, generator=g)
        return torch.cat([x, torch.randn(members, count, extra, generator=g)], -1), None, mode

    return Task(2 + extra, draw, lambda x, y: torch.cdist(x[..., :2], centres).argmin(-1), weights)


def table() -> Task:
    """A category (0.8, 0.2) as -1 or 1, an amount with a long tail, and a number that depends on the category."""

    def draw(members: int, count: int, g: Generator, y: None = None) -> Rows:
        rare = _picked((0.8, 0.2), members, count, g)
        a, b = torch.randn(2, members, count, generator=g)
        amount = (a.exp() - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)
        return torch.stack([2.0 * rare - 1, amount, rare - 0.2 + 0.5 * b], -1), None, rare

    return Task(3, draw, lambda x, y: (x[..., 0] > 0).long(), (0.8, 0.2))


def signals(length: int = 16) -> Task:
    """Samples of a wave of one (0.7) or two (0.3) periods with any phase, and a little noise."""
    places = torch.arange(length) * 2 * math.pi / length

    def draw(members: int, count: int, g: Generator, y: None = None) -> Rows:
        fast = _picked((0.7, 0.3), members, count, g)
        phase = 2 * math.pi * torch.rand(members, count, 1, generator=g)
        x = math.sqrt(2) * ((1 + fast[..., None]) * places + phase).sin()
        return x + 0.1 * torch.randn(members, count, length, generator=g), None, fast

    def mode(x: Tensor, y: dict[str, Tensor] | None) -> Tensor:
        power = torch.fft.rfft(x).abs()
        return (power[..., 2] > power[..., 1]).long()

    return Task(length, draw, mode, (0.7, 0.3))


TASKS = {"policy": policy(), "plane": plane(), "table": table(), "signals": signals()}
TASKS |= {f"policy and {n} numbers of noise": policy(n) for n in (4, 12, 28)}
TASKS |= {"plane and 14 numbers of noise": plane(14), "signals of 64 numbers": signals(64)}


def meanflow(weight: ms.types.Weight) -> ms.Recipe:
    """MeanFlow with uniform times, as docs/choosing.md says for points."""
    return ms.recipes.meanflow(uniform, weight=weight)


def mixed(moving: ms.types.Weight, still: ms.types.Weight) -> ms.Recipe:
    """The same with one weight for the rows with `r < t` and another for those with `r = t`."""
    return tuple(replace(term, weight=weight) for term, weight in zip(meanflow(moving), (moving, still), strict=True))


def weighted(p: float, c: float) -> ms.Recipe:
    """The adaptive weight of the summed squared error."""
    return meanflow(adaptive(p, c))


def grid(points: list[tuple[float, float]]) -> dict[str, Callable[[], ms.Recipe]]:
    """Arms by name, `p, c`."""
    return {f"p {p:g}, c {c:g}": lambda p=p, c=c: weighted(p, c) for p, c in points}


MAIN = {"p 0": lambda: meanflow(constant)} | grid([(0.5, 0.01), (1.0, 0.01), (0.5, 1.0), (1.0, 1.0)])
WHENCE = grid([(0.75, 0.01), (1.0, 0.0001), (1.0, 0.1), (1.0, 10.0)]) | {
    "p 1, c 0.01, mean": lambda: meanflow(adaptive(1.0, 0.01, "mean")),
    "p 1 where r < t, p 0 where r = t": lambda: mixed(adaptive(), constant),
    "p 0 where r < t, p 1 where r = t": lambda: mixed(constant, adaptive()),
    "flow matching, p 1": lambda: ms.recipes.flow_matching(instants(0.0, 1.0), weight=adaptive()),
    "flow matching, p 0": lambda: ms.recipes.flow_matching(instants(0.0, 1.0)),
}


def arms() -> Iterator[tuple[str, str, Callable[[], ms.Recipe]]]:
    """Task, arm and recipe."""
    yield from ((task, name, MAIN[name]) for name in MAIN for task in ("policy", "plane", "table", "signals"))
    yield from (("policy", name, recipe) for name, recipe in WHENCE.items())
    noisy = [name for name in TASKS if "numbers" in name]
    yield from ((task, name, MAIN[name]) for task in noisy for name in ("p 0", "p 1, c 0.01"))


def trained(task: Task, recipe: ms.Recipe, steps: int) -> ms.Average:
    """An average of the weights after so many steps of Adam, whose rate falls to 0 in a line."""
    net = ms.MLP(task.dim, WIDTH, DEPTH, members=(SEEDS,), conditions=task.conditions, generator=ms.key(0, "weights"))
    loss, average, g = ms.Loss(recipe, batch_dims=2, measure=False), ms.Average(net, DECAY), ms.key(0, "rows")
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for _ in range(steps):
        x, y, _ = task.draw(SEEDS, BATCH, g)
        optimiser.zero_grad()
        loss(net, x, y, generator=g).loss.backward()
        optimiser.step()
        schedule.step()
        average.update(net)
    return average


def share(task: Task, x: Tensor, y: dict[str, Tensor] | None) -> list[float]:
    """Of every member the share of the rarest mode; of the policy the mean over observations of that of the rarer side."""
    last = (task.mode(x, y) == len(task.weights) - 1).double()
    if y is None:
        return last.mean(1).tolist()
    side = last.reshape(len(x), SITUATIONS, EACH).mean(-1)
    return torch.minimum(side, 1 - side).mean(-1).tolist()


def apart(x: Tensor, other: Tensor, y: dict[str, Tensor] | None) -> list[float]:
    """Sliced W1 of every member's rows, the observation beside them."""
    rows = [torch.cat([part, *(() if y is None else y.values())], -1) for part in (x, other)]
    along = directions(rows[0].shape[-1], generator=ms.key(0, "directions"))
    return [sliced_wasserstein(a, b, along) for a, b in zip(*rows, strict=True)]


def repeated(y: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """The first observations, each for as many samples."""
    return None if y is None else {name: part[:, :SITUATIONS].repeat_interleave(EACH, 1) for name, part in y.items()}


def measured(task: Task, net: ms.types.Field, ways: dict[str, int]) -> dict[str, dict[str, list[float]]]:
    """By the way of sampling the share and the distance of every member; the floor is another draw of the data."""
    g, count = ms.key(1, "samples"), SITUATIONS * EACH
    y = repeated(task.draw(SEEDS, SITUATIONS, g)[1])
    data, other = (task.draw(SEEDS, count, g, y)[0] for _ in range(2))
    e, found = torch.randn(data.shape, generator=g), {"floor": other}
    for way, steps in ways.items():
        sampler = ms.samplers.heun if "evaluations" in way else ms.walk
        found[way] = sampler(net, e, ms.samplers.grid(steps), y, 2)
    return {way: {"share": share(task, x, y), "sw1": apart(x, data, y)} for way, x in found.items()}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--out", type=Path, default=Path(__file__).with_name("records.jsonl"))
    asked.add_argument("--steps", type=int, default=STEPS)
    asked.add_argument("--only", nargs="*", default=None, help="tasks")
    words = asked.parse_args()
    lines = words.out.read_text(encoding="utf-8").splitlines() if words.out.exists() else []
    done = {(line["task"], line["arm"]) for line in map(json.loads, lines)}
    for task, arm, recipe in arms():
        if (task, arm) in done or (words.only and task not in words.only):
            continue
        began = time.process_time()
        net = trained(TASKS[task], recipe(), words.steps)
        ways = {way: n for way, n in WAYS.items() if "flow" not in arm or "evaluations" in way}
        found = measured(TASKS[task], net, ways)
        line = {"task": task, "arm": arm, "steps": words.steps, "found": found}
        with words.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | {"seconds": round(time.process_time() - began, 1)}) + "\n")
        shown = ", ".join(f"{way}: share {sum(f['share']) / SEEDS:.3f} sw1 {sum(f['sw1']) / SEEDS:.3f}" for way, f in found.items())
        print(f"{task}, {arm}: {shown}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
