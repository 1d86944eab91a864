"""Every kind of page in a real browser: by day and night, wide and narrow, nothing is asked for, nothing overflows, controls work."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from meanstep.program.pages import look
from meanstep.program.reproduce.paper import page as paper

from .rendered import KINDS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
pytestmark = [pytest.mark.browser, pytest.mark.figures]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, by playwright."""
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed: pip install 'meanstep[dev]'")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install the system's package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def made(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A decided page of each kind, that of the paper's numbers as they are measured now, and a run that broke off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(look, "SCALE", 0.5)
        here = tmp_path_factory.mktemp("pages")
        (here / "paper").mkdir()
        decided = {kind: build(here / kind, "decided") for kind, build in KINDS.items()}
        return decided | {"paper": paper.build(here / "paper"), "failed": KINDS["run"](here / "failed", "failed")}


def opened(browser: Any, path: Path, width: int, scheme: str, **settings: Any) -> tuple[Any, list[str], list[str]]:
    """The page, what it asked for beside itself, and what it complained of."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **settings).new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri())
    return page, asked, wrong


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 400])
@pytest.mark.parametrize("kind", [*KINDS, "paper", "failed"])
def test_a_page_fits_asks_for_nothing_and_says_its_answer_soon(kind: str, width: int, scheme: str, browser: Any, made: dict[str, Path]):
    page, asked, wrong = opened(browser, made[kind], width, scheme)
    top = page.evaluate("document.querySelector('details.part').getBoundingClientRect().top")
    assert top < 5 * 900 and page.evaluate(OVERFLOW) <= 0
    page.evaluate("document.querySelectorAll('details').forEach((x) => { x.open = true; })")
    page.wait_for_function("[...document.querySelectorAll('figure.chart')].every((x) => x.querySelector('canvas'))")
    assert page.evaluate(OVERFLOW) <= 0
    ink = page.evaluate("getComputedStyle(document.body).color.match(/\\d+/g).map(Number)[0]")
    assert (ink > 150) is (scheme == "dark")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and wrong == []
    page.context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_control_does_what_it_says(kind: str, browser: Any, made: dict[str, Path]):
    page, _, wrong = opened(browser, made[kind], 1300, "light")
    for link in page.locator("nav a").all():
        id = (link.get_attribute("href") or "")[1:]
        link.click()
        page.wait_for_function(
            "(id) => { const x = document.getElementById(id); return x && (x.tagName !== 'DETAILS' || x.open); }", arg=id
        )
    part = page.locator("details.part").first
    part.locator("summary").first.click()
    assert not part.evaluate("(x) => x.open")
    page.evaluate("document.querySelectorAll('details').forEach((x) => { x.open = true; })")
    page.wait_for_selector(".u-legend th[role=button]")
    name = page.locator(".u-legend th[role=button]").first
    for pressed in ("false", "true"):
        name.click()
        page.wait_for_function(
            "(want) => document.querySelector('.u-legend th[role=button]').getAttribute('aria-pressed') === want", arg=pressed
        )
    name.focus()
    page.keyboard.press("Enter")
    assert name.get_attribute("aria-pressed") == "false"
    over = page.locator(".u-over").first
    over.scroll_into_view_if_needed()
    over.hover()
    page.wait_for_function("[...document.querySelector('.u-legend').querySelectorAll('.u-value')].some((x) => /\\d/.test(x.textContent))")
    if page.locator("#filter").count():
        page.select_option("#metric", "")
        before = page.locator("#count").inner_text()
        page.fill("#filter", "no such row")
        assert page.locator("#count").inner_text() == "0 rows" != before
    if page.locator(".thumbs button").count():
        page.locator(".thumbs button").first.click()
        assert page.locator(".thumbs button").first.get_attribute("aria-pressed") == "true"
    assert wrong == []
    page.context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_without_javascript_the_figures_are_pictures(kind: str, browser: Any, made: dict[str, Path]):
    page, _, _ = opened(browser, made[kind], 1300, "light", java_script_enabled=False)
    assert page.locator("figure.chart img").count() == page.locator("figure.chart").count() > 0
    page.context.close()
