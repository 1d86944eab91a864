"""How to make a study again: the commands, from study.json alone. Knows no figures and no page."""

import dataclasses
import json
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from meanstep.program.console import UserError
from meanstep.program.flags import shown_options, shown_seeds
from meanstep.program.reproduce.images import KIND, protocol
from meanstep.program.reproduce.images.arms import arms
from meanstep.program.reproduce.images.results import Results
from meanstep.program.reproduce.images.settings import DECIDED, Sizes
from meanstep.program.reproduce.records import Record
from meanstep.program.runs.config import flag, from_yaml
from meanstep.program.runs.options import flat
from meanstep.program.training.presets import DEFAULT, PRESETS

COMMAND, FILE = ("meanstep", "reproduce", "latents"), "arms.yaml"


def commands(results: Results) -> list[str]:
    """One for all arms that were asked for with the same seeds; `FILE` holds those that are none of the program's."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for arm in results.arms:
        if seeds := tuple(sorted(seed for name, seed in results.asked if name == arm.name)):
            groups.setdefault(seeds, []).append(arm.name)
    theirs = protocol.of(results.about) == protocol.AUTHORS
    rest = [*_measured(results), *_configured(results.about.get("config") or {}, theirs)]
    own, whose = {str(entry["name"]) for entry in _own(results)}, ["--protocol", protocol.AUTHORS] if theirs else []
    made = []
    for seeds, names in groups.items():
        file = ["--arms-file", FILE] if own.intersection(names) else []
        made.append(shlex.join([*COMMAND, *whose, "--arms", *names, *file, "--seeds", shown_seeds(seeds), *rest]))
    return made


def own(results: Results) -> str:
    """What the file of arms holds, empty if all of them are the program's."""
    found = {
        entry["name"]: {"recipe": entry["recipe"], "options": entry["options"], "about": entry["about"]} | (entry.get("method") or {})
        for entry in _own(results)
    }
    return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)) if found else ""


def _own(results: Results) -> Iterator[Record]:
    for entry in results.about["arms"]:
        try:
            (known,) = arms((entry["name"],), protocol=protocol.of(results.about))
        except UserError:
            yield entry
            continue
        held = [entry["recipe"], entry["options"], entry.get("method") or {}]
        if json.loads(json.dumps([known.recipe, known.options, known.method])) != held:
            yield entry


def _measured(results: Results) -> Iterator[str]:
    held = results.settings
    yield from ("--moments", str(held.get("moments", len(results.moments))))
    for name, value in json.loads(json.dumps(dataclasses.asdict(Sizes()))).items():
        if held.get(name, value) != value:
            yield from _flag("measure", name, held[name])


def _configured(config: Record, theirs: bool = False) -> Iterator[str]:
    """Entries other than where a study starts without options, and how many samples."""
    base = PRESETS[DEFAULT].config
    method = dataclasses.replace(base.method, proxy_decay=base.averages.decays[0])
    usual = dataclasses.replace(base, method=method, optimiser=dataclasses.replace(base.optimiser, schedule="constant"))
    start = flat(protocol.applied(usual) if theirs else usual)
    for (part, name), value in flat(from_yaml(json.dumps(config), KIND.file)).items() if config else ():
        if part == "run" and name in DECIDED:
            continue
        if value != start.get((part, name)) or (part, name) == ("run", "samples"):
            yield from _flag(part, name, value)


def _flag(part: str, name: str, value: Any) -> list[str]:
    word = flag(part, name)
    if isinstance(value, bool):
        head, _, last = word.removeprefix("--").rpartition(".")
        return [word if value else f"--{head}{'.' * bool(head)}no-{last}"]
    if isinstance(value, dict):
        return [word, shown_options(value)]
    return [word, *map(str, value if isinstance(value, list | tuple) else [value])]
