"""Links between the pages lead somewhere on the host of the repository; `test_site` says the same of the site."""

import re
from pathlib import Path

from .pages import PAGES, ROOT, outside_code

LINK = re.compile(r"\]\((?![a-z]+:)([^)\s#]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that the host gives to a page's headings: lower case, hyphens for spaces, without punctuation; a second one gets -1."""
    found: dict[str, int] = {}
    result = set()
    for heading in HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        result.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return result


def broken(page: Path) -> list[str]:
    """Links of a page to a file or heading that is not there."""
    found = []
    for link, anchor in LINK.findall(outside_code(page.read_text(encoding="utf-8"))):
        place = (page.parent / link).resolve() if link else page
        if not place.exists():
            found.append(link)
        elif anchor and place.suffix == ".md" and anchor not in anchors(place.read_text(encoding="utf-8")):
            found.append(f"{link}#{anchor}")
    return found


def test_every_link_leads_somewhere():
    assert sum(len(LINK.findall(outside_code(page.read_text(encoding="utf-8")))) for page in PAGES) > 80
    assert {page.relative_to(ROOT).as_posix(): found for page in PAGES if (found := broken(page))} == {}


def test_the_readme_and_the_start_page_lead_to_each_other_and_on():
    readme, start = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    assert "](docs/start.md)" in readme and "](tutorial.md)" in start


def test_a_broken_link_is_found(tmp_path: Path):
    (tmp_path / "a.md").write_text("# A `b`: c, d\n\n## Twice\n\n## Twice\n\n```sh\n# no heading [x](y.md)\n```\n")
    assert anchors((tmp_path / "a.md").read_text()) == {"a-b-c-d", "twice", "twice-1"}
    (tmp_path / "b.md").write_text("[1](a.md#a-b-c-d) [2](a.md#twice-2) [3](c.md) [4](#none) [5](https://x.org) `[6](d.md)`\n")
    assert broken(tmp_path / "b.md") == ["a.md#twice-2", "c.md", "#none"]
