"""From a run's folder to one page that works offline: a function of what the folder holds. Knows no networks and trains nothing."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meanstep.program.errors import UserError, first_line
from meanstep.program.inside import inside
from meanstep.program.pages import form, page
from meanstep.program.reading import files
from meanstep.program.reading.images import picture
from meanstep.program.runs.report import prose
from meanstep.program.runs.report.answer import answer, floor
from meanstep.program.runs.report.history import History, read

MOST, LARGE, SIDE, SOUNDS = 16, 300_000, 1024, 4_000_000
TRY = "try/index.html"
"""Where `meanstep export --to web` may put a page for the report to link to."""
"""At most MOST pictures; one of more than LARGE bytes is made smaller, to SIDE pixels.

At most SOUNDS characters of sound, beside that of the data.
"""


def build(folder: Path) -> Path:
    """Write report.html into the run's folder and return its path.

    `UserError` if matplotlib or jinja2 is missing, or if a file of the run is missing, damaged or cannot be written.
    """
    page.require()
    from meanstep.program.runs.report.figures import FIGURES

    run = read(folder)
    drawn = form.drawn({name: partial(draw, run) for name, draw in FIGURES.items()})
    pictures, lost = _pictures(run)
    notes = prose.gaps(run) + ([f"Pictures of the records that are not there any more: {lost}."] if lost else [])
    details = form.Details(__package__ or "", _content(run, pictures), drawn)
    return page.published(form.rendered(answer(run, tuple(notes)), details), folder)


def wanted(folder: Path) -> str:
    """Write the report beside a run if it can be, and say in one line what became of it."""
    try:
        return f"report: {build(folder)}"
    except UserError as error:
        return f"no report.html: {error}"
    except Exception as error:  # what is drawn must never end a training
        return f"no report.html: {first_line(error)}; `meanstep report {folder}` tries again"


def _content(run: History, pictures: list[dict[str, Any]]) -> dict[str, Any]:
    sounds, data = _sounds(run, [picture["seen"] for picture in pictures])
    return {
        "run": run,
        "floor": floor(run),
        "page": TRY if inside(run.folder, TRY) else "",
        "pictures": [picture | {"sound": sounds.get(picture["seen"], "")} for picture in pictures],
        "data_sound": data,
        "beside": prose.beside(run),
        "loss": prose.loss(run),
        "tangent": prose.tangent(run),
        "evaluations": prose.evaluations(run),
        "checkpoints": prose.checkpoints(run),
        "settings": prose.settings(run),
        "environment": prose.environment(run),
        "commands": prose.commands(run),
    }


def _pictures(run: History) -> tuple[list[dict[str, Any]], int]:
    """The pictures over time, evenly chosen if they are many, and how many of the records' are not there, or not in the folder."""
    noted = {r["seen"]: inside(run.folder, str(r["file"])) for r in run.of("picture")}
    there = [(seen, path) for seen, path in sorted(noted.items()) if path and path.is_file()]
    chosen = sorted({round(k) for k in np.linspace(0, len(there) - 1, min(MOST, len(there)))}) if there else []
    found = [{"seen": there[k][0], "words": prose.moment(there[k][0], run), "image": _image(there[k][1])} for k in chosen]
    return [picture for picture in found if picture["image"]], len(noted) - len(there)


def _sounds(run: History, seen: list[int]) -> tuple[dict[int, str], str]:
    """Sounds of these moments in URLs, the last ones as many as fit on a page, and that of the data."""
    found, room, data = dict[int, str](), SOUNDS, ""
    for record in reversed(run.of("picture")):
        heard = [_heard(run, str(record[name]), room) if name in record else "" for name in ("sound", "data")]
        data = data or heard[1]
        if record["seen"] in seen and heard[0] and record["seen"] not in found:
            found[record["seen"]] = heard[0]
            room -= len(heard[0])
    return found, data


def _heard(run: History, name: str, room: int) -> str:
    """A .wav in a URL, empty for a file that is none, not in the folder, or too large for the page."""
    path = inside(run.folder, name)
    if path is None or not path.is_file() or path.stat().st_size > room:
        return ""
    try:
        data = files.content(path)
    except UserError:
        return ""
    return page.embedded(data, "wav", "audio") if data[:4] == b"RIFF" and data[8:12] == b"WAVE" else ""


def _image(path: Path) -> str:
    """A picture in a URL, empty for a file that is none."""
    try:
        data = files.content(path)
        with picture(data, str(path)) as image:
            if len(data) <= LARGE:
                return page.embedded(data)
            image.thumbnail((SIDE, SIDE))
            box = io.BytesIO()
            image.convert("RGB").save(box, format="JPEG", quality=88)
    except UserError:
        return ""
    return page.embedded(box.getvalue(), "jpeg")
