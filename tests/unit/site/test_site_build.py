"""The site of the guides: whole, strict, and without anything from elsewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import code_pages
import website

TOP = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built as `make site` does it."""
    folder = tmp_path_factory.mktemp("site")
    assert website.build(folder) == []
    return folder / "site"


def test_the_site_has_every_page_and_finds_it(site: Path) -> None:
    """Guides, runbooks, decisions and pages made from code are pages, and stand in the index of the search."""
    expected = {path.relative_to(TOP).with_suffix(".html") for path in (TOP / "docs").rglob("*.md")}
    expected |= {Path(name).with_suffix(".html") for name in code_pages.PAGES}
    assert {page for page in expected if not (site / page).is_file()} == set()
    index = (site / "search.js").read_text()
    assert "docs/runbooks/moves.html" in index
    assert "policyctl rollback walker" in index


def test_pages_of_the_site_run_scripts_of_the_site_alone(site: Path) -> None:
    """The build itself has looked; here two files are named that a theme would load from elsewhere."""
    page = (site / "docs" / "export.html").read_text()
    assert 'src="../website/iframe-worker.js"' in page
    assert "unpkg.com" not in page
    assert "fonts.googleapis.com" not in page


def test_the_commands_and_calls_of_the_code_have_their_anchors(site: Path) -> None:
    """Those of nested commands too."""
    commands = (site / "docs" / "commands.html").read_text()
    assert all(f'id="policyctl-{name}"' in commands for name in ("promote", "token-create", "trust-keygen"))
    assert re.search(r"<code>--drain .*?</code>", commands)
    calls = (site / "docs" / "http-calls.html").read_text()
    assert 'id="post_promotion"' in calls
    assert "Needs scope promote" in calls
    assert 'id="PromotionRequest"' in calls


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with the real configuration of the site, and a nav of two pages."""
    root = tmp_path / "tree"
    (root / "docs").mkdir(parents=True)
    (root / "website").mkdir()
    shutil.copyfile(TOP / website.SHIM, root / website.SHIM)
    settings = (TOP / "mkdocs.yml").read_text().partition("\nnav:")[0]
    made = "".join(f"  - {name}\n" for name in code_pages.PAGES)
    (root / "mkdocs.yml").write_text(f"{settings}\nnav:\n  - README.md\n  - docs/a.md\n{made}")
    (root / "README.md").write_text("# Home\n\n[a](docs/a.md#one-two)\n")
    (root / "docs" / "a.md").write_text("# A\n\n## One, two\n\n[home](../README.md)\n")
    return root


@pytest.fixture
def quick(monkeypatch) -> None:
    """Pages made from code are short."""
    monkeypatch.setattr(code_pages, "PAGES", dict.fromkeys(code_pages.PAGES, lambda: "# Made\n"))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("[a](missing.md)", "page does not exist"),
        ("[a](../README.md#missing)", "anchor does not exist"),
        ('<a href="missing.html">a</a>', "docs/a.html links missing.html, which is missing"),
        ('<a href="#missing">a</a>', "anchor does not exist"),
        ("![a](https://example.com/a.png)", "docs/a.html loads https://example.com/a.png"),
    ],
)
def test_what_leads_nowhere_or_elsewhere_ends_the_build(
    quick, tree: Path, tmp_path: Path, page: str, said: str
) -> None:
    """Links and anchors of Markdown and of HTML, and what a browser would load."""
    (tree / "docs" / "a.md").write_text(f"# A\n\n## One, two\n\n{page}\n")
    assert said in re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(website.build(tmp_path / "out", tree)))


def test_no_folder_is_removed_that_holds_anything_but_a_site(quick, tree: Path, tmp_path: Path) -> None:
    """Neither the tree, nor what it lies in, nor what somebody keeps there."""
    website.build(tmp_path / "out", tree)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.md").touch()
    said = [website.not_ours(tmp_path / name, tree) for name in ("out", "new", "mine")]
    assert [each.partition("holds ")[2].partition(",")[0] for each in said] == ["", "", "thesis.md"]
    assert all("holds the tree" in website.not_ours(folder, tree) for folder in (tree, tree.parent))


def test_a_page_without_a_place_is_named(quick, tree: Path, tmp_path: Path) -> None:
    """With what to do, and so is a page of the nav that does not exist."""
    (tree / "docs" / "b.md").write_text("# B\n")
    (tree / "docs" / "a.md").unlink()
    assert website.build(tmp_path / "out", tree) == [
        "docs/b.md has no place in the nav: add it to mkdocs.yml, under its kind",
        "the nav of mkdocs.yml names docs/a.md, which is missing",
    ]


def test_what_a_theme_loads_from_elsewhere_is_named(tmp_path: Path) -> None:
    """Scripts, and fonts of style sheets; so is an anchor that a template links in vain. Readers may go elsewhere."""
    (tmp_path / "a.css").write_text("@import 'https://example.com/x.css'; b{src:url(//example.com/f.woff)}")
    (tmp_path / "a.html").write_text('<script src="https://unpkg.com/x"></script><link href="a.css"><a href="#b">b</a>')
    (tmp_path / "b.html").write_text('<a href="https://example.com">x</a><i id="b"></i><a href="b.html#b">b</a>')
    assert website.astray(tmp_path) == [
        "a.html loads https://unpkg.com/x",
        "a.html links #b, which has no such anchor",
        "a.css loads https://example.com/x.css",
        "a.css loads //example.com/f.woff",
    ]


def test_troubleshooting_has_every_code_that_the_source_has() -> None:
    """The page is what the classes say, and each of them says what to do."""
    page = (TOP / "docs" / "troubleshooting.md").read_text()
    assert page == code_pages.errors(), "python website/code_pages.py > docs/troubleshooting.md"
    sources = [path for place in ("control", "exporters") for path in (TOP / place).rglob("*.py")]
    pattern = re.compile(r'^    code(?:: ClassVar\[str\])? = "(\w+)"', re.MULTILINE)
    codes = {code for path in sources for code in pattern.findall(path.read_text())}
    sections = re.findall(r"^## (\w+)\n\n.+\n\n.{40,}\n", page, re.MULTILINE)
    assert len(codes) > 15
    assert sorted(sections) == sorted(codes)
