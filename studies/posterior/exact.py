"""What the posterior velocity removes and leaves, without training: `python studies/posterior/exact.py OUT [--seeds ...] [--sets ...]`.

The truth is the posterior over a pool of all images but the rows', and the row's own. One line of OUT/exact.jsonl a set, seed, variant
and size of reference; the same command again goes on where it stopped. `--cost` times one batch instead, into OUT/cost.jsonl.
"""

import argparse
import json
import math
import resource
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from data import SETS, Data, load
from rich.progress import track
from torch import Tensor

import meanstep as ms
from meanstep.fields import DiT
from meanstep.types import Bridge
from meanstep.velocities import Posterior

EDGES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
BINS = len(EDGES) - 1
ROWS = {name: 16 if name == "clothing256" else 64 for name in SETS}
"""In each bin of t; fewer where there are few images."""
SIZES = (64, 256, 1024, 4096, 16384)
PLAIN = 4096
"""The size of reference at which distances in fewer dimensions are tried."""


def law(times: str) -> list[float]:
    """The probability of each bin under the larger of two times: uniform, or MeanFlow's logit-normal(-0.4, 1)."""

    def below(t: float) -> float:
        if times == "uniform" or t in (0, 1):
            return t * t
        return NormalDist(-0.4, 1).cdf(math.log(t / (1 - t))) ** 2

    return [below(b) - below(a) for a, b in pairwise(EDGES)]


class Rows(NamedTuple):
    """Rows with their own images `x`, and the images that references are drawn from."""

    x: Tensor
    y: Tensor
    e: Tensor
    t: Tensor
    z: Tensor
    pool: Tensor
    labels: Tensor


def drawn(data: Data, name: str, seed: int) -> Rows:
    g = ms.key(seed, "rows", name)
    order = torch.randperm(len(data.x), generator=g)
    n = ROWS[name] * BINS
    own, rest = order[:n], order[n:]
    low, high = (torch.tensor(p, dtype=torch.float64).repeat_interleave(ROWS[name]) for p in (EDGES[:-1], EDGES[1:]))
    t = (low + (high - low) * torch.rand(n, generator=g, dtype=torch.float64)).clamp(min=1e-3)
    x, e = data.x[own], torch.randn(n, data.x.shape[1], generator=g)
    return Rows(x, data.y[own], e, t, ((1 - t)[:, None] * x + t[:, None] * e).float(), data.x[rest], data.y[rest])


def logits(z: Tensor, t: Tensor, points: Tensor, scale: float = 1.0) -> Tensor:
    """`log p(z_t | x_i)` up to a term of the row, `[R, P]`, in float64; `scale` multiplies the squared distance."""
    s, z = (1 - t)[:, None], z.double()
    parts = [s * (z @ p.double().mT) - s**2 * p.double().square().sum(-1) / 2 for p in points.split(8192)]
    return torch.cat(parts, 1).mul_(scale / t[:, None] ** 2)


