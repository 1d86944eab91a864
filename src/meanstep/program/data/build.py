"""A cache from what was opened: read and encode shard by shard, go on after the last full shard."""

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from meanstep.program.console import UserError, err, say
from meanstep.program.data.beside import unlabelled
from meanstep.program.data.cache import PREFIX, Cache, stored_names
from meanstep.program.data.codecs import DTYPES
from meanstep.program.data.manifest import NAME, Manifest, Shard
from meanstep.program.data.offenders import FEW, Offence, found, refused, skipped
from meanstep.program.data.opened import Opened
from meanstep.program.data.ragged import LENGTH, filled
from meanstep.program.data.source import Broken
from meanstep.program.data.unfinished import Unfinished, claim
from meanstep.program.disk import remove, write
from meanstep.program.reading.tensors import File

Told = Callable[[int], None]
Read = tuple[list[tuple[np.ndarray, int]], list[str]]
"""Items and their numbers, and what was wrong with those that are left out."""


def make(opened: Opened, folder: Path, told: Told = lambda done: None, wait: bool = False) -> Cache:
    """The cache in `folder`: as it lies there if it is this one, or made, or finished. `told(done)`: rows done so far.

    `wait`: for another process that makes it, which is refused without.

    `UserError` if the folder holds anything else or the disk is too small; full shards stay for the next time, also after an interrupt.
    """
    with claim(folder, {**_plain(opened.statement), "rows": opened.rows}, wait) as held:
        if held.complete:
            return Cache.open(folder, verify=True)
        index = opened.index
        starts = range(0, len(index), opened.rows)
        _room(folder, opened, len(index) - len(held.parts) * opened.rows)
        try:
            with ThreadPoolExecutor(opened.request.workers) as pool:
                for k in range(len(held.parts), len(starts)):
                    told(starts[k])
                    held.add(_shard(opened, k, index[starts[k] : starts[k] + opened.rows], folder, pool, told))
        except Offence as error:
            raise refused(opened, found(opened, told)) or error from None
        write(folder / NAME, _manifest(opened, held, folder).text())
        remove(held.path)
        _tell(opened, held)
    told(len(index))
    return Cache.open(folder, verify=False)


def _tell(opened: Opened, held: Unfinished) -> None:
    """What was left out, in one line."""
    if count := sum(part["skipped"] for part in held.parts):
        say(skipped(opened, [error for part in held.parts for error in part.get("broken", ())], count), on=err)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=asdict))


def _room(folder: Path, opened: Opened, rows: int) -> None:
    need, free = rows * opened.row_bytes, shutil.disk_usage(folder).free
    if need > free:
        raise UserError(f"{folder}: no space left: {need / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")


def _shard(opened: Opened, k: int, index: np.ndarray, folder: Path, pool: ThreadPoolExecutor, told: Told) -> dict[str, Any]:
    """Read, encode and write one shard; its entry in the list of finished ones."""
    tensors: dict[str, list[Tensor]] = {name: [] for name in ("y", *stored_names(opened.flips == "stored", opened.request.posterior))}
    done, broken, kept = 0, list[str](), list[int]()
    for at, (batch, errors) in _batches(opened, index, pool):
        broken += errors
        if batch:
            items = torch.from_numpy(np.stack([item for item, _ in batch]))
            for name, part in _encode(opened, items, at).items():
                tensors[name].append(part)
            tensors["y"].append(torch.tensor([opened.source.label(i) for _, i in batch]))
            kept += [i for _, i in batch]
        done += len(at)
        told(k * opened.rows + done)
    whole = {name: torch.cat(parts) for name, parts in tensors.items()} if tensors["x"] else {}
    if kept:
        whole |= {
            PREFIX + c.name: torch.from_numpy(opened.source.conditions[c.name][kept]) for c in unlabelled(opened.statement["conditions"])
        }
    rows = len(whole.get("y", ()))
    entry: dict[str, Any] = {"name": f"shard-{k:05d}.safetensors", "rows": rows, "skipped": len(index) - rows}
    entry |= {"broken": broken[:FEW]} if broken else {}
    if rows:
        data = save(whole)
        write(folder / entry["name"], data)
        entry |= {
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            **(_sums(whole, opened.source.along) if opened.codec.measured else {}),
        }
    return entry


def _batches(opened: Opened, index: np.ndarray, pool: ThreadPoolExecutor) -> Iterator[tuple[np.ndarray, Read]]:
    """Items of the shard in batches, as many ahead as there are threads, one thread for each; without the broken ones."""
    waiting: deque[tuple[np.ndarray, Future[Read]]] = deque()
    try:
        for start in range(0, len(index), opened.request.batch):
            at = index[start : start + opened.request.batch]
            waiting.append((at, pool.submit(_read, opened, at)))
            if len(waiting) > opened.request.workers:
                at, items = waiting.popleft()
                yield at, items.result()
        while waiting:
            at, items = waiting.popleft()
            yield at, items.result()
    finally:
        for _, items in waiting:
            items.cancel()


