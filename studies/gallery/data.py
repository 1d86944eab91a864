"""The four data sets of the gallery, from generators and scikit-learn's digits: `python studies/gallery/data.py FOLDER` writes their files.

Rows to train on are `x_train` (of the table train.csv), those to compare with `x_test`; a condition is `NAME_train` and `NAME_test`.
"""

import csv
import math
import sys
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng

Arrays = dict[str, np.ndarray]
TRAIN, TEST = 4000, 2000
COLUMNS = ("kind", "age", "amount", "visits", "member")


def policy(n: int, g: Generator) -> Arrays:
    """Eight places [n, 2, 8] on a way around an obstacle, left (0.35), right (0.35) or far right (0.3), given obstacle and goal [n, 3]."""
    o = g.uniform(-1, 1, (n, 3))
    time = np.linspace(0, 1, 8)
    side = np.array([1.0, -1.0, -1.8])[g.choice(3, n, p=(0.35, 0.35, 0.3))]
    bump = np.exp(-(((time - 0.5 - o[:, :1] / 5) / 0.2) ** 2))
    along = (3 + 0.3 * g.standard_normal((n, 1))) * time
    across = time * o[:, 2:] + bump * (o[:, 1:2] / 2 + side[:, None] * (0.8 + 0.05 * g.standard_normal((n, 1))))
    x = np.stack([along, across], 1) + 0.03 * g.standard_normal((n, 2, 8))
    return {"x": x, "observation": o}


def signals(n: int, g: Generator) -> Arrays:
    """Two damped resonances struck at a random pitch [n, 1, 64]: one of three vowels, a phase, a little noise."""
    time = np.arange(64)
    pitch, phase = g.uniform(12, 24, (n, 1)), g.uniform(0, 1, (n, 1))
    formants = np.array([[0.05, 0.15], [0.08, 0.11], [0.04, 0.22]])[g.choice(3, n, p=(0.5, 0.3, 0.2))]
    since = (time + phase * pitch) % pitch
    x = sum(a * np.exp(-since / 10) * np.sin(2 * math.pi * f * since) for a, f in ((1.0, formants[:, :1]), (0.6, formants[:, 1:])))
    return {"x": (x + 0.03 * g.standard_normal((n, 64)))[:, None]}


def digits() -> tuple[Arrays, Arrays]:
    """Scikit-learn's digits [n, 1, 8, 8] in [0, 1], given the means over two by two pixels [n, 1, 4, 4]; a fixed 1,297 to train on."""
    from sklearn.datasets import load_digits

    x = load_digits().images[default_rng(0).permutation(1797)][:, None] / 16
    low = x.reshape(-1, 1, 4, 2, 4, 2).mean((3, 5))
    return tuple({"x": x[part], "low": low[part]} for part in (slice(1297), slice(1297, None)))  # type: ignore[return-value]


def table(n: int, g: Generator) -> list[tuple[str, float, float, int, str]]:
    """Customers: a kind (0.6, 0.3, 0.1), age, an amount with a long tail and a number of visits that depend on it, and yes or no."""
    kind = g.choice(3, n, p=(0.6, 0.3, 0.1))
    age = 25 + 12 * kind + 8 * g.gamma(2.0, 1.0, n)
    amount = np.exp(2 + 0.8 * kind + 0.5 * g.standard_normal(n) + 0.01 * age)
    visits = g.poisson(2 + 4 * kind)
    member = g.random(n) < 1 / (1 + np.exp(2 - visits / 2))
    rows = zip(kind, age, amount, visits, member, strict=True)
    return [("abc"[k], round(float(a), 2), round(float(m), 2), int(v), "yes" if y else "no") for k, a, m, v, y in rows]


def written(folder: Path) -> None:
    """The files policy.npz, signals.npz, digits.npz, train.csv and test.csv, the same each time."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: (make(TRAIN, default_rng(k)), make(TEST, default_rng(k + 50))) for k, (name, make) in enumerate(MADE.items(), 1)}
    for name, parts in (made | {"digits": digits()}).items():
        arrays = {f"{key}_{end}": value for end, part in zip(("train", "test"), parts, strict=True) for key, value in part.items()}
        np.savez(folder / f"{name}.npz", **{key: value.astype(np.float32) for key, value in arrays.items()})
    for seed, (end, n) in enumerate((("train", TRAIN), ("test", TEST)), 4):
        with (folder / f"{end}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *table(n, default_rng(seed))])


MADE = {"policy": policy, "signals": signals}

if __name__ == "__main__":
    written(Path(sys.argv[1]))
