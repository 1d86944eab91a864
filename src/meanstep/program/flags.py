"""Flags that mean the same in every command: what help says of them, and how their values are read. Knows no command, needs no torch."""

import dataclasses
import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from meanstep.program.disk import writable
from meanstep.program.errors import UserError, naming, shown
from meanstep.program.reading import trees
from meanstep.program.reading.files import regular

_QUOTES = "'\""


def hinted(text: str | None, default: str, metavar: str, name: str | None = None) -> Any:
    """A flag that says in words what happens without it. `text` None: what the field's documentation says."""
    return tyro.conf.arg(name=name, help=text, help_behavior_hint=f"(default: {default})", metavar=metavar)


def unset(words: str, metavar: str, empty: str = "0", text: str | None = None) -> Any:
    """A flag of a configuration, whose value `empty` stands for something that help says in `words`."""
    return tyro.conf.arg(
        help=text, metavar=metavar, help_behavior_hint=lambda shown: f"(default: {words if shown.strip(_QUOTES) == empty else shown})"
    )


MOST_SEEDS = 10_000_000

# Seeds -----------------------------------------------------------------------------------------------------------------------------


def seeds(text: str) -> tuple[int, ...]:
    """`0:64` (without its end), `3,5,8` or `0:4,7`, each once and in the order given; `UserError` for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, colon, end = part.partition(":")
        if not re.fullmatch(r"[0-9]{1,15}", first.strip()) or (colon and not re.fullmatch(r"[0-9]{1,15}", end.strip())):
            raise UserError(f"--seeds: 0:64 (without 64), 3,5,8 or 0:4,7, from 0 on, got {shown(text)}")
        new = range(int(first), int(end) if colon else int(first) + 1)
        if len(found) + len(new) > MOST_SEEDS:
            raise UserError(f"--seeds: at most {MOST_SEEDS:,} at a time, got {shown(text)}: ask for them in parts")
        found += new
    if not found:
        raise UserError(f"--seeds: {shown(text)} holds none: a range is FIRST:END without its end")
    return tuple(dict.fromkeys(found))


def shown_seeds(values: tuple[int, ...]) -> str:
    """Seeds as `seeds` reads them, runs of three and more as ranges."""
    parts: list[list[int]] = []
    for seed in values:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(f"{part[0]}:{part[-1] + 1}" if len(part) > 2 else ",".join(map(str, part)) for part in parts)


def _one_word(kind: Any, metavar: str, read: Callable[[str], Any], shown: Callable[[Any], str], held: type) -> Any:
    """A type whose value is one word of the command line."""
    spec = tyro.constructors.PrimitiveConstructorSpec[Any](
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: _read(read, words[0]),
        is_instance=lambda value: isinstance(value, held),
        str_from_instance=lambda value: [shown(value)],
    )
    return Annotated[kind, spec]


def _read(read: Callable[[str], Any], word: str) -> Any:
    """A word's value; the mistake is one that tyro tells with the flag's name."""
    try:
        return read(word)
    except UserError as error:
        raise ValueError(str(error)) from None


Seeds = _one_word(tuple[int, ...], "SEEDS", seeds, shown_seeds, tuple)
"""A set of seeds."""


# Dictionaries ----------------------------------------------------------------------------------------------------------------------


def options(text: str) -> dict[str, Any]:
    """A YAML flow mapping such as `{width: 64}`, or JSON; `UserError` for anything else."""
    try:
        found = trees.from_yaml(text, shown(text))
    except UserError as error:
        raise UserError(f"options are YAML such as '{{width: 64}}': {error}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(f"options are names with values, such as '{{width: 64}}', got {shown(text)}")
    return found


def shown_options(entries: dict[str, Any]) -> str:
    """A mapping in one line, as `options` reads it."""
    text: str = yaml.safe_dump(entries, default_flow_style=True, width=100_000)
    return text.strip()


Options = _one_word(dict[str, Any], "YAML", options, shown_options, dict)
"""Keywords for a function."""


# Words that several commands take --------------------------------------------------------------------------------------------------


def spelled(command: Any, names: Iterable[str]) -> list[str]:
    """The words of a command line for these options of a command, of those that are not by default."""
    start = {each.name: each.default for each in dataclasses.fields(command)}
    held = [(name, value) for name in names if (value := getattr(command, name)) != start[name]]
    words = [(f"--{name.replace('_', '-')}", value if isinstance(value, tuple) else (value,)) for name, value in held]
    return [word for flag, values in words for word in (flag, *map(str, values))]


DEVICE = re.compile(r"cpu|mps|auto|cuda(:[0-9]{1,4})?")
Device = Annotated[str, hinted("Where to compute: cpu, cuda, cuda:N, mps, auto (cuda where there is one, else cpu).", "auto", "DEVICE")]
Json = Annotated[Path | None, hinted("Write the result as JSON too; - is standard output, and nothing else goes there.", "no file", "FILE")]
NETWORK = "package.module:factory that builds the network, if it is one of yours: your code is called only if you name it here."
Network = Annotated[str | None, hinted(NETWORK, "none", "FACTORY")]
Autoencoder = Annotated[str | None, hinted("The autoencoder: that of the run's latents.", "in the run's folder", "KIND:FILE")]
ORDER = 'How the network is called, if not as (z, r, t, y): "z,t,r", or with keywords "z,timestep=t,delta=gap".'
TIMES = (
    "How (r, t) are drawn: sorted uniform pairs, or MeanFlow's sorted logit-normal(-0.4, 1), which hardly ever trains the step from t = 1."
)
DIAGONAL = "Share of the rows with r = t."
POWER = "Power of MeanFlow's adaptive weight: 0 is the squared error that the paper's theory is about, 1 MeanFlow's default."
CHECKPOINT = "last, best, or the samples that it had seen"


def device(name: str) -> str:
    """The name, or `UserError` if it is spelled as no device; whether it is there is not asked."""
    if not DEVICE.fullmatch(name):
        raise UserError(f"--device: cpu, cuda, cuda:N, mps or auto, got {shown(name)}")
    return name


def factory(spec: str | None, flag: str = "--network") -> None:
    """`UserError` unless it has the form package.module:factory."""
    if spec is not None and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", spec):
        raise UserError(f"{flag}: package.module:factory, got {shown(spec)}")


def among(names: Iterable[str], there: Collection[str], what: str, flag: str = "") -> None:
    """`UserError` for the first name that there is not, with the nearest one or all; `flag`: whose value it is."""
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(there)}"
            raise UserError(f"{flag and flag + ': '}there is no {what} {shown(name)}: {hint}")


def readable(path: Path | None, flag: str) -> None:
    """`UserError` unless there is such a file, or none is asked for."""
    if path is None:
        return
    try:
        regular(path.expanduser())
    except (UserError, RuntimeError) as error:
        raise UserError(f"{flag}: {error}") from None


def file(path: Path, flag: str = "--out") -> Path:
    """The file with links followed, or `UserError` if it cannot be written; nothing is touched."""
    with naming(flag):
        if path == Path():
            raise UserError("it is empty: give the name of a file")
        return writable(path)


def folder(path: Path, flag: str = "--out") -> Path:
    """The folder, or `UserError` if it cannot be made or written into; nothing is touched."""
    try:
        if path == Path() or "\0" in str(path):
            raise ValueError("it is empty: give the name of a folder")
        here = path.expanduser().resolve()
        there = next(p for p in (here, *here.parents) if p.exists())
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{flag}: cannot write into {path}: {getattr(error, 'strerror', None) or error}") from None
    if not there.is_dir():
        raise UserError(f"{flag}: {there} is a file: give the name of a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag}: cannot write into {there}: permission denied")
    return path.expanduser()
