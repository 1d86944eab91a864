"""What every report says in words, from the numbers. Knows no figures and no page."""

from collections.abc import Sequence

from meanstep.program.pages.page import flat
from meanstep.program.pages.verdicts import FAILS, HOLDS, OPEN, Claim
from meanstep.program.reproduce.report.results import Results

Tile = tuple[str, str, str]
"""A number that matters, what it is, how sure."""


def counted(claims: Sequence[Claim]) -> Tile:
    """How many claims hold."""
    held, failed, left = (sum(claim.verdict == verdict for claim in claims) for verdict in (HOLDS, FAILS, OPEN))
    return f"{held} of {len(claims)}", "claims hold", f"{failed} do not, {left} cannot be told from this study"


def alone(results: Results) -> list[str]:
    """That nothing can be told from one seed."""
    return ["There is one seed, so there are no intervals and no tests."] if len(results.seeds) == 1 else []


def gaps(results: Results) -> list[str]:
    """What is missing in any study, so that nobody takes it for measured."""
    return alone(results) if results.runs else ["Nothing has been measured yet."]


def settings(results: Results) -> list[tuple[str, ...]]:
    """What was asked for, name and value."""
    return [*flat(results.settings)]


def environment(results: Results) -> list[tuple[str, str]]:
    """Whatever the env.json tell, flat; what differs between runs is all there."""
    found: dict[str, dict[str, None]] = {}
    for name, value in (pair for each in results.environments for pair in flat(each)):
        if name != "command" and value:
            found.setdefault(name, {})[value] = None
    return [(name, ", ".join(values)) for name, values in found.items()]


def command(results: Results) -> list[str]:
    """What was typed."""
    return [str(each["command"]) for each in results.environments[:1] if "command" in each]


def percent(ratio: float, places: int = 0) -> str:
    """A ratio as a change, such as +9%, with a true minus sign."""
    return f"{100 * (ratio - 1):+.{places}f}%".replace("-", "\u2212")


def some(words: Sequence[str], most: int = 4) -> str:
    """The first of many."""
    return ", ".join(words[:most]) + (" and others" if len(words) > most else "")
