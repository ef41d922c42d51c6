"""`policyctl at` and `policyctl history --verify`: what was served, and what the journal proves."""

from __future__ import annotations

import json

from policyctl.domain.manifest import canonical_json
from policyctl.services.rollout.promote import promote


def test_at_answers_from_the_journal(served_world, run) -> None:
    """What is named now, with gates and digest; before the first record, nothing."""
    shown = run("at", "now", "walker", "--json")
    assert shown.code == 0
    (alias,) = shown.document["aliases"]
    published = served_world.state.release("walker", "1.0.0")
    assert [p["release"] for p in alias["possible"]] == ["1.0.0"]
    assert alias["possible"][0]["manifest_digest"] == published.manifest_digest
    assert {g["gate"] for g in alias["gates"]} == {"integrity", "parity", "golden"}
    assert all(g["verdict"] == "passed" for g in alias["gates"])
    before = run("at", "2001-01-01T00:00Z", "--json")
    assert (before.document["aliases"], before.document["records"]) == ([], 0)
    assert "nothing" in run("at", "2001-01-01T00:00Z").err


def test_at_tells_what_was_named_before_a_later_move(served_world, run) -> None:
    """A question about the time of an earlier record is answered as it was then; times are shown in the zone asked."""
    then = served_world.control.repository.journal.records()[-1].time
    promote(served_world.control, model="walker", release="1.1.0", alias="production", reason="because")
    assert run("at", then, "--json").document["aliases"][0]["possible"][0]["release"] == "1.0.0"
    now = run("at", "now", "--timezone", "Asia/Tokyo")
    assert "1.1.0" in now.out
    assert "because" in now.out
    assert "+09:00" in now.out


def test_at_knows_what_was_taken_out_of_service(served_world, run) -> None:
    """Before the removal the pin answers, after it nothing does."""
    assert run("pin", "walker", "1.1.0").code == 0
    pinned = run("at", "now", "--json").document["aliases"]
    assert [(a["alias"], [p["release"] for p in a["possible"]]) for a in pinned] == [
        ("1.1.0", ["1.1.0"]),
        ("production", ["1.0.0"]),
    ]
    then = served_world.control.repository.journal.records()[-1].time
    assert run("unpin", "walker", "1.1.0").code == 0
    assert [a["alias"] for a in run("at", "now", "--json").document["aliases"]] == ["production"]
    assert len(run("at", then, "--json").document["aliases"]) == 2


def test_at_refuses_what_it_cannot_place(served_world, run) -> None:
    """A time without a zone, an unknown zone and an unknown model are wrong usage."""
    assert run("at", "2026-11-20T10:00").code == 2
    assert run("at", "2026-11-20T10:00", "--timezone", "Nowhere/Land").code == 2
    assert run("at", "now", "runner").code == 2


def test_history_verify_states_what_it_proved(served_world, run) -> None:
    """Number of records and head; the head that it printed is found again, also after more records."""
    proof = run("history", "--verify", "--json").document
    count = len(served_world.control.repository.journal.records())
    assert (proof["intact"], proof["records"], proof["problems"]) == (True, count, [])
    promote(served_world.control, model="walker", release="1.1.0", alias="production")
    again = run("history", "--verify", "--head", proof["head"])
    assert again.code == 0
    assert "among them" in again.out
    assert run("history", "--verify").out.startswith("Intact: ")


def test_history_verify_names_an_edited_line(served_world, run) -> None:
    """Exit code 3, the line's number, and the same in a document."""
    path = served_world.control.repository.journal.path
    lines = path.read_bytes().splitlines(keepends=True)
    head = run("history", "--verify", "--json").document["head"]
    edited = canonical_json({**json.loads(lines[2]), "actor": "nobody@nowhere"})
    path.write_bytes(b"".join([*lines[:2], edited, *lines[3:]]))
    plain = run("history", "--verify")
    assert plain.code == 3
    assert "line 3 was edited" in plain.err
    assert [p["line"] for p in run("history", "--verify", "--json").document["problems"]] == [4]
    path.write_bytes(b"".join(lines[:-2]))
    assert "the journal lacks record" in run("history", "--verify").out
    (path.parent / "head").unlink()
    assert run("history", "--verify").code == 0
    cut = run("history", "--verify", "--head", head, "--json")
    assert cut.code == 3
    assert "cut off" in cut.document["problems"][0]["problem"]


def test_history_verify_is_about_the_whole_journal(served_world, run) -> None:
    """A part of a chain proves nothing, and a head must be a digest."""
    assert run("history", "walker", "--verify").code == 2
    assert run("history", "--verify", "--limit", "2").code == 2
    assert run("history", "--verify", "--head", "abc").code == 2
