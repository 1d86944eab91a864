"""What cache is asked for, in words that help and complaints list. Opens nothing, and needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Annotated, Literal

from meanstep.program.console import UserError
from meanstep.program.flags import readable
from meanstep.program.ranges import Ranged, Rows, Whole, ranged

SOURCES = (
    "digits, a folder of images, .npy or .wav (labels are its sub-folders), .npz, .npy or .safetensors of images (uint8) or rows of any "
    "shape (floats), .npz:NAME or .safetensors:NAME, .csv or .parquet, webdataset .tar (with {000..009} or *), or hub:owner/name[:config]"
)
AUTOENCODERS = "identity, taesd:FILE, taef2:FILE, tiny:PATH, kl:PATH or dc:PATH (a folder, or owner/name on the Hugging Face hub)"
Crop = Literal["none", "center", "adm"]
Resample = Literal["none", "box", "bicubic", "lanczos"]
Ragged = Literal["refuse", "pad", "crop"]
Table = Literal["numbers", "standard", "quantile"]
PairAs = Literal["condition", "source"]
NAMED = 12
"""Classes that a line lists."""
KINDS, FILES = ("identity", "taesd", "taef2", "tiny", "kl", "dc"), ("taesd", "taef2")
"""Kinds of autoencoders, and those whose weights are in a file of their own."""


@dataclass(frozen=True)
class Request(Ranged):
    """What is asked for. `channels` 0: the source's own. `shard`: rows of a shard, 0: of about 32 MiB. `like`: a cache whose mean and
    standard deviation hold here too (a test split's train split). Without `normalise` latents and numbers stay as they are. `dtype`: how
    they are stored; empty: float16 for latents of pictures, as the source has them for numbers. `conditions`: columns or keys.
    `ragged`: what becomes of rows of different lengths, `table` of a table's columns. `pair`: where each row has a partner, another
    source or an array of the same file; `pair_as`: what for, a condition or where the flow starts. `preview`: how rows of numbers are
    shown, `KIND` or `sound:RATE`; empty: as the source says. `posterior`: latents' deviations too, to draw from the autoencoder's
    posterior."""

    source: str
    autoencoder: str = "identity"
    split: str = "train"
    channels: Literal[0, 1, 3] = 0
    size: Annotated[int, ranged("INT from 0 to 65536")] = 0
    crop: Crop = "center"
    resample: Resample = "bicubic"
    enlarge: bool = False
    flips: bool = False
    limit: Whole = 0
    dtype: Literal["", "float16", "float32"] = ""
    like: Path | None = None
    normalise: bool = True
    skip_broken: bool = False
    shard: Whole = 0
    batch: Rows = 32
    workers: Annotated[int, ranged("INT from 1 to 4096")] = 4
    device: str = "cpu"
    image: str = "image"
    label: str = "label"
    conditions: tuple[str, ...] = ()
    ragged: Ragged = "refuse"
    table: Table = "numbers"
    pair: str = ""
    pair_as: PairAs = "condition"
    preview: str = ""
    posterior: bool = False


def chosen(source: str) -> tuple[str, str]:
    """The file of a source, and the array that is asked for after a colon, `rows.npz:joints`; empty for the usual ones."""
    file, _, name = source.rpartition(":")
    return (file, name) if file.endswith(HOLDING) and name and not Path(source).expanduser().exists() else (source, "")


HOLDING = (".npz", ".safetensors")
"""Endings of files that hold arrays by name."""


def present(source: str) -> None:
    """`UserError` for a source of files that are not there."""
    if source == "digits" or source.startswith("hub:"):
        return
    path = Path(chosen(source)[0]).expanduser()
    tar = source.endswith(".tar")
    if not path.exists() and not (tar and ("{" in source or glob(str(path)))):
        raise UserError(f"{path} does not exist: give {SOURCES}")


def on_hub(autoencoder: str) -> bool:
    """Whether a spec names an autoencoder by owner/name, and no folder of this name is here."""
    kind, _, where = autoencoder.partition(":")
    named = kind in KINDS and kind not in FILES and where.count("/") == 1 and not where.startswith((".", "/", "~"))
    return named and not Path(where).exists()


def known_autoencoder(spec: str) -> None:
    """`UserError` for an autoencoder of no kind that there is, or of a file that is not there."""
    kind, _, where = spec.partition(":")
    if kind not in KINDS or (kind == "identity") == bool(where):
        raise UserError(f"unknown autoencoder {spec!r}; give {AUTOENCODERS}")
    if kind in FILES:
        readable(Path(where), f"--autoencoder {kind}")


def listed(names: Sequence[str]) -> str:
    """The first of them, and whether there are more."""
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
