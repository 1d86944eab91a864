"""Real images for an evaluation: those of a cache, or of a source prepared as a run's data were. Knows no networks but autoencoders."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.data import Autoencoder, Cache, Manifest, Source, open_source, to_images
from meanstep.program.data.formats import counted
from meanstep.program.data.manifest import NAME
from meanstep.program.data.order import subset
from meanstep.program.data.pictures import Preparation


@dataclass(frozen=True, eq=False)
class Pictures:
    """`len(pictures)` images uint8 of shape `image`; `name` says what they are, `digest` identifies them, `origin` their source's contents.

    `labels`: int64 `[N]`, -1 where there is none. `decoded`: they are an autoencoder's reconstructions. `left_out`: what their source
    holds and does not read, in words.
    """

    name: str
    digest: str
    image: tuple[int, int, int]
    labels: Tensor = field(repr=False)
    read: Callable[[Tensor], Tensor] = field(repr=False)
    decoded: bool = False
    origin: str = ""
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int = 64, limit: int = 0) -> Iterator[Tensor]:
        """All images, or `limit` of them, in the order of a fixed permutation, uint8 `[B, C, H, W]`: any first ones are a fair sample."""
        yield from (self.read(index) for index in subset(len(self), limit).split(size))


def of_cache(cache: Cache, autoencoder: Autoencoder) -> Pictures:
    """A cache's pictures; of latents, what the autoencoder decodes them to."""
    manifest, latent = cache.manifest, cache.manifest.latent

    def read(index: Tensor) -> Tensor:
        return to_images(cache.rows(index)[0], manifest, autoencoder).cpu() if latent else cache.images(index)

    name = f"{manifest.source}, {manifest.split}" + (" decoded" if latent else "")
    found = hashlib.sha256(f"cache {cache.digest}".encode()).hexdigest()
    return Pictures(name, found, manifest.image, cache.labels, read, latent, manifest.source_digest)


def of_source(source: Source, manifest: Manifest, split: str) -> Pictures:
    """A source's pictures, cropped and resized as the run's data were; `UserError` for one that does not fit."""
    cropped = manifest.crop != "none"
    filtered = manifest.resample if manifest.resample != "none" else "bicubic"
    prepare = Preparation(manifest.image[0], manifest.image[1] if cropped else 0, manifest.crop, filtered, manifest.enlarged)

    def read(index: Tensor) -> Tensor:
        return torch.stack([_fitting(prepare(source[i][0], source.where(i)), manifest, source.where(i)) for i in index.tolist()])

    labels = np.full(len(source), -1) if source.labels is None else source.labels
    found = hashlib.sha256(f"source {source.digest} {prepare} {manifest.image}".encode()).hexdigest()
    y = by_name(torch.as_tensor(labels, dtype=torch.int64), source.classes, manifest.classes)
    return Pictures(f"{source.name}, {split}", found, manifest.image, y, read, origin=source.digest, left_out=counted(source.left_out))


def _fitting(pixels: np.ndarray, manifest: Manifest, where: str) -> Tensor:
    if pixels.shape != manifest.image:
        raise UserError(f"{where} is {_sides(pixels.shape)}, the run's pictures are {_sides(manifest.image)}")
    return torch.from_numpy(pixels.copy())  # pillow may give pixels that must not be written to


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def pictures(spec: str, manifest: Manifest, autoencoder: Autoencoder, split: str = "train") -> Pictures:
    """The pictures of a cache's folder or of a source; `UserError` if there are none, or they have another shape than the run's."""
    if not (Path(spec).expanduser() / NAME).exists():
        return of_source(open_source(spec, split), manifest, split)
    cache = Cache.open(spec)
    if cache.manifest.image != manifest.image:
        raise UserError(f"{spec} holds pictures of {_sides(cache.manifest.image)}, the run's are {_sides(manifest.image)}")
    found = of_cache(cache, autoencoder)
    return replace(found, labels=by_name(found.labels, cache.classes, manifest.classes))


def by_name(labels: Tensor, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Tensor:
    """Labels int64 `[N]`, numbers of their classes, as numbers of ours of the same name; as they are if ours have other names."""
    if theirs == ours or not theirs or not set(theirs) <= set(ours):
        return labels
    number = torch.tensor([ours.index(name) for name in theirs])
    return torch.where(labels < 0, labels, number[labels.clamp(min=0)])
