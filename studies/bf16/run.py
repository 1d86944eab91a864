"""What bf16 does to one step: `python studies/bf16/run.py OUT gradients|steps`. Minutes on one core.

`gradients`: each recipe's gradient in float64, in float32 and under bf16 autocast, on the same weights, rows, noise and times. `steps`:
processor time of a step in either precision, in turn. Every line of OUT/gradients.jsonl and OUT/steps.jsonl is one cell; a second call
goes on where the first one stopped.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import meanstep as ms
from meanstep.fields import DiT
from meanstep.program.machine import environment
from meanstep.rates import Backward, Central
from meanstep.recipes import Recipe
from meanstep.types import Bridge
from meanstep.velocities import own

SEEDS, BATCHES, BATCH, WARM, RATE, DECAY = 3, 8, 128, 400, 2e-3, 0.99
DIGITS = {"size": 8, "channels": 1, "patch": 2, "width": 64, "depth": 4, "heads": 4}
SMALL = {"size": 16, "patch": 2, "width": 256, "depth": 6, "heads": 4}
ROUNDS = 21
UNIFORM: dict[str, Any] = {"times": ms.times.uniform, "diagonal_share": 0.5}

Make = Callable[[nn.Module], Recipe]
RECIPES: dict[str, Make] = {
    "flow_matching": lambda ema: ms.recipes.flow_matching(ms.times.uniform),
    "meanflow": lambda ema: ms.recipes.meanflow(**UNIFORM),
    "meanflow, every row moves": lambda ema: ms.recipes.meanflow(ms.times.uniform, 0.0),
    "meanflow, Backward(0.1)": lambda ema: ms.recipes.meanflow(**UNIFORM, rate=Backward(0.1)),
    "meanflow, Backward(0.01)": lambda ema: ms.recipes.meanflow(**UNIFORM, rate=Backward(0.01)),
    "meanflow, Central()": lambda ema: ms.recipes.meanflow(**UNIFORM, rate=Central()),
    "modular_meanflow": lambda ema: ms.recipes.modular_meanflow(1.0, **UNIFORM),
    "coefficient, EMA tangent, anchor": lambda ema: ms.recipes.coefficient(1.0, ema, **UNIFORM),
    "improved_meanflow, own tangent": lambda ema: ms.recipes.improved_meanflow(own, **UNIFORM),
    "trace_weighted": lambda ema: ms.recipes.trace_weighted(proxy=ema, **UNIFORM),
    "alpha_flow": lambda ema: ms.recipes.alpha_flow(**UNIFORM),
    "solution_flow": lambda ema: ms.recipes.solution_flow(diagonal_share=0.5),
    "discrete_meanflow": lambda ema: ms.recipes.discrete_meanflow(**UNIFORM),
    "transition": lambda ema: ms.recipes.transition(ms.times.uniform),
    "terminal_velocity": ms.recipes.terminal_velocity,
    "split_meanflow": lambda ema: ms.recipes.split_meanflow(ema, **UNIFORM),
    "shortcut": ms.recipes.shortcut,
}
STEPPED: dict[str, Make] = {
    "flow_matching": RECIPES["flow_matching"],
    "meanflow": lambda ema: ms.recipes.meanflow(),
    "coefficient, EMA tangent": lambda ema: ms.recipes.coefficient(1.0, ema, anchor=0.0),
    "transition": lambda ema: ms.recipes.transition(),
    "terminal_velocity": RECIPES["terminal_velocity"],
}


class Drawn(ms.Loss):
    """Draws in float32 whatever the data's dtype, then casts: all precisions see the same numbers."""

    def draw(self, x: Tensor, y: Any = None, **given: Any) -> Any:
        """As of `Loss`."""
        return [(term, _cast(b, x.dtype)) for term, b in super().draw(x.float(), y, **given)]


def _cast(b: Bridge, dtype: torch.dtype) -> Bridge:
    r, t = b.r.to(dtype), b.t.to(dtype)
    aux, common = (None if p is None else p.to(dtype) for p in (b.aux, b.common))
    return b._replace(z=b.z.to(dtype), v=b.v.to(dtype), r=t if b.r is b.t else r, t=t, aux=aux, common=common)


def rows() -> Tensor:
    """The digits in [-1, 1], `[N, 1, 8, 8]`."""
    return torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1


