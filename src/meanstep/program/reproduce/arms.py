"""Words for arms and coefficients, as every workload's command takes them."""

import difflib
from collections.abc import Iterable, Sequence

from meanstep.program.console import UserError


def coefficients(words: Iterable[float | str], where: str = "--betas") -> list[float]:
    """The values as numbers in [0, 1], sorted and each once; `UserError` names the first that is not one."""
    found = set()
    for word in [part for some in words for part in str(some).split(",")]:
        try:
            beta = float(word)
        except ValueError:
            raise UserError(f"{where}: {word!r} is not a number: give coefficients in [0, 1], such as 0 0.5 1") from None
        if not 0 <= beta <= 1:
            raise UserError(f"{where}: a coefficient lies in [0, 1], got {beta:g}")
        found.add(beta + 0.0)
    return sorted(found)


def unknown(name: str, swept: Sequence[str], others: Sequence[str], suffix: str = "") -> UserError:
    """The mistake that there is no such arm: the nearest one, and all there are; `swept` ones are named with a `suffix`."""
    near = difflib.get_close_matches(name, [*swept, *others], 1)
    hint = f"did you mean {near[0]}{suffix if near[0] in swept else ''}? There are" if near else "there are"
    listed = ", ".join([*(f"{arm}{suffix}" for arm in swept), *others])
    return UserError(f"--arms: there is no arm {name!r}; {hint} {listed}")
