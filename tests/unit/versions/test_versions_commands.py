"""The command line of releases side by side: documents for machines, words for people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from exports import export_of
from world import CONTRACT

from policyctl.domain.tensor import TensorSpec

ADDED = replace(CONTRACT, outputs=(*CONTRACT.outputs, TensorSpec("value", "float32", (1,))))


@pytest.fixture
def run(run, monkeypatch, served):
    """Run `policyctl` on the served world."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(served.root))
    return run


def document(ran):
    """What a command that succeeded printed."""
    assert ran.code == 0, ran.err
    return ran.document


def test_release_next_prints_the_number_alone_and_the_reasons_beside_it(served, run) -> None:
    """A script can publish what stdout says; people read why on stderr; a machine gets both."""
    source = export_of(served.folder / "added", ADDED)
    ran = run("release", "next", "walker", source)
    assert (ran.code, ran.out) == (0, "1.3.0\n")
    assert "Against 1.2.0 it needs MINOR" in ran.err
    assert "output 'value' was added (needs MINOR)" in ran.err
    assert f"policyctl publish {source} --model walker --release 1.3.0" in ran.err
    found = document(run("release", "next", "walker", source, "--json"))
    assert found == {
        "model": "walker",
        "release": "1.3.0",
        "after": "1.2.0",
        "needs": "minor",
        "differences": [{"what": "output", "name": "value", "change": "was added", "needs": "minor"}],
        "newest": "1.2.0",
        "published_as": None,
    }
    assert run("release", "next", "walker", source, "--after", "~1.0", "--pre", "rc").out == "1.3.0-rc.1\n"
    assert run("release", "next", "nobody", source).out == "1.0.0\n"
    same = export_of(served.folder / "same", CONTRACT)
    ran = run("release", "next", "walker", same)
    assert (ran.out, "Its contract is that of 1.2.0" in ran.err) == ("1.2.1\n", True)


def test_release_next_knows_bytes_that_are_published(served, run) -> None:
    """They keep their number, so that publishing what it says changes nothing; a final release may follow its rc."""
    source = export_of(served.folder / "added", ADDED)
    assert run("publish", source, "-n", "walker", "--release", "1.3.0-rc.1").code == 0
    ran = run("release", "next", "walker", source)
    assert (ran.out, "These very bytes are published as walker 1.3.0-rc.1." in ran.err) == ("1.3.0\n", True)
    assert run("release", "next", "walker", source, "--pre", "rc").out == "1.3.0-rc.1\n"
    assert run("publish", source, "-n", "walker", "--release", "1.3.0").code == 0
    ran = run("release", "next", "walker", source)
    assert (ran.out, "changes nothing" in ran.err) == ("1.3.0\n", True)
    found = document(run("release", "next", "walker", source, "--json"))
    assert (found["release"], found["published_as"]) == ("1.3.0", "1.3.0")
    assert run("release", "next", "walker", source, "--after", "1.3.0").out == "1.3.1\n"


def test_publishing_twice_gives_the_same_document_twice(served, run) -> None:
    """Idempotent to a script; people see a note."""
    source = export_of(served.folder / "added", ADDED)
    command = ("publish", source, "-n", "walker", "--release", "1.3.0", "--json")
    first, again = run(*command), run(*command)
    assert document(first) == document(again)
    assert "these very bytes" in again.err


def test_a_release_is_pinned_looked_at_and_unpinned(served, run) -> None:
    """Each command leaves a document, and a dry run beforehand shows its steps."""
    would = document(run("pin", "walker", "~1.1.0", "--dry-run", "--json"))
    assert (would["dry_run"], would["kind"], would["alias"]) == (True, "pin", "1.1.0")
    done = document(run("pin", "walker", "~1.1.0", "--reason", "kept", "--json"))
    assert (done["to"], done["changed"], done["dry_run"]) == ("1.1.0", True, False)
    assert "already" in run("pin", "walker", "1.1.0").out
    found = document(run("status", "--json"))
    assert [(a["alias"], a["served"], a["pinned"]) for a in found["aliases"]] == [
        ("1.1.0", "walker.1.1.0", True),
        ("production", "walker", False),
    ]
    assert "1.1.0" in run("status").out
    would = document(run("unpin", "walker", "1.1.0", "--dry-run", "--json"))
    assert any(step == "withdraw: walker.1.1.0" for step in would["steps"])
    ran = run("unpin", "walker", "1.1.0")
    assert (ran.code, ran.out) == (0, "walker.1.1.0 is not served any more; it was 1.1.0.\n")
    done = document(run("unserve", "walker", "--alias", "production", "--reason", "retired", "--json"))
    assert (done["kind"], done["from"], done["to"]) == ("removal", "1.0.0", None)
    assert document(run("status", "--json"))["aliases"] == []
    shown = run("history", "walker").out
    assert "removal of production, which names 1.0.0" in shown
    assert "removal of 1.1.0, which names 1.1.0: done" in shown
    assert "retired" in shown


def test_promote_and_validate_take_selectors(served, run) -> None:
    """The document names the release that was meant."""
    assert document(run("validate", "walker", "latest", "--gates", "none", "--json"))["release"] == "1.2.0"
    assert document(run("promote", "walker", "^1.1", "--alias", "staging", "--json"))["to"] == "1.2.0"
    ran = run("promote", "walker", "staging")
    assert ran.code == 0
    assert "staging of walker is 1.2.0." in ran.err
    assert document(run("rollback", "walker", "--to", "~1.1.0", "--json"))["to"] == "1.1.0"


def test_status_prints_its_notes(served, run) -> None:
    """The sentences about conflicts stand below the tables."""
    run("pin", "walker", "production")
    assert "Conflict: walker.1.0.0 and walker serve the same release" in run("status").out