def trained(out: Path, seed: int) -> tuple[DiT, DiT]:
    """A network after WARM steps of MeanFlow in float32, and its average."""
    torch.manual_seed(seed)
    net, file = DiT(**DIGITS), out / f"weights-{seed}.pt"
    ema = copy.deepcopy(net).requires_grad_(False)
    if file.exists():
        for module, state in zip((net, ema), torch.load(file, weights_only=True), strict=True):
            module.load_state_dict(state)
        return net, ema
    x, loss = rows(), ms.Loss(RECIPES["meanflow"](ema), check=False, measure=False)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.0)
    for step in range(WARM):
        g = ms.key(seed, "warm", step)
        optimiser.zero_grad()
        loss(net, x[torch.randint(len(x), (BATCH,), generator=g)], generator=g, progress=0.5).loss.backward()
        optimiser.step()
        for average, p in zip(ema.parameters(), net.parameters(), strict=True):
            average.lerp_(p.detach(), 1 - DECAY)
    torch.save([net.state_dict(), ema.state_dict()], file.with_suffix(".new"))
    file.with_suffix(".new").rename(file)
    return net, ema


def gradient(make: Make, nets: tuple[DiT, DiT], x: Tensor, seed: int, batch: int, autocast: bool) -> Tensor:
    """The gradient of one batch in all weights, in float64."""
    net, ema = nets
    loss, g = Drawn(make(ema), check=False, measure=False), ms.key(seed, "batch", batch)
    data = x[torch.randint(len(x), (BATCH,), generator=g)].to(next(net.parameters()))
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(net, data, generator=g, progress=0.5).loss
    value.backward()
    return torch.cat([p.grad.double().flatten() for p in net.parameters() if p.grad is not None])


def compared(recipe: str, out: Path, seed: int) -> dict[str, Any]:
    """One cell: distances of the gradients from float64's, batch by batch and of their mean, and how far batches are apart."""
    nets, x = trained(out, seed), rows()
    exact = tuple(copy.deepcopy(net).double() for net in nets)
    want, single, half = (
        torch.stack([gradient(RECIPES[recipe], which, x, seed, k, autocast) for k in range(BATCHES)])
        for which, autocast in ((exact, False), (nets, False), (nets, True))
    )
    noise = ((want - want.mean(0)).norm(dim=1) / want.norm(dim=1)).mean() * (BATCHES / (BATCHES - 1)) ** 0.5

    def apart(got: Tensor) -> dict[str, float]:
        error = (got - want).norm(dim=1) / want.norm(dim=1)
        cosine = nn.functional.cosine_similarity(got, want)
        mean = (got - want).mean(0).norm() / want.mean(0).norm()
        return {"error": error.mean().item(), "worst": error.max().item(), "cosine": cosine.min().item(), "mean": mean.item()}

    return {"recipe": recipe, "seed": seed, "noise": noise.item(), "float32": apart(single), "bf16": apart(half)}


def stepped(case: str) -> list[dict[str, Any]]:
    """Seconds of processor time of a step of every recipe in both precisions, in turn: medians of ratios within a round."""
    torch.manual_seed(0)
    net, batch = (DiT(**SMALL), 32) if case == "small" else (DiT(**DIGITS), BATCH)
    for p in net.parameters():  # a DiT starts with closed gates
        p.data.add_(0.02 * torch.randn_like(p))
    ema = copy.deepcopy(net).requires_grad_(False)
    x, optimiser = torch.randn(batch, net.channels, *net.grid), torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)
    losses = {name: ms.Loss(make(ema), check=False, measure=False) for name, make in STEPPED.items()}

    def step(name: str, autocast: bool) -> float:
        start = time.process_time()
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = losses[name](net, x, progress=0.5).loss
        loss.backward()
        optimiser.step()
        return time.process_time() - start

    times: dict[tuple[str, bool], list[float]] = {(name, half): [] for name in losses for half in (False, True)}
    for done in range(-2, ROUNDS):
        for cell, found in times.items():
            taken = step(*cell)
            found.extend([taken] if done >= 0 else [])
    return [{"network": case, "recipe": name, **_ratios(times[name, False], times[name, True])} for name in losses]


def _ratios(full: list[float], half: list[float]) -> dict[str, float]:
    ratios = sorted(b / a for a, b in zip(full, half, strict=True))
    quarter = len(ratios) // 4
    found = {"ratio": statistics.median(ratios), "low": ratios[quarter], "high": ratios[-1 - quarter]}
    return {"float32": statistics.median(full), "bf16": statistics.median(half), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("part", choices=["gradients", "steps"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "env.json").write_text(json.dumps(environment(), indent=1) + "\n", encoding="utf-8")
    file = asked.out / f"{asked.part}.jsonl"
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    with file.open("a", encoding="utf-8") as records:
        if asked.part == "gradients":
            for seed in range(SEEDS):
                for recipe in RECIPES:
                    if not any((row["recipe"], row["seed"]) == (recipe, seed) for row in kept):
                        print(json.dumps(compared(recipe, asked.out, seed)), file=records, flush=True)
        else:
            for case in ("digits", "small"):
                if not any(row["network"] == case for row in kept):
                    records.write("".join(json.dumps(row) + "\n" for row in stepped(case)))
                    records.flush()


if __name__ == "__main__":
    main()
