"""Pages of every kind, of a decided, an undecided and a failed case of each, and what a stranger takes from them."""

import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import meanstep as ms
from meanstep.program.compare import page as compared
from meanstep.program.compare import runs, studies
from meanstep.program.diagnose import page as diagnosed
from meanstep.program.pages import form, look
from meanstep.program.pages.form import drawn
from meanstep.program.reproduce.paper import page as paper
from meanstep.program.reproduce.report.page import build as studied
from meanstep.program.runs.report.page import build as trained

from . import test_diagnose, test_latents_report, test_report, test_run_report
from .conftest import unpainted

STATES = ("decided", "undecided", "failed")
SETS = ("pinwheel", "two_moons")
TOY = test_report.Plan(sets=SETS, gain=dict.fromkeys(SETS, 0.6), betas=(0.0, 1.0), arms=("paper",), pictures=False, law=False, spread=0.01)
DENSE = ("mixture-8", "mixture-64")


def edited(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Every line of records through `change`, which returns a record, or None to drop it."""
    found = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in found if line))


def _near(line: dict[str, Any]) -> dict[str, Any]:
    """With a floor that samples are far above."""
    if line["kind"] == "set":
        line["floor"]["sw1"] = [x / 100 for x in line["floor"]["sw1"]]
    return line


def _toy(folder: Path, state: str) -> Path:
    here = test_report.sweep(folder, replace(TOY, seeds=(5,)) if state == "undecided" else TOY)
    if state == "failed":
        edited(here / "records.jsonl", _near)
    return studied(here)


def _mixtures(folder: Path, state: str) -> Path:
    plan = replace(TOY, sets=DENSE, gain=dict.fromkeys(DENSE, 0.8), betas=(0.0, 0.4, 1.0), pictures=state == "decided", scatter=200)
    here = test_report.sweep(folder, replace(plan, seeds=(5,)) if state == "undecided" else plan)
    (here / "sweep.json").write_text(json.dumps(json.loads((here / "sweep.json").read_text()) | {"study": "mixtures"}))
    if state == "failed":
        edited(here / "records.jsonl", _near)
    return studied(here)


def _latents(folder: Path, state: str) -> Path:
    arms = ("beta@0", "beta@0.5", "beta@1", "rising")
    plan = test_latents_report.Plan(arms=arms, moments=(1000, 2000), effects=(("rising", -0.4),), pictures=False)
    here = test_latents_report.study(folder, replace(plan, spread=0.9, seeds=(0, 1)) if state == "undecided" else plan)
    return studied(test_latents_report.asked(here, floor={"1": 0.01 if state == "failed" else 4.0}))


def _run(folder: Path, state: str) -> Path:
    plan = test_run_report.Plan(steps=20, of=20, best=20, stopped=10, cells=True)
    here = test_run_report.folder(folder, replace(plan, evaluated=False) if state == "undecided" else plan)
    if state == "failed":
        with (here / "records.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "failure", "seen": 2000, "error": "the loss was not finite"}) + "\n")
    return trained(here)


class Scaled(nn.Module):
    """A network that is handed its times times `k`: 1000 is the mistake of an embedding that counts in thousandths."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.net, self.k = ms.MLP(2, 16, 2, generator=ms.key(0)), k

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        return self.net(z, self.k * r, self.k * t)


def learnt(net: nn.Module, x: Tensor, steps: int) -> nn.Module:
    """The network after so many steps of MeanFlow, as `test_diagnose.diagnosis` reads it."""
    loss = ms.Loss(ms.recipes.meanflow(ms.times.uniform, diagonal_share=0.5, weight=ms.weights.constant))
    optimiser, g = torch.optim.Adam(net.parameters(), 0.01), ms.key(3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(net, x[torch.randint(len(x), (64,), generator=g)], generator=g).loss.backward()
        optimiser.step()
    return net


def _diagnosis(folder: Path, state: str) -> Path:
    x = test_diagnose.normal(n=600)
    net = learnt(Scaled(1000), x, 60) if state == "failed" else test_diagnose.Exact()
    rows = {"decided": 400, "undecided": 40, "failed": 200}[state]
    return diagnosed.build(test_diagnose.diagnosis(net, x, rows=rows), folder)


def measure(here: Path, value: float, half: float = 1.0, **about: Any) -> None:
    """A run's evaluations: one cell with an interval, and a floor."""
    cells = test_run_report.cells()
    values = {"frechet": value, "frechet_low": value - half, "frechet_high": value + half, "count": 64}
    row = cells[1] | {"values": values} | about
    floor = cells[-1] | {name: x for name, x in about.items() if name != "steps"}
    (here / "evaluations.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (row, floor)))


def _compare(folder: Path, state: str) -> Path:
    plan = test_run_report.Plan(steps=20, of=20, best=20, stopped=10, pictured=False)
    pair = [test_run_report.folder(folder / name, plan) for name in ("first", "second")]
    for here, value in zip(pair, (9.0, 8.5 if state == "undecided" else 4.0), strict=True):
        measure(here, value)
    if state == "failed":
        (pair[1] / "data.json").write_text(replace(test_run_report.MANIFEST, source="letters", source_digest="1" * 64).text())
    found = runs.sides(pair)
    return compared.build(found, runs.distances(found), compared.Pictures(), folder / "page")[0]


def _studies(folder: Path, state: str) -> Path:
    first = test_report.sweep(folder / "first", replace(TOY, probe=False))
    second = folder / "second"
    if state == "decided":
        test_report.sweep(second, replace(TOY, probe=False, gain=dict.fromkeys(SETS, 0.3)))
    else:
        shutil.copytree(first, second)
    if state == "failed":
        about = json.loads((second / "sweep.json").read_text())
        about["settings"]["samples"] = 7
        (second / "sweep.json").write_text(json.dumps(about))
    return compared.build_studies(studies.meeting((first, second)), folder / "page")[0]


def _paper(folder: Path, state: str) -> Path:
    """Of the numbers that are measured now: there is one state."""
    folder.mkdir()
    return paper.build(folder)


KINDS: dict[str, Callable[[Path, str], Path]] = {
    **{"toy": _toy, "mixtures": _mixtures, "latents": _latents, "run": _run, "diagnose": _diagnosis},
    **{"compare": _compare, "studies": _studies, "paper": _paper},
}
CASES = [(kind, state) for kind in KINDS for state in STATES if kind != "paper" or state == "decided"]
CHARTLESS = {"studies"}
"""Kinds whose only figure is one of rows with intervals."""
_HELD: dict[tuple[str, str, bool, bool], Path] = {}


def built(kind: str, state: str, places: pytest.TempPathFactory, painted: bool = False) -> Path:
    """The page, made once for all tests of a process, with figures or without, which are `painted` or white."""
    held = (kind, state, form.drawn is drawn, painted)
    if held not in _HELD:
        with pytest.MonkeyPatch.context() as patch:
            if not painted:
                patch.setattr(look, "png", unpainted)
            _HELD[held] = KINDS[kind](places.mktemp("pages") / f"{kind}-{state}", state)
    return _HELD[held]


@dataclass
class Block:
    """A stretch of prose: its element and its text; `folded`: below the answer."""

    tag: str
    text: str
    folded: bool


class Reader(HTMLParser):
    """The prose of a page, cells of tables and labels of figures too, and its links and ids; settings, code and drawings are none."""

    BLOCKS = ("h1", "h2", "h3", "p", "li", "dd", "dt", "summary", "small", "b", "td", "th", "span", "label", "button", "option")
    APART = ("pre", "svg", "script", "style", "nav", "title")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.apart, self.folded, self._open = 0, 0, [""]
        self.feed(text)
        self._end("")

    def _end(self, tag: str) -> None:
        text = " ".join("".join(self._open).split())
        if text and not self.apart:
            self.blocks.append(Block(tag, text, self.folded > 0))
        self._open = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self.ids += [held["id"] or ""] if "id" in held else []
        self.links += [(held["href"] or "")[1:]] if tag == "a" and (held.get("href") or "").startswith("#") else []
        if tag in self.BLOCKS or tag in self.APART:
            self._end("")
        if tag in self.APART or (tag == "dl" and "settings" in (held.get("class") or "")):
            self.apart += 1
        self.folded += tag == "details"

    def handle_endtag(self, tag: str) -> None:
        if tag in self.BLOCKS:
            self._end(tag)
        if tag in self.APART or (tag == "dl" and self.apart):
            self._open, self.apart = [], self.apart - 1
        self.folded -= tag == "details"

    def handle_data(self, data: str) -> None:
        self._open.append(data)


@functools.cache
def read(text: str) -> Reader:
    """Of a page that several tests read, once."""
    return Reader(text)


def sentences(text: str) -> list[str]:
    """At full stops, question marks and exclamation marks that end one."""
    return [part for part in re.split(r"(?<=[.?!])[)”]?\s+(?=[^a-z\s])", text) if part]


def words(sentence: str) -> list[str]:
    """What has a letter; numbers, intervals and signs are no words."""
    return [word for word in sentence.split() if re.search(r"[^\W\d_]", word)]


@dataclass(frozen=True)
class Taken:
    """What a stranger takes from a page: the answer, tiles as (state, head, words, sure), and what to do."""

    title: str
    tiles: list[tuple[str, str, str, str]]
    steps: list[str]


def taken(text: str) -> Taken:
    """From the HTML of a page."""

    def bare(found: str) -> str:
        return unescape(" ".join(re.sub(r"<[^>]*>", "", found).split()))

    title = re.search(r"<h1>(.*?)</h1>", text, re.DOTALL)
    tiles = re.findall(r'<div class="card tile (\w+)"><b>(.*?)</b><p>(.*?)</p><small>(.*?)</small>', text, re.DOTALL)
    steps = re.search(r'<ol class="steps">(.*?)</ol>', text, re.DOTALL)
    assert title and steps
    found = [(state, *map(bare, rest)) for state, *rest in tiles]
    return Taken(bare(title[1]), found, [bare(x) for x in re.findall(r"<li>(.*?)</li>", steps[1], re.DOTALL)])  # type: ignore[misc]
