"""Speech-like sound: vowels of a few voices as a signal [1, 256], from an array to .wav files in three calls.

Shows: `ms.train` on rows in memory with labels, a preview as sound, one-step samples, distances with their floor.
Needs: pip install 'meanstep[report]'. Takes: about five minutes of one core; --quick seconds.
Same from the command line: meanstep train --data.source vowels.npz --data.preview sound:4000 --out runs/vowels
"""

import argparse
import tempfile
import wave
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import meanstep as ms

RATE, LENGTH = 4000, 256
VOWELS = {"a": (750, 1200), "i": (300, 1700), "u": (320, 700)}  # the first two formants


def vowels(n, seed):
    """Sums of harmonics of a voice's pitch, loud near the formants of one of three vowels: float32 [n, 1, 256], labels [n]."""
    g = np.random.default_rng(seed)
    y, time = g.integers(0, 3, n), np.arange(LENGTH) / RATE
    pitch = g.uniform(100, 200, (n, 1)) * (1 + 0.1 * g.uniform(-1, 1, (n, 1)) * time * RATE / LENGTH)  # rising or falling
    formants = np.array(list(VOWELS.values()))[y] * g.normal(1, 0.05, (n, 2))
    order = np.arange(1, 10)
    gain = (np.exp(-0.5 * ((order[:, None] * pitch.mean(1)[:, None, None] - formants[:, None]) / 150) ** 2) + 0.02).sum(-1)
    phase = 2 * np.pi * np.cumsum(pitch, 1) / RATE + g.uniform(0, 2 * np.pi, (n, 1))
    x = sum(gain[:, [k]] * np.sin((k + 1) * phase) for k in range(9)) * np.hanning(LENGTH)
    return (0.8 * x / np.abs(x).max(1, keepdims=True)).astype(np.float32)[:, None], y


def spectra(x):
    """What an ear hears: magnitudes by frequency, [n, 129]."""
    return torch.fft.rfft(torch.as_tensor(x)[:, 0], norm="ortho").abs()


def main(argv=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a few steps only")
    options.add_argument("--out", default="signals.png", help="the picture; the sounds lie beside it, as .wav")
    options.add_argument("--run", help="the run's folder, with its page; a temporary one by default")
    given = options.parse_args(argv)
    count = 64 if given.quick else 1024

    (x, y), (test, _), (other, _) = (vowels(n, seed) for seed, n in enumerate((64 if given.quick else 20_000, count, count)))
    network = {"name": "dit", "patch": 8, "width": 32 if given.quick else 128, "depth": 1 if given.quick else 4, "heads": 4}
    with tempfile.TemporaryDirectory() as folder:
        length = (
            {"samples": 128, "batch": 32, "evaluate_every": 0}
            if given.quick
            else {"samples": 64_000, "batch": 64, "evaluate_every": 32_000}
        )
        run = ms.train(
            data={"x": x, "y": y},
            data_preview=f"sound:{RATE}",  # a player in the run's page
            net=network,
            out=given.run or Path(folder, "vowels"),
            schedule="cosine",
            progress=not given.quick,
            **length,
        )
        model = run.load()
        made = {n: model.sample(count, steps=n) for n in (1, 4, 32)}
        shown = {name: model.sample(range(2), labels=k) for k, name in enumerate(VOWELS)}

    distance = ms.metrics.Sliced(spectra(test), ms.metrics.directions(LENGTH // 2 + 1, generator=ms.key(0)))
    scores = {f"{n} steps": round(distance(spectra(rows)), 4) for n, rows in made.items()}
    print(scores, f"floor {distance(spectra(other)):.4f}   [sliced W1 of spectra]")
    figure = Figure((9, 4), layout="constrained")
    for k, (name, axes) in enumerate(zip(VOWELS, figure.subplots(3, 2, sharex=True, sharey=True), strict=True)):
        for title, row, ax in (("one step", shown[name][0, 0], axes[0]), ("data", x[y == k][0, 0], axes[1])):
            ax.plot(np.arange(LENGTH) / RATE * 1000, row, lw=0.6)
            ax.set(title=f"/{name}/, {title}", ylim=(-1, 1), xlabel="milliseconds" if k == 2 else "")
        sound = (32767 * shown[name][:, 0].clamp(-1, 1)).short().numpy().tobytes()
        with wave.open(str(Path(given.out).with_name(f"{Path(given.out).stem}-{name}.wav")), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(sound)
    figure.savefig(given.out, dpi=100)


if __name__ == "__main__":
    main()
