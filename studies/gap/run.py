"""From a flow-matching network to one step, in the plane: sliced W1 of one-step samples before, after a quarter more, and from scratch.

A perceptron v(z, t) learns flow matching; `fields.with_gap` makes it a field, which MeanFlow trains for a quarter as many steps. Beside it
the same field is trained by MeanFlow from fresh weights for as many steps in all. Writes results.csv beside this file: minutes on one core.
"""

import argparse
import csv
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep.fields import PLANAR, with_gap
from meanstep.metrics import directions, sliced_wasserstein
from meanstep.times import instants, uniform

STEPS, EXTRA, BATCH, N, WIDTH = 1200, 300, 256, 4096, 128
T_OF_TWO = 4.303
"""Student's quantile at 97.5 percent with two degrees of freedom: of three seeds."""


class Points(nn.Module):
    """A flow-matching network as anybody has it: `v(z, t)`, points and Fourier features of the time through a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [nn.Linear(2 + 16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()]
        self.body = nn.Sequential(*sizes, nn.Linear(WIDTH, 2))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None] * (torch.pi / 2 * 2.0 ** torch.arange(8).div(2)).to(t)
        return self.body(torch.cat([z, angle.sin(), angle.cos()], -1))


def fresh(seed: int) -> Points:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Points()


def train(field: nn.Module, recipe: ms.Recipe, law: ms.fields.Law, steps: int, seed: int) -> nn.Module:
    """An average of the weights (0.99) after so many steps of AdamW, the rate falling to 0 as a cosine."""
    loss, average = ms.Loss(recipe), ms.Average(field, 0.99)
    optimiser = torch.optim.AdamW(field.parameters(), 1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for k in range(steps):
        g = ms.key(seed, "step", k)
        x = law.sample(BATCH, g).float()
        optimiser.zero_grad()
        loss(field, x, generator=g).loss.backward()
        optimiser.step()
        schedule.step()
        average.update(field)
    return average.module


def distance(field: nn.Module, law: ms.fields.Law, seed: int, steps: int = 1) -> float:
    """Sliced W1 of samples in so many jumps to fresh data."""
    e = torch.randn(N, 2, generator=ms.key(seed, "noise"))
    x = ms.walk(field, e, ms.samplers.grid(steps))
    return sliced_wasserstein(x, law.sample(N, ms.key(seed, "data")).float(), directions(2))


def floor(law: ms.fields.Law, seed: int) -> float:
    """The same of two draws of the data."""
    x, y = (law.sample(N, ms.key(seed, name)).float() for name in ("data", "other data"))
    return sliced_wasserstein(x, y, directions(2))


def case(name: str, seed: int, scale: float = 1.0) -> dict[str, float]:
    """Every number of one law and one seed; `scale` shortens all trainings alike."""
    law, steps, extra = PLANAR[name](), round(STEPS * scale), round(EXTRA * scale)
    meanflow = ms.recipes.meanflow(uniform, 0.5, weight=ms.weights.constant)
    flow = ms.recipes.flow_matching(instants(0.0, 1.0))
    net = fresh(seed)
    own = train(with_gap(net, generator=ms.key(seed, "gap")), flow, law, steps, seed)
    found = {"before": distance(own, law, seed), "flow matching, 32 steps": distance(own, law, seed, 32)}
    after = train(own.requires_grad_(True), meanflow, law, extra, seed + 1000)
    found["after a quarter"] = distance(after, law, seed)
    scratch = with_gap(fresh(seed), generator=ms.key(seed, "gap"))
    found["scratch, same total"] = distance(train(scratch, meanflow, law, steps + extra, seed), law, seed)
    short = with_gap(fresh(seed), generator=ms.key(seed, "gap"))
    return found | {"scratch, a quarter": distance(train(short, meanflow, law, extra, seed), law, seed), "floor": floor(law, seed)}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--laws", nargs="+", default=["two_moons"])
    asked.add_argument("--scale", type=float, default=1.0)
    asked.add_argument("--out", type=Path, default=Path(__file__).with_name("results.csv"))
    words = asked.parse_args()
    rows = [{"law": law, "seed": seed, **case(law, seed, words.scale)} for law in words.laws for seed in range(words.seeds)]
    with words.out.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows([{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows])
    for law in words.laws:
        for name in list(rows[0])[2:]:
            values = [float(row[name]) for row in rows if row["law"] == law]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            print(f"{law:<12}{name:<26}{statistics.mean(values):.4f} +- {T_OF_TWO * spread / len(values) ** 0.5:.4f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
