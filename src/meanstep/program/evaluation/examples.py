"""Real examples for an evaluation: those of a cache, or of a source prepared as a run's data were."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.data import Autoencoder, Cache, Manifest, Source, decoded, open_autoencoder, open_source, partners
from meanstep.program.data.beside import Condition
from meanstep.program.data.conditions import renamed
from meanstep.program.data.formats import counted
from meanstep.program.data.manifest import NAME
from meanstep.program.data.opened import numbers
from meanstep.program.data.order import subset
from meanstep.program.data.partners import PAIR
from meanstep.program.data.pictures import Preparation
from meanstep.program.data.request import listed
from meanstep.program.data.sources import Alike


@dataclass(frozen=True, eq=False)
class Examples:
    """`len(examples)` rows in units of the data, each of shape `image`: pictures uint8, or numbers.

    `name` says what they are, `digest` identifies them, `origin` their source's contents. `labels`: int64 `[N]`, -1 where
    there is none. `decoded`: they are an autoencoder's reconstructions. `left_out`: what their source holds and does not read, in words.
    `noun`: what they are called. `conditions`: those that are no labels, by name and in units of the data.
    """

    name: str
    digest: str
    image: tuple[int, ...]
    labels: Tensor = field(repr=False)
    read: Callable[[Tensor], Tensor] = field(repr=False)
    decoded: bool = False
    origin: str = ""
    left_out: str = ""
    noun: str = "images"
    conditions: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int = 64, limit: int = 0) -> Iterator[Tensor]:
        """All rows `[B, *E]`, or `limit` of them, in the order of a fixed permutation: any first ones are a fair sample."""
        yield from (self.read(index) for index in subset(len(self), limit).split(size))


def of_cache(cache: Cache, autoencoder: Autoencoder) -> Examples:
    """A cache's rows: pictures as they are, whatever the run's autoencoder; of latents, what it decodes them to."""
    manifest, latent = cache.manifest, cache.manifest.codec == "latents"
    own = open_autoencoder("identity") if manifest.codec == "pixels" else autoencoder

    def read(index: Tensor) -> Tensor:
        return decoded(cache.rows(index)[0], manifest, own, len(index))

    name = f"{manifest.source}, {manifest.split}" + (" decoded" if latent else "")
    found = hashlib.sha256(f"cache {cache.digest}".encode()).hexdigest()
    return Examples(
        name, found, manifest.image, cache.labels, read, latent, manifest.source_digest, noun=manifest.items, conditions=cache.conditions
    )


def conditioned(spec: str, manifest: Manifest, split: str, pair: str = "") -> Source:
    """A source with the run's conditions, its categories numbered as the run's; `UserError` for one unseen in training.

    `pair`: what the run calls its rows' partners. An array's name is looked up in this source, too; any other partners need a cache.
    """
    partner = next((c for c in manifest.conditions if c.name == PAIR and (c.start or c.shape)), None)
    asked = [name for name in partners.named(manifest.conditions) if partner is None or name != PAIR]
    if partner is None:
        source = open_source(spec, split, conditions=asked, alike=Alike.to(manifest))
    else:
        where = partners.spec(pair, spec)
        if not pair or where == pair or manifest.codec == "latents":
            raise UserError(f"{spec}: the run's rows have partners: make a cache of it with --pair and --like the run's, and give that")
        source = open_source(spec, split, conditions=asked, alike=Alike.to(manifest))
        source = _paired(source, open_source(where, split, alike=Alike.to(manifest)), manifest, partner)
        source = partners.with_array(source, spec, where)
    return renamed(source, manifest.conditions)


def _paired(source: Source, other: Source, manifest: Manifest, partner: Condition) -> Source:
    """The source with the rows of another beside its own, prepared as the run's data were."""
    prepare = numbers if source.plain else Preparation.stated(manifest)
    found = partners.paired(source, other, range(len(source)), prepare, lambda rows: rows.astype(np.float32), partner.start, manifest.shape)
    if (shape := found.conditions[PAIR].shape[1:]) != (manifest.shape if partner.start else partner.shape):
        raise UserError(f"{other.name} holds partners of {_sides(shape)}, the run's are {_sides(partner.shape)}")
    for i in np.flatnonzero(np.isnan(found.conditions[PAIR]).reshape(len(found), -1).any(1)).tolist():
        found.read(i)  # says what is wrong with the partner: none is left out here
    return found


