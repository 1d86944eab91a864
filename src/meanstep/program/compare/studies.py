"""Two studies of one kind: the distances of the arms that both have, paired by seed, and the settings that differ. Draws nothing."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meanstep.program.console import UserError
from meanstep.program.errors import shown
from meanstep.program.pages.forest import forest, states
from meanstep.program.pages.form import BETTER, KNOWN, OPEN, WORSE, Answer, Shown, Step, Tile
from meanstep.program.pages.page import flat
from meanstep.program.pages.statistics import Change, ratio
from meanstep.program.pages.verdicts import number
from meanstep.program.reproduce.report.page import measured
from meanstep.program.reproduce.report.summary import Quantity
from meanstep.program.reproduce.study import Held, read

METRICS = ("sw1", "distance")
"""Of samples, less is better; the one that a workload has."""
DATA = ("samples", "directions", "reference", "points", "digest", "extractor", "count", "dimension")
"""Settings of a study's own that decide what a distance is of, as do all entries on its data; not its configuration of a training."""
PLACES = {"points": "digest", "data name": "data digest"}
"""Where data lay, which decides nothing where the digest of what lay there is known."""
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Pair:
    """An arm that both studies have. `change`: the second study's distance over the first's, by seed; `floor`: of it, if known."""

    name: str
    change: Change
    floor: float | None


@dataclass(frozen=True)
class Meeting:
    """Two studies. `pairs`: none where `why` says what keeps their distances apart; `settings`: entries that differ, with both values."""

    folders: tuple[Path, Path]
    names: tuple[str, str]
    study: str
    pairs: tuple[Pair, ...]
    why: str
    settings: tuple[tuple[str, list[str]], ...]


def meeting(paths: Sequence[Path]) -> Meeting:
    """Of two folders of studies; `UserError` for more, for others than two of a kind, and for the same one twice."""
    if len(paths) != 2:
        raise UserError(f"studies are compared two at a time, got {len(paths)}: give two folders of one kind")
    one, two = held = [read(path.expanduser()) for path in paths]
    if paths[0].expanduser().resolve() == paths[1].expanduser().resolve():
        raise UserError(f"{shown(str(paths[0]))} is given twice: compare it with another study")
    kinds = [str(each.about.get("study", each.kind.studies[0])) for each in held]  # older ones do not say it
    if (one.kind.name, kinds[0]) != (two.kind.name, kinds[1]):
        raise UserError(f"{paths[0]} is a study {kinds[0]} and {paths[1]} a study {kinds[1]}: compare two of the same kind")
    names = [path.expanduser().resolve().name for path in paths]
    first, second = names if names[0] != names[1] else (f"{names[0]} (1)", f"{names[1]} (2)")
    why = _apart(held, (first, second))
    pairs = () if why else _pairs([path.expanduser() for path in paths])
    if not why and not pairs:
        why = "they have no arm with a distance in common: give both the same --arms, and let them finish"
    return Meeting((paths[0], paths[1]), (first, second), kinds[0], pairs, why, tuple(_settings(held)))


def _apart(held: Sequence[Held], names: Sequence[str]) -> str:
    a, b = (_entries(each) for each in held)
    for name in dict.fromkeys([*a, *b]):
        moved = PLACES.get(name) in a.keys() & b.keys()
        if (name.split(" ")[0] == "data" or name in DATA) and not moved and a.get(name) != b.get(name):
            values = f"{shown(a.get(name, 'none'))} and {names[1]} {shown(b.get(name, 'none'))}"
            return f"{names[0]} has {name} {values}: run one of them again with the other's"
    return ""


def _entries(held: Held) -> dict[str, str]:
    """What was asked for, and of what, by name."""
    about = {name: held.about.get(name) for name in ("data", "extractor", "config")}
    return dict(flat({"": held.settings} | about))


def _settings(held: Sequence[Held]) -> list[tuple[str, list[str]]]:
    a, b = (_entries(each) for each in held)
    return [(name, [a.get(name, "none"), b.get(name, "none")]) for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]


def _pairs(folders: Sequence[Path]) -> tuple[Pair, ...]:
    """One-step distances of averaged weights at the last moment that both have, by set and arm."""
    a, b = ({_key(each): each for each in measured(folder) if _wanted(each)} for folder in folders)
    last: dict[Key, Key] = {}
    for key in sorted(a.keys() & b.keys(), key=lambda key: key[-1] or 0):
        last[key[:-1]] = key
    found = [(key, ratio(b[key].seeds, a[key].seeds, broken=(b[key].broken, a[key].broken))) for key in last.values()]
    return tuple(Pair(_name(a[key]), change, a[key].floor) for key, change in found if change.n)


