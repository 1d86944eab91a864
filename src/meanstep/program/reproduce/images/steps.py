"""Steps after a study of arms: its own commands, with an option replaced. Knows no answer and no page."""

from collections.abc import Callable

from meanstep.program import flags
from meanstep.program.pages.form import Step
from meanstep.program.reproduce.images.rerun import commands
from meanstep.program.reproduce.images.results import Results
from meanstep.program.reproduce.report.commands import beside, put, seeded, value

MORE, TIMES = 3, 4
"""So many seeds are added; so many times longer a training is that did not come near the data."""


def again(results: Results, words: str = "Make the study again, or go on with it, by its own command.") -> tuple[Step, ...]:
    """As it was asked for, in its own folder."""
    return _each(results, words, lambda command: command)


def seeds(results: Results, words: str) -> tuple[Step, ...]:
    """With seeds that it has not, in its own folder."""
    return _each(results, words, lambda command: seeded(command, flags.seeds(value(command, "--seeds")), MORE))


def longer(results: Results, words: str) -> tuple[Step, ...]:
    """With more samples of training, in another folder, as the settings are others."""
    here = beside(results.folder, "longer")

    def made(command: str) -> str:
        return put(put(command, "--samples", TIMES * max(results.moments, default=1)), "--out", here)

    return _each(results, words, made, own=True)


def _each(results: Results, words: str, made: Callable[[str], str], *, own: bool = False) -> tuple[Step, ...]:
    """A step for each command: arms with other seeds have their own. A folder knows its arms, so that it needs no file of them."""
    held = [put(each, "--out", results.folder) for each in commands(results)]
    known = held if own else [put(each, "--arms-file") for each in held]
    first, *rest = (made(each) for each in known) if known else [""]
    return (Step(words, first), *(Step("The same for arms with other seeds.", each) for each in rest))
