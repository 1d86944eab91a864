"""How to make a sweep again: its command, from what its folder holds. Knows no figures and no page."""

import shlex

from meanstep.program.reproduce.points import KIND
from meanstep.program.reproduce.points.results import Results

COMMAND = ("sets", "betas", "seeds", "arms", "steps", "points", "protocol", "largest_gap", "centres")


def commands(results: Results) -> list[str]:
    """The command that makes this sweep."""
    known = [each["command"] for each in results.environments if isinstance(each.get("command"), str)]
    if known:
        return known
    words = ["meanstep", "reproduce", results.about["study"]]
    for key in COMMAND:
        value = results.settings.get(key)
        value = [x for x in value if x != "points"] if key == "sets" and value else value
        if value not in (None, []):
            listed = value if isinstance(value, list) else [value]
            words += [KIND.option(key), *(shlex.quote(f"{x:g}" if isinstance(x, float) else str(x)) for x in listed)]
    return [" ".join(words)]
