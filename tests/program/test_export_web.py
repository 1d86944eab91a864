"""The page that generates offline: its noise is Python's, its pictures are the command's, and nothing leaves it."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.data.ensured import user_folder
from meanstep.program.export import runtime, to_web
from meanstep.program.export import subject as subjects
from meanstep.program.export.conditioned import of_net
from meanstep.program.export.modules import Plain
from meanstep.program.export.session import written
from meanstep.program.export.subject import LINES, POINTS, Choice, Subject
from meanstep.program.export.targets import TARGETS
from meanstep.program.sampling.draw import drawn_labels

NOISE = files("meanstep.program.export").joinpath("page", "noise.js").read_text(encoding="utf-8")
COUNTS = [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 192, 1000, 3072]
SEEDS = [0, 1, 5, 12345, 7_000_003, 2**31, 2**32 - 1, 2**40 + 1, 2**53 - 1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEPT = user_folder() / "runtime" / f"{runtime.PACKAGE}-{runtime.VERSION}"


def node(code: str) -> Any:
    """What a script prints as JSON, by Node.js."""
    if shutil.which("node") is None:
        pytest.skip("the page's generator is run by node, which is not installed")
    return json.loads(subprocess.run(["node", "-e", NOISE + code], capture_output=True, text=True, check=True).stdout)


# The noise -----------------------------------------------------------------------------------------------------------------------------


def equal_noise(found: list[float], seed: int) -> None:
    """Within torch's own difference between processors, 2e-6: its logarithm and cosine depend on the vector units there are."""
    ours = ms.noise([seed], (len(found),))[0]
    assert (torch.tensor(found) - ours).abs().max() < 3e-6, (seed, len(found))


def test_the_page_draws_pythons_noise_for_any_seed_and_count():
    pairs = [(seed, count) for seed in SEEDS for count in COUNTS] + [(seed, count) for seed in (3, 4) for count in range(1, 70)]
    code = f"process.stdout.write(JSON.stringify({json.dumps(pairs)}.map(([s, n]) => Array.from(noise(s, n)))))"
    for (seed, _), found in zip(pairs, node(code), strict=True):
        equal_noise(found, seed)


def test_the_bits_are_torchs_to_the_last():
    bits = node(
        f"process.stdout.write(JSON.stringify({json.dumps(SEEDS)}.map((s) => {{const b = key(s, \"'sample'\", '0'); "
        "return Array.from({length: 2000}, b)})))"
    )
    for seed, found in zip(SEEDS, bits, strict=True):
        wanted = torch.empty(2000, dtype=torch.int64).random_(0, 2**32 - 1, generator=ms.key(seed, "sample", 0))
        assert [b % (2**32 - 1) for b in found] == wanted.tolist() or _twister(seed, found), seed


def _twister(seed: int, found: list[int]) -> bool:
    """The same by NumPy's Mersenne twister, seeded as torch does, where torch takes another path for so wide a range."""
    state = np.random.RandomState(ms.key(seed, "sample", 0).initial_seed() & 0xFFFFFFFF)
    return bool(np.array_equal(state.randint(0, 2**32, 2000, dtype=np.uint64), np.array(found, dtype=np.uint64)))


def test_the_page_draws_the_labels_of_the_command():
    among = [0, 2, 3, 7, 8, 11, 12]
    seeds = [*range(60), *SEEDS]
    found = node(f"process.stdout.write(JSON.stringify({json.dumps(seeds)}.map((s) => drawn(s, {among}))))")
    assert found == drawn_labels(seeds, among).tolist()


# The drawing ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(3, 6), (3, 2, 4), (3, 4, 2, 2)], ids=str)
def test_the_page_draws_every_line_of_the_sample_that_is_meant(dims: tuple[int, ...]):
    """Rows of any number of axes: a line for each of all but the last, `--no-decode` of latents among them."""
    page = files("meanstep.program.export").joinpath("page", "page.js").read_text(encoding="utf-8")
    drawing = "function lines(" + page.partition("function lines(")[2].partition("function points(")[0]
    values = torch.arange(float(torch.Size(dims).numel())).reshape(dims)
    code = f"""const ramp = () => ["black"]; {drawing}
      const tensor = {{ dims: {json.dumps(dims)}, data: Float32Array.from({values.flatten().tolist()}) }};
      const painted = (i) => {{
        const held = [], lineTo = (x, y) => held[held.length - 1].push(270 - y);
        lines({{ getContext: () => ({{ beginPath: () => held.push([]), lineTo, stroke: () => 0 }}) }}, tensor, i, 0, 260);
        return held;
      }};
      process.stdout.write(JSON.stringify([0, 1, 2].map(painted)));"""
    for found, row in zip(node(code), values, strict=True):
        np.testing.assert_allclose(found, row.reshape(-1, dims[-1]).numpy())


