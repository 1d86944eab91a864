"""Whether a cache can be made as it is asked for: sources and autoencoder open, the first image read. Knows no shards on disk."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from meanstep.program.console import UserError
from meanstep.program.data.autoencoders import Autoencoder, open_autoencoder
from meanstep.program.data.cache import DTYPES
from meanstep.program.data.kinds import Resample
from meanstep.program.data.manifest import NAME, STRUCTURE, Manifest
from meanstep.program.data.order import subset
from meanstep.program.data.pictures import Preparation
from meanstep.program.data.request import Request
from meanstep.program.data.sources import Broken, Source, open_source

SHARD_BYTES = 1 << 25


@dataclass(frozen=True)
class Opened:
    """An admitted request: everything is open and the first image was read. `Opened.of(request)`."""

    request: Request
    source: Source
    autoencoder: Autoencoder
    preparation: Preparation
    image: tuple[int, int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, request: Request) -> "Opened":
        """`UserError` in one line for what cannot be made."""
        request.check()
        source = open_source(request.source, request.split, request.image, request.label)
        autoencoder = open_autoencoder(request.autoencoder, request.device)
        channels = request.channels or source.channels
        resample: Resample = "bicubic" if request.crop == "adm" else request.resample
        preparation = Preparation(channels, request.size, request.crop, resample, request.enlarge)
        image = _first(source, preparation, request.skip_broken)
        return cls(request, source, autoencoder, preparation, image, autoencoder.shape(image))

    @property
    def dtype(self) -> str:
        """Of the stored rows."""
        return self.request.dtype if self.autoencoder.channels else "uint8"

    @property
    def taken(self) -> Literal["all", "permutation"]:
        """Which images of the source: all, or the first `limit` of a fixed permutation."""
        return "permutation" if 0 < self.request.limit < len(self.source) else "all"

    @cached_property
    def index(self) -> np.ndarray:
        """The numbers of these images, rising."""
        n = len(self.source)
        found: np.ndarray = np.arange(n) if self.taken == "all" else subset(n, self.request.limit).sort().values.numpy()
        return found

    @property
    def row_bytes(self) -> int:
        """Bytes that one image takes."""
        stored = DTYPES[self.dtype].itemsize * int(np.prod(self.shape))
        return stored * (2 if self.flips == "stored" else 1) + 8

    @property
    def rows(self) -> int:
        """Images of a full shard."""
        return self.request.shard or max(1, SHARD_BYTES // self.row_bytes)

    @property
    def flips(self) -> Literal["none", "read", "stored"]:
        """How mirror images come about."""
        return "none" if not self.request.flips else "stored" if self.autoencoder.channels else "read"

    @cached_property
    def statement(self) -> dict[str, Any]:
        """The manifest without what is only known in the end: counts, moments, shards."""
        cropped = self.request.size > 0 and self.request.crop != "none"
        held: dict[str, Any] = {
            "source": self.source.name,
            "source_digest": self.source.digest,
            "split": self.request.split,
            "limit": self.request.limit,
            "taken": self.taken,
            "image": self.image,
            "shape": self.shape,
            "crop": self.request.crop if cropped else "none",
            "resample": self.preparation.resample if cropped else "none",
            "enlarged": self.request.enlarge,
            "flips": self.flips,
            "classes": self.source.classes,
            "autoencoder": self.autoencoder.spec,
            "autoencoder_digest": self.autoencoder.digest,
            "scaling": self.autoencoder.scaling,
            "shift": self.autoencoder.shift,
            "dtype": self.dtype,
        }
        return {**held, **self._moments(held)}

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
        plain = {**self.statement, "autoencoder": "", "source": ""}
        if self.taken == "all":
            del plain["taken"]  # as before it was stated: folders keep their names
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _first(source: Source, preparation: Preparation, skip: bool) -> tuple[int, int, int]:
    for i in range(len(source)):
        try:
            c, h, w = preparation(source[i][0], source.where(i)).shape
            return c, h, w
        except Broken:
            if not skip:
                raise
    raise UserError(f"none of the {len(source)} images of {source.name} can be read")
