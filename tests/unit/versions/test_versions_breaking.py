"""A release that breaks the contract of the one it replaces is promoted only when somebody says so."""

from __future__ import annotations

import pytest
from world import WIDER, World

from policyctl.errors import GateError
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.pins import pin
from policyctl.services.rollout.promote import promote

SHAPES = r"observation 'observation' had shape \(3,\), has \(4,\) \(needs MAJOR\)"


def _promote(world, release, **kwargs):
    return promote(world.control, model="walker", release=release, alias="production", **kwargs)


@pytest.fixture
def broken(world) -> World:
    """1.0.0 is in production; 2.0.0, of another contract, is published."""
    world.publish("1.0.0", 1)
    world.publish("2.0.0", 2, contract=WIDER)
    _promote(world, "1.0.0")
    return world


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_breaking_release_is_refused_before_the_server_is_asked(broken, dry_run) -> None:
    """What differs is named, nothing is loaded, and nothing is written."""
    journal = broken.control.repository.journal.path
    before = journal.read_bytes()
    broken.server.calls.clear()
    with pytest.raises(GateError, match=rf"2\.0\.0 breaks the contract of 1\.0\.0.*{SHAPES}") as refused:
        _promote(broken, "2.0.0", dry_run=dry_run)
    assert refused.value.exit_code == 4
    assert "--breaking" in refused.value.remedy
    assert (broken.server.calls, journal.read_bytes(), broken.answered()) == ([], before, "1.0.0")


def test_a_breaking_release_that_was_asked_for_is_promoted_and_its_differences_are_shown(broken) -> None:
    """Dry run and outcome say the same of the contract."""
    planned = _promote(broken, "2.0.0", dry_run=True, breaking=True)
    moved = _promote(broken, "2.0.0", breaking=True)
    assert broken.answered() == "2.0.0"
    for found in (planned, moved):
        assert "Its contract breaks that of 1.0.0: observation 'observation' had shape" in found.words
        assert found.to_json()["breaking"] is True
        assert [d["needs"] for d in found.to_json()["differences"]] == ["major"]


def test_a_rollback_over_a_break_is_never_refused(broken) -> None:
    """It ends harm, so no option stands before it; it says what differs, by its dry run too."""
    _promote(broken, "2.0.0", breaking=True)
    planned = rollback(broken.control, model="walker", alias="production", dry_run=True)
    moved = rollback(broken.control, model="walker", alias="production")
    assert broken.answered() == broken.named() == "1.0.0"
    for found in (planned, moved):
        assert "Its contract breaks that of 2.0.0" in found.words


def test_nothing_is_asked_where_nobody_asks_it_yet(broken) -> None:
    """A pin, and an alias that names nothing, have no clients that could be broken."""
    assert pin(broken.control, model="walker", release="2.0.0").changed
    assert promote(broken.control, model="walker", release="2.0.0", alias="staging").changed
    with pytest.raises(GateError, match="which staging names"):
        promote(broken.control, model="walker", release="1.0.0", alias="staging")


def test_a_break_that_came_while_the_lock_was_waited_for_is_refused_too(broken, monkeypatch) -> None:
    """Somebody else moved the alias between the first look and the lock."""
    from policyctl.services.rollout import promote as service

    broken.publish("2.1.0", 3, contract=WIDER)
    _promote(broken, "2.0.0", breaking=True)
    moved = []

    def meanwhile(control, **kwargs):
        moved.append(rollback(control, model="walker", alias="production"))
        return ()

    monkeypatch.setattr(service, "validate", meanwhile)
    with pytest.raises(GateError, match=r"2\.1\.0 breaks the contract of 1\.0\.0"):
        _promote(broken, "2.1.0", gates=("service_level",))
    assert moved
    assert broken.answered() == "1.0.0"
