"""`policyctl probe`: an exit code for health checks, by a golden action of each alias."""

from __future__ import annotations

import pytest
from world import World

from policyctl.services.rollout.promote import promote


@pytest.fixture
def served(world: World, monkeypatch) -> World:
    """1.0.0 in production and in staging."""
    world.publish("1.0.0", 1)
    for alias in ("production", "staging"):
        promote(world.control, model="walker", release="1.0.0", alias=alias)
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    return world


def test_an_answered_golden_action_is_health(served, run) -> None:
    """Every alias, or the one that was asked for; data on stdout."""
    done = run("probe", "--json")
    assert done.code == 0
    assert done.document["healthy"] is True
    assert [(a["alias"], a["verdict"]) for a in done.document["aliases"]] == [
        ("production", "passed"),
        ("staging", "passed"),
    ]
    one = run("probe", "walker", "--alias", "staging", "--json")
    assert [a["served"] for a in one.document["aliases"]] == ["walker.staging"]
    assert run("probe", "--quiet").out == ""


def test_a_wrong_answer_and_no_answer_are_told_apart(served, run) -> None:
    """4 where it answers otherwise than it was published, 6 where it does not; the worse one wins."""
    served.server.wrong_slots.add(("walker.staging", 1))
    wrong = run("probe", "--json")
    assert (wrong.code, wrong.document["healthy"]) == (4, False)
    assert "walker.staging answers wrongly" in run("probe").err
    served.server.unload("walker")
    assert run("probe").code == 4
    served.server.wrong_slots.clear()
    silent = run("probe")
    assert (silent.code, "walker does not answer" in silent.err) == (6, True)
    assert run("probe", "--alias", "staging").code == 0


def test_a_release_that_is_not_intact_cannot_be_asked(served, run) -> None:
    """A golden set that somebody changed proves nothing."""
    path = served.root / "walker" / "1" / "golden.npz"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")
    done = run("probe", "--json")
    assert done.code == 6
    assert {a["verdict"] for a in done.document["aliases"]} == {"error"}
    assert "golden.npz" in done.document["aliases"][0]["detail"]


def test_where_nothing_is_named_yet_a_live_server_is_enough(world, run, monkeypatch) -> None:
    """So a new installation is healthy before its first promotion; --require asks for more."""
    monkeypatch.setenv("POLICYCTL_REPOSITORY", str(world.root))
    assert run("probe").code == 0
    assert run("probe", "--require").code == 6
    assert run("probe", "--alias", "staging").code == 2
