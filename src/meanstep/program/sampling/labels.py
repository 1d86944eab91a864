"""Which class a word of the command line means, and how that is said. Knows no networks."""

from collections.abc import Sequence

from meanstep.program.data.request import listed
from meanstep.program.errors import UserError, shown
from meanstep.program.ranges import natural

FIRST = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth")


def position(word: str, classes: Sequence[str]) -> int:
    """The number of the class that is called so, else the class of that number; `UserError` if there is neither."""
    for name in (word, word.strip()):
        if name in classes:
            return list(classes).index(name)
    k = natural(word.strip())
    if k is None or k >= len(classes):
        raise UserError(f"--labels: names, or numbers in 0 to {len(classes) - 1}, got {shown(word)}; there are {listed(classes)}")
    return k


def told(word: str, classes: Sequence[str], shown: Sequence[int]) -> str:
    """Which class was taken for a word: `label 2: class '2' (third of 12)`. `shown`: the classes that have images."""
    k = position(word, classes)
    lacking = "" if k in shown else ", of which the data hold no image"
    return f"label {word.strip()}: class {classes[k]!r} ({_ordinal(k + 1)} of {len(classes)}){lacking}"


def _ordinal(n: int) -> str:
    if n <= len(FIRST):
        return FIRST[n - 1]
    return f"{n}{'th' if n % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}"
