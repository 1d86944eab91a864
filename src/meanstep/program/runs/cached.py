"""Where a run's data are now. Knows no networks."""

from pathlib import Path
from typing import Any

from meanstep.program.console import Interrupted, UserError
from meanstep.program.data import Cache, Manifest, Request, ensure
from meanstep.program.data.ensured import user_folder
from meanstep.program.data.manifest import NAME, check_fits
from meanstep.program.runs import saved
from meanstep.program.runs.config import DataConfig
from meanstep.program.runs.saved import held


def source(run: Path) -> str:
    """The run's `--data.source`, or empty if it is not known."""
    config = held(run)
    return config.data.source if config else ""


def pair(run: Path) -> str:
    """The run's `--data.pair`, or empty if there is none."""
    config = held(run)
    return config.data.pair if config else ""


def request(data: DataConfig) -> Request:
    """What a cache is asked for that a run makes of its source."""
    rows: dict[str, Any] = {name: getattr(data, name) for name in ("ragged", "table", "pair", "pair_as", "preview")}
    return Request(data.source, size=data.size, flips=data.flips, conditions=data.condition, **rows)


def remote(spec: str) -> bool:
    """Whether a source is read over the network: one that only a run's folder names is not."""
    return spec.startswith("hub:")


def cache(run: Path, remedy: str) -> Cache:
    """The cache that a run was trained on: the folder it names, one in the user's folder, else made anew from its source.

    `UserError` if its data are not there any more, or are others now; it ends with the `remedy`.
    """
    manifest = saved.manifest(run)
    try:
        return _found(run, manifest)
    except Interrupted:
        raise
    except UserError as error:
        raise UserError(f"the training data are not there any more ({error}): {remedy}") from None


def _found(run: Path, manifest: Manifest) -> Cache:
    where = source(run)
    named = [Path(where).expanduser() / NAME] if where else []
    for path in (*named, *sorted((user_folder() / "data").glob(f"*/{NAME}"))):
        if _digest(path) == manifest.digest:
            return Cache.open(path.parent)
    return _anew(run, manifest)


def _anew(run: Path, manifest: Manifest) -> Cache:
    config = held(run)
    if not config or not config.data.source:
        raise UserError("the run does not say where they were")
    if remote(config.data.source):
        raise UserError(f"they are {config.data.source}, and the network is not asked for what only a run names")
    found = ensure(config.data.source, request(config.data))
    check_fits(manifest, found.manifest, f"the run {run}")
    return found


def _digest(path: Path) -> str:
    try:
        return Manifest.read(path).digest
    except UserError:
        return ""
