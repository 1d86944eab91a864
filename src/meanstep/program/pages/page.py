"""From a template and PNG bytes to one page that works offline. Knows nothing of what is reported."""

import base64
import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meanstep.program.console import UserError
from meanstep.program.disk import clean, made, remove, write
from meanstep.program.disk import folder as subfolder

if TYPE_CHECKING:
    import jinja2

SHARED, TEMPLATE, NAME = ("form.html.j2", "base.html.j2", "parts.html.j2", "claims.html.j2"), "report.html.j2", "report.html"


def require() -> None:
    """`UserError` that names the extra if what draws the report is not installed; the rest of the program does without it."""
    for name in ("matplotlib", "jinja2"):
        if find_spec(name) is None:
            raise UserError(f"the report needs {name}: pip install 'meanstep[report]'")


def rendered(
    package: str,
    content: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
    further: Mapping[str, Iterable[str]] | None = None,
) -> str:
    """The page of the template `report.html.j2` in a package, which extends the form here, or one of the `further` ones, by package.

    Without a package it is the form itself.
    """
    places = (
        *([(package, TEMPLATE)] if package else []),
        *((here, name) for here, names in ({__package__ or "": SHARED} | dict(further or {})).items() for name in names),
    )
    return _template(places, tuple((filters or {}).items())).render(content)


@lru_cache(8)  # to compile them takes longer than to fill them
def _template(places: tuple[tuple[str, str], ...], filters: tuple[tuple[str, Callable[..., Any]], ...]) -> "jinja2.Template":
    """The first of the templates, each by package and name, with the others to extend and include."""
    import jinja2

    loader = jinja2.DictLoader({name: _source(here, name) for here, name in places})
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= dict(filters)
    return environment.get_template(places[0][1])


def published(page: str, folder: Path) -> Path:
    """Write the page into a folder, made if need be, and return its path. `UserError` if it cannot be written."""
    made(folder)
    clean(folder, [NAME])
    write(folder / NAME, page)
    return folder / NAME


def kept(folder: Path, names: Iterable[str], images: Mapping[str, bytes]) -> None:
    """Write figures into a folder as NAME.png; those of an earlier report that there are no data for any more go."""
    subfolder(folder)
    for name in names:
        path = folder / f"{name}.png"
        if name in images:
            write(path, images[name])
        else:
            remove(path)


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Whatever a nested value tells, a name and words each."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{name} {key}".strip())
    elif isinstance(value, list):
        yield name.replace("_", " "), ", ".join(map(str, value))
    elif value is not None:
        yield name.replace("_", " "), "yes" if value is True else "no" if value is False else str(value)


def as_csv(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV, numbers to the last digit."""
    held = io.StringIO()
    writer = csv.DictWriter(held, [*columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: repr(x) if isinstance(x, float) else x for name, x in row.items()} for row in rows)
    return held.getvalue()


def embedded(data: bytes, kind: str = "png", of: str = "image") -> str:
    """An image, or what else a page shows by itself, in a URL."""
    return f"data:{of}/{kind};base64,{base64.b64encode(data).decode()}"


def _source(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text(encoding="utf-8")
