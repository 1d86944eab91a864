"""A cache on disk, opened: checked against its manifest, memory-mapped, rows taken by index."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from meanstep.program.console import UserError
from meanstep.program.data.codecs import CODECS, DTYPES, seen
from meanstep.program.data.manifest import NAME, Manifest, Shard
from meanstep.program.data.ragged import filled
from meanstep.program.reading.tensors import File
from meanstep.shapes import over

PREFIX = "condition."
"""Of the names of tensors that are conditions."""
CHEAP = 1 << 30  # a cache up to so many bytes is hashed whenever it is opened: a second or two


@dataclass(frozen=True, eq=False)
class Cache:
    """An open cache: `Cache.open(path)`. `len(cache)` rows, of which only those that are asked for are read."""

    path: Path
    manifest: Manifest
    labels: Tensor
    """int64 `[len(cache)]`; -1: no label."""
    _blocks: list[Tensor] = field(repr=False)  # the rows of every shard, then, if stored, the mirror images of every shard
    _starts: Tensor = field(repr=False)  # where each of them begins, and the end
    _mean: Tensor = field(repr=False)  # [F, 1, ...]: of each entry of the first axis of a row
    _std: Tensor = field(repr=False)
    conditions: dict[str, Tensor] = field(repr=False)
    """By name `[len(cache), ...]` as they are stored; labels are not among them."""
    _deviations: list[Tensor] = field(repr=False)  # of the rows of every block, where a posterior is drawn from

    @classmethod
    def open(cls, path: Path | str, verify: bool | None = None) -> "Cache":
        """The cache in a folder. `UserError` in one line if it is none, or a shard is missing, cut short or altered.

        `verify`: whether to compute the shards' sha256; by default only if all of them have at most 1 GiB. Sizes are always compared.
        """
        path = Path(path).expanduser()
        manifest = Manifest.read(path / NAME)
        total = sum(shard.bytes for shard in manifest.shards)
        held = [_shard(path, shard, manifest, total <= CHEAP if verify is None else verify) for shard in manifest.shards]
        blocks, deviations = ([b[name] for name in (kind, f"{kind}_flip") for b in held if name in b] for kind in ("x", "deviation"))
        starts = torch.tensor([0, *(len(block) for block in blocks)]).cumsum(0)
        conditions = {c.name: torch.cat([block[PREFIX + c.name] for block in held]) for c in manifest.beside}
        labels = torch.cat([block["y"] for block in held])
        return cls(path, manifest, labels, blocks, starts, *manifest.moments(torch.zeros(())), conditions, deviations)

    def __len__(self) -> int:
        return self.manifest.count

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row as the network sees it."""
        return self.manifest.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels; empty: no labels."""
        return self.manifest.classes

    @property
    def digest(self) -> str:
        """sha256 of the data and of how they were made."""
        return self.manifest.digest

    def rows(self, index: Tensor, flip: Tensor | None = None, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """`x` float32 `[B, *E]` as the network sees it and `y` int64 `[B]` of the rows `index` `[B]`, mirrored where `flip` `[B]`.

        `generator`: draws each row from the autoencoder's posterior, where the cache holds one; else, and without it, they are means.

        `IndexError` for a row that there is not, `UserError` for mirror images of a cache that has none.
        """
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"rows {int(index.min())} to {int(index.max())} of a cache of {len(self)}")
        if flip is not None and self.manifest.flips == "none":
            raise UserError(f"{self.path} was made without mirror images: make it with --flips")
        stored = self.manifest.flips == "stored"
        at = index if flip is None or not stored else index + len(self) * flip
        z = self.stored(at)
        if generator is not None and self.manifest.posterior:
            z = z.float() + self.stored(at, self._deviations).float() * torch.randn(z.shape, generator=generator)
        if flip is not None and not stored:
            z = torch.where(over(flip, z), z.flip(-1), z)
        x = z.to(torch.float32, copy=True)  # in place from here: fresh memory costs more than arithmetic
        return CODECS[self.manifest.codec].seen(x, self._mean, self._std), self.labels[index]

    def condition(self, index: Tensor) -> Any:
        """What the network is given beside the rows `index` `[B]`: labels int64 `[B]`, one condition `[B, ...]`, several by name."""
        if self.manifest.given:
            return self.manifest.tree({name: values[index] for name, values in self.conditions.items()})
        return self.labels[index] if self.classes else None

    def mask(self, index: Tensor) -> Tensor | None:
        """Bool `[B, *E]`: where the rows `index` are not padding; None where rows are of one length."""
        c = self.manifest.length
        return None if c is None or c.along is None else filled(self.conditions[c.name][index], self.shape, c.along)

    def start(self, index: Tensor) -> Tensor | None:
        """Where the flow of the rows `index` starts, float32 `[B, *E]` as rows are seen; None for noise."""
        c = self.manifest.start
        return None if c is None else seen(self.conditions[c.name][index], self.manifest)

    def stored(self, index: Tensor, blocks: list[Tensor] | None = None) -> Tensor:
        """Rows of the blocks, by default the cache's, seen as one, as they are stored; sorted, so that each block is asked once."""
        held = self._blocks if blocks is None else blocks
        ordered, back = index.sort()
        bounds = torch.searchsorted(ordered, self._starts)
        counts = bounds.diff()
        local = ordered - self._starts[:-1].repeat_interleave(counts)
        asked = counts.nonzero().squeeze(1).tolist()
        parts = [held[i].index_select(0, at) for i, at in zip(asked, local.split(counts[asked].tolist()), strict=True)]
        z = torch.cat(parts) if parts else torch.empty(0, *self.shape, dtype=DTYPES[self.manifest.dtype])
        return z[back.argsort()]


def stored_names(mirrored: bool, posterior: bool) -> tuple[str, ...]:
    """The tensors of rows in a shard."""
    return tuple(f"{name}{tail}" for name in ("x", "deviation")[: 1 + posterior] for tail in ("", "_flip")[: 1 + mirrored])


def _shard(folder: Path, shard: Shard, manifest: Manifest, verify: bool) -> dict[str, Tensor]:
    """Its tensors, memory-mapped; `UserError` unless they have the size, the shapes and, if asked, the sha256 that the manifest states."""
    rows = stored_names(manifest.flips == "stored", manifest.posterior)
    wanted = {name: ((shard.rows, *manifest.shape), DTYPES[manifest.dtype]) for name in rows} | {"y": ((shard.rows,), torch.int64)}
    for c in manifest.beside:
        wanted[PREFIX + c.name] = (shard.rows, *c.shape), torch.int64 if c.words else torch.float32
    path = folder / shard.name
    if not path.exists():
        raise UserError(f"{folder}: {shard.name} is missing; make the cache again")
    if (size := path.stat().st_size) != shard.bytes:
        raise UserError(f"{folder}: {shard.name} has {size} bytes instead of {shard.bytes}; make the cache again")
    try:
        file = File.open(path)
        if verify and file.sha256() != shard.sha256:
            raise UserError(f"{folder}: {shard.name} is altered: its sha256 is not the manifest's")
        found = file.tensors()
    except UserError as error:
        raise UserError(f"{error}; make the cache again") from None
    if any(name not in found or (found[name].shape, found[name].dtype) != how for name, how in wanted.items()):
        raise UserError(f"{folder}: {shard.name} has other shapes than the manifest states; make the cache again")
    return {name: found[name] for name in wanted}
