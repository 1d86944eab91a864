"""What a reader of a run must know of its method, written into its folder: reading a run imports nobody's code.

method.json: {"recipe", "learns": "average" or "instantaneous", "path", "coupling", "dropout", "numbers", "rows", "scales"}
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meanstep.program.disk import write
from meanstep.program.errors import UserError, shown
from meanstep.program.registry import AVERAGE, INDEPENDENT, INSTANTANEOUS, METHODS, SAMPLERS, Method, find
from meanstep.program.runs.config import Config
from meanstep.program.runs.integrity import read
from meanstep.program.runs.saved import held

NAME = "method.json"
AGAIN = "remove it and train the run a step further, which writes it again"
LEARNS = (AVERAGE, INSTANTANEOUS)
INSTANT = "instant"
ROWS = ("", "all", INSTANT)


@dataclass(frozen=True)
class Facts:
    """`recipe`: its name; `learns`: the velocity that the field knows, and so which samplers read it; `path`, `coupling`: their names.

    `dropout`: the share of rows whose labels and categories were hidden, and with `numbers` all other conditions, too; `rows`: which rows
    these were, "all" or "instant" (`r = t` alone), and empty for a run that does not say. `scales`: the smallest and the largest guidance
    scale that it was trained on where the network takes that as an input; empty where it does not.
    """

    recipe: str
    learns: str
    path: str = "linear"
    coupling: str = INDEPENDENT
    dropout: float = 0.1
    numbers: bool = False
    rows: str = ""
    scales: tuple[float, ...] = ()

    def refused(self, scale: float, classes: Collection[str], given: dict[str, int | list[int]]) -> str:
        """Why samples cannot be drawn at a guidance scale; empty if they can."""
        if not self.scales:
            return self.unguided(classes, given) if scale != 1 else ""
        if self.scales[0] <= scale <= self.scales[1]:
            return ""
        what = f"this network takes the scale as an input and was trained at scales from {self.scales[0]:g} to {self.scales[1]:g}"
        return f"{what}, and {scale:g} is none of them: choose one that is"

    def unguided(self, classes: Collection[str], given: dict[str, int | list[int]]) -> str:
        """Why samples of a network with these labels, or `given` conditions, cannot be guided; empty if they can."""
        if not classes and not given:
            return "this model was trained without labels, there is nothing to guide it by; leave it at 1"
        if not self.dropout:
            what = f"the recipe {self.recipe} hid no condition in training, so that the network does not know an empty one"
            return f"{what}: leave it at 1, or train with a recipe that takes a velocity and --method.dropout 0.1"
        if not self.numbers and not classes and not any(isinstance(size, int) for size in given.values()):
            return "numbers are hidden in training only with --method.hide-numbers, and were not: leave it at 1, or train with it"
        return ""

    def untaught(self, sampler: str) -> str:
        """What samples by this sampler ask of a guided network that it was never taught; empty if that is nothing, or unknown."""
        reads = SAMPLERS[sampler].facts["reads"] if sampler in SAMPLERS else AVERAGE
        if self.rows != INSTANT or not self.dropout or self.scales or reads != AVERAGE:
            return ""
        return (
            f"the field without a condition was never trained where r < t (--method.dropout-rows {INSTANT}), and {sampler} jumps by it: leave "
            "guidance at 1 and guide the training target by --method.omega, train with --method.dropout-rows all, or take --sampler euler"
        )


def keep(run: Path, config: Config, learns: str) -> None:
    """Write them into a run's folder."""
    method = config.method
    hidden = _hidden(find(method.recipe), method.dropout)
    facts = Facts(method.recipe, learns, method.path, method.coupling, hidden, method.hide_numbers, method.dropout_rows, method.scales)
    write(run / NAME, stated(facts))


def stated(facts: Facts) -> str:
    """What method.json holds."""
    return json.dumps(asdict(facts), indent=1) + "\n"


def _hidden(method: Method, dropout: float) -> float:
    """The share of rows whose condition a recipe hides: those of others hide nothing."""
    return dropout if "velocity" in method.options else 0.0


def known(run: Path) -> Facts:
    """Those of a run's folder; of a run from before they were written, those of its recipe. `UserError` for a damaged file."""
    path = run / NAME
    if path.is_file():
        try:
            told = read(path, AGAIN)
            scales = {"scales": tuple(told["scales"])} if "scales" in told else {}
            earlier = {} if "dropout" in told else {"dropout": _earlier(run, told.get("recipe"))}
            found = Facts(**(earlier | told | scales))
            if found.learns not in LEARNS or not _typed(found):
                raise TypeError(f"{shown(found)} is no method")
            return found
        except TypeError as error:
            raise UserError(f"{path} is damaged: {error}; {AGAIN}") from None
    config = held(run)
    recipe = config.method.recipe if config else "meanflow"
    if recipe not in METHODS:
        raise UserError(f"{run} does not say what its recipe {recipe} learns: {path.name} is missing; train it a step further")
    return Facts(recipe, METHODS[recipe].learns, dropout=_earlier(run, recipe))


def _typed(found: Facts) -> bool:
    words = all(isinstance(word, str) for word in (found.recipe, found.path, found.coupling))
    scales = len(found.scales) in (0, 2) and all(isinstance(scale, int | float) for scale in found.scales)
    return words and isinstance(found.dropout, int | float) and isinstance(found.numbers, bool) and found.rows in ROWS and scales


def _earlier(run: Path, recipe: Any) -> float:
    """What a run hid that does not say so, by its configuration; one of somebody's own recipe is taken at its word."""
    config = held(run)
    dropout = config.method.dropout if config else Facts.dropout
    return _hidden(METHODS[recipe], dropout) if recipe in METHODS else dropout
