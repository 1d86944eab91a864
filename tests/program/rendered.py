"""Pages of the four kinds, of a decided, an undecided and a failed study of each, and what a stranger takes from them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

from meanstep.program.diagnose import page as diagnosed
from meanstep.program.reproduce.report.page import build as studied
from meanstep.program.runs.report.page import build as trained

from . import test_diagnose, test_latents_report, test_report, test_run_report

STATES = ("decided", "undecided", "failed")
SETS = ("pinwheel", "two_moons")


def _toy(folder: Path, state: str) -> Path:
    plan = test_report.Plan(
        sets=SETS, gain=dict.fromkeys(SETS, 0.6), betas=(0.0, 1.0), arms=("paper",), pictures=False, law=False, spread=0.01
    )
    here = test_report.sweep(folder, replace(plan, seeds=(5,)) if state == "undecided" else plan)
    if state == "failed":
        lines = [json.loads(line) for line in (here / "records.jsonl").read_text().splitlines()]
        for line in lines:
            if line["kind"] == "set":
                line["floor"]["sw1"] = [x / 100 for x in line["floor"]["sw1"]]
        (here / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
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


def _diagnosis(folder: Path, state: str) -> Path:
    rows = {"decided": 400, "undecided": 40, "failed": 200}[state]
    net = test_diagnose.Exact(off=float("nan")) if state == "broken" else test_diagnose.Exact(off=2.0 if state == "failed" else 0.0)
    found = test_diagnose.diagnosis(net, test_diagnose.normal(n=600), rows=rows)
    return diagnosed.build(found, folder)


KINDS: dict[str, Callable[[Path, str], Path]] = {"toy": _toy, "latents": _latents, "run": _run, "diagnose": _diagnosis}


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
