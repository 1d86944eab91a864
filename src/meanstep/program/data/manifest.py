"""What a cache states about itself, in manifest.json, and whether two of them are the same data. Needs no torch."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from meanstep.program.console import UserError
from meanstep.program.data.beside import Condition, condition, unlabelled
from meanstep.program.data.column import Column, column, width
from meanstep.program.data.look import Look
from meanstep.program.data.look import read as look_of
from meanstep.program.reading import files, trees
from meanstep.program.reading.files import opened

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
NAME = "manifest.json"
LATER = {
    "taken": "permutation",
    "left_out": ...,
    "empty": ...,
    "codec": "plain",
    "conditions": ...,
    "ragged": ...,
    "columns": ...,
    "look": ...,
    "posterior": True,
}
"""What caches of this version did not always state, and the one value of it, if any, that is part of the digest."""
STRUCTURE = ("autoencoder", "autoencoder_digest", "scaling", "shift", "shape", "image", "dtype")  # what a network is built upon


@dataclass(frozen=True)
class Shard:
    """One safetensors file: `rows` of it, its size in `bytes` and its sha256."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The statement of a cache. Two caches hold the same data exactly if their `digest` is the same.

    `source`: its name, without folders; `source_digest`: sha256 of its contents. `limit`: at most so many items were taken, 0: all, as
    `taken` says: all, evenly spaced ones, or the first of a fixed permutation, in their own order. `count`: rows; `skipped`: items left out
    because they could not be read; `left_out`: what lay in the source and is not read, how many of what kind, None: it was not counted.

    `image`: shape of a row in units of the data, of pictures channels, height and width; `shape`: of a row as the network sees it. `crop`,
    `resample`, `enlarged`: what was done to pictures, and whether those smaller than the crop were enlarged instead of refused. `flips`:
    mirror images do not belong to the data, are made when read, or are stored beside. `classes`: names of the labels 0, 1, ..., none
    without labels; `empty`: labels of which there is no row, None: it was not looked.

    `look`: how rows are shown to people, which is no part of the data.

    `conditions`: what the network is given beside the rows; one of categories alone is the labels.

    `codec`: what rows are, see `codecs`. `autoencoder`: its kind and where it was found, `identity`, `taesd:PATH`, ...; stored latents are
    (its own - `shift`) * `scaling`; `posterior`: a shard holds their deviations too, and training draws from the autoencoder's posterior at
    every step, which the moments are of. `mean`, `std`: of each entry of the first axis of the stored rows, such as a channel, over all
    rows and places, 0 and 1 for pictures; `statistics`: where they were measured: `own`, the digest of another cache, `none`: not
    normalised.
    """

    source: str
    source_digest: str
    split: str
    limit: int
    count: int
    skipped: int
    image: tuple[int, ...]
    shape: tuple[int, ...]
    crop: Literal["none", "center", "adm"]
    resample: Literal["none", "box", "bicubic", "lanczos"]
    enlarged: bool
    flips: Literal["none", "read", "stored"]
    classes: tuple[str, ...]
    autoencoder: str
    autoencoder_digest: str
    scaling: float
    shift: float
    dtype: Literal["uint8", "float16", "float32"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    statistics: str
    shards: tuple[Shard, ...]
    taken: Literal["all", "spaced", "permutation"] = "all"
    left_out: dict[str, int] | None = None
    empty: tuple[int, ...] | None = None
    codec: Literal["pixels", "latents", "plain"] = "pixels"
    conditions: tuple[Condition, ...] = ()
    ragged: Literal["refuse", "pad", "crop"] = "refuse"
    columns: tuple[Column, ...] = ()
    look: Look = Look()
    posterior: bool = False
    version: int = VERSION

    @property
    def beside(self) -> tuple[Condition, ...]:
        """The conditions that are no labels, and lie beside the rows."""
        return unlabelled(self.conditions)

    @property
    def given(self) -> dict[str, int | list[int]]:
        """What a network is told of them: a number of categories, or a shape, by name."""
        return {c.name: len(c.words) or list(c.shape) for c in self.beside if not c.start}

    @property
    def length(self) -> Condition | None:
        """The condition that is a row's length; None where rows are of one length."""
        return next((c for c in self.conditions if c.along is not None), None)

    @property
    def start(self) -> Condition | None:
        """The condition that the flow starts at; None for noise."""
        return next((c for c in self.conditions if c.start), None)

    @property
    def needed(self) -> tuple[Condition, ...]:
        """What samples need even of a network that is given no conditions: lengths, and where to start."""
        return tuple(c for c in self.beside if c.start or c.along is not None)

    def tree(self, stored: "dict[str, Tensor]") -> "Tensor | dict[str, Tensor] | None":
        """Stored values `[B, ...]` as a batch holds what the network is given: one tensor, several by name, None for none."""
        found = {c.name: c.seen(stored[c.name]) for c in self.beside if not c.start}
        return next(iter(found.values())) if len(found) == 1 else found or None

    @property
    def digest(self) -> str:
        """sha256 of the statement; where an autoencoder lay, and what the source was called, does not matter."""
        plain = asdict(self) | {"autoencoder": self.autoencoder.partition(":")[0], "source": ""}
        told = {name: value for name, value in plain.items() if name not in LATER or value == LATER[name]}
        told |= {"conditions": [c.stated() for c in self.conditions]} if self.conditions else {}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def noun(self) -> str:
        """What many rows are called."""
        return {"pixels": "images", "plain": "rows"}.get(self.codec, self.codec)

    @property
    def items(self) -> str:
        """What many rows in units of the data are called: latents decode to images."""
        return "rows" if self.codec == "plain" else "images"

    @property
    def seen_as(self) -> Look:
        """How its rows are shown, if they are no pictures."""
        return self.look.of(self.image)

    @property
    def shown(self) -> tuple[int, ...]:
        """The labels of which there are rows: all where the cache does not say."""
        return tuple(k for k in range(len(self.classes)) if k not in (self.empty or ()))

    def unnormalise(self, x: "Tensor") -> "Tensor":
        """Rows `[B, *E]` as they are stored, of the network's `x`: an autoencoder's `z`, plain numbers."""
        mean, std = self.moments(x)
        return x * std + mean

    def moments(self, like: "Tensor") -> "tuple[Tensor, Tensor]":
        """Mean and standard deviation, which broadcast over a row, of the dtype and on the device of `like`."""
        mean, std = (like.new_tensor(m).reshape(-1, *(1 for _ in self.shape[1:])) for m in (self.mean, self.std))
        return mean, std

    def text(self) -> str:
        """The JSON of a cache's manifest.json and a run's data.json."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """From a file; `UserError` if it is none, damaged or of another version."""
        if not path.exists():
            raise UserError(f"{path.parent} is no cache: it has no {path.name}; make one with `meanstep cache`")
        try:
            held = trees.from_json(files.content(path))
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}; make the cache again") from None
        version = held.get("version") if isinstance(held, dict) else None
        if version != VERSION:
            raise UserError(f"{path} is of version {version}, this program reads {VERSION}: make the cache again")
        return cls._of(held, path)

    @classmethod
    def _of(cls, held: dict[str, Any], path: Path) -> "Manifest":
        names, held = {f.name for f in fields(cls)}, {**older(held), **held}
        if odd := names ^ held.keys():
            raise UserError(f"{path} is damaged: {'unknown' if odd & held.keys() else 'missing'} field {min(odd)}; make the cache again")
        try:
            shards = tuple(Shard(**s) for s in held["shards"])
            if not all(type(n) is int and n >= 0 for s in shards for n in (s.rows, s.bytes)):
                raise ValueError("the sizes of its shards are no numbers")
            triple = {name: tuple(held[name]) for name in ("image", "shape", "classes", "mean", "std")}
            empty = None if held["empty"] is None else tuple(map(int, held["empty"]))
            conditions = tuple(condition(entry, len(triple["shape"])) for entry in held["conditions"])
            columns = tuple(column(entry) for entry in held["columns"])
            left_out = None if held["left_out"] is None else {str(kind): int(n) for kind, n in held["left_out"].items()}
            given = {"shards": shards, "empty": empty, "left_out": left_out, "conditions": conditions, "columns": columns}
            found = cls(**{**held, **triple, **given, "look": look_of(held["look"])})
            fits = sum(s.rows for s in shards) == found.count and len(found.mean) == len(found.std) == found.shape[0]
            if not all(isinstance(number, int | float) for number in (*found.mean, *found.std, *found.shape, found.scaling, found.shift)):
                raise ValueError("its sizes and moments are no numbers")
            if found.codec not in ("pixels", "latents", "plain") or (found.codec == "pixels") != (found.dtype == "uint8"):
                raise ValueError(f"there is no codec {found.codec!r} of {found.dtype}")
            if found.columns and (found.codec != "plain" or (width(found.columns),) != found.shape):
                raise ValueError("its columns do not make its rows")
            if found.posterior not in (True, False) or (found.posterior and found.codec != "latents"):
                raise ValueError(f"there is no posterior of {found.codec}")
        except (TypeError, KeyError, IndexError, ValueError, AttributeError) as error:
            raise UserError(f"{path} is damaged: {error}; make the cache again") from error
        if not fits or any(Path(s.name).name != s.name for s in shards):
            raise UserError(f"{path} is damaged: its shards do not fit its counts; make the cache again")
        return found


def older(held: dict[str, Any]) -> dict[str, Any]:
    """What a statement means that was written before it told of `LATER` things."""
    limit, codec = held.get("limit") or 0, "pixels" if held.get("dtype") == "uint8" else "latents"
    taken = "spaced" if 0 < limit <= held.get("count", limit) + held.get("skipped", 0) else "all"
    later = {"ragged": "refuse", "columns": [], "look": asdict(Look()), "posterior": False}
    return {"taken": taken, "left_out": None, "empty": None, "codec": codec, "conditions": [], **later}


def differences(a: Manifest, b: Manifest) -> list[str]:
    """The fields in which the data differ, the weightiest first; empty if `a.digest == b.digest`."""
    names = [*STRUCTURE, *(f.name for f in fields(Manifest) if f.name not in STRUCTURE)]
    return [name for name in names if _told(a, name) != _told(b, name)]


def _told(m: Manifest, name: str) -> Any:
    """A field as far as it is part of the digest."""
    value = getattr(m, name)
    if name == "conditions":
        return [c.stated() for c in value]
    if name in LATER:
        return value == LATER[name]
    return {"autoencoder": m.autoencoder.partition(":")[0], "source": ""}.get(name, value)


def check_fits(run: Manifest, cache: Manifest, where: str = "the run", remedy: str = "") -> None:
    """`UserError`, in one line with the weightiest difference and a `remedy`, unless the cache holds the data `where` was trained on."""
    if odd := differences(run, cache):
        name = "source_digest" if odd[0] == "source" else odd[0]
        before, now = (_short(getattr(m, name)) for m in (run, cache))
        raise UserError(f"the cache does not fit {where}: its {name.replace('_', ' ')} is {now}, there it was {before}{remedy}")


def _short(value: Any) -> str:
    text = "x".join(map(str, value)) if isinstance(value, tuple) and all(isinstance(v, int) for v in value) else str(value)
    return text if len(text) <= 60 else f"{text[:24]}..."


def sha256(file: Path) -> str:
    """Of a file's contents, in hex; `UserError` if it cannot be read."""
    try:
        with opened(file) as held:
            return hashlib.file_digest(held, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