def of_source(source: Source, manifest: Manifest, split: str, labelled: bool = True) -> Examples:
    """A source's rows, pictures cropped and resized as the run's data were; `UserError` for one that does not fit.

    `labelled`: as of `examples`.
    """
    if source.plain != (manifest.codec == "plain"):
        raise UserError(f"{source.name} holds {'rows of numbers' if source.plain else 'pictures'}, and the run's data are {manifest.codec}")
    prepare = numbers if source.plain else Preparation.stated(manifest)
    if source.plain and source[0][0].shape != manifest.image:
        raise UserError(f"{source.name} holds rows of {_sides(source[0][0].shape)}, the run's are {_sides(manifest.image)}")

    def read(index: Tensor) -> Tensor:
        rows = torch.from_numpy(np.stack([prepare(source[i][0], source.where(i)) for i in index.tolist()]))
        return rows.float() if source.plain else rows

    labels = source.labels if labelled and source.labels is not None else np.full(len(source), -1)
    how = manifest.codec if source.plain else prepare
    found = hashlib.sha256(f"source {source.digest} {how} {manifest.image}".encode()).hexdigest()
    y = by_name(torch.as_tensor(labels, dtype=torch.int64), source.classes if labelled else (), manifest.classes)
    return Examples(
        f"{source.name}, {split}",
        found,
        manifest.image,
        y,
        read,
        origin=source.digest,
        left_out=counted(source.left_out),
        noun=manifest.items,
        conditions={c.name: torch.from_numpy(source.conditions[c.name]) for c in manifest.beside},
    )


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def examples(
    spec: str, manifest: Manifest, autoencoder: Autoencoder, split: str = "train", pair: str = "", labelled: bool = True
) -> Examples:
    """The rows of a cache's folder or of a source; `UserError` if there are none, or they have another shape than the run's.

    `pair`: as of `conditioned`; `labelled`: whether their labels count.
    """
    if not (Path(spec).expanduser() / NAME).exists():
        return of_source(conditioned(spec, manifest, split, pair), manifest, split, labelled)
    cache = Cache.open(spec)
    if cache.manifest.image != manifest.image:
        raise UserError(f"{spec} holds {cache.manifest.items} of {_sides(cache.manifest.image)}, the run's are {_sides(manifest.image)}")
    if cache.manifest.beside and cache.manifest.conditions != manifest.conditions:
        raise UserError(f"{spec} has other conditions than the run: make it with --condition as the run's, and --like its cache")
    found = of_cache(cache, autoencoder)
    if not labelled:
        return replace(found, labels=torch.full_like(found.labels, -1))
    return replace(found, labels=by_name(found.labels, cache.classes, manifest.classes))


def by_name(labels: Tensor, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Tensor:
    """Labels int64 `[N]`, numbers of their classes, as numbers of ours of the same name; as they are if ours have other names.

    `UserError` if some names are ours, and those of some labels are not.
    """
    if theirs == ours or not set(theirs) & set(ours):
        return labels
    number = torch.tensor([ours.index(name) if name in ours else -1 for name in theirs])
    found = torch.where(labels < 0, labels, number[labels.clamp(min=0)])
    if unknown := [theirs[k] for k in labels[(labels >= 0) & (found < 0)].unique().tolist()]:
        what = f"some of its classes are the model's, {listed(unknown)} {'are' if len(unknown) > 1 else 'is'} none of them"
        raise UserError(f"{what}: leave those rows out, or give --class-shares uniform, which asks for no labels of it")
    return found
