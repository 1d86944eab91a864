"""Every kind of page in a real browser: by day and night, wide and narrow, nothing is asked for, nothing overflows, controls work."""

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from meanstep.program.pages import look
from meanstep.program.runs.report.figures import residuals
from meanstep.program.watch.command import Live
from meanstep.program.watch.server import HOST, serving

from . import test_run_report
from .rendered import CHARTLESS, KINDS, built

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


@pytest.fixture
def made(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A decided page of a kind, or a run that broke off; none is made where there is no browser."""
    return lambda kind: built(*(("run", "failed") if kind == "failed" else (kind, "decided")), tmp_path_factory, painted=True)


def opened(browser: Any, path: Path | str, width: int, scheme: str, **settings: Any) -> tuple[Any, list[str], list[str]]:
    """The page, what it asked for beside itself, and what it complained of."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **settings).new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri() if isinstance(path, Path) else path)
    return page, asked, wrong


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 400])
@pytest.mark.parametrize("kind", [*KINDS, "failed"])
def test_a_page_fits_asks_for_nothing_and_says_its_answer_soon(
    kind: str, width: int, scheme: str, browser: Any, made: Callable[[str], Path]
):
    page, asked, wrong = opened(browser, made(kind), width, scheme)
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
def test_every_control_does_what_it_says(kind: str, browser: Any, made: Callable[[str], Path]):
    page, _, wrong = opened(browser, made(kind), 1300, "light")
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
    if kind not in CHARTLESS:
        _curves_switch_off_and_tell_values(page)
    if page.locator("#filter").count():
        _table_filters_and_sorts(page)
    if page.locator("#which").count():
        _slider_shows_another_model(page)
    if page.locator(".thumbs button").count():
        page.locator(".thumbs button").first.click()
        assert page.locator(".thumbs button").first.get_attribute("aria-pressed") == "true"
    assert wrong == []
    page.context.close()


def _curves_switch_off_and_tell_values(page: Any) -> None:
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


def _table_filters_and_sorts(page: Any) -> None:
    page.select_option("#metric", "")
    before = page.locator("#count").inner_text()
    page.fill("#filter", "no such row")
    assert page.locator("#count").inner_text() == "0 rows" != before
    page.fill("#filter", "")
    assert page.locator("#count").inner_text() == before
    heads = page.locator("#table thead button")
    k = heads.all_inner_texts().index("mean")
    for way, sign in (("ascending", 1), ("descending", -1)):
        heads.nth(k).click()
        assert page.locator("#table thead th").nth(k).get_attribute("aria-sort") == way
        cells = page.locator(f"#table tbody tr td:nth-child({k + 1})").all_text_contents()
        values = [sign * float(x.replace("\u2212", "-")) for x in cells if x]
        assert len(values) > 2 and values == sorted(values)


def _slider_shows_another_model(page: Any) -> None:
    shown = "[...document.querySelectorAll('.samples [data-id]')].filter((x) => !x.hidden).map((x) => x.dataset.id)"
    first, at = page.evaluate(shown), page.locator("#which").inner_text()
    page.locator("#beta").focus()
    page.keyboard.press("End")
    assert page.locator("#which").inner_text() != at and set(page.evaluate(shown)).isdisjoint(first) and first


@pytest.mark.parametrize("kind", KINDS)
def test_without_javascript_the_figures_are_pictures(kind: str, browser: Any, made: Callable[[str], Path]):
    page, _, _ = opened(browser, made(kind), 1300, "light", java_script_enabled=False)
    charts = page.locator("figure.chart").count()
    assert page.locator("figure.chart img").count() == charts and (charts > 0 or kind in CHARTLESS)
    page.context.close()


@contextlib.contextmanager
def watched(here: Path, told: list[str]) -> Iterator[str]:
    """The address of a run's page that follows its records, as `meanstep watch` does it; `told`: what the terminal would say."""
    live, ended = Live(here), threading.Event()
    live.build()
    server = serving(live.page, 0, 0.1)

    def wait(seconds: float) -> None:
        if ended.wait(seconds):
            raise KeyboardInterrupt

    def follow() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            live.follow(0.1, told.append, wait)

    threads = [threading.Thread(target=follow), threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})]
    for thread in threads:
        thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("width", [1300, 400])
def test_the_page_of_a_live_run_follows_it_and_keeps_the_readers_place(width: int, browser: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr(look, "SCALE", 0.5)
    monkeypatch.setattr("meanstep.program.runs.report.figures.FIGURES", {"residuals": residuals})
    here = test_run_report.folder(tmp_path / "run", test_run_report.Plan(steps=10, of=40, stopped=50))
    told: list[str] = []
    with watched(here, told) as address:
        page, asked, wrong = opened(browser, address, width, "dark")
        assert "1,000 of 4,000" in page.inner_text("main")
        page.locator("details.part > summary").last.click()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(300)
        place, loads = page.evaluate("scrollY"), asked.count(address)
        assert place > 0 and loads == 1, "it is not loaded again while nothing comes"
        line = json.loads((here / "records.jsonl").read_text().splitlines()[-3]) | {"kind": "train", "seen": 1500}
        with (here / "records.jsonl").open("a") as file:
            file.write(json.dumps(line | {"residual_gap": 0.1, "seconds": 15.0}) + "\n")
        page.wait_for_function("document.querySelector('main').textContent.includes('1,500 of 4,000')")
        page.wait_for_function("document.readyState === 'complete' && scrollY > 0")
        assert page.locator("details.part").last.evaluate("(x) => x.open") and page.evaluate(OVERFLOW) <= 0
        assert abs(page.evaluate("scrollY") - place) < 200
        assert asked.count(address) == 2 and {*asked} <= {address, f"{address}version", *(x for x in asked if x.startswith("data:"))}
        page.context.close()
    assert wrong == [] and told == []
