"""A mixed table in, a mixed table out: numbers, whole numbers, words; one evaluation of the network a row.

Shows: `data_table="quantile"`, which makes numbers normal and words one-hot, and the way back to columns.
Needs: pip install 'meanstep[report]'. Takes: a minute of one core; --quick seconds.
Same from the command line: meanstep train --data.source people.csv --data.table quantile --out runs/people
    meanstep sample runs/people --seeds 0:1000 --out made.csv
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import meanstep as ms

KINDS = ("student", "worker", "pensioner")


def people(n, seed):
    """Columns by name: who is old is a pensioner, income is skewed and depends on age and kind, students have few children."""
    g = np.random.default_rng(seed)
    age = g.gamma(6, 8, n).clip(16, 99)
    kind = np.where(age > 63 + 3 * g.normal(size=n), 2, np.where(age < 21 + 4 * g.random(n), 0, 1))
    income = np.exp(g.normal(np.array([9.2, 10.4, 10.0])[kind], np.array([0.5, 0.4, 0.3])[kind]) + 0.01 * (age - 40))
    children = g.poisson(np.array([0.05, 1.4, 2.0])[kind])
    return {"age": age.round(1), "income": income.round(), "children": children, "kind": np.array(KINDS)[kind]}


def distance(a, b):
    """Sliced W1 of two tables' numbers in units of b's deviations, and the largest difference of a kind's share."""
    columns = [torch.tensor(np.stack([t[c] for c in ("age", "income", "children")], 1), dtype=torch.float64) for t in (a, b)]
    apart = ms.metrics.sliced_wasserstein(*(x / columns[1].std(0) for x in columns), ms.metrics.directions(3, generator=ms.key(0)))
    return round(apart, 4), round(float(max(abs((a["kind"] == kind).mean() - (b["kind"] == kind).mean()) for kind in KINDS)), 4)


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few steps only")
    options.add_argument("--out", default="table.png", help="the picture")
    given = options.parse_args(argv)
    rows, count = (200, 100) if given.quick else (10_000, 4000)
    length = {"samples": 640, "batch": 64, "evaluate_every": 0} if given.quick else {"samples": 500_000, "batch": 128, "evaluate_every": 0}

    table, test, other = people(rows, 0), people(count, 1), people(count, 2)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "people.csv")
        with source.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([table, *zip(*table.values(), strict=True)])
        width = 32 if given.quick else 256
        run = ms.train(
            data=source,
            data_table="quantile",
            net="mlp",
            network_width=width,
            out=Path(folder, "run"),
            schedule="cosine",
            progress=False,
            **length,
        )
        model = run.load()
        made = {n: model.table(model.sample(count, steps=n)) for n in (1, 4, 32)}

    print("sliced W1 of the numbers, and the largest difference of a share:")
    print({f"{n} steps": distance(new, test) for n, new in made.items()}, "floor", distance(other, test))
    print(
        *(
            f"{age:5.1f} years, {income:8,.0f} a year, {n} children, {kind}"
            for age, income, n, kind in zip(*(c[:5] for c in made[1].values()), strict=True)
        ),
        sep="\n",
    )
    figure = Figure((7, 3), layout="constrained")
    for axes, (title, shown) in zip(
        figure.subplots(1, 2, sharex=True, sharey=True), {"data": test, "one step": made[1]}.items(), strict=True
    ):
        for kind in KINDS:
            here = shown["kind"] == kind
            axes.semilogy(shown["age"][here][:1000], shown["income"][here][:1000], ".", ms=2, label=f"{kind}, {here.mean():.0%}")
        axes.set(title=title, xlabel="age", ylabel="income", ylim=(1e3, 1e6))
        axes.legend(fontsize=7, loc="upper left")
    figure.savefig(given.out, dpi=100)


if __name__ == "__main__":
    main()
