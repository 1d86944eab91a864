"""Statistics of real rows, kept in the user's folder under a digest of data, extractor and preprocessing."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from meanstep.metrics import Statistics, nearest_apart
from meanstep.program.console import UserError, err, say
from meanstep.program.data.ensured import user_folder
from meanstep.program.disk import clean, made, write
from meanstep.program.evaluation.examples import Examples
from meanstep.program.evaluation.features import Extractor
from meanstep.program.reading import files, trees
from meanstep.program.reading import tensors as reading

VERSION = 2
"""2: subsets and halves are drawn at random; those of 1 followed the order of the data."""
KEPT = 10_000
"""Features kept for the kernel distance and the nearest neighbours."""
Told = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Reference:
    """Real rows as an evaluation sees them: `extractor`, fitted to them; statistics of two halves, and some features.

    `digest`: of rows, extractor and preprocessing. `halves`: drawn at random, always the same, whatever the order of the rows;
    `features`: float32 `[at most 10000, dim]`, likewise; `among`: how many of them sets of rows are compared with, 0: all.
    """

    name: str
    digest: str
    extractor: Extractor
    halves: tuple[Statistics, Statistics] = field(repr=False)
    features: Tensor = field(repr=False)
    among: int = 0

    def scaled(self, features: Tensor) -> Tensor:
        """Features in units in which one is as good as another: those of rows over the extractor's scale, others as they are."""
        return features if self.extractor.scale is None else features / self.extractor.scale

    @cached_property
    def rows(self) -> Tensor:
        """All features that are kept, scaled."""
        return self.scaled(self.features)

    @property
    def compared(self) -> Tensor:
        """The scaled features that sets of rows are compared with."""
        return self.rows[: self.among or None]

    @cached_property
    def apart(self) -> Tensor:
        """How far each of `rows` is from the nearest other one."""
        return nearest_apart(self.rows)

    @property
    def statistics(self) -> Statistics:
        """Of all rows."""
        return self.halves[0].merge(self.halves[1])

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.halves[0].n + self.halves[1].n


def reference(real: Examples, extractor: Extractor, *, limit: int = 0, batch: int = 64, told: Told = lambda done: None) -> Reference:
    """The reference of these rows (or of `limit` of them, drawn at random): the one on disk, or computed now and kept.

    `told` hears how many are done. A damaged file is computed again, with a notice; `UserError` for fewer than 4.
    """
    count = min(len(real), limit or len(real))
    if count < 4:
        what = f"{real.name} holds {count} {real.noun}: a reference needs at least 4, and many more to mean something"
        raise UserError(f"{what}; a training goes without by --evaluate-every 0")
    digest = hashlib.sha256(f"{VERSION} {real.digest} {count} {extractor.digest} {KEPT}".encode()).hexdigest()
    path = user_folder() / "references" / f"{digest[:32]}.safetensors"
    about = {"version": VERSION, "digest": digest, "images": real.name, "images_digest": real.digest, "count": count}
    about |= {"extractor": extractor.name, "extractor_digest": extractor.digest, "input": str(extractor.input)}
    tensors = _held(path, about)
    if tensors is None:
        tensors = _computed(real, extractor, limit, batch, told)
        _keep(path, about, tensors)
    told(count)
    return _made(real.name, digest, extractor, tensors)


def _computed(real: Examples, extractor: Extractor, limit: int, batch: int, told: Told) -> dict[str, Tensor]:
    fitted, done = extractor.fit(real.batches(batch, limit)), 0
    halves, features = (Statistics(fitted.dim), Statistics(fitted.dim)), []
    for block in real.batches(batch, limit):  # they come in random order
        found = fitted(block)
        for k in range(2):
            halves[(done + k) % 2].update(found[k::2])
        features.append(found[: max(0, KEPT - done)])
        done += len(block)
        told(done)
    tensors = {"features": torch.cat(features)} | {f"state.{name}": value for name, value in fitted.state.items()}
    for k, half in enumerate(halves):
        tensors |= {f"{k}.n": torch.tensor(half.n), f"{k}.mean": half.mean, f"{k}.scatter": half.scatter}
    return {name: value.contiguous() for name, value in tensors.items()}


def _made(name: str, digest: str, extractor: Extractor, tensors: dict[str, Tensor]) -> Reference:
    state = {part.removeprefix("state."): value for part, value in tensors.items() if part.startswith("state.")}
    halves = []
    for k in range(2):
        half = Statistics(tensors["features"].shape[-1])
        half.n, half.mean, half.scatter = int(tensors[f"{k}.n"]), tensors[f"{k}.mean"], tensors[f"{k}.scatter"]
        halves.append(half)
    return Reference(name, digest, extractor.restored(state), (halves[0], halves[1]), tensors["features"])


def _keep(path: Path, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """The statistics, then the statement that says they are whole."""
    try:
        made(path.parent)
    except UserError as error:
        raise UserError(f"{error}; set MEANSTEP_CACHE to a folder") from error
    clean(path.parent, ["*.safetensors", "*.json"])
    data = save(tensors)
    write(path, data)
    write(path.with_suffix(".json"), json.dumps(about | {"sha256": hashlib.sha256(data).hexdigest()}, indent=1) + "\n")


def _held(path: Path, about: dict[str, Any]) -> dict[str, Tensor] | None:
    """What is on disk, or None if there is nothing, or it is damaged; what the images were called when it was made is no part of it."""
    if not path.exists():
        return None
    try:
        stated, file = trees.entries(files.text(path.with_suffix(".json"))), reading.File.open(path)
        if stated != about | {"sha256": file.sha256(), "images": stated.get("images")}:
            raise ValueError("it is not what its statement says")
        return file.tensors()
    except (UserError, ValueError) as error:
        say(f"{path} is damaged ({str(error)[:80]}): computed again", on=err)
        return None
