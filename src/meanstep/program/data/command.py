"""The command `meanstep cache`: images in, a cache out, made once."""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from meanstep.program.console import err, out
from meanstep.program.data.autoencoders import KINDS as AUTOENCODERS
from meanstep.program.data.cache import Cache
from meanstep.program.data.ensure import with_bar
from meanstep.program.data.pictures import Crop
from meanstep.program.data.request import Plan, Request
from meanstep.program.data.source import KINDS as SOURCES
from meanstep.program.machine import available


def _hint(text: str, default: str, metavar: str) -> Any:
    return tyro.conf.arg(help=text, help_behavior_hint=f"(default: {default})", metavar=metavar)


@dataclass(frozen=True)
class MakeCache:
    """Crop, resize and encode images once, into a folder that training reads: manifest.json and shards in safetensors.

    The manifest states what was done and the sha256 of everything; a cache that does not fit a run is refused. Interrupt it at any
    moment: the same command goes on after the last full shard. On a finished cache the same command checks every sha256. The same
    input gives the same bytes.

    Examples: meanstep cache digits --out digits; meanstep cache photos/ --out photos64 --size 64 --flips; meanstep cache photos/
    --out latents --size 256 --crop adm --flips --autoencoder taesd:taesd.safetensors --device cuda
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE", help=f"What to read: {SOURCES}.")]
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the cache; it is made if it does not exist."""
    autoencoder: Annotated[str, tyro.conf.arg(metavar="KIND", help=f"{AUTOENCODERS}.")] = "identity"
    split: str = "train"
    """Which part of the source, if it has several: train or test; any name on the hub."""
    channels: Annotated[Literal[0, 1, 3], _hint("Keep grey images grey with 1.", "3; grey arrays: 1", "{1,3}")] = 0
    size: Annotated[int, _hint("Pixels of a side.", "as the images are, all alike", "N")] = 0
    crop: Crop = "center"
    """How an image becomes square: center resizes the shorter side and cuts out the middle; adm does so after halvings by box, with
    bicubic (arXiv 2105.05233); none refuses images of another size."""
    resample: Literal["box", "bicubic", "lanczos"] = "bicubic"
    """PIL's filter for --crop center."""
    enlarge: tyro.conf.FlagCreatePairsOff[bool] = False
    """Enlarge images smaller than --size instead of refusing them."""
    flips: tyro.conf.FlagCreatePairsOff[bool] = False
    """Mirror images belong to the data: encoded too, or made when pictures are read."""
    limit: Annotated[int, _hint("Take so many images, evenly spaced.", "all", "N")] = 0
    dtype: Literal["float16", "float32"] = "float16"
    """How latents are stored; pictures are uint8."""
    like: Annotated[Path | None, _hint("Normalise as this cache does: for a test split, that of the train split.", "own", "FOLDER")] = None
    normalise: bool = True
    """Bring each channel of latents to mean 0 and deviation 1; with --no-normalise they are what public SiT and DiT weights know."""
    skip_broken: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave out images that cannot be read, and count them in the manifest."""
    shard: Annotated[int, _hint("Images of a shard.", "as fit into 32 MiB", "N")] = 0
    batch: int = 32
    """Images encoded at once. Another batch can change the last bits."""
    workers: int = 4
    """Threads that read images."""
    device: str = "cpu"
    """Where to encode: cpu, cuda, cuda:1, mps."""
    image: str = "image"
    """The column of images on the hub."""
    label: str = "label"
    """The column of labels on the hub, the key in a webdataset's .json."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would be made, and make nothing."""

    def run(self) -> int:
        """0; `UserError` in one line for what cannot be made."""
        available(self.device)
        asked = {f.name: getattr(self, f.name) for f in fields(Request)}
        with err.status("reading the source"):
            plan = Plan.of(Request(**asked))
            plan.statement  # noqa: B018  (hashes the source and reads --like, before anything is written)
        folder = self.out.expanduser()
        if self.dry_run:
            _foresee(plan, folder)
            return 0
        _tell(with_bar(plan, folder), plan)
        return 0


def _foresee(plan: Plan, folder: Path) -> None:
    n = len(plan.index)
    there = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    c, h, w = plan.shape
    out.print(f"{n:,} images of {plan.source.name}, {len(plan.source.classes) or 'no'} classes, {plan.autoencoder.spec}", soft_wrap=True)
    out.print(f"{c} x {h} x {w} {plan.dtype}, {_mirrors(plan.flips)}, {-(-n // plan.rows)} shards")
    out.print(f"{n * plan.row_bytes / 1e6:,.1f} MB in {folder}, {free / 1e6:,.0f} MB are free; nothing was written", soft_wrap=True)


def _tell(cache: Cache, plan: Plan) -> None:
    held = cache.manifest
    c, h, w = held.shape
    skipped = f", {held.skipped} left out as broken" if held.skipped else ""
    out.print(f"{held.count:,} images of {held.source}{skipped}, {len(held.classes) or 'no'} classes", soft_wrap=True, markup=False)
    size = sum(shard.bytes for shard in held.shards) / 1e6
    out.print(f"{c} x {h} x {w} {held.dtype}, {_mirrors(held.flips)}, {len(held.shards)} shards, {size:,.1f} MB")
    if held.latent and held.statistics == "own":
        mean, std = (f"{min(v):.3g} to {max(v):.3g}" for v in (held.mean, held.std))
        out.print(f"a channel's mean {mean}, standard deviation {std}")
    out.print(f"cache: {cache.path}  ({held.digest[:16]})", soft_wrap=True, markup=False)


def _mirrors(flips: str) -> str:
    return {"none": "no mirror images", "read": "mirrored when read", "stored": "mirror images stored"}[flips]
