"""The one form of every page: what a stranger takes from it, and the laws of its prose, on rendered pages of every kind."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from meanstep.program.pages import curves, forest, form, glossary, look
from meanstep.program.pages.statistics import Change

from .rendered import CASES, CHARTLESS, Reader, built, read, sentences, taken, words

MOST = 25
pytestmark = pytest.mark.figures


@pytest.fixture(params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    return (*request.param, built(*request.param, tmp_path_factory).read_text(encoding="utf-8"))


COMPARED = {
    **{"toy": "β = 1", "mixtures": "β = 1", "latents": "constant", "run": "samples seen", "diagnose": "β = 0"},
    **{"compare": "of the recipe", "studies": "first", "paper": "arXiv 2605.09235"},
}
TITLES = {
    ("toy", "decided"): "better on 2 of 2 data sets",
    ("toy", "undecided"): "cannot tell",
    ("toy", "failed"): "too far from the data",
    ("mixtures", "decided"): "better on 2 of 2 data sets",
    ("mixtures", "undecided"): "cannot tell",
    ("mixtures", "failed"): "too far from the data",
    ("compare", "decided"): "Samples of second are nearer to the data",
    ("compare", "undecided"): "cannot be told",
    ("compare", "failed"): "cannot be compared",
    ("studies", "decided"): "nearer on 2 of 4 arms",
    ("studies", "undecided"): "Nothing tells",
    ("studies", "failed"): "cannot be compared",
    ("paper", "decided"): "published numbers",
    ("latents", "decided"): "nearer to the data than any constant",
    ("latents", "undecided"): "cannot tell",
    ("latents", "failed"): "too far from the data",
    ("run", "decided"): "nearer to the data",
    ("run", "undecided"): "cannot be judged",
    ("run", "failed"): "broke off",
    ("diagnose", "decided"): "Nothing is found wrong",
    ("diagnose", "undecided"): "are left open",
    ("diagnose", "failed"): "things are wrong with this training signal, first of all that",
}


def test_a_stranger_finds_what_was_compared_which_is_better_how_sure_and_what_to_do(case: tuple[str, str, str]):
    kind, state, text = case
    found = taken(text)
    assert TITLES[kind, state] in found.title and len(sentences(found.title)) == 1
    assert len(found.tiles) == 3 and all(all(tile) for tile in found.tiles) and found.steps
    said = " ".join([found.title, *(" ".join(tile[1:]) for tile in found.tiles)])
    assert COMPARED[kind] in " ".join(" ".join(block.text.split()) for block in read(text).blocks if not block.folded)
    tones = [tile[0] for tile in found.tiles]
    if state == "decided":
        assert {"better", "worse"} & {*tones} and re.search(r"better|nearer|wrong|warn|quieter|falling", said)
        assert re.search(r"95%|interval", " ".join(tile[3] for tile in found.tiles))
    elif (kind, state) not in (("run", "failed"), ("diagnose", "failed")):
        assert "open" in tones if kind == "diagnose" else tones[0] == "open"
    for tone, head, *_ in found.tiles:
        assert tone in ("better", "worse", "known", "open") and not (tone == "open" and re.search(r"\d", head)), head


def test_no_sentence_is_long(case: tuple[str, str, str]):
    """Nowhere on the page: claims and their tests, collapsed details, cells of tables."""
    long = [s for block in read(case[2]).blocks for s in sentences(block.text) if len(words(s)) > MOST]
    assert not long, "\n".join(long)


def test_no_paragraph_stands_twice(case: tuple[str, str, str]):
    prose = (block.text for block in read(case[2]).blocks if block.tag not in ("summary", "td", "th", "span"))
    counts = Counter(text for text in prose if len(words(text)) > 7)
    assert [text for text, n in counts.items() if n > 1] == []


def test_no_part_is_empty_and_every_link_leads_somewhere(case: tuple[str, str, str]):
    found = read(case[2])
    parts = re.findall(r'<details class="part" id="[\w-]+"><summary><h2>.*?</h2></summary>(.*?)</details>', case[2], re.DOTALL)
    assert parts and all(re.sub(r"<(?!img|figure)[^>]*>|\s", "", part) for part in parts)
    assert set(found.links) <= set(found.ids) and len(found.ids) == len(set(found.ids))
    assert case[2].rindex('id="again"') > max(case[2].rindex(f'id="{name}"') for name in ("answer", "next"))


def test_symbols_of_the_answer_are_linked_to_the_glossary_of_the_page(case: tuple[str, str, str]):
    before = case[2].partition('<details class="part"')[0]
    for symbol, id in (("β", "beta"), ("SW1", "sw1"), ("Frechet distance", "frechet"), ("floor", "floor")):
        prose = " ".join(block.text for block in Reader(before).blocks if block.tag in ("p", "li", "small"))
        if symbol in prose:
            assert f'href="#term-{id}"' in before and f'id="term-{id}"' in case[2], symbol


def test_a_distance_stands_beside_its_floor(case: tuple[str, str, str]):
    for _, head, said, _ in taken(case[2]).tiles:
        if "distance" in said.lower() and "no distance" not in said.lower() and "Nothing" not in head and re.search(r"\d", said):
            assert "floor" in said, said


def test_nothing_is_loaded_from_elsewhere(case: tuple[str, str, str]):
    text = re.sub(r"<script>\s*/\* uPlot.*?</script>", "", case[2], flags=re.DOTALL)
    outward = re.findall(r'(?:src|href|url|poster|srcset)\s*[=(]\s*["\']?\s*(?:https?:)?//[^"\'\s>]+', text)
    assert all(x.startswith('href="https://arxiv.org/abs/') for x in outward)


# The parts -----------------------------------------------------------------------------------------------------------------------------


def test_an_open_tile_has_no_number_in_its_head():
    with pytest.raises(ValueError, match="no number is large"):
        form.Tile("19% better", "words", "sure")
    assert form.Tile("19% better", "words", "sure", form.BETTER).state == "better"


def test_one_of_twenty_rows_without_effect_is_no_find():
    noise = np.random.default_rng(1)
    rows = [Change(tuple(noise.normal(0, 0.1, 4))) for _ in range(200)]
    assert sum(forest.state(row) != "open" for row in rows) > 3 and set(forest.states(rows)) == {"open"}
    assert forest.states([Change((-0.5, -0.51, -0.49)), Change((0.5, 0.51, 0.49)), Change((0.1,))]) == ["better", "worse", "open"]
    assert forest.states([Change((0.5, 0.51, 0.49))], less=False) == ["better"]


def test_a_chart_holds_what_was_drawn():
    with look.drawing():
        figure, (ax,) = look.sheet(1)
        x, y = [1.0, 2.0, 4.0], [3.0, 2.0, 1.0]
        ax.plot(x, y, color=look.BLUE, label="a")
        ax.fill_between(x, [2.5, 1.5, 0.5], [3.5, 2.5, 1.5], color=look.BLUE, alpha=0.2, lw=0)
        ax.plot(x[:2], [5.0, 6.0], color=look.GREEN)
        ax.axhline(0.7, color=look.MUTED, ls=":")
        ax.set(title="t", xlabel="steps", yscale="log")
        look.key(figure, [("b", look.GREEN, {})])
        figure.draw_without_rendering()
        chart = curves.of(figure)
        other, (bars,) = look.sheet(1)
        bars.hist([1, 2, 2])
    assert chart is not None and curves.of(other) is None, "a histogram stays a picture"
    (panel,) = chart.panels
    a, b = panel.curves
    assert (a.name, a.x, a.y, a.low, a.high) == ("a", x, y, [2.5, 1.5, 0.5], [3.5, 2.5, 1.5]) and (b.name, b.y) == ("b", [5.0, 6.0])
    assert panel.guides[0].at == 0.7 and panel.guides[0].dashed and panel.y.log and not panel.x.log and panel.x.label == "steps"
    json.dumps(chart.json, allow_nan=False)


def test_every_curve_of_every_page_has_a_name(case: tuple[str, str, str]):
    charts = [json.loads(x) for x in re.findall(r'<figure class="chart"[^>]*><script type="application/json">(.*?)</script>', case[2])]
    curves = [curve for chart in charts for panel in chart["panels"] for curve in panel["curves"]]
    assert (curves or case[0] in CHARTLESS) and all(curve["name"] and len(curve["x"]) == len(curve["y"]) for curve in curves)


def test_the_glossary_has_what_the_page_uses_and_links_each_once_a_part():
    text, used = glossary.linked('<html><body><p>β and SW1 and β</p><pre>β</pre><details class="part" id="a"><p>β</p></details>')
    assert text.count('href="#term-beta"') == 2 and [term.id for term in used] == ["beta", "sw1"] and "<pre>β</pre>" in text
    arms = "<html><body><p>anchored@0, squared-anchored@1, posterior-both@1</p>"  # names, not words
    assert glossary.linked(arms) == (arms, []) and glossary.linked("<html><body><p>anchored</p>")[1]
    assert all(len(words(s)) <= MOST for term in glossary.TERMS for s in sentences(term.means))
