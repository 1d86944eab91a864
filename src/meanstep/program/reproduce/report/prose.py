"""What every report says in words, from the numbers. Knows no figures and no page."""

from collections.abc import Sequence

from meanstep.program.pages import form
from meanstep.program.pages.page import flat
from meanstep.program.pages.statistics import Change
from meanstep.program.pages.verdicts import FAILS, HOLDS, OPEN, Claim, diverged
from meanstep.program.reproduce.report.results import Results


def counted(claims: Sequence[Claim]) -> form.Tile:
    """How many claims hold."""
    held, failed, left = _counts(claims)
    if not held + failed:
        head = "Claims: none is decided" if claims else "Claims: none is stated"
        return form.Tile(head, "The details list each claim with the test that was stated for it.", "Nothing follows from this study.")
    words = f"{failed} {'does' if failed == 1 else 'do'} not hold, and {left} cannot be told from this study."
    return form.Tile(f"Claims: {held} of {len(claims)} hold", words, "Each by a test that was stated before.", form.KNOWN)


def _counts(claims: Sequence[Claim]) -> tuple[int, int, int]:
    held, failed, left = (sum(claim.verdict == verdict for claim in claims) for verdict in (HOLDS, FAILS, OPEN))
    return held, failed, left


def answer(results: Results, claims: Sequence[Claim]) -> form.Answer:
    """Of a study of any kind: what became of its claims."""
    held, failed, left = _counts(claims)
    title = f"Of {len(claims)} claims {held} hold, {failed} do not, and {left} cannot be told."
    if not results.runs:
        title = "Nothing has been measured yet."
    elif not held + failed:
        title = "This study decides none of its claims."
    about = (f"{len(results.runs)} units have records, of {seeds_of(results)}.",)
    broken = len(results.failed)
    tiles = (
        counted(claims),
        form.Tile("Units broke off" if broken else "No unit broke off", f"{broken} of those that were begun.", "Counted."),
        form.Tile("Repetitions", f"Every unit was made with up to {seeds_of(results)}.", "Below two there is no interval."),
    )
    return form.Answer(title, about, tiles, again(results, "Add seeds where a claim is left open."), kind(results))


def kind(results: Results) -> str:
    """What made the page."""
    return f"meanstep reproduce {results.about['study']}"


def seeds_of(results: Results) -> str:
    """Their number in words."""
    n = len(results.seeds)
    return f"{n} {'seed' if n == 1 else 'seeds'}"


def again(results: Results, *words: str) -> tuple[form.Step, ...]:
    """What to do next: `words`, the last with the command that goes on with the study."""
    known = command(results)
    *first, last = words
    return (*map(form.Step, first), form.Step(last, known[0] if known else ""))


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
    return [(name, ", ".join(values)) for name, values in _environments(results).items()]


def mixed(results: Results) -> list[str]:
    """That not all was made by one version on one machine."""
    several = [f"{name} {', '.join(values)}" for name, values in _environments(results).items() if len(values) > 1]
    return [f"Not all of it was made by one version on one machine: {some(several, 3)}."] if several else []


def _environments(results: Results) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for name, value in (pair for each in results.environments for pair in flat(each)):
        if name != "command" and value:
            found.setdefault(name, {})[value] = None
    return {name: [*values] for name, values in found.items()}


def command(results: Results) -> list[str]:
    """What was typed."""
    return [str(each["command"]) for each in results.environments[:1] if "command" in each]


def aside(change: Change) -> list[str]:
    """What beside its interval decides a ratio: a sentence on what diverged, if anything did."""
    return [f"{said[0].upper()}{said[1:]}."] if (said := diverged(change)) else []


def percent(ratio: float, places: int = 0) -> str:
    """A ratio as a change, such as +9%, with a true minus sign."""
    return f"{100 * (ratio - 1):+.{places}f}%".replace("-", "\u2212")


def some(words: Sequence[str], most: int = 4) -> str:
    """The first of many."""
    return ", ".join(words[:most]) + (" and others" if len(words) > most else "")
