"""Trains the small models of studies/posterior: `python studies/posterior/train.py OUT [--steps N] [--seeds ...] [--arms ...]`.

MNIST at 14 x 14, a perceptron 3 x 384. One line of OUT/train.jsonl a model; the same command again goes on where it stopped.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from data import Data, load
from rich.progress import track
from torch import Tensor

import meanstep as ms
from meanstep.fields import MLP
from meanstep.recipes import coefficient
from meanstep.types import Bridge, Field
from meanstep.velocities import Posterior, of
from meanstep.weights import constant

ARMS = (
    "conditional",
    "EMA in the tangent",
    "posterior in the tangent",
    "posterior in both",
    "posterior in both, one fixed reference",
    "labels: conditional",
    "labels: posterior in both, all classes",
    "labels: posterior in both, own class",
)
BATCH, REFERENCE, DECAY, COMPONENTS, DRAWN = 256, 2048, 0.999, 32, 10_000


class Fresh:
    """A `Posterior` whose reference is drawn anew every step; one reference for all rows and terms of a step."""

    def __init__(self, data: Data, by_label: bool, seed: int) -> None:
        self.data, self.by_label, self.seed = data, by_label, seed

    def draw(self, step: int | str) -> None:
        i = torch.randint(len(self.data.x), (REFERENCE,), generator=ms.key(self.seed, "reference", step))
        self.current = Posterior(self.data.x[i], self.data.y[i] if self.by_label else None, dtype=torch.float32)

    def __call__(self, field: Field, b: Bridge) -> Tensor:
        return self.current(field, b)


def trained(arm: str, data: Data, seed: int, steps: int) -> tuple[MLP, MLP]:
    """The network and its EMA copy; Adam at 1e-3, the copy warms up as (1 + k) / (10 + k)."""
    labelled = arm.startswith("labels")
    net = MLP(data.x.shape[1], 384, 3, classes=10 if labelled else 0, generator=ms.key(seed, "weights"))
    ema = copy.deepcopy(net).requires_grad_(False)
    posterior = Fresh(data, "own class" in arm, seed)
    posterior.draw("fixed")
    proxy: Any = of(ema) if "EMA" in arm else posterior
    beta, target = 0.0 if "conditional" in arm else 1.0, 1.0 if "both" in arm else 0.0
    times = {"times": ms.times.uniform, "diagonal_share": 0.5, "weight": constant}
    loss = ms.Loss(coefficient(beta, proxy, anchor=0.0, target_beta=target, **times), check=False, measure=False)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    for step in range(steps):
        g = ms.key(seed, "train", step)
        i = torch.randint(len(data.x), (BATCH,), generator=g)
        if "posterior" in arm and "fixed" not in arm:
            posterior.draw(step)
        optimiser.zero_grad()
        loss(net, data.x[i], data.y[i] if labelled else None, generator=g).loss.backward()
        optimiser.step()
        with torch.no_grad():
            for slow, fast in zip(ema.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - min(DECAY, (1 + step) / (10 + step)))
    return net, ema


class Scale:
    """The Frechet distance to some images in the first principal components of the training images' pixels."""

    def __init__(self, data: Data, to: Data) -> None:
        centred = data.x.double() - data.x.double().mean(0)
        self.axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors[:, -COMPONENTS:]
        self.whole, self.by_class = self._moments(to.x), [self._moments(to.x[to.y == c]) for c in range(10)]

    def __call__(self, x: Tensor) -> float:
        return self._distance(x, self.whole)

    def of_classes(self, x: Tensor, y: Tensor) -> float:
        """The mean over classes of the distance within the class."""
        return sum(self._distance(x[y == c], moments) for c, moments in enumerate(self.by_class)) / 10

    def _distance(self, x: Tensor, to: tuple[Tensor, Tensor]) -> float:
        (m, s), (n, r) = self._moments(x), to
        root = torch.linalg.eigvals(s @ r).real.clamp(min=0).sqrt().sum()
        return float((m - n).square().sum() + s.trace() + r.trace() - 2 * root)

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = x.double() @ self.axes
        return p.mean(0), p.mT.cov()


def record(arm: str, data: Data, scales: dict[str, Scale], y: Tensor, seed: int, steps: int) -> dict[str, Any]:
    """One model, trained and measured; samples of a labelled one have the labels `y`."""
    start = time.perf_counter()
    fields = trained(arm, data, seed, steps)
    took, labelled = 1000 * (time.perf_counter() - start) / steps, arm.startswith("labels")
    found: dict[str, Any] = {"arm": arm, "seed": seed, "steps": steps, "ms": round(took, 1)}
    for weights, field in zip(("raw", "ema"), fields, strict=True):
        x = ms.jump(field, ms.noise(range(len(y)), (field.dim,)), y if labelled else None).detach()
        for name, scale in scales.items():
            found[f"{weights} weights, to {name}"] = scale(x)
            if labelled:
                found[f"{weights} weights, class by class, to {name}"] = scale.of_classes(x, y)
    return found | {"floor": {name: scale(data.x[:DRAWN]) for name, scale in scales.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data, held = load("mnist14", asked.out), load("mnist14-held", asked.out)
    scales = {"the training images": Scale(data, data), "the held-out images": Scale(data, held)}
    path = asked.out / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {(r["arm"], r["seed"]) for r in map(json.loads, lines)}
    for seed, arm in track([(s, a) for s in asked.seeds for a in asked.arms if (a, s) not in done], description="models"):
        line = json.dumps(record(arm, data, scales, held.y[:DRAWN], seed, asked.steps))
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
