"""What the page of a run says first: whether training brought samples nearer to the data, how it ended, what to do. Knows no page."""

import shlex
from collections.abc import Iterator

import numpy as np

from meanstep.program.evaluation.rows import comparable
from meanstep.program.pages.form import BETTER, KNOWN, OPEN, WORSE, Answer, Shown, Step, Tile
from meanstep.program.pages.verdicts import number
from meanstep.program.runs.records import Record
from meanstep.program.runs.report import prose
from meanstep.program.runs.report.history import History

SAME = 1.15
"""Two measurements of one run that differ by less than this factor are not told apart: a run alone has no interval."""


def answer(run: History, notes: tuple[str, ...]) -> Answer:
    """Title, tiles, figure and what to do."""
    tiles = (_samples(run), _state(run), _residual(run))
    tab = f"{prose.title(run)}: {run.folder.resolve().name}"
    return Answer(_title(run), tuple(_about(run)), tiles, tuple(_steps(run)), f"meanstep train, {run.folder.resolve().name}", _shown(run), notes, tab)


def floor(run: History) -> float | None:
    """What real rows score as the evaluations measure: in training, or as far as `meanstep evaluate` did, with the run's own data."""
    if run.floor is not None:
        return run.floor
    if run.best is None:
        return None
    extractor, count, own = run.best["extractor"], run.best["count"], f"{run.manifest.source}, " if run.manifest else ""
    floors = [row for row in run.cells if row["kind"] == "floor" and row["extractor"] == extractor and comparable(row, count)]
    found = [(row["values"] or {}).get("frechet") for row in floors if row["reference"].startswith(own)]
    return next((float(value) for value in reversed(found) if value is not None), None)


def _failed(run: History) -> bool:
    return bool(run.records) and run.records[-1].get("kind") == "failure"


def _valued(run: History) -> list[Record]:
    return [r for r in run.of("evaluation") if isinstance(run.far(r), int | float)]


def _came(run: History) -> str:
    """Whether samples came nearer to the data over the evaluations."""
    found = _valued(run)
    if len(found) < 2 or run.best is None:
        return OPEN
    start, best = run.far(found[0]), run.far(run.best)
    return BETTER if start > SAME * best else WORSE if run.far(found[-1]) > SAME * start else OPEN


def _left(run: History) -> bool:
    """Whether the last samples are farther from the data than the best."""
    found = _valued(run)
    return bool(found) and run.best is not None and run.far(found[-1]) > SAME * run.far(run.best)


def _title(run: History) -> str:
    if _failed(run):
        return f"This run broke off after {run.seen:,} samples."
    if not run.of("train"):
        return "This run has not begun: there is no record of a step yet."
    if not _valued(run):
        return "This run cannot be judged: no evaluation says how good its samples are."
    came, so_far = _came(run), "" if run.finished else " so far"
    if came == BETTER:
        then = ", and then away from them again" if _left(run) else ""
        return f"Training has brought {run.made} nearer to the data{so_far}{then}."
    if came == WORSE:
        return f"Training has taken {run.made} farther from the data{so_far}."
    few = len(_valued(run)) < 2
    return f"Whether training brings {run.made} nearer to the data cannot be told{' yet: there is one evaluation' if few else so_far}."


def _about(run: History) -> Iterator[str]:
    yield f"The recipe {run.config.method.recipe} trains a network on {run.manifest.source if run.manifest else run.config.data.source}."
    yield prose.lead(run)
    if _valued(run):
        yield "Compared are samples of earlier and later moments of this one run, each against the data."


def _samples(run: History) -> Tile:
    found, below = _valued(run), floor(run)
    if not found or run.best is None:
        return Tile("Samples: not measured", "No evaluation with a finite distance was made.", "Nothing follows.")
    words = f"{run.measure} of {run.made}: {number(run.far(found[0]))} at {found[0]['seen']:,} samples seen"
    words += f", {number(run.far(run.best))} at best, at {run.best['seen']:,}." if run.best is not found[0] else ", the only or best one."
    words += f" Real rows score {number(below)}, the floor." if below is not None else " The floor was not measured: meanstep evaluate does."
    came, times = _came(run), run.far(found[0]) / run.far(run.best) if run.far(run.best) > 0 else 1.0
    heads = {
        BETTER: f"Samples: {times:.1f} times nearer to the data" if times < 100 else "Samples: far nearer to the data",
        WORSE: "Samples: farther from the data",
        OPEN: "Samples: no change can be told",
    }
    sure = f"One run, so no interval over seeds: less than {SAME - 1:.0%} counts as no change. {run.best['count']:,} samples, features {run.best['extractor']}."
    return Tile(heads[came], words, sure, came)


def _state(run: History) -> Tile:
    m, seen = run.manifest, f"{run.seen:,} of {run.config.run.samples:,} samples were seen."
    passes = f" That is {number(run.seen / max(m.count, 1))} passes over {m.count:,} {m.noun}." if m else ""
    speed = run.curve("samples_per_second")[1]
    sure = f"Counted. {np.median(speed):,.0f} samples a second, the median of the records." if len(speed) else "Counted."
    if run.seconds:
        sure += f" Training took {prose.clock(run.seconds)} on {run.environment.get('device', 'an unknown device')}."
    if _failed(run):
        return Tile("Training: broke off", seen + passes, sure, WORSE)
    if run.finished:
        return Tile("Training: finished", seen + passes, sure, KNOWN)
    way = f" It is {100 * run.seen / run.config.run.samples:.3g}% of the way."
    return Tile("Training: on the way" if run.of("train") else "Training: not begun", seen + passes + way, sure, OPEN)


def _residual(run: History) -> Tile:
    (x, y), where = run.curve("residual_gap"), "r < t"
    if not len(x):
        (x, y), where = run.curve("residual_diagonal"), "r = t"
    if not len(x):
        return Tile("Residual: not recorded", "No step has left a residual.", "Nothing follows.")
    words = f"Mean squared residual where {where}: {number(y[0])} at {int(x[0]):,} samples, {number(y[-1])} now, the least was {number(y.min())}."
    came = OPEN if len(y) < 2 or not np.isfinite(y).all() else WORSE if y[-1] > 2 * y.min() and y[-1] > y[0] else BETTER if y[0] > SAME * y[-1] else OPEN
    head = {BETTER: "Residual: falling", WORSE: "Residual: rising", OPEN: "Residual: no change can be told"}[came]
    return Tile(head, words, "Of training rows, whose own noise stays in it. Quiet training need not make good samples.", came)


def _shown(run: History) -> Shown | None:
    if run.distances():
        below = " The dashed line is the floor." if floor(run) is not None else ""
        words = f"{run.measure} of samples to the data over training, by steps of the sampler. Lower is better.{below}"
        return Shown(words, name="distances")
    return Shown("Mean squared residual over training. It ends at the noise of the data, not at 0.", name="residuals")


def _steps(run: History) -> Iterator[Step]:
    name = shlex.quote(str(run.folder))
    if _failed(run):
        yield Step("Look at the residual and the gradient's norm before the break, and lower the learning rate.")
    if not run.finished:
        yield Step("Let it go on where it stopped.", f"meanstep train --out {name}")
    if _left(run) and run.best is not None:
        yield Step(f"Use the checkpoint at {run.best['seen']:,} samples seen: it was kept.")
    if run.of("train"):
        yield Step("Look at its samples.", f"meanstep sample {name}")
        yield Step("Measure distances with intervals, and their floor.", f"meanstep evaluate {name}")
        yield Step("See where the noise of its training signal is.", f"meanstep diagnose {name}")
