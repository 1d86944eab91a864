"""What a comparison of runs says first: whose samples are nearer to the data, what they cost, where the runs differ. Knows no page."""

import shlex
from collections.abc import Iterator, Sequence

from meanstep.program.compare.runs import Distance, Distances, Side, differences
from meanstep.program.pages.forest import Forest, Row, placed
from meanstep.program.pages.form import BETTER, KNOWN, Answer, Shown, Step, Tile
from meanstep.program.pages.verdicts import number
from meanstep.program.runs.report.prose import clock

FEW = 4
"""Runs that a sentence names one by one; of more it names the ends."""
NEAR = 1.5
"""Times the floor: from farther away a drawing that holds the floor would leave no room for the intervals."""


def nearest(found: Sequence[Side], measured: Distances) -> Side | None:
    """The run whose interval lies below those of all others; None where intervals meet, or there are none."""
    ends = [(d.interval, side) for d, side in zip(measured.found, found, strict=True)] if measured.found else []
    told = [(interval, side) for interval, side in ends if interval]
    if not told or len(told) < len(found):
        return None
    (low, side), *rest = sorted(told, key=lambda one: one[0][1])
    return side if all(low[1] < other[0] for other, _ in rest) else None


def answer(found: Sequence[Side], measured: Distances, notes: Sequence[str], shown: Shown | None) -> Answer:
    """Title, tiles, figure and what to do."""
    best = nearest(found, measured)
    tiles = (_samples(found, measured, best), _cost(found), _configuration(found))
    tab = " and ".join(side.name for side in found)
    return Answer(
        _title(found, measured, best),
        tuple(_about(found)),
        tiles,
        tuple(_steps(found, measured, best)),
        "meanstep compare",
        shown,
        tuple(notes),
        tab,
    )


def _title(found: Sequence[Side], measured: Distances, best: Side | None) -> str:
    if not measured.found:
        return "The distances of these runs cannot be compared; their configurations can."
    if best:
        return f"Samples of {best.name} are nearer to the data than those of {'the other run' if len(found) == 2 else 'the other runs'}."
    return f"Which of these {len(found)} runs makes samples nearer to the data cannot be told."


def _about(found: Sequence[Side]) -> Iterator[str]:
    named: dict[str, list[str]] = {}
    for side in found[:FEW]:
        run = side.history
        data = run.manifest.source if run.manifest else run.config.data.source
        named.setdefault(f"of the recipe {run.config.method.recipe} on {data}.", []).append(side.name)
    for what, names in named.items():
        yield f"{names[0]} is a run {what}" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are runs {what}"
    if len(found) > FEW:
        yield f"The other {len(found) - FEW} runs are in the table below."


def rows(found: Sequence[Side], measured: Distances) -> Forest | None:
    """A row for each run: its distance and 95% interval, and the floor where the rows are near it; None without intervals."""
    if not measured.found or any(d.interval is None or d.value <= 0 for d in measured.found):
        return None
    best, floor = nearest(found, measured), measured.found[0].floor
    told = [Row(side.name, d.value, d.interval, BETTER if side is best else "open") for d, side in zip(measured.found, found, strict=True)]
    line = floor if floor and min(d.value for d in measured.found) < NEAR * floor else None
    return placed(told, line, "the floor" if line else "← nearer", "farther →")


def told(distance: Distance) -> str:
    """A value and its interval."""
    return number(distance.value) + (f" [{number(distance.interval[0])}, {number(distance.interval[1])}]" if distance.interval else "")


def _samples(found: Sequence[Side], measured: Distances, best: Side | None) -> Tile:
    if not measured.found:
        return Tile("Samples: not compared", f"{measured.why[:1].upper()}{measured.why[1:]}.", "Nothing follows.")
    order = sorted(zip(measured.found, found, strict=True), key=lambda one: one[0].value)
    named = order if len(order) <= FEW else [order[0], order[-1]]
    words = f"{measured.measure}: " + ", ".join(f"{side.name} {told(d)}" for d, side in named) + "."
    floors = [d.floor for d in measured.found if d.floor is not None]
    words += f" Real rows score {number(floors[0])}, the floor." if floors else " The floor was not measured: meanstep evaluate does."
    once = "Each was trained once: this is of these runs, not of their methods."
    if measured.found[0].interval is None:
        return Tile("Samples: no difference can be told", words, f"No intervals were measured. {once}")
    sure = f"95% intervals over samples, {'apart' if best else 'which meet'}. {once}"
    if len({d.seen for d in measured.found}) > 1:
        sure += " They had seen different numbers of samples."
    return Tile(f"Samples: {best.name} is nearer", words, sure, BETTER) if best else Tile("Samples: no difference can be told", words, sure)


def _cost(found: Sequence[Side]) -> Tile:
    runs = [side.history for side in found]
    if not all(run.of("train") for run in runs):
        late = next(side.name for side in found if not side.history.of("train"))
        return Tile("Cost: not known", f"{late} has no record of a step yet.", "Nothing follows.")
    shown = list(zip(found, runs, strict=True))[:FEW]
    words = " ".join(f"{side.name} saw {run.seen:,} samples in {clock(run.seconds)}." for side, run in shown)
    devices = {str(run.environment.get("device", "an unknown device")) for run in runs}
    where = f"on {next(iter(devices))}" if len(devices) == 1 else "on different devices, so seconds do not compare"
    same = len({run.seen for run in runs}) == 1
    return Tile("Cost: the same samples seen" if same else "Cost: different samples seen", words, f"Counted, {where}.", KNOWN)


def _configuration(found: Sequence[Side]) -> Tile:
    names = [name for name, _ in differences(found)]
    if not names:
        return Tile("Configuration: the same", "No entry of their configurations differs.", "Compared entry by entry.", KNOWN)
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    head = f"Configuration: {len(names)} {'entry differs' if len(names) == 1 else 'entries differ'}"
    return Tile(head, f"{', '.join(names[:6])}{rest}.", "Compared entry by entry. Several at once do not say which one matters.", KNOWN)


def _steps(found: Sequence[Side], measured: Distances, best: Side | None) -> Iterator[Step]:
    def quoted(side: Side) -> str:
        return shlex.quote(str(side.path))

    for side in found:
        if not side.history.finished and side.at is None:
            yield Step(f"Let {side.name} go on where it stopped.", f"meanstep train --out {quoted(side)}")
    if not measured.found:
        yield Step("Make their distances comparable, as the first tile says.")
    elif measured.found[0].interval is None:
        yield Step("Measure distances with intervals.", "\n".join(f"meanstep evaluate {quoted(side)}" for side in found))
    elif best:
        yield Step(f"Use {best.name}, and look at its samples first.", f"meanstep sample {quoted(best)}")
    else:
        yield Step(
            "Measure more samples: the intervals get narrower.", "\n".join(f"meanstep evaluate {quoted(s)} --count 50000" for s in found)
        )
    yield Step("Train each again with other seeds before anything is said of a method.")
