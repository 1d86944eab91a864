"""From a flow-matching network to one step on a policy, signals and pictures: as run.py in the plane. About six minutes on one core.

A network v(z, t) of somebody's learns flow matching; `fields.with_gap` makes it a field, which MeanFlow trains for a quarter as many steps.
Beside it the same field is trained by MeanFlow from fresh weights. Every line of rows.jsonl is one data set and seed; a second call goes on
where the first one stopped, and `--tables` alone writes rows.md of what is there. The data are those of studies/gallery.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep.fields import with_gap
from meanstep.metrics import directions, sliced_wasserstein
from meanstep.times import instants, uniform

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "gallery"))
from data import written  # noqa: E402

BATCH, WIDTH, CHANNELS = 128, 128, 16
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""At 97.5 percent, by the number of seeds."""
KINDS = {"policy": ("policy.npz", "observation", 5), "signals": ("signals.npz", "", 5), "pictures": ("digits.npz", "", 3)}
"""Where the rows are, the condition beside them, and how many seeds."""
STEPS = {"policy": 2000, "signals": 2000, "pictures": 1000}
"""Of flow matching; MeanFlow goes on for a quarter as many."""


def waves(t: Tensor) -> Tensor:
    """Fourier features `[B, 16]` of times."""
    angle = t[:, None] * (torch.pi / 2 * 2.0 ** torch.arange(8).div(2)).to(t)
    return torch.cat([angle.sin(), angle.cos()], -1)


