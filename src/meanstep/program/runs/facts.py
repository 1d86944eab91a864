"""What a reader of a run must know of its method, written into its folder: reading a run imports nobody's code.

method.json: {"recipe", "learns": "average" or "instantaneous", "path", "coupling"}
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from meanstep.program.disk import write
from meanstep.program.errors import UserError, shown
from meanstep.program.registry import AVERAGE, INDEPENDENT, INSTANTANEOUS, METHODS
from meanstep.program.runs.config import Config
from meanstep.program.runs.integrity import read
from meanstep.program.runs.saved import held

NAME = "method.json"
AGAIN = "remove it and train the run a step further, which writes it again"
LEARNS = (AVERAGE, INSTANTANEOUS)


@dataclass(frozen=True)
class Facts:
    """`recipe`: its name; `learns`: the velocity that the field knows, and so which samplers read it; `path`, `coupling`: their names."""

    recipe: str
    learns: str
    path: str = "linear"
    coupling: str = INDEPENDENT


def keep(run: Path, config: Config, learns: str) -> None:
    """Write them into a run's folder."""
    facts = Facts(config.method.recipe, learns, config.method.path, config.method.coupling)
    write(run / NAME, json.dumps(asdict(facts), indent=1) + "\n")


def known(run: Path) -> Facts:
    """Those of a run's folder; of a run from before they were written, those of its recipe. `UserError` for a damaged file."""
    path = run / NAME
    if path.is_file():
        try:
            found = Facts(**read(path, AGAIN))
            if found.learns not in LEARNS or not isinstance(found.recipe, str) or not isinstance(found.path, str) or not isinstance(found.coupling, str):
                raise TypeError(f"{shown(found)} is no method")
            return found
        except TypeError as error:
            raise UserError(f"{path} is damaged: {error}; {AGAIN}") from None
    config = held(run)
    recipe = config.method.recipe if config else "meanflow"
    if recipe not in METHODS:
        raise UserError(f"{run} does not say what its recipe {recipe} learns: {path.name} is missing; train it a step further")
    return Facts(recipe, METHODS[recipe].learns)