def _read(opened: Opened, at: np.ndarray) -> Read:
    items, errors = list[tuple[np.ndarray, int]](), list[str]()
    for i in at.tolist():
        try:
            items.append((opened.take(i)[0], i))
        except UserError as error:
            if not (opened.request.skip_broken and isinstance(error, Broken)):
                raise Offence(str(error)) from error
            errors.append(str(error))
    return items, errors


def _encode(opened: Opened, items: Tensor, at: np.ndarray) -> dict[str, Tensor]:
    """What is stored of a batch, mirror images and deviations included."""
    found: dict[str, Tensor] = {}
    for tail, seen in (("", items), ("_flip", items.flip(-1)))[: 2 if opened.flips == "stored" else 1]:
        if opened.request.posterior:
            pair = opened.autoencoder.spread(seen.float() / 127.5 - 1)
            found |= {
                f"{name}{tail}": z.to("cpu", DTYPES[opened.dtype]).contiguous() for name, z in zip(("x", "deviation"), pair, strict=True)
            }
        else:
            found[f"x{tail}"] = opened.codec.prepare(seen, opened.autoencoder, DTYPES[opened.dtype])
    if not all(z.isfinite().all() for z in found.values()):
        what = f"its {opened.name} are not finite in {opened.dtype}"
        raise UserError(f"{opened.source.where(int(at[0]))} or one of the next {len(at)}: {what}")
    return found


def _sums(whole: dict[str, Tensor], along: int | None) -> dict[str, Any]:
    """Sums and sums of squares of each entry of the first axis of a row, mirror images included, padding left out, in float64.

    Where rows have their lengths along the first axis, those of all entries together.
    """
    if along is not None:
        x = whole["x"].double()
        there = filled(whole[PREFIX + LENGTH], tuple(x.shape[1:]), along)
        entries = [torch.where(there, p, 0.0).transpose(0, 1).flatten(1).sum(1) for p in (torch.ones_like(x), x, x.square())]
        found = [p.sum().expand_as(p) if along == 0 else p for p in entries]
        return {name: p.tolist() for name, p in zip(("numbers", "sums", "squares"), found, strict=True)}
    parts, spread = ([whole[f"{name}{tail}"].double() for tail in ("", "_flip") if f"{name}{tail}" in whole] for name in ("x", "deviation"))
    over = [axis for axis in range(parts[0].ndim) if axis != 1]
    return {
        "numbers": sum(p[:, 0].numel() for p in parts),
        "sums": torch.stack([p.sum(over) for p in parts]).sum(0).tolist(),
        "squares": torch.stack([p.square().sum(over) for p in (*parts, *spread)]).sum(0).tolist(),
    }


def _manifest(opened: Opened, held: Unfinished, folder: Path) -> Manifest:
    parts = [part for part in held.parts if part["rows"]]
    if not parts:
        raise UserError(f"none of the {opened.noun} of {opened.source.name} can be read")
    names = [f.name for f in fields(Shard)]
    return Manifest(
        **{**_statistics(opened, parts), **opened.statement},
        count=sum(part["rows"] for part in parts),
        skipped=sum(part["skipped"] for part in held.parts),
        shards=tuple(Shard(**{name: part[name] for name in names}) for part in parts),
        left_out=dict(sorted(opened.source.left_out.items())),
        empty=_empty(opened, [folder / part["name"] for part in parts]),
    )


def _empty(opened: Opened, shards: list[Path]) -> tuple[int, ...]:
    """The labels that no row of the shards has."""
    there: set[int] = set()
    for path in shards:
        there |= set(File.open(path).tensors()["y"].unique().tolist())
    return tuple(k for k in range(len(opened.source.classes)) if k not in there)


def _statistics(opened: Opened, parts: list[dict[str, Any]]) -> dict[str, Any]:
    first = opened.shape[0]
    if not opened.codec.measured:
        return {"mean": (0.0,) * first, "std": (1.0,) * first}
    n, sums, squares = (np.sum([part[name] for part in parts], axis=0) for name in ("numbers", "sums", "squares"))
    mean, square = sums / n, squares / n
    std = np.sqrt(np.maximum(square - mean**2, 0))
    if not (std > 1e-6 * np.abs(mean)).all() and opened.statement.get("statistics") == "own":
        what = f"entry {int(np.argmin(std))} of the first axis of the {opened.noun} is the same everywhere"
        raise UserError(f"{what}, nothing to learn from {opened.source.name}: drop it, or give --no-normalise")
    return {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())}
