"""The sets of studies/posterior: rows of unit variance with labels, from the folder in MEANSTEP_DATA. Latents are encoded once and kept.

`python studies/posterior/data.py OUT` encodes: about 6 minutes of a free core.
"""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor

SETS = ("mnist14", "cifar-latents", "cifar", "clothing64", "clothing128", "clothing256")
PIXELS = {"cifar-latents": 32, "clothing64": 64, "clothing128": 128, "clothing256": 256}
LIMIT = {"cifar": 10_000, "clothing128": 1800, "clothing256": 500}
"""Images of a set where all of them take too long: every fifth of CIFAR-10, every third photograph, every eleventh at 256 px."""


class Data(NamedTuple):
    """`x` `[N, d]` float32, mean and variance of all entries 0 and 1; `y` `[N]`."""

    x: Tensor
    y: Tensor


def folder() -> Path:
    """Where the data are; the study ends here with a reason if they are not."""
    found = os.environ.get("MEANSTEP_DATA")
    if not found or not Path(found).is_dir():
        raise SystemExit(
            "skipped: this study needs MEANSTEP_DATA, a folder with mnist.npz, cifar10_jpeg.npz, clothing256_webp.npz and taesd.safetensors"
        )
    return Path(found)


def images(name: str) -> Iterator[tuple[Image.Image, int]]:
    """The training images of a blob with their labels."""
    blob = np.load(folder() / ("cifar10_jpeg.npz" if name.startswith("cifar") else "clothing256_webp.npz"))
    data, offsets, labels, split = (blob[key] for key in ("data", "offsets", "labels", "split"))
    chosen = np.flatnonzero(split == 0) if name.startswith("cifar") else np.arange(len(labels))
    chosen = chosen[:: -(-len(chosen) // LIMIT[name])] if name in LIMIT else chosen
    for i in chosen:
        yield Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB"), int(labels[i])


class Encoder:
    """TAESD's encoder, `[B, 3, H, W]` in [0, 1] -> `[B, 4, H/8, W/8]`, from its weights alone; bfloat16 convolutions."""

    def __init__(self, path: Path) -> None:
        weights = {key.removeprefix("encoder."): w for key, w in load_file(path).items() if key.startswith("encoder.")}
        self.w = {
            key: w.bfloat16().contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w.bfloat16() for key, w in weights.items()
        }

    def _conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), stride, 1)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        x = self._conv(x.bfloat16().contiguous(memory_format=torch.channels_last), "0")
        for k in range(1, 14):
            if k in (2, 6, 10):
                x = self._conv(x, str(k), stride=2)
            else:
                h = self._conv(F.relu(self._conv(F.relu(self._conv(x, f"{k}.conv.0")), f"{k}.conv.2")), f"{k}.conv.4")
                x = F.relu(h + x)
        return self._conv(x, "14").float()


def encoded(name: str, batch: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """The latents of a set, float16, and its labels."""
    encoder, size = Encoder(folder() / "taesd.safetensors"), PIXELS[name]
    latents, labels, waiting = [], [], []

    def flush() -> None:
        latents.append(encoder(torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2) / 255).half().numpy())
        waiting.clear()

    for image, label in track(images(name), description=name):
        waiting.append(np.asarray(image if image.width == size else image.resize((size, size), Image.Resampling.BOX)))
        labels.append(label)
        if len(waiting) == batch:
            flush()
    if waiting:
        flush()
    return np.concatenate(latents), np.array(labels)


def _digits(held: bool) -> Data:
    """MNIST averaged to 14 x 14; the held-out images on the scale of the others."""
    blob, part = np.load(folder() / "mnist.npz"), "test" if held else "train"
    x, rest = (
        torch.from_numpy(blob[f"x_{p}"].reshape(-1, 14, 2, 14, 2).mean((2, 4), dtype=np.float32)).flatten(1) for p in (part, "train")
    )
    std, mean = torch.std_mean(rest)
    return Data((x - mean) / std, torch.from_numpy(blob[f"y_{part}"].astype(np.int64)))


def load(name: str, out: Path) -> Data:
    """A set; latents are kept in OUT/latents."""
    if name.startswith("mnist14"):
        return _digits(name.endswith("held"))
    if name == "cifar":
        pairs = [(np.asarray(image), label) for image, label in images(name)]
        x, y = np.stack([image for image, _ in pairs]).astype(np.float32), np.array([label for _, label in pairs])
    else:
        kept = out / "latents" / f"{name}.npz"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            x, y = encoded(name)
            np.savez(kept, x=x, y=y)
        blob = np.load(kept)
        x, y = blob["x"].astype(np.float32), blob["y"]
    flat = torch.from_numpy(x.reshape(len(x), -1))
    std, mean = torch.std_mean(flat)
    return Data((flat - mean) / std, torch.from_numpy(y.astype(np.int64)))


def main() -> None:
    torch.set_num_threads(1)
    for name in PIXELS:
        load(name, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