class Flat(nn.Module):
    """A flow-matching network as anybody has it, `v(z, t, y)`: rows, times and the condition through a perceptron."""

    def __init__(self, rows: int, beside: int) -> None:
        super().__init__()
        sizes = [nn.Linear(rows + 16 + beside, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()]
        self.body = nn.Sequential(*sizes, nn.Linear(WIDTH, rows))

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        parts = [z.flatten(1), waves(t), *([] if y is None else [y])]
        return self.body(torch.cat(parts, -1)).view_as(z)


class Pictures(nn.Module):
    """The same of pictures: four convolutions with a way around each, to which the embedded time is added."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.stem = nn.Linear(16, CHANNELS), nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(4))
        self.out = nn.Conv2d(CHANNELS, 1, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        h, c = self.stem(z), self.time(waves(t))[..., None, None]
        for layer in self.body:
            h = h + layer(nn.functional.silu(h + c))
        return self.out(nn.functional.silu(h))


@dataclass(frozen=True)
class Data:
    """Rows to train on and held-out ones, normalised along the first axis, with a condition or none."""

    train: Tensor
    test: Tensor
    y: Tensor | None
    y_test: Tensor | None

    @staticmethod
    def of(kind: str, folder: Path) -> "Data":
        name, condition, _ = KINDS[kind]
        parts = {name: torch.from_numpy(part) for name, part in np.load(folder / name).items()}
        axes = [k for k in range(parts["x_train"].ndim) if k != 1]
        mean, std = parts["x_train"].mean(axes, keepdim=True), parts["x_train"].std(axes, keepdim=True)
        train, test = ((parts[f"x_{end}"] - mean) / std for end in ("train", "test"))
        return Data(train, test, *(parts[f"{condition}_{end}"] if condition else None for end in ("train", "test")))

    def distance(self, x: Tensor, y: Tensor | None) -> float:
        """Sliced W1 to the held-out rows, a condition beside its row."""
        a, b = (rows.flatten(1) if c is None else torch.cat([rows.flatten(1), c], 1) for rows, c in ((x, y), (self.test, self.y_test)))
        return sliced_wasserstein(a, b, directions(b.shape[1], 512, generator=ms.key(0, "directions")))


def fresh(kind: str, data: Data, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pictures() if kind == "pictures" else Flat(data.train[0].numel(), 0 if data.y is None else data.y.shape[1])


def gapped(net: nn.Module, seed: int) -> nn.Module:
    return with_gap(net, "time" if isinstance(net, Pictures) else None, generator=ms.key(seed, "gap"))


def train(field: nn.Module, recipe: ms.Recipe, data: Data, steps: int, seed: int) -> nn.Module:
    """An average of the weights (0.99) after so many steps of AdamW, the rate falling to 0 as a cosine."""
    loss, average = ms.Loss(recipe), ms.Average(field, 0.99)
    optimiser = torch.optim.AdamW(field.parameters(), 1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for k in range(steps):
        g = ms.key(seed, "step", k)
        at = torch.randint(len(data.train), (BATCH,), generator=g)
        optimiser.zero_grad()
        loss(field, data.train[at], None if data.y is None else data.y[at], generator=g).loss.backward()
        optimiser.step()
        schedule.step()
        average.update(field)
    return average.module


@torch.no_grad()
def distance(field: nn.Module, data: Data, seed: int, steps: int = 1) -> float:
    """Of samples in so many jumps, one for each held-out row and given its condition."""
    e = torch.randn(data.test.shape, generator=ms.key(seed, "noise"))
    return data.distance(ms.walk(field, e, ms.samplers.grid(steps), y=data.y_test), data.y_test)


def case(kind: str, seed: int, folder: Path, scale: float = 1.0) -> dict[str, float]:
    """Every number of one data set and one seed; `scale` shortens all trainings alike."""
    data, steps, extra = Data.of(kind, folder), round(STEPS[kind] * scale), round(STEPS[kind] * scale / 4)
    meanflow = ms.recipes.meanflow(uniform, 0.5, weight=ms.weights.constant)
    own = train(gapped(fresh(kind, data, seed), seed), ms.recipes.flow_matching(instants(0.0, 1.0)), data, steps, seed)
    found = {"before": distance(own, data, seed), "flow matching, 4 steps": distance(own, data, seed, 4)}
    found["flow matching, 32 steps"] = distance(own, data, seed, 32)
    found["after a quarter"] = distance(train(own.requires_grad_(True), meanflow, data, extra, seed + 1000), data, seed)
    scratch, short = (gapped(fresh(kind, data, seed), seed) for _ in range(2))
    found["scratch, same total"] = distance(train(scratch, meanflow, data, steps + extra, seed), data, seed)
    found["scratch, a quarter"] = distance(train(short, meanflow, data, extra, seed), data, seed)
    n = len(data.test)
    return found | {"floor": data.distance(data.train[:n], None if data.y is None else data.y[:n])}


def shown(values: list[float]) -> str:
    half = STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} +- {half:.3f}"


def table(lines: list[dict[str, float]]) -> str:
    """Markdown: means with 95 percent intervals, and how many seeds."""
    kinds = [kind for kind in KINDS if any(line["kind"] == kind for line in lines)]
    names = [name for name in lines[0] if name not in ("kind", "seed")]
    rows = [f"| field | {' | '.join(kinds)} |", f"|---{'|---' * len(kinds)}|"]
    rows += [f"| {n} | {' | '.join(shown([line[n] for line in lines if line['kind'] == kind]) for kind in kinds)} |" for n in names]
    seeds = [str(sum(line["kind"] == kind for line in lines)) for kind in kinds]
    return "\n".join([*rows, f"| seeds | {' | '.join(seeds)} |", ""])


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--only", nargs="*", default=list(KINDS))
    asked.add_argument("--folder", type=Path, default=Path("out/gallery"), help="data")
    asked.add_argument("--out", type=Path, default=HERE / "rows.jsonl")
    asked.add_argument("--scale", type=float, default=1.0)
    asked.add_argument("--tables", action="store_true")
    words = asked.parse_args()
    torch.set_num_threads(1)
    written(words.folder)
    lines = [json.loads(line) for line in words.out.read_text(encoding="utf-8").splitlines()] if words.out.exists() else []
    done = {(line["kind"], line["seed"]) for line in lines}
    for kind, seed in [(name, k) for name in words.only for k in range(KINDS[name][2]) if not words.tables]:
        if (kind, seed) in done:
            continue
        lines.append({"kind": kind, "seed": seed, **{k: round(v, 5) for k, v in case(kind, seed, words.folder, words.scale).items()}})
        with words.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(lines[-1], flush=True)
    words.out.with_suffix(".md").write_text(table(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
