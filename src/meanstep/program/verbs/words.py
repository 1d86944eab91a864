"""Options as keywords: a command line's `--data.flips` is `data_flips` here, in calls and in complaints. Knows no command."""

import dataclasses
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from meanstep.program.console import Interrupted, UserError, silence

T = TypeVar("T")
FLAG = re.compile(r"--([a-z][\w-]*(?:\.[\w-]+)*)")


@contextmanager
def spoken(progress: bool, keywords: Collection[str], instead: Mapping[str, str] | None = None) -> Iterator[None]:
    """Within it this thread is silent unless `progress`, and a `UserError` names keywords where the command line has options.

    `instead`: keywords that have another name than their option. Ctrl-C is a `KeyboardInterrupt`, with what to do next.
    """
    try:
        with silence(not progress):
            yield
    except Interrupted as stop:
        raise KeyboardInterrupt(str(stop)) from None
    except UserError as error:
        error.args = (reworded(str(error), keywords, instead or {}),)
        raise


def reworded(text: str, keywords: Collection[str], instead: Mapping[str, str]) -> str:
    """The text with options as keywords, those that there are."""

    def word(found: re.Match[str]) -> str:
        name = keyword(found[1])
        return instead.get(name, name) if name in keywords or name in instead else found[0]

    return FLAG.sub(word, text)


def keyword(flag: str) -> str:
    """`data.flips` and `adam-betas` as names of arguments."""
    return flag.replace(".", "_").replace("-", "_")


def known(names: Collection[str], there: Collection[str], what: str) -> None:
    """`UserError` for the first keyword that there is not, with the nearest one."""
    for name in names:
        if name not in there:
            own = [other for other in there if other.endswith(f"_{name}")]
            near = own[:1] or difflib.get_close_matches(name, there, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(there))}"
            raise UserError(f"{what} has no option {name!r}: {hint}")


def plain(value: Any) -> Any:
    """A value as a file could hold it: numbers of NumPy and torch as Python's, paths as text, through lists and dicts."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(part) for part in value) if not hasattr(value, "_fields") else tuple(plain(part) for part in value)
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def options(kind: type[T], what: str, fixed: Mapping[str, Any], given: Mapping[str, Any]) -> T:
    """A command's dataclass from keywords; one value stands for several. `fixed`: fields that are no options."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known(given, offered(kind, fixed), what)
    values = {name: plain(value) for name, value in given.items()}
    for name, value in values.items():
        default = fields[name].default
        if isinstance(default, tuple) and not isinstance(value, tuple):
            values[name] = tuple(value) if isinstance(value, list | range) else (value,)
        elif "Path" in str(fields[name].type) and isinstance(value, str):
            values[name] = Path(value)
    return kind(**fixed, **values)


def offered(kind: Any, fixed: Collection[str] = ()) -> list[str]:
    """The keywords of a command: its fields but those of the terminal, and the `fixed`."""
    return [f.name for f in dataclasses.fields(kind) if f.name not in ("json", *fixed)]
