"""The posterior in both roles, judged by rows that it has not seen: `python studies/paper/unseen.py OUT [--sets ...] [--seeds ...]`.

A perceptron 3 x 384 on two sets of 64 dimensions, each cut into rows to train on and rows held out: scikit-learn's digits (1,200 and 597)
and the TAESD latents of CIFAR-10 (40,000 and 10,000; needs MEANSTEP_DATA). One line of OUT/unseen.jsonl a model; the same command again
goes on where it stopped.
"""

import argparse
import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor

import meanstep as ms
from meanstep.fields import MLP
from meanstep.metrics import sliced_wasserstein
from meanstep.metrics.distances import directions
from meanstep.recipes import coefficient
from meanstep.types import Bridge, Field
from meanstep.velocities import Posterior
from meanstep.weights import constant

sys.path.insert(0, str(Path(__file__).parents[1] / "posterior"))

SETS = {"digits": 1200, "cifar-latents": 40_000}
"""Rows to train on; the others are held out."""
ARMS = {"conditional": 0.0, "posterior in both": 1.0}
BATCH, REFERENCE, DECAY, COMPONENTS = 256, 1024, 0.999, 32
SAMPLES, DIRECTIONS, NEIGHBOURS = 128_000, 512, 20_000


class Split(NamedTuple):
    """Rows `[N, 64]` of mean 0 and variance 1 over all entries of the training rows."""

    train: Tensor
    held: Tensor


def split(name: str, out: Path) -> Split:
    """The two parts of a set, cut by a fixed permutation."""
    if name == "digits":
        from sklearn.datasets import load_digits

        x = torch.from_numpy(load_digits().data).float()
    else:
        from data import load

        x = load(name, out).x
    x = x[torch.randperm(len(x), generator=ms.key(0, "held out", name))]
    std, mean = torch.std_mean(x[: SETS[name]])
    x = (x - mean) / std
    return Split(x[: SETS[name]], x[SETS[name] :])


class Fresh:
    """A `Posterior` whose reference of training rows is drawn anew every step."""

    def __init__(self, x: Tensor, seed: int) -> None:
        self.x, self.seed = x, seed

    def draw(self, step: int) -> None:
        i = torch.randperm(len(self.x), generator=ms.key(self.seed, "reference", step))[:REFERENCE]
        self.current = Posterior(self.x[i], dtype=torch.float32)

    def __call__(self, field: Field, b: Bridge) -> Tensor:
        return self.current(field, b)


def trained(beta: float, x: Tensor, seed: int, steps: int) -> MLP:
    """The EMA copy; Adam at 1e-3, falling by a cosine over the second half; the copy warms up as (1 + k) / (10 + k)."""
    net = MLP(x.shape[1], 384, 3, generator=ms.key(seed, "weights"))
    ema = copy.deepcopy(net).requires_grad_(False)
    posterior = Fresh(x, seed)
    posterior.draw(0)
    how: dict[str, Any] = {"times": ms.times.uniform, "diagonal_share": 0.5, "weight": constant, "anchor": 0.0}
    loss = ms.Loss(coefficient(beta, posterior, target_beta=beta, **how), check=False, measure=False)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    half = steps // 2
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps - half)
    for step in range(steps):
        g = ms.key(seed, "train", step)
        rows = torch.randint(len(x), (BATCH,), generator=g)
        if beta:
            posterior.draw(step)
        optimiser.zero_grad()
        loss(net, x[rows], generator=g).loss.backward()
        optimiser.step()
        if step >= half:
            falling.step()
        with torch.no_grad():
            for slow, fast in zip(ema.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - min(DECAY, (1 + step) / (10 + step)))
    return ema


class Scale:
    """Distances of samples to some rows: Frechet in the first principal components of the training rows, and sliced W1."""

    def __init__(self, train: Tensor, to: Tensor) -> None:
        centred = train.double() - train.double().mean(0)
        self.axes = torch.linalg.eigh(centred.mT @ centred).eigenvectors[:, -COMPONENTS:]
        self.to, self.moments = to, self._moments(to)
        self.directions = directions(train.shape[1], DIRECTIONS, ms.key(0, "directions"))

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = x.double() @ self.axes
        return p.mean(0), p.mT.cov()

    def frechet(self, x: Tensor) -> float:
        (m, s), (n, r) = self._moments(x), self.moments
        root = torch.linalg.eigvals(s @ r).real.clamp(min=0).sqrt().sum()
        return float((m - n).square().sum() + s.trace() + r.trace() - 2 * root)

    def sliced(self, x: Tensor) -> float:
        """Against as many samples as there are rows, the mean over as many parts of the samples as there are, ten at most."""
        parts = x.split(len(self.to))[:10]
        found = [sliced_wasserstein(part, self.to, self.directions) for part in parts if len(part) == len(self.to)]
        return sum(found) / len(found)


def nearer(x: Tensor, data: Split, seed: int) -> float:
    """The share of samples whose nearest row, of equally many to train on and held out, is one to train on: 0.5 without memory."""
    n = min(map(len, data))
    first, second = (part[torch.randperm(len(part), generator=ms.key(seed, "equal", k))[:n]] for k, part in enumerate(data))
    both = [torch.cat([torch.cdist(p, rows).amin(1) for p in x[:NEIGHBOURS].split(500)]) for rows in (first, second)]
    return float((both[0] < both[1]).float().mean())


def measured(x: Tensor, data: Split, scales: dict[str, Scale], seed: int) -> dict[str, float]:
    found = {f"frechet, {to}": scale.frechet(x) for to, scale in scales.items()} | {"nearer to training": nearer(x, data, seed)}
    return found | {f"sliced, {to}": scale.sliced(x) for to, scale in scales.items() if len(scale.to) <= len(x)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if "cifar-latents" in asked.sets and not os.environ.get("MEANSTEP_DATA"):
        raise SystemExit(
            "skipped: cifar-latents needs MEANSTEP_DATA, a folder with cifar10_jpeg.npz and taesd.safetensors; or --sets digits"
        )
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "unseen.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {(r["set"], r["arm"], r["seed"]) for r in map(json.loads, lines)}
    for name in asked.sets:
        data = split(name, asked.out)
        scales = {"held out": Scale(data.train, data.held), "training": Scale(data.train, data.train)}
        floor = {"frechet": scales["held out"].frechet(data.train), "sliced": scales["held out"].sliced(data.train)}
        left = [(seed, arm) for seed in asked.seeds for arm in ARMS if (name, arm, seed) not in done]
        for seed, arm in track(left, description=name):
            start = time.perf_counter()
            net = trained(ARMS[arm], data.train, seed, asked.steps)
            took = 1000 * (time.perf_counter() - start) / asked.steps
            with torch.no_grad():
                noise = torch.randn(SAMPLES, data.train.shape[1], generator=ms.key(seed, "samples", name))
                x = torch.cat([ms.jump(net, part) for part in noise.split(4000)])
            found = {"set": name, "arm": arm, "seed": seed, "steps": asked.steps, "ms": round(took, 2)}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found | measured(x, data, scales, seed) | {"floor": floor}) + "\n")


if __name__ == "__main__":
    main()
