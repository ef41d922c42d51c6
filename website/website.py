"""Build the site of the guides: pages of the tree and pages made from code, in one nav, with nothing from elsewhere.

    python website/website.py FOLDER

`mkdocs.yml` names the pages. They are laid out as they lie in the tree, so that
their links hold, and Zensical makes the site of them in FOLDER/site. A page
that is missing in the nav, a link or an anchor that leads nowhere, and anything
that a browser would load from elsewhere end the build with exit code 1.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ruamel.yaml import YAML

import code_pages

ROOT = Path(__file__).resolve().parents[1]
_MADE = {".cache", "docs", "mkdocs.yml", "site"}
"""All that a build leaves in its folder."""
SHIM = "website/iframe-worker.js"
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
"""Elements that load something, and by which attribute; of links, only an `a` does not load."""


def pages(nav: object) -> Iterator[str]:
    """The pages that a nav names, in its order."""
    match nav:
        case str():
            yield nav
        case dict():
            for below in nav.values():
                yield from pages(below)
        case list():
            for below in nav:
                yield from pages(below)


def unplaced(named: list[str], root: Path = ROOT) -> list[str]:
    """What is wrong with a nav: pages of docs/ that it lacks, pages that do not exist, and pages that stand twice."""
    there = {str(page.relative_to(root)) for page in (root / "docs").rglob("*.md")} | code_pages.PAGES.keys()
    wrong = [f"{page} has no place in the nav: add it to mkdocs.yml, under its kind" for page in there - {*named}]
    wrong += [f"the nav of mkdocs.yml names {page}, which is missing" for page in named if not _known(page, root)]
    return sorted(wrong + [f"the nav of mkdocs.yml names {p} twice" for p in {*named} if named.count(p) > 1])


def _known(page: str, root: Path) -> bool:
    return page in code_pages.PAGES or (root / page).is_file()


def lay_out(named: list[str], into: Path, root: Path = ROOT) -> None:
    """Copy the pages, and the files of the tree that they link; write the pages that are made from code."""
    for name in named:
        page = into / name
        page.parent.mkdir(parents=True, exist_ok=True)
        if name in code_pages.PAGES:
            page.write_text(code_pages.PAGES[name]())
            continue
        text = (root / name).read_text()
        page.write_text(text)
        for link in _LINK.findall(text):
            linked = (root / name).parent.joinpath(link).resolve()
            if linked.is_file() and linked.suffix != ".md" and linked.is_relative_to(root):
                target = into / linked.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(linked, target)
    (into / SHIM).parent.mkdir(exist_ok=True)
    shutil.copyfile(root / SHIM, into / SHIM)


class _Read(HTMLParser):
    """What an HTML page loads, where its links lead, and which anchors it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag in _LOADED and _LOADED[tag] in found:
            self.loads.append(found[_LOADED[tag]])
        elif tag == "link" and "href" in found:
            self.loads.append(found["href"])
        elif tag == "a" and "href" in found:
            self.links.append(found["href"])


def astray(site: Path) -> list[str]:
    """What a built site loads from elsewhere, and the links and anchors in it that lead nowhere."""
    read = {path: _Read(path.read_text()) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for path, page in read.items():
        where = path.relative_to(site)
        for link in page.loads + page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                wrong += [f"{where} loads {link}"] if link in page.loads and parts.scheme != "data" else []
                continue
            # The page of what is missing can be answered at any address, so its links begin at the root.
            start = site / parts.path.lstrip("/") if parts.path.startswith("/") else path.parent / parts.path
            target = (start if parts.path else path).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                wrong.append(f"{where} links {link}, which is missing")
            elif parts.fragment and target in read and unquote(parts.fragment) not in read[target].anchors:
                wrong.append(f"{where} links {link}, which has no such anchor")
    for sheet in sorted(site.rglob("*.css")):
        outside = re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", sheet.read_text())
        wrong += [f"{sheet.relative_to(site)} loads {each}" for each in outside]
    return wrong


def build(into: Path, root: Path = ROOT) -> list[str]:
    """Build the site in `into`; what is wrong with it, in sentences.

    Args:
        into: A folder for all that is made; what it holds is removed.
        root: The tree of the pages.
    """
    shutil.rmtree(into, ignore_errors=True)
    (into / "docs").mkdir(parents=True)
    shutil.copyfile(root / "mkdocs.yml", into / "mkdocs.yml")
    named = [*pages(YAML(typ="safe").load((root / "mkdocs.yml").read_text())["nav"])]
    if wrong := unplaced(named, root):
        return wrong
    lay_out(named, into / "docs", root)
    zensical = (sys.executable, "-m", "zensical", "build", "--strict", "--clean")
    done = subprocess.run(zensical, cwd=into, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [done.stdout + done.stderr]
    return astray((into / "site").resolve())


def not_ours(into: Path, root: Path = ROOT) -> str:
    """Why a folder is not removed, in a sentence; empty where it holds nothing, or an earlier site."""
    if into == root or into in root.parents:
        return f"{into} holds the tree of the pages: name another folder"
    others = sorted({path.name for path in into.iterdir()} - _MADE) if into.is_dir() else []
    return f"{into} holds {others[0]}, which no site has: name another folder, or remove it" if others else ""


def main() -> int:
    """Build it and print where it is, or what is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("into", type=Path, metavar="FOLDER", help="where to build; an earlier site in it is removed")
    into = parser.parse_args().into.resolve()
    refused = not_ours(into)
    wrong = [refused] if refused else build(into)
    sys.stdout.write("".join(f"{line}\n" for line in wrong or [f"{into / 'site' / 'index.html'}"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
