"""What a batch of 128 costs the processor: rows of a cache, latents of 4 x 32 x 32 in 64 shards and pictures of 3 x 32 x 32.

Prints the median and the 10th and 90th percentile of 200 batches, in milliseconds of one thread, files in memory.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from meanstep.program.data import Cache, Loader, Manifest, Opened, Request, make
from meanstep.program.data.manifest import Shard, sha256

BATCH, REPEATS = 128, 200


def pictures(folder: Path) -> Cache:
    """50,000 pictures of noise, as many as CIFAR-10 has."""
    np.save(folder / "pictures.npy", np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8))
    return make(Opened.of(Request(str(folder / "pictures.npy"), flips=True)), folder / "pictures")


def latents(folder: Path, like: Manifest, shards: int = 64, rows: int = 2048) -> Cache:
    """131,072 latents of noise with their mirror images, as an autoencoder would leave them."""
    generator, made, shape = torch.Generator().manual_seed(0), [], (4, 32, 32)
    (folder / "latents").mkdir()
    for k in range(shards):
        file = folder / "latents" / f"shard-{k:05d}.safetensors"
        x, x_flip = (torch.randn(rows, *shape, generator=generator).half() for _ in range(2))
        save_file({"x": x, "x_flip": x_flip, "y": torch.zeros(rows, dtype=torch.int64)}, file)
        made.append(Shard(file.name, rows, file.stat().st_size, sha256(file)))
    changes = {"shape": shape, "dtype": "float16", "flips": "stored", "mean": (0.0,) * 4, "std": (1.0,) * 4, "count": rows * shards}
    changes["codec"] = "latents"
    manifest = Manifest(**{**vars(like), **changes, "shards": tuple(made)})
    (folder / "latents" / "manifest.json").write_text(manifest.text())
    return Cache.open(folder / "latents", verify=False)


def clock(name: str, loader: Loader) -> None:
    """One line."""
    times = []
    for k in range(REPEATS + 20):
        start = time.process_time()
        loader.chunk(k * BATCH, BATCH)
        times.append(1e3 * (time.process_time() - start))
    low, median, high = np.quantile(times[20:], (0.1, 0.5, 0.9))
    print(f"{name:36s} {median:5.2f} ms  [{low:.2f}, {high:.2f}]", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        small = pictures(Path(place))
        large = latents(Path(place), small.manifest)
        for name, cache in (("pictures 3 x 32 x 32, uint8", small), ("latents 4 x 32 x 32, float16", large)):
            for flips in (False, True):
                clock(name + (", mirrored" if flips else ""), Loader(cache, 0, flips))
