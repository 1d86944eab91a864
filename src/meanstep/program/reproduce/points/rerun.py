"""How to make a sweep again: its command, from what its folder holds. Knows no figures and no page."""

import shlex
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from meanstep.program.flags import shown_seeds
from meanstep.program.reproduce.points import KIND
from meanstep.program.reproduce.points.results import Results
from meanstep.program.reproduce.points.settings import PUBLISHED, PUBLISHED_SCALES, SCALES, Settings, mixture_dimension
from meanstep.program.reproduce.records import Record

FIXED = ("samples", "directions", "probe", "reference", "ema_decay")
"""Settings that only a scale decides."""
FREE = ("batch", "diagonal_share", "times", "lr", "power", "largest_gap", "centres")
"""Settings with an option that is named where they are not what the scale and the protocol say."""


def commands(results: Results) -> list[str]:
    """The command that makes this sweep, in its own folder."""
    held = results.settings
    words = ["meanstep", "reproduce", str(results.about["study"])]
    words += ["--protocol", "authors"] if held.get("protocol") == "authors" else []
    scale, usual = _scale(held)
    words += [] if scale == "quick" else ["--scale", scale]
    words += [*_data(results), *_listed("betas", held), *_listed("arms", held)]
    if seeds := held.get("seeds"):
        words += ["--seeds", shown_seeds(tuple(seeds))]
    for name in ("steps", *FREE):
        if (value := held.get(name)) is not None and (name == "steps" or value != usual[name]):
            words += [KIND.option(name), _word(value)]
    return [shlex.join([*words, "--device", "cuda" if held.get("ensemble") else "cpu", "--out", str(results.folder)])]


def _scale(held: Record) -> tuple[str, Record]:
    """The scale whose measures a sweep has, and what it and the protocol decide."""
    start: Record = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
    theirs = held.get("protocol") == "authors"
    start |= {"largest_gap": 0.5, "centres": "redrawn"} if theirs else {}
    of = {name: start | found | (PUBLISHED if theirs else {}) for name, found in (PUBLISHED_SCALES if theirs else SCALES).items()}
    order = ("quick", *(name for name in of if name != "quick"))
    found = next((name for name in order if all(held.get(key, of[name][key]) == of[name][key] for key in FIXED)), "quick")
    return found, of[found]


def _data(results: Results) -> Iterator[str]:
    names = [name for name in results.settings.get("sets") or [] if name != "points"]
    mixtures = results.about["study"] == "mixtures"
    if names:
        yield "--dims" if mixtures else "--sets"
        yield from (str(mixture_dimension(name)) if mixtures else name for name in names)
    if points := results.settings.get("points"):
        yield from ("--points", str(points))


def _listed(name: str, held: Record) -> list[str]:
    return [KIND.option(name), *map(_word, held[name])] if held.get(name) else []


def _word(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