def own_logit(z: Tensor, t: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
    s, z, x = (1 - t)[:, None], z.double(), x.double()
    return (s * z * x - s**2 * x * x / 2).sum(-1) * scale / t**2


class Guess(NamedTuple):
    """A posterior mean `[R, d]`, the weight of the own image, and the effective number of images behind it."""

    x: Tensor
    share: Tensor
    count: Tensor


def mean(log: Tensor, points: Tensor, own: Tensor | None, x: Tensor) -> Guess:
    """With the own image where its logit is given, else without."""
    top = log.amax(1) if own is None else torch.maximum(log.amax(1), own)
    weights = (log - top[:, None]).exp_()
    mass = torch.zeros_like(top) if own is None else (own - top).exp()
    total = weights.sum(1) + mass
    count = total**2 / (weights.square().sum(1) + mass**2)
    share = mass / total
    guess = weights.div_(total[:, None]).float() @ points + share[:, None].float() * x
    return Guess(guess, share, count)


def linear(rows: Rows) -> tuple[Tensor, Tensor]:
    """The mean of data given z for a Gaussian with the pool's moments: it has seen no row's image. And its principal axes.

    With fewer than two images a dimension the covariance is drawn towards a multiple of the identity, by the share `d / (d + n)`.
    """
    middle = rows.pool.mean(0)
    centred = rows.pool - middle
    n, d = centred.shape
    if n < d:
        values, left = torch.linalg.eigh(centred @ centred.mT / n)
        keep = values > 1e-5 * values[-1]
        values, axes = values[keep], centred.mT @ left[:, keep] / (values[keep] * n).sqrt()
    else:
        values, axes = torch.linalg.eigh(centred.mT @ centred / n)
        values = values.clamp(min=0)
    share = d / (d + n) if n < 2 * d else 0.0
    floor = share * values.sum() / d
    values = (1 - share) * values + floor
    s, t = (1 - rows.t)[:, None].float(), rows.t[:, None].float()
    off = rows.z - s * middle
    inside = off @ axes
    outside = s * floor / (s**2 * floor + t**2) * (off - inside @ axes.mT)
    return middle + (s * values / (s**2 * values + t**2) * inside) @ axes.mT + outside, axes.flip(1)


def measured(data: Data, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """Every variant on the same rows, two independent references A and B each; squares are those of velocities, over the dimension."""
    rows = drawn(data, name, seed)
    g, d, p = ms.key(seed, "reference", name), rows.x.shape[1], len(rows.pool)
    scale = (rows.t**2 * d).float()

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1) / scale

    def line(variant: str, size: int, columns: dict[str, Tensor]) -> dict[str, Any]:
        binned = {key: column.double().view(BINS, -1).mean(1).tolist() for key, column in columns.items()}
        return {"set": name, "seed": seed, "d": d, "pool": p, "variant": variant, "size": size} | {
            key: [float(f"{value:.5g}") for value in values] for key, values in binned.items()
        }

    log, own = logits(rows.z, rows.t, rows.pool), own_logit(rows.z, rows.t, rows.x)
    _agrees(rows, log, own)
    other = rows.y[:, None] != rows.labels
    truth = mean(log, rows.pool, own, rows.x)
    by_class = mean(log.masked_fill(other, -math.inf), rows.pool, own, rows.x)
    guess, axes = linear(rows)
    off = {key: x - rows.x for key, x in (("noise", truth.x), ("class noise", by_class.x), ("linear", guess))}
    yield line("truth", p, {key: inner(x, x) for key, x in off.items()} | _weight([truth]))
    yield line("truth of the class", p, _weight([by_class]))

    sizes = [n for n in SIZES if n < p]
    drawn_pairs = {n: [torch.randperm(p, generator=g)[:n] for _ in "AB"] for n in sizes}

    def compared(guesses: list[Guess], target: Tensor, prefix: str = "") -> dict[str, Tensor]:
        gone, left = [x.x - rows.x for x in guesses], [x.x - target for x in guesses]
        return {
            f"{prefix}removed": sum(inner(x, x) for x in gone) / 2,
            f"{prefix}left": sum(inner(x, x) for x in left) / 2,
            f"{prefix}shared": inner(*left),
        }

    for n, pair in drawn_pairs.items():
        within = [mean(log[:, i], rows.pool[i], own, rows.x) for i in pair]
        without = [mean(log[:, i], rows.pool[i], None, rows.x) for i in pair]
        off_class = {f"class {key}": x for key, x in compared(within, by_class.x).items() if key != "removed"}
        yield line("all classes", n, compared(within, truth.x) | _weight(within) | off_class | compared(without, truth.x, "without own: "))
        same = [mean(log[:, i].masked_fill(other[:, i], -math.inf), rows.pool[i], own, rows.x) for i in pair]
        yield line("own class", n, compared(same, by_class.x) | _weight(same))
    n = max(m for m in sizes if m <= PLAIN)
    signs = torch.linalg.qr(torch.randn(d, min(d, 256), generator=g))[0]
    del log
    for k in (8, 32, 128):
        for kind, basis, factor in (("principal", axes[:, :k], 1.0), ("random", signs[:, :k], d / k)):
            if k < d:
                z, x, points = rows.z @ basis, rows.x @ basis, rows.pool @ basis
                near = own_logit(z, rows.t, x, factor)
                parts = [(logits(z, rows.t, points[i], factor), i) for i in drawn_pairs[n]]
                within = [mean(part, rows.pool[i], near, rows.x) for part, i in parts]
                without = [mean(part, rows.pool[i], None, rows.x) for part, i in parts]
                found = compared(within, truth.x) | _weight(within) | compared(without, truth.x, "without own: ")
                yield line(f"{kind} {k}", n, found)


def _weight(guesses: list[Guess]) -> dict[str, Tensor]:
    return {
        "share": torch.stack([x.share for x in guesses]).mean(0),
        "count": torch.stack([x.count for x in guesses]).mean(0),
        "held": torch.stack([(x.share > 0.99).double() for x in guesses]).mean(0),
    }


def _agrees(rows: Rows, log: Tensor, own: Tensor) -> None:
    """What is computed here is the library's `Posterior`."""
    few, t = slice(None, None, 16), rows.t[::16]
    x, e = rows.x[few].double(), rows.e[few].double()
    b = Bridge(*ms.paths.linear(x, e, t), t, t)
    found = Posterior(rows.pool[:64].double())(None, b)  # type: ignore[arg-type]
    ours = mean(log[few, :64], rows.pool[:64], own[few], rows.x[few]).x.double()
    wanted = (b.z - ours) / t[:, None]
    if not torch.allclose(t[:, None] * found, t[:, None] * wanted, atol=1e-3):
        raise AssertionError("the study's posterior and the library's differ")


# Cost --------------------------------------------------------------------------------------------------------------------------------


def costs() -> Iterator[dict[str, Any]]:
    """Milliseconds of the posterior of a batch, and of a MeanFlow step of a small DiT on the same rows; least of several, one thread."""
    loss = ms.Loss(ms.recipes.meanflow(diagonal_share=0.5), check=False, measure=False)
    for side, channels, patch in ((4, 4, 1), (8, 4, 2), (16, 4, 2), (32, 4, 2), (32, 3, 4)):
        x = torch.randn(32, channels, side, side, generator=ms.key(0, "cost"))
        net = DiT(side, channels, patch=patch, width=192, depth=6, heads=3)
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-4)
        d = channels * side * side
        found: dict[str, Any] = {
            "event": [channels, side, side],
            "d": d,
            "batch": 32,
            "step": _least(partial(_step, net, optimiser, loss, x), 2),
        }
        found["parameters"] = sum(p.numel() for p in net.parameters())
        for n in (1024, 4096, 16384):
            reference = torch.randn(n, channels, side, side, generator=ms.key(n))
            t = torch.rand(32, generator=ms.key(1))
            b = Bridge(*ms.paths.linear(x, torch.randn(x.shape, generator=ms.key(2)), t), t, t)
            for dtype in (torch.float32, torch.float64):
                found[f"{n} {str(dtype)[6:]}"] = _least(partial(Posterior(reference, dtype=dtype), None, b), 3)
            # the reference, it and its squares side by side in `dtype`, and two arrays of weights
            found[f"{n} MiB"] = (n * d * 4 + 3 * n * d * 4 + 2 * 32 * n * 4) / 2**20
        found["peak MiB of the process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield found


def _step(net: DiT, optimiser: torch.optim.Optimizer, loss: ms.Loss, x: Tensor) -> None:
    optimiser.zero_grad()
    loss(net, x, generator=ms.key(0)).loss.backward()
    optimiser.step()


def _least(f: Any, times: int) -> float:
    f()
    took = []
    for _ in range(times):
        start = time.perf_counter()
        f()
        took.append(1000 * (time.perf_counter() - start))
    return round(min(took), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--cost", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / ("cost.jsonl" if asked.cost else "exact.jsonl")
    if asked.cost:
        path.write_text("".join(json.dumps(found) + "\n" for found in costs()), encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {(r["set"], r["seed"]) for r in map(json.loads, lines)}
    for name in asked.sets:
        data = None
        for seed in track([s for s in asked.seeds if (name, s) not in done], description=name):
            data = data or load(name, asked.out)
            found = "".join(json.dumps(record) + "\n" for record in measured(data, name, seed))
            with path.open("a", encoding="utf-8") as file:
                file.write(found)


if __name__ == "__main__":
    main()
