"""`policyctl docs`: the guides, of a checkout here; the tests of the package have those of a wheel."""

from __future__ import annotations

import json
from pathlib import Path

from policyctl.cli import docs

TOP = Path(__file__).parents[3]


def test_every_page_is_listed_and_printed(run) -> None:
    """Runbooks and decisions too, by what stands before .md."""
    pages = json.loads(run("docs", "--json").out)["pages"]
    assert {*pages} == {str(p.relative_to(TOP / "docs").with_suffix("")) for p in (TOP / "docs").rglob("*.md")}
    assert "runbooks/server" in pages
    assert run("docs", "gates").out == (TOP / "docs" / "gates.md").read_text().rstrip() + "\n"


def test_a_mistyped_page_is_refused_with_the_nearest(run) -> None:
    """And with how to list all."""
    shown = run("docs", "exporting")
    assert shown.code == 2
    assert "no page is called exporting" in shown.err
    assert "Did you mean export?" in shown.err


def test_guides_are_written_where_nothing_is(run, tmp_path: Path) -> None:
    """Pages, rules, dashboards and the client in C++, without what makes and tests them; never over something else."""
    into = tmp_path / "guides"
    assert run("docs", "--write", str(into)).code == 0
    assert (into / "docs" / "export.md").is_file()
    assert (into / "alerts" / "rules" / "latency.yml").is_file()
    assert (into / "grafana" / "dashboards" / "model.json").is_file()
    assert (into / "examples" / "cpp" / "policyctl_lane.hpp").is_file()
    assert not [*into.rglob("*.py")]
    again = run("docs", "--write", str(into))
    assert again.code == 2
    assert "is there already" in again.err


def test_a_package_without_guides_says_so(run, monkeypatch, tmp_path: Path) -> None:
    """Built from a part of the tree."""
    monkeypatch.setattr(docs, "_PACKAGE", tmp_path / "site-packages" / "policyctl")
    assert run("docs").code == 8