def _wanted(each: Quantity) -> bool:
    return each.metric in METRICS and each.weights == "ema" and each.steps in ("", "1")


def _key(each: Quantity) -> Key:
    return (each.metric, each.set, each.line.id, each.seen)


def _name(each: Quantity) -> str:
    return f"{each.set}, {each.line.id}" if each.set else each.line.id


# The answer --------------------------------------------------------------------------------------------------------------------------


def answer(found: Meeting) -> Answer:
    """Title, tiles, figure and what to do."""
    came = states([pair.change for pair in found.pairs])
    a, b = found.names
    counts = {what: came.count(what) for what in (BETTER, WORSE)}
    about = (
        f"{a} and {b} are two studies {found.study}.",
        "Their models are paired by set, arm and seed, and each pair gives a ratio of distances.",
    )
    rows = [(pair.name, pair.change, _floor(pair)) for pair in found.pairs]
    words = f"Each row is an arm: the distance in {b} over that in {a}, with the 95% interval. Grey rows decide nothing."
    shown_rows = Shown(words, rows=forest(rows, f"← nearer in {b}", "farther →")) if rows else None
    tiles = (_samples(found, counts), _seeds(found), _configuration(found))
    return Answer(_title(found, counts), about, tiles, _steps(found, counts), "meanstep compare", shown_rows, tab=f"{a} and {b}")


def _title(found: Meeting, counts: dict[str, int]) -> str:
    (a, b), n = found.names, len(found.pairs)
    arms = "arm" if n == 1 else "arms"
    if not found.pairs:
        return "The distances of these studies cannot be compared; their settings can."
    if not any(counts.values()):
        return "Nothing tells the samples of these two studies apart."
    said = [f"{word} on {counts[what]}" for what, word in ((BETTER, "nearer"), (WORSE, "farther")) if counts[what]]
    return f"Samples of {b} are {' and '.join(said)} of {n} {arms} than those of {a}."


def _samples(found: Meeting, counts: dict[str, int]) -> Tile:
    if not found.pairs:
        return Tile("Samples: not compared", f"{found.why[:1].upper()}{found.why[1:]}.", "Nothing follows.")
    least = min(found.pairs, key=lambda pair: pair.change.value)
    most = max(found.pairs, key=lambda pair: pair.change.value)
    words = f"Distances in {found.names[1]} over those in {found.names[0]}: {number(least.change.value)} times ({least.name})"
    words += f" to {number(most.change.value)} times ({most.name})." if most is not least else "."
    floors = [pair.floor for pair in found.pairs if pair.floor]
    words += f" The floor is {number(min(floors))} or more." if floors else " The floor is on the pages of the studies."
    seeds = max(pair.change.n for pair in found.pairs)
    sure = (
        f"95% intervals over {seeds} seeds in pairs, Holm's correction over the rows." if seeds > 1 else "One seed in common: no interval."
    )
    state = OPEN if not any(counts.values()) else KNOWN if all(counts.values()) else BETTER if counts[BETTER] else WORSE
    heads = {
        OPEN: "Samples: no difference can be told",
        KNOWN: "Samples: some nearer, some farther",
        BETTER: f"Samples: nearer in {found.names[1]}",
        WORSE: f"Samples: farther in {found.names[1]}",
    }
    return Tile(heads[state], words, sure, state)


def _floor(pair: Pair) -> str:
    return f"floor {number(pair.floor)}" if pair.floor else "floor unknown"


def _seeds(found: Meeting) -> Tile:
    if not found.pairs:
        return Tile("Seeds: nothing in common", "No arm of one study meets an arm of the other.", "Counted.")
    least, most = (f(pair.change.n for pair in found.pairs) for f in (min, max))
    each = str(least) if least == most else f"{least} to {most}"
    return Tile(
        f"Seeds: {each} in common", f"{len(found.pairs)} arms are in both studies, with the seeds that both have.", "Counted.", KNOWN
    )


def _configuration(found: Meeting) -> Tile:
    names = [name for name, _ in found.settings]
    if not names:
        return Tile("Settings: the same", "No setting differs.", "Compared entry by entry.", KNOWN)
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    head = f"Settings: {len(names)} {'differs' if len(names) == 1 else 'differ'}"
    return Tile(head, f"{', '.join(names[:6])}{rest}.", "Compared entry by entry. Several at once do not say which one matters.", KNOWN)


def _steps(found: Meeting, counts: dict[str, int]) -> tuple[Step, ...]:
    look = tuple(
        Step(f"Read the page of {name}.", shlex.join(["meanstep", "report", str(path)]))
        for name, path in zip(found.names, found.folders, strict=True)
    )
    if found.pairs and not any(counts.values()):
        return (Step("Add seeds to both: the intervals are too wide to decide."), *look)
    return look
