"""Whether a cache can be made as it is asked for: source and autoencoder open, the codec chosen, the first row read."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from meanstep.program.console import UserError
from meanstep.program.data import idle, offenders, partners
from meanstep.program.data.autoencoders import Autoencoder, open_autoencoder
from meanstep.program.data.beside import Condition
from meanstep.program.data.codecs import CODECS, DTYPES, Codec
from meanstep.program.data.conditions import renamed
from meanstep.program.data.look import Look, asked
from meanstep.program.data.manifest import LATER, NAME, STRUCTURE, Manifest
from meanstep.program.data.order import subset
from meanstep.program.data.partners import PAIR, Item
from meanstep.program.data.pictures import Preparation
from meanstep.program.data.ragged import LENGTH
from meanstep.program.data.request import Request, listed
from meanstep.program.data.sources import Alike, Broken, Source, open_source

SHARD_BYTES = 1 << 25
LOOKED = 64
"""Items after which those of a source are taken to be alike, all of them of no use."""


@dataclass(frozen=True)
class Opened:
    """An admitted request: everything is open and the first row was read. `Opened.of(request)`.

    `name`: the codec's; `item`: how an item of the source becomes an array of shape `image`; `shape`, `dtype`: of a stored row;
    `look`: how rows are shown.
    """

    request: Request
    source: Source
    autoencoder: Autoencoder
    name: str
    item: Item
    image: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    look: Look = Look()

    @classmethod
    def of(cls, request: Request) -> "Opened":
        """`UserError` in one line for what cannot be made."""
        alike = _alike(request)
        source = open_source(request.source, request.split, request.image, request.label, request.conditions, alike)
        found = cls._of(request, source)
        return found._paired(alike) if request.pair else found._like()

    @classmethod
    def _of(cls, request: Request, source: Source) -> "Opened":
        if request.flips and (request.pair or any(x.ndim > 1 for x in source.conditions.values())):
            raise UserError(f"{source.name} has arrays as conditions, which are not mirrored with the images: leave --flips out")
        autoencoder = open_autoencoder(request.autoencoder, request.device)
        idle.checked(request, source, autoencoder.encodes)
        if request.posterior and (source.plain or not autoencoder.draws):
            what = "rows of numbers" if source.plain else f"{request.autoencoder}, which has none"
            raise UserError(f"--posterior: latents of pictures by a kl autoencoder are drawn from its posterior, and these are of {what}")
        if source.plain:
            return cls._plain(request, source, autoencoder)
        shown_as(request.preview, Look(), (), "pixels")
        item = Preparation.asked(request, source)
        at, image = _first(source, item, request.skip_broken)
        name, dtype = ("latents", request.dtype or "float16") if autoencoder.encodes else ("pixels", "uint8")
        shape = autoencoder.shape(image.shape)
        return cls(request, source, autoencoder, name, replace(item, shape=image.shape), image.shape, shape, dtype)._admitted(at)

    @classmethod
    def _plain(cls, request: Request, source: Source, autoencoder: Autoencoder) -> "Opened":
        """Of rows of numbers, which are latents if they are to be decoded."""
        at, first = _first(source, numbers, request.skip_broken)
        image = autoencoder.image(first.shape) if autoencoder.encodes else first.shape
        name = "latents" if autoencoder.encodes else "plain"
        look = source.look() if name == "plain" else Look()
        found = cls(request, source, autoencoder, name, numbers, image, first.shape, request.dtype or first.dtype.name, look)
        return replace(found, look=shown_as(request.preview, look, image, name))._admitted(at)

    def _paired(self, alike: Alike) -> "Opened":
        """Itself with a partner for each row; `UserError` for a row that has none."""
        request, item = self.request, self.item
        where = partners.spec(request.pair, request.source)
        other = open_source(where, request.split, request.image, request.label, alike=alike)
        if isinstance(item, Preparation) and self.image[-1] == self.image[-2]:
            item = replace(item, size=self.image[-1], enlarge=True)

        def made(items: np.ndarray) -> np.ndarray:
            return self.codec.prepare(torch.from_numpy(items), self.autoencoder, DTYPES[self.dtype]).float().numpy()

        start = request.pair_as == "source"
        source = partners.paired(self.source, other, self.index.tolist(), item, made, start, self.shape)
        return replace(self, source=partners.with_array(source, request.source, where))._like()

    def _like(self) -> "Opened":
        """Itself with categories numbered as in the cache that it is to be like."""
        if self.request.like is None or not self.source.conditions:
            return self
        held = Manifest.read(self.request.like / NAME).conditions
        return replace(self, source=renamed(self.source, held))

    def _admitted(self, at: int) -> "Opened":
        """Itself, or `UserError` that lists all that cannot be taken where the items before `at` could not."""
        if at and (error := offenders.refused(self, offenders.found(self))):
            raise error
        return self

    def take(self, i: int) -> tuple[np.ndarray, int]:
        """Item `i` as an array of shape `image`, and its label; `UserError` if it cannot be taken, `Broken` if it cannot be read."""
        item, label = self.source[i]
        return self.item(item, self.source.where(i)), label

    @property
    def codec(self) -> Codec:
        """What makes its rows."""
        return CODECS[self.name]

    @property
    def noun(self) -> str:
        """What the source's items are called."""
        return self.source.noun

    @property
    def taken(self) -> Literal["all", "permutation"]:
        """Which items of the source: all, or the first `limit` of a fixed permutation."""
        return "permutation" if 0 < self.request.limit < len(self.source) else "all"

    @cached_property
    def index(self) -> np.ndarray:
        """The numbers of these items, rising."""
        n = len(self.source)
        found: np.ndarray = np.arange(n) if self.taken == "all" else subset(n, self.request.limit).sort().values.numpy()
        return found

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes."""
        stored = DTYPES[self.dtype].itemsize * int(np.prod(self.shape))
        beside = sum(x[:1].nbytes for x in self.source.conditions.values())
        return stored * (2 if self.flips == "stored" else 1) * (2 if self.request.posterior else 1) + 8 + beside

    @property
    def rows(self) -> int:
        """Rows of a full shard."""
        return self.request.shard or max(1, SHARD_BYTES // self.row_bytes)

    @property
    def flips(self) -> Literal["none", "read", "stored"]:
        """How mirror images come about."""
        return self.codec.flips if self.request.flips else "none"

    @cached_property
    def statement(self) -> dict[str, Any]:
        """The manifest without what is only known in the end: counts, moments, shards."""
        asked, source, autoencoder = self.request, self.source, self.autoencoder
        cropped = asked.size > 0 and asked.crop != "none"
        resample = "bicubic" if asked.crop == "adm" else asked.resample
        held: dict[str, Any] = {"source": source.name, "source_digest": source.digest, "classes": source.classes}
        held |= {"split": asked.split, "limit": asked.limit, "enlarged": asked.enlarge}
        held |= {"crop": asked.crop if cropped else "none", "resample": resample if cropped else "none"}
        held |= {"autoencoder": autoencoder.spec, "autoencoder_digest": autoencoder.digest}
        held |= {"scaling": autoencoder.scaling, "shift": autoencoder.shift, "codec": self.name, "posterior": asked.posterior}
        held |= {name: getattr(self, name) for name in ("taken", "image", "shape", "flips", "dtype", "look")}
        held |= {"ragged": _alike(asked).ragged, "columns": self.source.columns}
        return {**held, "conditions": self._conditions(), **self._moments(held)}

    def _conditions(self) -> tuple[Condition, ...]:
        """Their names, and of numbers the mean and deviation over these rows, or those of the cache that is `like`."""
        if self.request.like is not None and self.source.conditions:
            like = Manifest.read(self.request.like / NAME).conditions
            if [c.name for c in like] != list(self.source.conditions):
                raise UserError(f"--like {self.request.like} has the conditions {listed([c.name for c in like]) or 'none'}: name the same")
            return like
        return tuple(self._condition(name, x) for name, x in self.source.conditions.items())

    def _condition(self, name: str, x: np.ndarray) -> Condition:
        if words := self.source.words.get(name):
            return Condition(name, words)
        shape, n = x.shape[1:], x.shape[1] if x.ndim > 1 else 1
        along = self.source.along if name == LENGTH else None
        start = self.source.start and name == PAIR
        if self.name == "pixels" and name == PAIR and not start:
            return Condition(name, (), shape, (127.5,) * n, (127.5,) * n)  # as the pictures are seen
        if start or not self.request.normalise:
            return Condition(name, (), shape, (0.0,) * n, (1.0,) * n, along, start)
        there = x[self.index]
        there = there[np.isfinite(there).reshape(len(there), -1).all(1)]  # without partners that cannot be read
        flat = there.astype(np.float64).reshape(len(there), *(shape[:1] or (1,)), -1)
        mean, std = flat.mean((0, 2)), flat.std((0, 2))
        std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # the same everywhere: nothing to scale
        return Condition(name, (), shape, tuple(mean.tolist()), tuple(std.tolist()), along)

    def _moments(self, held: dict[str, Any]) -> dict[str, Any]:
        if not self.request.normalise:
            return {"statistics": "none", "mean": (0.0,) * self.shape[0], "std": (1.0,) * self.shape[0]}
        if self.request.like is None:
            return {"statistics": "own"}
        like = Manifest.read(self.request.like / NAME)
        for name in STRUCTURE[1:]:
            if getattr(like, name) != held[name]:
                raise UserError(
                    f"--like {self.request.like} is of another {name.replace('_', ' ')}: {getattr(like, name)}, not {held[name]}"
                )
        return {"statistics": like.digest, "mean": like.mean, "std": like.std}

    @property
    def digest(self) -> str:
        """sha256 of the statement, for the name of a folder."""
        plain = {name: value for name, value in self.statement.items() if name != "look"} | {"autoencoder": "", "source": ""}
        for name in ("taken", "codec", "posterior"):
            if plain[name] != LATER[name]:
                del plain[name]  # as before it was stated: folders keep their names
        plain["conditions"] = [c.stated() for c in self.statement["conditions"]]
        for name in ("conditions", "ragged", "columns"):
            if name != "conditions" or not plain[name]:
                del plain[name]  # the others are part of the source's own digest
        return hashlib.sha256(json.dumps(plain, sort_keys=True, default=asdict).encode()).hexdigest()


def _alike(request: Request) -> Alike:
    """How rows come to be alike, as in the cache that is `like` if there is one."""
    if request.like is None:
        return Alike(request.ragged, table=request.table)
    return Alike.to(Manifest.read(request.like / NAME), request.ragged, request.table)


def shown_as(words: str, look: Look, shape: tuple[int, ...], codec: str, flag: str = "--preview") -> Look:
    """The look that is asked for; `UserError` where rows are pictures, which have one."""
    if words and codec != "plain":
        raise UserError(f"{flag} {words}: it says how rows of numbers are shown, and these are pictures: leave it out")
    return asked(words, look, shape, flag)


def numbers(item: Any, where: str) -> np.ndarray:
    """A row of numbers is an array already."""
    return np.asarray(item)


def _first(source: Source, item: Item, skip: bool) -> tuple[int, np.ndarray]:
    """The first item that can be taken, with its number; `skip`: looked for behind broken ones however many they are."""
    error: UserError | None = None
    for i in range(len(source) if skip else min(len(source), LOOKED)):
        try:
            return i, item(source[i][0], source.where(i))
        except UserError as said:
            if skip and not isinstance(said, Broken):
                raise
            error = error or said
    if error is None or skip:
        raise UserError(f"none of the {len(source)} {source.noun} of {source.name} can be read")
    raise error
