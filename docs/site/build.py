"""`build.py FOLDER`: the documentation as a site in FOLDER/html, which needs no network. Pages keep their places in the repository."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mathematics import drawn, linked
from reference import MODULES, pages

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SOURCES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "studies/**/*.md"]
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")
# The search of pages that are opened as files asks for a small script, which lies here instead.
SHIM, WORKER = re.compile(r"https://[^\"/]*/iframe-worker/shim"), "iframe-worker.js"
FOLDERS = {"src/meanstep/recipes": "reference/recipes.md"}  # a link to a folder of the source leads to what the reference says of it


def build(folder: Path) -> Path:
    """The site's first page. `SystemExit` with the warnings of zensical, each of which counts as an error."""
    for made in ("pages", "html", ".cache"):
        shutil.rmtree(folder / made, ignore_errors=True)
    gathered = gather(folder / "pages")
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(configuration(gathered), sort_keys=False), encoding="utf-8")
    rendered(folder)
    for page in (folder / "html").rglob("*.html"):
        up = "../" * (len(page.relative_to(folder / "html").parts) - 1)
        text = SHIM.sub(f"{up}{WORKER}", page.read_text(encoding="utf-8"))
        page.write_text(linked(text, f"{up}docs/theory.html"), encoding="utf-8")
    return folder / "html" / "index.html"


def rendered(folder: Path) -> None:
    """Let zensical make the folder's pages into html/."""
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", "mkdocs.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the site has faults, in the pages of {folder / 'pages'}:\n{told(done.stderr)}")


def told(output: str) -> str:
    """What zensical says, a line a fault and its place, without the source that it draws around them."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", output)
    faults = [f"{place}: {fault}" for fault, place in re.findall(r"Warning: (.+)\n\s*\S*\[ (\S+) \]", plain)]
    return "\n".join([*re.findall(r"^mkdocstrings: .+", plain, re.MULTILINE), *faults]) or plain


def gather(folder: Path) -> list[str]:
    """Put every page, and every file that one shows or links to, under the folder; the pages' paths."""
    made = dict(pages())
    for path in [path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]:
        text = path.read_text(encoding="utf-8")
        made[path.relative_to(ROOT).as_posix()] = drawn(LINK.sub(lambda m, here=path.parent: f"{m[1]}{_target(here, m[2])}", text))
        for name in _linked_files(path.parent, text):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for name, text in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("site.css", WORKER):
        shutil.copyfile(HERE / name, folder / name)
    return list(made)


def _target(here: Path, link: str) -> str:
    """A link of a page in the folder `here`, on the site."""
    place = (here / link).resolve()
    if not place.is_dir():
        return link
    known = place.relative_to(ROOT).as_posix()
    if known not in FOLDERS:
        raise SystemExit(f"{here}: a link leads to the folder {link}, for which the site has no page: see FOLDERS in {Path(__file__).name}")
    return "../" * len(here.relative_to(ROOT).parts) + FOLDERS[known]


def _linked_files(here: Path, text: str) -> Iterator[str]:
    for _, link in LINK.findall(text):
        place = (here / link).resolve()
        if place.is_file() and place.suffix != ".md":
            yield place.relative_to(ROOT).as_posix()


def configuration(gathered: list[str]) -> dict[str, Any]:
    """mkdocs.yml with the reference and the studies in its navigation, and the place of the source."""
    made: dict[str, Any] = yaml.safe_load((HERE / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {
        "Reference": [
            "reference/index.md",
            {"meanstep": "reference/meanstep.md"},
            *({f"meanstep.{m}": f"reference/{m}.md"} for m in MODULES),
        ],
        "Studies": [{_title(name): name} for name in sorted(gathered) if name.startswith("studies/")],
    }
    made["nav"] = [{key: listed.get(key, value) for key, value in entry.items()} for entry in made["nav"]]
    missing = sorted(set(gathered) - {page for page, _ in named(made["nav"])})
    if missing:
        raise SystemExit(f"no way leads to {', '.join(missing)}: name a place in the navigation of docs/site/mkdocs.yml")
    (mkdocstrings,) = (plugin["mkdocstrings"] for plugin in made["plugins"] if isinstance(plugin, dict))
    mkdocstrings["handlers"]["python"]["paths"] = [str(ROOT / "src")]
    return made


def named(entries: Any, title: str = "") -> Iterator[tuple[str, str]]:
    """Every page of a navigation with its title."""
    if isinstance(entries, str):
        yield entries, title
    else:
        for entry in entries:
            for name, inside in entry.items() if isinstance(entry, dict) else [("", entry)]:
                yield from named(inside, name)


def _title(name: str) -> str:
    """The name of a study in the navigation: its folders, and what the page is if not its first."""
    path = Path(name).relative_to("studies")
    return " ".join([*path.parent.parts, *([] if path.stem == "README" else [path.stem])])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: build.py FOLDER, in which html/index.html is the site's first page")
    print(build(Path(sys.argv[1]).resolve()))