@pytest.mark.parametrize(("shape", "view"), [((1,), POINTS), ((2,), POINTS), ((3,), LINES)])
def test_a_row_of_one_number_is_a_point(shape: tuple[int, ...], view: str):
    assert of_net(Shift(shape), Choice(), target="torch", shape=shape).view == view


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, "--seeds n: the same noise, the same drawn class and"),
        ((0, 1, 2), "--seeds n: the same noise, the same drawn class and"),
        ((2, 1, 0), "The class that a seed draws is another there"),
        ((0, 1), "The class that a seed draws is another there"),
        ((1,), "--seeds n --labels 1: the same noise and"),
    ],
)
def test_the_page_says_whether_its_classes_are_the_commands(labels: tuple[int, ...] | None, said: str, exportable):
    subject, command = subjects.of(exportable(), Choice(labels=labels), target="web"), drawn_labels(range(40), (0, 1, 2))
    assert said in to_web.facts(subject)["exact"]
    if subject.labelled:
        assert ("same drawn class" in said) == torch.equal(subject.labels(range(40)), command)


# The runtime ---------------------------------------------------------------------------------------------------------------------------


def packed(path: Path, **held: bytes) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in held.items():
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_runtime_of_other_bytes_is_refused(tmp_path: Path):
    other = packed(tmp_path / "other.tgz", **{runtime.SCRIPT: b"export{}", runtime.BINARY: b"wasm"})
    with pytest.raises(UserError, match=r"is not that of onnxruntime-web"):
        runtime.runtime(other)
    with pytest.raises(UserError, match=r"is no onnxruntime-web"):
        runtime.runtime(packed(tmp_path / "part.tgz", **{runtime.SCRIPT: b"export{}"}))
    (tmp_path / "text.tgz").write_text("none")
    with pytest.raises(UserError, match=r"is no onnxruntime-web"):
        runtime.runtime(tmp_path / "text.tgz")
    with pytest.raises(UserError, match=r"has no ort\.wasm"):
        runtime.runtime(tmp_path)


def test_a_damaged_runtime_is_refused(tmp_path: Path):
    """Cut short, or with other bytes inside of what is compressed, which a tar of gzip tells by three kinds of errors."""
    draw = np.random.default_rng(0)
    whole = packed(tmp_path / "whole.tgz", **{name: draw.bytes(30_000) for name in runtime.SHA256}).read_bytes()
    damaged = {f"cut{n}": whole[:n] for n in (5, 100, 10_000, 50_000)} | {
        f"bytes{n}": whole[:n] + b"\xff" * 10 + whole[n + 10 :] for n in (0, 400, 40_000)
    }
    for name, data in damaged.items():
        (tmp_path / f"{name}.tgz").write_bytes(data)
        with pytest.raises(UserError, match=r"is no onnxruntime-web|is not that of onnxruntime-web"):
            runtime.runtime(tmp_path / f"{name}.tgz")


def test_the_runtime_is_fetched_once_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held = {runtime.SCRIPT: b"export{}", runtime.BINARY: b"wasm"}
    fetched = []

    def fetch() -> dict[str, bytes]:
        fetched.append(1)
        time.sleep(0.2)
        return held

    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime, "SHA256", {name: hashlib.sha256(data).hexdigest() for name, data in held.items()})
    monkeypatch.setattr(runtime, "_packed", fetch)
    with ThreadPoolExecutor(4) as pool:
        found = [job.result() for job in [pool.submit(runtime.runtime) for _ in range(4)]]
    assert fetched == [1] and all(one == runtime.Runtime("export{}", b"wasm") for one in found)


def test_without_npm_the_extra_and_the_file_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'meanstep\[web\]', which brings npm, or fetch .* --runtime FILE"):
        runtime.runtime()


def test_the_licence_goes_with_it():
    assert "MIT License" in runtime.LICENCE and "Microsoft" in runtime.LICENCE and runtime.VERSION in runtime.LICENCE


def test_the_runtime_becomes_the_value_of_a_function():
    found = to_web.wrapped("var a=1,b=2;const c='</script>';export{a as one,b as default,c};\n//# sourceMappingURL=x")
    assert "</script" not in found
    assert node(f"console.log(JSON.stringify({found}))") == {"one": 1, "default": 2, "c": "</script>"}


# The page in a browser -----------------------------------------------------------------------------------------------------------------

OFFLINE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
OFFLINE += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium of the system, by playwright."""
    for missing, remedy in (
        (find_spec("playwright") is None, "playwright is not installed: pip install 'meanstep[dev]'"),
        (CHROMIUM is None, "there is no Chromium: install the system's package chromium"),
        (not all(find_spec(name) for name in TARGETS["web"].needs), "onnx is not installed: pip install 'meanstep[export]'"),
        (not KEPT.is_dir(), f"{runtime.PACKAGE} {runtime.VERSION} is not in {KEPT.parent}: one `meanstep export --to web` fetches it"),
    ):
        if missing:
            pytest.skip(remedy)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield opened
        opened.close()


def opened(browser: Any, path: Path, width: int = 1300, scheme: str = "light") -> tuple[Any, list[str], list[str]]:
    """A page that has made its first samples, what it asked for, and what it complained of."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri())
    page.evaluate("window.meanstep.ready")
    return page, asked, wrong


