"""A cache on disk, opened: checked against its manifest, memory-mapped, rows taken by index."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from meanstep.program.console import UserError
from meanstep.program.data.codecs import CODECS, DTYPES
from meanstep.program.data.manifest import NAME, Manifest, Shard, sha256
from meanstep.shapes import over

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

    @classmethod
    def open(cls, path: Path | str, verify: bool | None = None) -> "Cache":
        """The cache in a folder. `UserError` in one line if it is none, or a shard is missing, cut short or altered.

        `verify`: whether to compute the shards' sha256; by default only if all of them have at most 1 GiB. Sizes are always compared.
        """
        path = Path(path).expanduser()
        manifest = Manifest.read(path / NAME)
        total = sum(shard.bytes for shard in manifest.shards)
        for shard in manifest.shards:
            check(path, shard, total <= CHEAP if verify is None else verify)
        held = [_shard(path, shard, manifest) for shard in manifest.shards]
        blocks = [block[name] for name in ("x", "x_flip") for block in held if name in block]
        starts = torch.tensor([0, *(len(block) for block in blocks)]).cumsum(0)
        return cls(path, manifest, torch.cat([block["y"] for block in held]), blocks, starts, *manifest.moments(torch.zeros(())))

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

    def rows(self, index: Tensor, flip: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`x` float32 `[B, *E]` as the network sees it and `y` int64 `[B]` of the rows `index` `[B]`, mirrored where `flip` `[B]`.

        `IndexError` for a row that there is not, `UserError` for mirror images of a cache that has none.
        """
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"rows {int(index.min())} to {int(index.max())} of a cache of {len(self)}")
        if flip is not None and self.manifest.flips == "none":
            raise UserError(f"{self.path} was made without mirror images: make it with --flips")
        stored = self.manifest.flips == "stored"
        z = self.stored(index if flip is None or not stored else index + len(self) * flip)
        if flip is not None and not stored:
            z = torch.where(over(flip, z), z.flip(-1), z)
        x = z.to(torch.float32, copy=True)  # in place from here: fresh memory costs more than arithmetic
        return CODECS[self.manifest.codec].seen(x, self._mean, self._std), self.labels[index]

    def stored(self, index: Tensor) -> Tensor:
        """Rows of the blocks seen as one, as they are stored; sorted, so that each block is asked once."""
        ordered, back = index.sort()
        bounds = torch.searchsorted(ordered, self._starts)
        counts = bounds.diff()
        local = ordered - self._starts[:-1].repeat_interleave(counts)
        asked = counts.nonzero().squeeze(1).tolist()
        parts = [self._blocks[i].index_select(0, at) for i, at in zip(asked, local.split(counts[asked].tolist()), strict=True)]
        z = torch.cat(parts) if parts else torch.empty(0, *self.shape, dtype=DTYPES[self.manifest.dtype])
        return z[back.argsort()]


def check(folder: Path, shard: Shard, verify: bool) -> None:
    """`UserError` unless the shard is there, has its size and, if asked, its sha256."""
    file = folder / shard.name
    try:
        size = file.stat().st_size
        same = size == shard.bytes and (not verify or sha256(file) == shard.sha256)
    except FileNotFoundError:
        raise UserError(f"{folder}: {shard.name} is missing; make the cache again") from None
    if not same:
        how = f"has {size} bytes instead of {shard.bytes}" if size != shard.bytes else "is altered: its sha256 is not the manifest's"
        raise UserError(f"{folder}: {shard.name} {how}; make the cache again")


def _shard(folder: Path, shard: Shard, manifest: Manifest) -> dict[str, Tensor]:
    """Its tensors, memory-mapped; `UserError` if they are not what the manifest says."""
    names = ("x", "y", "x_flip") if manifest.flips == "stored" else ("x", "y")
    shape = (shard.rows, *manifest.shape)
    try:
        with safe_open(folder / shard.name, framework="pt") as held:
            found = {name: held.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder}: {shard.name} is no shard of this cache: {str(error)[:120]}; make the cache again") from error
    fits = all(found[n].shape == shape and found[n].dtype == DTYPES[manifest.dtype] for n in names if n != "y")
    if not fits or found["y"].shape != (shard.rows,) or found["y"].dtype != torch.int64:
        raise UserError(f"{folder}: {shard.name} has other shapes than the manifest states; make the cache again")
    return found
