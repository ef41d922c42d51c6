"""`policyctl verify --report`: every release, every file, in a form that can be handed on."""

from __future__ import annotations

import html.parser
import json

import pytest

from policyctl import pages


class _Page(html.parser.HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data) -> None:
        self.words += data + "\n"


def test_a_report_of_an_intact_repository_lists_every_file(served_world, run, tmp_path) -> None:
    """Expected and found digests are equal, with who published it and when; the JSON report is what --files prints."""
    ran = run("verify", "--report", "r.json", "--files", "--json")
    assert ran.code == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert {**found, "time": 0} == {**ran.document, "time": 0}
    assert (found["intact"], found["journal"]["intact"]) == (True, True)
    assert [(r["model"], r["release"]) for r in found["releases"]] == [("walker", "1.0.0"), ("walker", "1.1.0")]
    for release in found["releases"]:
        published = served_world.state.release("walker", release["release"])
        assert (release["published"], release["by"]) == (published.time, published.actor)
        assert release["manifest"]["expected"] == release["manifest"]["found"] == published.manifest_digest
        assert {f["path"] for f in release["files"]} > {"model.onnx", "contract.json"}
        assert all(f["expected"] == f["found"] and f["intact"] for f in release["files"])


@pytest.mark.parametrize("kind", ["html", "md", "json"])
def test_a_report_names_what_is_not_intact(served_world, run, tmp_path, kind: str) -> None:
    """Whatever its form: the file, what was expected and what is there; and the exit code says so too."""
    folder = served_world.root / "walker" / "2"
    folder.chmod(0o755)
    (folder / "model.onnx").unlink()
    (folder / "extra.bin").write_bytes(b"x")
    ran = run("verify", "--report", f"r.{kind}")
    assert ran.code == 3
    text = (tmp_path / f"r.{kind}").read_text()
    assert "model.onnx is missing" in text
    assert "extra.bin" in text
    assert served_world.state.release("walker", "1.1.0").manifest_digest in text


def test_the_page_loads_and_runs_nothing_and_takes_names_as_text(served_world, run, tmp_path) -> None:
    """A file whose name is HTML stays text, and the page's own policy forbids scripts."""
    folder = served_world.root / "walker" / "2"
    folder.chmod(0o755)
    (folder / "<script>alert(1)<").write_bytes(b"x")
    (served_world.root / '"><img src=x onerror=y>|a`b').mkdir()
    assert run("verify", "--report", "r.html", "--report", "r.html").code == 3
    page = _Page((tmp_path / "r.html").read_text())
    assert not {"script", "img", "link", "iframe", "object"} & page.tags
    assert not {"src", "href", "onerror"} & page.attributes
    assert "<script>alert(1)<" in page.words
    run("verify", "--report", "r.md")
    text = (tmp_path / "r.md").read_text()
    assert "<script>" not in text
    assert "<img" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} <= {3, 4, 9}


def test_a_report_of_another_kind_is_refused_before_anything_is_read(served_world, run) -> None:
    """The name's ending chooses, and the remedy lists the endings."""
    refused = run("verify", "--report", "report.pdf")
    assert refused.code == 2
    assert ".html" in refused.err


def test_a_page_escapes_every_part() -> None:
    """Title, head and cells alike."""
    text = pages.render("bench_history.html", title="<t>", plot="", columns=("<c>",), rows=[("<r>",)])
    assert not {"t", "c", "r"} & _Page(text).tags
    assert "<t>" in _Page(text).words
