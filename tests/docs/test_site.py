"""The site is built without a warning, asks no other host for anything, and its reference has every public name and every option."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from meanstep.program.commands import COMMANDS
from meanstep.program.parsing import flags

from .pages import PAGES, ROOT

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """What a built page loads, where it leads, the anchors it has, and the words that a reader sees outside code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])
        if LOADED.get(tag) in given and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def tools() -> Iterator[ModuleType]:
    """docs/site/build.py."""
    for name in ("zensical", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(name, reason="the site needs the extra docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "site"))
        import build

        yield build


@pytest.fixture(scope="module")
def site(tools: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Page]]:
    """The text of every page of the site, and what is on it."""
    first: Path = tools.build(tmp_path_factory.mktemp("site"))
    found = {path.relative_to(first.parent).as_posix(): path.read_text(encoding="utf-8") for path in first.parent.rglob("*.html")}
    return {name: (text, Page(text)) for name, text in found.items()} | {"": (str(first.parent), Page(""))}


def test_every_page_of_the_repository_is_there(site: dict[str, tuple[str, Page]]):
    for path in PAGES:
        name = path.relative_to(ROOT).as_posix()
        assert name.replace("README.md", "index.html").replace(".md", ".html") in site
    assert "reference/probes.html" in site


def test_nothing_is_asked_of_another_host(site: dict[str, tuple[str, Page]]):
    folder = Path(site[""][0])
    for name, (_, page) in site.items():
        assert [url for url in page.loads if re.match(r"(https?:)?//", url)] == [], name
    for path in folder.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']*", path.read_text(encoding="utf-8")) == [], path.name


def test_every_link_and_file_is_on_the_site(site: dict[str, tuple[str, Page]]):
    """Also those that no source has: of the reference, and from a docstring to an equation."""
    folder, broken, seen = Path(site[""][0]), [], 0
    for name, (_, page) in site.items():
        if name in ("", "404.html"):
            continue
        for url in [*page.leads, *page.loads]:
            if re.match(r"[a-z]+:", url) or url in ("", "#"):
                continue
            file, _, anchor = unquote(url).partition("#")
            place = ((folder / name).parent / file).resolve() if file else folder / name
            place = place / "index.html" if place.is_dir() else place
            target = site.get(place.relative_to(folder.resolve() if file else folder).as_posix())
            seen += 1
            if not place.is_file() or (anchor and target and anchor not in target[1].anchors and not anchor.startswith("__")):
                broken.append((name, url))
    assert seen > 2000 and broken == []


def test_every_public_name_is_in_the_reference(site: dict[str, tuple[str, Page]], tools: ModuleType):
    from reference import places

    for module, names in places().items():
        missing = [name for name in names if name not in site[f"reference/{module}.html"][1].anchors]
        assert missing == [], module
    names = {name for names in places().values() for name in names}
    assert (
        len(names) > 150 and {"meanstep.Loss", "meanstep.rates.Exact", "meanstep.paths.linear", "meanstep.probes.maps.noise_map"} <= names
    )


def test_a_name_of_the_reference_has_its_arguments_and_its_source(site: dict[str, tuple[str, Page]]):
    text = re.sub(r"<[^>]+>", "", site["reference/metrics.html"][0])
    start = text.index("def energy_distance") if "def energy_distance" in text else text.index("energy_distance")
    assert "2 * _mean_distance(x, y, n * m)" in text[start:], "the source"
    text = unescape(re.sub(r"<[^>]+>", "", site["reference/rates.html"][0]))
    assert re.search(r"Exact\(\s*through: Coefficient = 0\.0,\s*way: Way = automatic", text), "the arguments of a dataclass"


def test_every_command_and_option_is_in_the_reference(site: dict[str, tuple[str, Page]]):
    text, page = site["reference/commands.html"]
    for name, command in COMMANDS.items():
        assert f"meanstep-{name.replace(' ', '-')}" in page.anchors
        for flag in flags(command.load()):
            assert all(f"<code>{spelled}</code>" in text for spelled in flag.names), (name, flag.names)


def test_formulas_are_drawn_and_numbered(site: dict[str, tuple[str, Page]]):
    text, page = site["docs/theory.html"]
    tags = re.findall(r"\\tag\{(\w+)\}", (ROOT / "docs" / "theory.md").read_text(encoding="utf-8"))
    assert len(tags) > 50 and {f"eq-{tag}" for tag in tags} <= page.anchors
    body = re.sub(r"<(script|code)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert text.count("<math") > 300 and "$" not in body and "\\frac" not in body
    assert "\N{MATHEMATICAL DOUBLE-STRUCK CAPITAL E}" in body and "\N{MATHEMATICAL SCRIPT CAPITAL N}" in body
    assert set(re.findall(r"mathvariant=\"([^\"]*)\"", body)) <= {"normal"}
    assert '<a href="../docs/theory.html#eq-10">(10)</a>' in site["reference/rates.html"][0]


@pytest.mark.browser
def test_a_reader_sees_it_whole_and_finds_a_name(site: dict[str, tuple[str, Page]]):
    """Opened as files, wide and narrow, light and dark: no error, no request, nothing wider than the window; the search works."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'meanstep[dev]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium: install the system's package chromium")
    folder, wrong = Path(site[""][0]), list[str]()
    with sync_api.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, scheme in ((1300, "light"), (400, "dark")):
            page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith(("http", "ws")) else None)
            for name in ("index", "docs/theory", "docs/tutorial", "reference/probes", "reference/commands", "studies/plane/index"):
                page.goto((folder / f"{name}.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (name, width)
                light = page.evaluate("getComputedStyle(document.body).getPropertyValue('--md-default-bg-color')")
                assert ("#fff" in light or "255" in light or "100%" in light) == (scheme == "light"), (name, scheme, light)
        page.set_viewport_size({"width": 1300, "height": 900})
        page.get_by_role("button", name="Search").first.click()
        page.get_by_role("combobox", name="Search").fill("energy_distance")
        found = page.get_by_role("option").first
        found.wait_for(timeout=60_000)
        assert str(found.get_attribute("href")).partition("?")[0].endswith("reference/metrics.html")
        browser.close()
    assert wrong == []


# The tools themselves ----------------------------------------------------------------------------------------------------------------


def test_formulas_in_code_stay(tools: ModuleType):
    from mathematics import drawn, linked

    text = "`$x$` and $y$ cost $5\n\n```sh\necho $HOME $PATH\n```\n\n- $$ a \\tag{3b} $$\n"
    found = drawn(text)
    assert "`$x$`" in found and "echo $HOME $PATH" in found and "cost $5" in found
    assert found.count("<math") == 2 and '<div class="equation" id="eq-3b">' in found and "(3b)" in found
    assert linked("eqs. (4) and (5b); eq. 7, (8)", "t.html").count('<a href="t.html#eq-') == 2


def test_a_fault_of_a_page_stops_the_build(tools: ModuleType, tmp_path: Path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "README.md").write_text("# A\n\n[b](b.md) [c](#c)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: a\ndocs_dir: pages\nsite_dir: html\n")
    with pytest.raises(SystemExit) as stop:
        tools.rendered(tmp_path)
    assert "README.md:3:5: page does not exist" in str(stop.value) and "README.md:3:16: anchor does not exist" in str(stop.value)


def test_a_page_without_a_place_stops_the_build(tools: ModuleType):
    from reference import pages as read

    pages = [*dict(read()), *(path.relative_to(ROOT).as_posix() for path in PAGES)]
    assert len({page for page, _ in tools.named(tools.configuration(pages)["nav"])}) == len(pages) > 40
    with pytest.raises(SystemExit, match=r"no way leads to docs/forgotten\.md"):
        tools.configuration([*pages, "docs/forgotten.md"])


def test_make_docs_builds_it():
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}  # of make test
    asked = ["make", "-n", "docs", "VENV=elsewhere"]
    done = subprocess.run(asked, cwd=ROOT, env=outer, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ['sh .ci/environment "elsewhere" docs', '"elsewhere/bin/python" docs/site/build.py build/site']
