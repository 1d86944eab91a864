"""The one form of every page: the answer as its title, three tiles, the figure that shows it, what to do; the rest is folded away.

Knows no subject. A page is an `Answer` and, where it has more to show, a template `report.html.j2` that extends `form.html.j2`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meanstep.program.pages import glossary, page
from meanstep.program.pages.charts import Chart, library
from meanstep.program.pages.forest import Forest

BETTER, WORSE, KNOWN, OPEN = "better", "worse", "known", "open"
"""What a tile says: something is better, or worse; something is known that is neither; nothing is decided, so that it is grey."""
PART = re.compile(r'<details class="part" id="([\w-]+)"><summary><h2>(.*?)</h2>')


@dataclass(frozen=True)
class Tile:
    """One finding that can be read alone.

    `head`: it in a few words; `words`: what was compared, a distance beside its floor; `sure`: how sure that is; `state`: as above.
    A head that decides nothing has no number: ValueError.
    """

    head: str
    words: str
    sure: str
    state: str = OPEN

    def __post_init__(self) -> None:
        if self.state == OPEN and re.search(r"\d", self.head):
            raise ValueError(f"nothing is decided, so no number is large: {self.head!r}")


@dataclass(frozen=True)
class Step:
    """What to do next: a sentence, and the command that does it, if one does."""

    words: str
    command: str = ""


@dataclass(frozen=True)
class Shown:
    """The one figure: the name of a drawn one, or rows of intervals; `words` say how to read it."""

    words: str
    name: str = ""
    rows: Forest | None = None


@dataclass(frozen=True)
class Answer:
    """What a page says before its details.

    `title`: the answer in one sentence; `about`: what was compared, so that nothing is named before it is introduced; `tiles`: three;
    `steps`: what to do; `shown`: the figure; `notes`: what a reader must know first; `kind`: what made the page; `tab`: of the browser.
    """

    title: str
    about: tuple[str, ...]
    tiles: tuple[Tile, Tile, Tile]
    steps: tuple[Step, ...]
    kind: str
    shown: Shown | None = None
    notes: tuple[str, ...] = ()
    tab: str = ""

    @property
    def spoken(self) -> list[str]:
        """The same in the terminal, a line each."""
        return [self.title, *(f"{tile.head}: {tile.words} ({tile.sure.rstrip('.')})" for tile in self.tiles), *self.notes]


@dataclass(frozen=True)
class Drawn:
    """A figure of a page: PNG bytes at twice the size it is shown at, and its curves where it is one of curves."""

    image: bytes
    chart: Chart | None = None

    @property
    def url(self) -> str:
        """The image in a URL."""
        return page.embedded(self.image)

    @property
    def width(self) -> int:
        """Pixels to show it at."""
        return int.from_bytes(self.image[16:20], "big") // 2


def drawn(figures: Mapping[str, Callable[[], Any]]) -> dict[str, Drawn]:
    """Every figure that there are data for, drawn in our style; a function returns a matplotlib figure, or None."""
    from meanstep.program.pages import curves, look

    found = {}
    for name, draw in figures.items():
        with look.drawing():
            if (figure := draw()) is not None:
                found[name] = Drawn(look.png(figure), curves.of(figure))
    return found


@dataclass(frozen=True)
class Details:
    """What is folded away. `content`: what the package's template needs; `package`: none for a page of the answer alone."""

    package: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    drawn: Mapping[str, Drawn] = field(default_factory=dict)
    filters: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    further: Mapping[str, Iterable[str]] = field(default_factory=dict)


def rendered(answer: Answer, details: Details = Details(), tidy: Callable[[str], str] = str) -> str:
    """The page. `tidy` sets its prose; terms are linked to the glossary, which holds those that the page uses."""
    charts = any(each.chart for each in details.drawn.values())
    own = {"answer": answer, "drawn": details.drawn, "library": library() if charts else None}
    text = tidy(page.rendered(details.package, {**details.content, **own}, details.filters, details.further))
    text, used = glossary.linked(text)
    parts = "".join(f'<a href="#{id}">{re.sub("<[^>]*>", "", title)}</a>' for id, title in PART.findall(text))
    return text.replace("<!--contents-->", parts).replace("<!--glossary-->", glossary.listed(used))
