"""Data for a run: a cache as it is, or one made of a source in the user's own folder, with a line that says so."""

import os
import re
from dataclasses import replace
from pathlib import Path

from meanstep.program.bar import counting
from meanstep.program.console import Interrupted, UserError, err, say
from meanstep.program.data import offenders
from meanstep.program.data.build import make
from meanstep.program.data.cache import Cache
from meanstep.program.data.formats import counted
from meanstep.program.data.look import Look
from meanstep.program.data.manifest import NAME
from meanstep.program.data.opened import Opened, shown_as
from meanstep.program.data.partners import PAIR, named
from meanstep.program.data.request import Request


def user_folder() -> Path:
    """$MEANSTEP_CACHE, or ~/.cache/meanstep."""
    return Path(os.environ.get("MEANSTEP_CACHE") or Path.home() / ".cache" / "meanstep").expanduser()


def ensure(spec: str, request: Request | None = None) -> Cache:
    """The cache in the folder `spec`, or one of the source `spec` made by `request` (default: identity) in the user's folder.

    The folder's name is a digest of source and settings, so that the next call finds it. `UserError` as in `Cache.open` and `make`.
    """
    if (Path(spec).expanduser() / NAME).exists():
        held = _as_asked(Cache.open(spec), request or Request(spec))
        m = held.manifest
        return _seen_as(held, shown_as(request.preview if request else "", m.look, m.image, m.codec, "--data.preview"))
    try:
        return _made(spec, Opened.of(replace(request or Request(spec), source=spec)))
    except Interrupted:
        raise
    except UserError as error:
        error.args = (_of_a_run(str(error)),)
        raise


def _of_a_run(said: str) -> str:
    """A message with the options of a run, where `meanstep cache` has others or alone has them."""
    said = re.sub(r"(?<![\w.-])--(size|flips|preview|pair|pair-as)\b(?!-)", r"--data.\1", said)
    return re.sub(r"(?<!cache )--(crop|enlarge|no-normalise|skip-broken)\b", r"meanstep cache --\1", said)


def _as_asked(cache: Cache, asked: Request) -> Cache:
    """The cache, or `UserError` if it was made with other conditions, partners, lengths or columns than are asked for."""
    m, pair = cache.manifest, (PAIR,) if asked.pair else ()
    held, names, ways = named(m.conditions, asked.conditions), (*asked.conditions, *pair), {column.way for column in m.columns}
    differs: list[str] = []
    if names and names != held:
        differs.append(f"the conditions {', '.join(held) or 'none'}: make it with")
        differs += [f"--condition {' '.join(asked.conditions)}"] if asked.conditions else []
        differs += [f"--pair {asked.pair}"] if pair else []
    elif pair and (m.start is not None) != (asked.pair_as == "source"):
        differs.append(f"partners as a {'condition' if m.start is None else 'source'}: make it with --pair-as {asked.pair_as}")
    elif asked.ragged not in ("refuse", m.ragged):
        differs.append(f"--ragged {m.ragged}: make it with --ragged {asked.ragged}")
    elif asked.table != "numbers" and not m.columns:
        raise UserError(f"{cache.path} is no table, and --table {asked.table} is for one: leave it out")
    elif asked.table != "numbers" and NONE[asked.table] in ways:
        made = "quantile" if "quantile" in ways else "standard" if "words" in ways else "numbers"
        differs.append(f"--table {made}: make it with --table {asked.table}")
    if differs:
        raise UserError(f"{cache.path} was made with {' '.join(differs)}")
    return cache


NONE = {"standard": "quantile", "quantile": "same"}
"""By how a table's columns are asked for, the way that none of them then is."""


def _seen_as(cache: Cache, look: Look) -> Cache:
    """The cache with another look, which is no part of the data."""
    return replace(cache, manifest=replace(cache.manifest, look=look))


def _made(spec: str, opened: Opened) -> Cache:
    folder = user_folder() / "data" / f"{Path(opened.source.name).stem}-{opened.digest[:16]}"
    if (folder / NAME).exists():
        return _seen_as(Cache.open(folder), opened.look)
    lost = f"; left out: {counted(opened.source.left_out)}" if opened.source.left_out else ""
    say(f"{spec}: read once, into a cache in {folder}{lost}", on=err)
    return with_bar(opened, folder, wait=True)


def with_bar(opened: Opened, folder: Path, wait: bool = False) -> Cache:
    """`make` with a progress bar; an interrupt says how to go on."""
    with counting(opened.noun) as bar:
        task = bar.add_task("cache", total=len(opened.index))
        try:
            return make(opened, folder, lambda done: bar.update(task, completed=done), wait=wait)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped: the full shards in {folder} stay, the same command goes on after them") from None


def survey(opened: Opened) -> list[offenders.Offender]:
    """What cannot be taken, looked for with a progress bar."""
    with counting(opened.noun) as bar:
        task = bar.add_task("reading", total=len(opened.index))
        return offenders.found(opened, lambda done: bar.update(task, completed=done))