def made(page: Any, seeds: list[int], steps: int, labels: list[int] | None = None) -> dict[str, np.ndarray]:
    code = """async ([seeds, steps, labels]) => { const out = await window.meanstep.make(seeds, steps, labels);
      return Object.fromEntries(Object.entries(out).filter(([k, v]) => v.dims).map(([k, v]) => [k, [v.dims, Array.from(v.data)]])); }"""
    return {name: np.array(data).reshape(dims) for name, (dims, data) in page.evaluate(code, [seeds, steps, labels]).items()}


@pytest.fixture(scope="module")
def exported(exportable, browser, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and its page."""
    run, folder = exportable(), tmp_path_factory.mktemp("web") / "page"
    record = ms.export(run, to="web", out=folder, runtime=KEPT)
    assert record["difference"]["largest"] < 1e-4 and record["files"]["index.html"] < 8_000_000
    return run, folder / "index.html"


@pytest.mark.browser
def test_the_pages_pictures_are_the_commands(exported, browser):
    run, path = exported
    page, asked, wrong = opened(browser, path)
    model, seeds = ms.load(run), [*range(20), 999, 2**40 + 1]
    for steps in (1, 2, 4):
        found, wanted = made(page, seeds, steps), model.latents(seeds, steps)
        assert np.abs(found["values"] - wanted.numpy()).max() < 1e-4 * wanted.std()
        images = model.sample(seeds, steps).numpy().astype(int)
        assert np.abs(found["images"] - images).max() <= 1 and (found["images"] != images).mean() < 1e-3
    fixed = made(page, [1, 2], 1, [2, 2])["values"]
    assert np.abs(fixed - model.latents([1, 2], 1, 2).numpy()).max() < 1e-4
    equal_noise(page.evaluate("Array.from(window.meanstep.noise(77, 100))"), 77)
    assert asked == [path.as_uri()] and wrong == []


@pytest.mark.browser
def test_a_person_can_use_it(exported, browser):
    page, _, wrong = opened(browser, exported[1])
    pixels = "(id) => Array.from(document.querySelector(id + ' canvas').getContext('2d').getImageData(0, 0, 8, 8).data)"
    before = page.evaluate(pixels, "#samples")
    assert page.locator("#samples canvas").count() == 16 and page.locator("#status").is_hidden()
    page.get_by_role("button", name="dog", exact=True).click()
    page.get_by_role("button", name="4", exact=True).click()
    page.wait_for_function("document.getElementById('unit').textContent.includes('4 steps')")
    assert "seed 0 · dog" in page.locator("#samples figcaption").first.inner_text()
    assert page.evaluate(pixels, "#samples") != before and float(page.locator("#speed").inner_text()) > 0
    page.locator("#seed").fill("500")
    page.wait_for_function("document.querySelector('#samples figcaption').textContent.startsWith('seed 500')")
    start = page.evaluate(pixels, "#walked")
    page.locator("#way").fill("0.5")
    page.wait_for_function("document.querySelector('#walked figcaption').textContent.includes('50 %')")
    assert page.evaluate(pixels, "#walked") != start
    page.locator("#play").click()
    page.wait_for_function("Number(document.getElementById('way').value) > 0.6")
    assert "Trained on 30 rows of shapes" in page.locator(".lead").inner_text() and wrong == []
    assert "MIT License" in page.locator("details pre").text_content()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_by_day_and_night(exported, browser, scheme: str):
    page, _, wrong = opened(browser, exported[1], 400, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400 and wrong == []
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) < 200) == (scheme == "dark")
    assert page.locator("button").first.bounding_box()["height"] >= 36


class Shift(nn.Module):
    """A field of any event."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape))

    def forward(self, z, r, t, y=None):
        times = (t - r).reshape(-1, *(1,) * (z.ndim - 1))
        return 0.5 * z + self.shift * times


@pytest.mark.browser
@pytest.mark.parametrize(("shape", "view"), [((2, 24), LINES), ((2,), POINTS)])
def test_signals_and_points_have_their_pages(shape, view, browser, tmp_path: Path):
    net, ones = Shift(shape).requires_grad_(False), torch.ones(shape)
    facts = {"data": "made up", "images": 1, "samples seen": 0, "recipe": "meanflow", "sampler": "walk", "steps": 1, "guidance": 1.0}
    facts |= {"parameters": 0, "weights": "raw", "classes": []}
    subject = Subject("made", net, ms.walk, shape, (), (), Choice(), Plain(ones, 3 * ones), ("values",), view, facts)
    written(subject, "web", tmp_path / "page", {"runtime": KEPT})
    page, asked, wrong = opened(browser, tmp_path / "page" / "index.html", 400)
    found = made(page, [3, 4, 5], 2)["values"]
    wanted = 3 * ms.walk(net, ms.noise([3, 4, 5], shape), (1, 0.5, 0)) + 1
    assert np.abs(found - wanted.numpy()).max() < 1e-4
    drawn = "Array.from(document.querySelector('#samples canvas').getContext('2d').getImageData(0, 0, 440, 280).data).some((x) => x)"
    assert page.evaluate(drawn) and page.locator("#classes").is_hidden() and len(asked) == 1 and wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
