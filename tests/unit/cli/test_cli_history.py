"""`policyctl history`: a move takes one row."""

from __future__ import annotations

import pytest

from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.promote import promote
from policyctl.services.show.journal_rows import rows_of


def record(seq: int, kind: str, **body) -> dict:
    """A record as `services.show.status.history` hands it out, a second after the one before."""
    time = f"2026-11-20T10:00:{seq:02}.000000+00:00"
    return {"seq": seq, "time": time, "actor": "ann@lab", "kind": kind, "model": "walker", **body}


MOVE = {"move": "m1", "move_kind": "promotion", "alias": "production", "from": "1.0.0", "to": "1.1.0"}
GATES = [record(n, "gate", release="1.1.0", gate=g, verdict="passed", reason="") for n, g in enumerate(("a", "b"))]
BEGUN = [
    record(2, "intent", **MOVE, reason="better"),
    record(3, "gate", release="1.1.0", gate="golden", verdict="passed", reason=""),
    record(4, "certified", **MOVE, release="1.1.0", server="s1"),
]
DONE = [record(5, "switching", **MOVE), record(6, "outcome", **MOVE, result="done")]
WHAT = "promotion of production, 1.0.0 to 1.1.0"
TIME = "2026-11-20 10:00:02Z"


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([*GATES, *BEGUN, *DONE], [(2, TIME, f"{WHAT}: done after 4.0 s", "better")]),
        ([*GATES, *BEGUN], [(2, TIME, f"{WHAT}: not ended, certified", "better")]),
        (
            [*BEGUN, *DONE, record(7, "gate", **MOVE, release="1.1.0", gate="bake", verdict="failed", reason="slow")],
            [(2, TIME, f"{WHAT}: done after 4.0 s; bake failed", "better")],
        ),
        (GATES, [(0, "2026-11-20 10:00:00Z", "1.1.0: passed a, b", "")]),
        (
            [*GATES, record(2, "published", release="2.0.0", slot=3), *DONE[:0]],
            [(0, "2026-11-20 10:00:00Z", "1.1.0: passed a, b", ""), (2, TIME, "published 2.0.0 as slot 3", "")],
        ),
        (
            [record(2, "gate", release="1.1.0", gate="golden", verdict="failed", reason="row 3 differs")],
            [(2, TIME, "1.1.0: golden failed", "row 3 differs")],
        ),
    ],
    ids=("done", "not ended", "its bake", "gates alone", "other records", "a gate that failed"),
)
def test_a_move_takes_one_row(records, expected) -> None:
    """Its gates stand in it; what did not pass is named, and what has not ended says how far it came."""
    assert [(seq, time, what, reason) for seq, time, _, _, what, reason in rows_of(records)] == expected


def test_every_record_is_shown_in_full_and_in_json(served_world, run, monkeypatch) -> None:
    """Three moves take three rows, and with --full one for each record; JSON is as it was."""
    monkeypatch.delenv("COLUMNS")
    promote(served_world.control, model="walker", release="1.1.0", alias="production", reason="better")
    rollback(served_world.control, model="walker", alias="production", reason="falls")
    records = run("history", "--json").document
    moves = [line for line in run("history").out.splitlines() if " of production, " in line]
    assert [line.split()[0] for line in moves] == [str(r["seq"]) for r in records if r["kind"] == "intent"]
    assert len(run("history", "--full").out.splitlines()) == len(records) + 3
    assert run("history", "--limit", "1").out.splitlines()[-1].split() == moves[-1].split()
    assert run("history", "--limit", "2", "--json").document == records[-2:]
