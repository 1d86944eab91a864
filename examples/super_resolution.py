"""Super-resolution in one step: the low-resolution picture as the source of the flow, or as a condition beside noise.

Shows: `data_pair` and `data_pair_as`; errors on pictures that training never saw. A source gives one answer, a condition draws from many.
Needs: pip install 'meanstep[digits,report]'. Takes: some minutes of one core; --quick seconds.
Same from the command line: meanstep train --data.source sharp/ --data.pair low/ --data.pair-as source --out runs/from
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import meanstep as ms


def blurred(x):
    """Means over 2 x 2 pixels, enlarged again: a quarter of the numbers."""
    return torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(x, 2), scale_factor=2)


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few steps only")
    options.add_argument("--out", default="super_resolution.png", help="the picture")
    given = options.parse_args(argv)
    rows = torch.tensor(load_digits().data, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    rows = rows[torch.randperm(len(rows), generator=ms.key(0))]
    train, test = (rows[:64], rows[-32:]) if given.quick else (rows[:-400], rows[-400:])
    network = {"name": "dit", "patch": 2, "width": 32 if given.quick else 96, "depth": 1 if given.quick else 4, "heads": 4}
    length = {"samples": 128, "batch": 32, "evaluate_every": 0} if given.quick else {"samples": 60_000, "batch": 64, "evaluate_every": 0}

    made = {}
    with tempfile.TemporaryDirectory() as folder:
        source, low = Path(folder, "pictures.npz"), blurred(test)
        np.savez(source, x=train, low=blurred(train))
        for way in ("source", "condition"):
            run = ms.train(
                data=source,
                data_pair="low",
                data_pair_as=way,
                net=network,
                out=Path(folder, way),
                schedule="cosine",
                progress=False,
                **length,
            )
            model = run.load()
            for steps in (1, 4):
                made[way, steps] = model.sample(len(test), steps=steps, labels={"pair": low})
            spread = torch.stack([model.sample(range(k, k + len(test)), labels={"pair": low}) for k in (0, 10_000)])
            print(f"{way}: two samples of one picture differ by {(spread[0] - spread[1]).square().mean().sqrt():.3f} (root mean square)")

    distance = ms.metrics.Sliced(test.flatten(1), ms.metrics.directions(64, generator=ms.key(0, "directions")))
    for (way, steps), x in ({("low resolution", 0): low} | made).items():
        error = (x - test).square().mean().sqrt()
        repeated = (torch.nn.functional.avg_pool2d(x - test, 2)).square().mean().sqrt()
        print(f"{way}, {steps} steps: error {error:.4f}, after blurring {repeated:.4f}, sliced W1 {distance(x.flatten(1)):.4f}")
    print(f"floor {distance(rows[: len(test)].flatten(1)):.4f}   [sliced W1 of as many training pictures]")
    figure = Figure((8, 3.4), layout="constrained")
    shown = {"low": low, "source": made["source", 1], "condition": made["condition", 1], "truth": test}
    for axes, (name, x) in zip(figure.subplots(4, 1), shown.items(), strict=True):
        axes.imshow(x[:16, 0].permute(1, 0, 2).reshape(8, -1).numpy(), cmap="gray", vmin=-1, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(given.out, dpi=100)


if __name__ == "__main__":
    main()
