"""Samples of seed 0 beside held-out rows: `python studies/gallery/pictures.py FOLDER` draws docs/figures/gallery-*.png of run.py's."""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from run import KINDS, columns, read

OUT = Path(__file__).parents[2] / "docs" / "figures"
COLUMNS = {
    "data": "",
    "one step, 1": "meanflow-1",
    "one step, 4": "meanflow-4",
    "flow matching, 1": "flow_matching-1",
    "flow matching, 4": "flow_matching-4",
}


def panel(axis: Any, name: str, x: np.ndarray) -> None:
    """Rows of one kind: ways, waves, pictures, or age against the amount."""
    if name == "policy":
        axis.plot(*x[:60].transpose(1, 2, 0), color="C0", alpha=0.3, lw=0.8)
        axis.set(xlim=(-0.3, 4), ylim=(-3.2, 2.6))
    elif name == "signals":
        for k in range(5):
            axis.plot(x[k, 0] - 3 * k, color="C0", lw=0.8)
    elif name == "super-resolution":
        tiles = np.pad(np.clip(x[:16, 0], 0, 1), ((0, 0), (1, 1), (1, 1)), constant_values=0.3)
        axis.imshow(tiles.reshape(4, 4, 10, 10).transpose(0, 2, 1, 3).reshape(40, 40), cmap="gray_r", vmin=0, vmax=1)
    else:
        axis.scatter(x[:, 3], x[:, 4], s=3, c=np.array(["C0", "C1", "C2"])[x[:, :3].argmax(1)])
        axis.set(xlim=(-2, 4), ylim=(-1, 6))
    axis.set(xticks=[], yticks=[])


def main(folder: Path) -> None:
    for name, kind in KINDS.items():
        if kind.source.endswith(".csv"):
            data = columns(read(folder / "test.csv"), read(folder / kind.source)).numpy()
        else:
            data = np.load(folder / kind.source)["x_test"]
        drawn, axes = plt.subplots(1, len(COLUMNS), figsize=(10, 2.4), layout="constrained")
        for axis, (title, end) in zip(axes, COLUMNS.items(), strict=True):
            panel(axis, name, np.load(folder / f"samples-{name}-{end}.npy") if end else data[:500])
            axis.set_title(title, fontsize=9)
        drawn.savefig(OUT / f"gallery-{name}.png", dpi=90, metadata={"Software": None})
        plt.close(drawn)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
