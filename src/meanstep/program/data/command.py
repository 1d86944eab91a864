"""The command `meanstep cache`: images or rows of numbers in, a cache out, made once."""

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from meanstep.program import flags
from meanstep.program.console import UserError, chat, out, put_json, say, stage, takes_json
from meanstep.program.data.look import PREVIEW
from meanstep.program.data.manifest import NAME
from meanstep.program.data.request import (
    AUTOENCODERS,
    SOURCES,
    Crop,
    PairAs,
    Ragged,
    Request,
    Table,
    known_autoencoder,
    listed,
    present,
)
from meanstep.program.flags import Device, Json, hinted
from meanstep.program.ranges import Ranged, Rows, ranged

if TYPE_CHECKING:
    from meanstep.program.data.cache import Cache
    from meanstep.program.data.opened import Opened


CROP = (
    "How an image becomes square: center resizes the shorter side and cuts out the middle; adm does so after halvings by box, with bicubic "
    "(arXiv 2105.05233); none refuses images of another size."
)

CONDITION = "Conditions: columns of a table, or arrays of a file, that are given to the network beside the rows."


@dataclass(frozen=True)
class MakeCache(Ranged):
    """Crop, resize and encode images once, or take rows of numbers, into a folder that training reads: manifest.json and safetensors.

    The manifest states what was done and the sha256 of everything; a cache that does not fit a run is refused. Interrupt it at any
    moment: the same command goes on after the last full shard. On a finished cache the same command checks every sha256. The same
    input gives the same bytes. docs/data.md says more.

    Examples: meanstep cache digits --out digits; meanstep cache photos/ --out photos64 --size 64 --flips; meanstep cache photos/
    --out latents --size 256 --crop adm --flips --autoencoder taesd:taesd.safetensors --device cuda
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE", help=f"What to read: {SOURCES}.")]
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Where results go: the folder of the cache; it is made if it does not exist."""
    autoencoder: Annotated[str, tyro.conf.arg(metavar="KIND:FILE", help=f"The autoencoder: {AUTOENCODERS}.")] = "identity"
    split: str = "train"
    """Which part of the source, if it has several: train or test, any name on the hub."""
    channels: Annotated[Literal[1, 3] | None, hinted("Keep grey images grey with 1.", "3; grey arrays: 1", "{1,3}")] = None
    size: Annotated[int | None, hinted("Pixels of a side.", "as the images are, all alike", "N from 1 to 65536")] = None
    crop: Annotated[Crop, tyro.conf.arg(help=CROP)] = "center"
    resample: Literal["box", "bicubic", "lanczos"] = "bicubic"
    """PIL's filter for --crop center."""
    enlarge: tyro.conf.FlagCreatePairsOff[bool] = False
    """Enlarge images smaller than --size instead of refusing them."""
    flips: tyro.conf.FlagCreatePairsOff[bool] = False
    """Mirror images belong to the data: encoded too, or made when pictures are read."""
    limit: Annotated[int | None, hinted("At most so many images: drawn at random, always the same.", "all", "N from 1")] = None
    dtype: Annotated[
        Literal["float16", "float32"] | None,
        hinted("How rows are stored; pictures are uint8.", "latents float16, numbers as they are", "{float16,float32}"),
    ] = None
    like: Annotated[Path | None, hinted("Normalise as this cache does: for a test split, that of the train split.", "own", "CACHE")] = None
    normalise: bool = True
    """Bring each channel of latents, or entry of the first axis of rows, to mean 0 and deviation 1; with --no-normalise latents are what
    public SiT and DiT weights know."""
    posterior: tyro.conf.FlagCreatePairsOff[bool] = False
    """Keep mean and deviation of a kl autoencoder's posterior, so that training draws latents anew at every step; twice the size."""
    skip_broken: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave out what cannot be read, and rows that are not finite, and count them in the manifest."""
    shard: Annotated[int | None, hinted("Images of a shard.", "as fit into 32 MiB", "N from 1")] = None
    chunk: Rows = 32
    """Rows of one pass of the network: the autoencoder's. Another number can change the last bits."""
    workers: Annotated[int, ranged("INT from 1 to 4096")] = 4
    """How many at a time: threads that read images."""
    device: Device = "auto"
    image_column: str = "image"
    """The column of images on the hub; the ending of a webdataset's images where a key has several, such as mask.png."""
    label_column: str = "label"
    """The column of labels on the hub, the key in a webdataset's .json, which goes before .cls if it is named."""
    condition: Annotated[tuple[str, ...], hinted(CONDITION, "labels, if there are some", "[NAME ...]")] = ()
    ragged: Ragged = "refuse"
    """Rows of different lengths: refused, padded with zeros that a mask keeps out of the loss, or cropped to the shortest."""
    table: Table = "numbers"
    """A table's columns: numbers alone; standard: words one-hot too; quantile: numbers by their quantiles, words one-hot."""
    pair: Annotated[
        str, hinted("A partner for each row: another source of as many rows, or an array of the same file.", "none", "SOURCE")
    ] = ""
    pair_as: PairAs = "condition"
    """What the partner is: a condition that the network is given, or the source of the flow in place of noise."""
    preview: Annotated[str | None, hinted(PREVIEW, "as the source says", "KIND")] = None
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what would be made, and make nothing."""
    json: Json = None

    def run(self) -> int:
        """0; `UserError` in one line for what cannot be made."""
        request = self._request()
        folder = flags.folder(self.out)
        takes_json(self.json)
        with stage("importing PyTorch"):
            from meanstep.program.data.ensured import with_bar
            from meanstep.program.data.opened import Opened
            from meanstep.program.machine import available
        request = replace(request, device=str(available(self.device)))
        with stage("reading the source"):
            opened = Opened.of(request)
            opened.statement  # noqa: B018  (hashes the source and reads --like, before anything is written)
        if self.dry_run:
            _foresee(opened, folder, self.json)
        else:
            _tell(with_bar(opened, folder), opened, self.json)
        return 0

    def _request(self) -> Request:
        """What is asked for; `UserError` for what needs no look into images to be wrong."""
        flags.device(self.device)
        present(self.source)
        known_autoencoder(self.autoencoder)
        if self.posterior and not self.autoencoder.startswith("kl:"):
            raise UserError(f"--posterior: only a kl autoencoder has a posterior to draw from, and --autoencoder is {self.autoencoder}")
        if self.like is not None and not (self.like.expanduser() / NAME).is_file():
            raise UserError(f"--like: {self.like} is no cache: it has no {NAME}")
        asked: dict[str, Any] = {f.name: getattr(self, NAMED.get(f.name, f.name)) for f in fields(Request)}
        return Request(**asked | {name: ZEROS[name] for name in ZEROS if asked[name] is None})


NAMED = {"batch": "chunk", "image": "image_column", "label": "label_column", "conditions": "condition"}
"""Where the command has another word for an entry of the request."""
ZEROS: dict[str, Any] = {"channels": 0, "size": 0, "limit": 0, "shard": 0, "dtype": "", "preview": ""}
"""What a request holds where nothing is asked."""


def _foresee(opened: "Opened", folder: Path, json: Path | None) -> None:
    """What would be made, after everything was read: what cannot be taken is found here too."""
    from meanstep.program.data.ensured import survey
    from meanstep.program.data.offenders import refused, skipped

    offenders = survey(opened)
    if error := refused(opened, offenders):
        raise error
    there = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.is_dir())
    n, free = len(opened.index) - len(offenders), shutil.disk_usage(there).free
    record = _record(opened, folder, n, -(-n // opened.rows), n * opened.row_bytes)
    if put_json(json, record | {"made": False, "skipped": len(offenders)}):
        return
    words = opened.autoencoder.spec if opened.name != "plain" else "as they are"
    left = set(opened.index.tolist()) - {i for i, _ in offenders}
    empty = set(range(len(opened.source.classes))) - {opened.source.label(i) for i in left}
    for line in _lines(record, opened, opened.source.name, empty, f", {words}"):
        say(line, on=out)
    if offenders:
        say(skipped(opened, [str(error) for _, error in offenders], len(offenders)), on=out)
    say(f"{free / 1e6:,.0f} MB are free in {folder}; nothing was written", on=out)


def _tell(cache: "Cache", opened: "Opened", json: Path | None) -> None:
    held = cache.manifest
    record = _record(opened, cache.path, held.count, len(held.shards), sum(shard.bytes for shard in held.shards))
    empty = list(held.empty or ())
    if put_json(json, record | {"empty": empty, "made": True, "skipped": held.skipped, "digest": held.digest}):
        return
    skipped = f", {held.skipped} left out as broken" if held.skipped else ""
    for line in _lines(record, opened, f"{held.source}{skipped}", empty):
        say(line)
    if held.codec != "pixels" and held.statistics == "own":
        mean, std = (f"{min(v):.3g} to {max(v):.3g}" for v in (held.mean, held.std))
        chat.print(f"along the first axis: mean {mean}, standard deviation {std}")
    say(f"cache: {cache.path}  ({held.digest[:16]})")


def _record(opened: "Opened", folder: Path, rows: int, shards: int, size: int) -> dict[str, Any]:
    source = opened.source
    found = {"command": "cache", "folder": str(folder), opened.noun: rows, "classes": list(source.classes), "shape": list(opened.shape)}
    found |= {"of": len(source), "left_out": dict(source.left_out), "dtype": opened.dtype, "flips": opened.flips}
    return found | {"shards": shards, "bytes": size}


def _lines(record: dict[str, Any], opened: "Opened", what: str, empty: Collection[int], more: str = "") -> Iterator[str]:
    """The record in words: what is read, what is not, which classes have nothing, and how it is stored."""
    from meanstep.program.data.formats import counted

    n, source = record[opened.noun], opened.source
    number = f"{n:,}" if opened.taken == "all" else f"{n:,} of {len(source):,}"
    known = (
        f"conditions {', '.join(source.conditions)}"
        if source.conditions and not source.classes
        else f"{len(source.classes) or 'no'} class{'es' * (len(source.classes) != 1)}"
    )
    yield f"{number} {opened.noun} of {what}, {known}{more}"
    if source.left_out:
        yield f"left out, not read: {counted(source.left_out)}"
    if empty:
        lacking = "a row" if source.plain else "an image"
        yield f"{len(empty)} classes without {lacking}: {listed([source.classes[k] for k in sorted(empty)])}"
    sides, size = " x ".join(map(str, opened.shape)), record["bytes"] / 1e6
    yield f"{sides} {opened.dtype}, {MIRRORS[opened.flips]}, {record['shards']} shard{'s' * (record['shards'] != 1)}, {size:,.1f} MB"


MIRRORS = {"none": "no mirror images", "read": "mirrored when read", "stored": "mirror images stored"}
