"""A server that nobody has measured is measured before an alias moves on it."""

from __future__ import annotations

import threading

import pytest

from policyctl.errors import GateError, MoveError
from policyctl.services.control import Control
from policyctl.services.moves import swaps
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.promote import promote
from policyctl.settings import load

LIMIT_S = 120.0


def lossy(server) -> None:
    """Let the server forget a model that it is about to load again, until a caller has noticed."""
    noticed = threading.Event()

    def before_call(name: str) -> None:
        if name == "infer walker.candidate" and "walker.candidate" not in server.serving():
            noticed.set()
        if name == "load walker.candidate" and "walker.candidate" in server.serving():
            noticed.clear()
            server._remember({k: v for k, v in server.serving().items() if k != "walker.candidate"})
            assert noticed.wait(LIMIT_S)

    server.before_call = before_call


@pytest.fixture
def unknown_server(world):
    """Two releases, the first in production, on a Triton that nobody has measured."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    world.server.version_number = "2.99.0"
    return world


def kept(world) -> swaps.Swaps | None:
    return world.control.repository.read_value(swaps.FILE, swaps.Swaps)


def test_a_version_is_measured_once_before_the_first_alias_moves_on_it(unknown_server) -> None:
    """Nothing is measured where nothing was served, and no rollback waits for it."""
    world = unknown_server
    assert kept(world) is None
    promote(world.control, model="walker", release="1.1.0", alias="production")
    measured = kept(world)
    assert (measured.version, measured.is_safe) == ("2.99.0", True)
    assert measured.requests > measured.loads > 1
    calls = world.server.calls.count("load walker.candidate")
    rollback(world.control, model="walker", alias="production")
    promote(world.control, model="walker", release="1.1.0", alias="production")
    assert world.server.calls.count("load walker.candidate") <= calls + 2
    assert kept(world) == measured


def test_a_rollback_asks_for_no_measurement(unknown_server) -> None:
    """What is wrong is taken back at once, on any server."""
    world = unknown_server
    world.server.version_number = "2.51.0"
    promote(world.control, model="walker", release="1.1.0", alias="production")
    world.server.version_number = "2.99.0"
    rollback(world.control, model="walker", alias="production")
    assert kept(world) is None


def test_a_server_that_loses_requests_moves_no_alias(unknown_server) -> None:
    """The incumbent serves on; who accepts losses says so in the settings."""
    world = unknown_server
    lossy(world.server)
    with pytest.raises(MoveError, match=r"Triton 2\.99\.0: of \d+ requests \d+ failed .* is not served") as caught:
        promote(world.control, model="walker", release="1.1.0", alias="production")
    assert "ACCEPT_LOSSES" in caught.value.remedy
    assert kept(world).failed >= kept(world).loads > 1
    assert world.state.alias("walker", "production").placement.release == "1.0.0"
    assert world.server.serving() == {"walker": 1}
    accepting = Control.of(load(repository=world.root, server={"accept_losses": True}))
    assert promote(accepting, model="walker", release="1.1.0", alias="production").changed


def test_a_release_that_answers_wrongly_says_nothing_of_the_server(unknown_server) -> None:
    """It is refused; a good one is measured with afterwards, and moves."""
    world = unknown_server
    world.server.wrong_slots.add(("walker.candidate", 2))
    with pytest.raises(GateError, match="golden"):
        promote(world.control, model="walker", release="1.1.0", alias="production")
    assert kept(world) is None
    world.publish("1.2.0", 3)
    assert promote(world.control, model="walker", release="1.2.0", alias="production").changed
    assert kept(world).is_safe


def test_a_dry_run_says_what_would_be_measured(unknown_server) -> None:
    """And measures nothing; a server that is known to lose requests is refused by it too."""
    world = unknown_server
    planned = promote(world.control, model="walker", release="1.1.0", alias="production", dry_run=True)
    assert planned.steps[0] == "measure whether Triton 2.99.0 loses requests while it loads"
    assert kept(world) is None
    lossy(world.server)
    swaps.check(world.control)
    with pytest.raises(MoveError, match="failed"):
        promote(world.control, model="walker", release="1.1.0", alias="production", dry_run=True)


def test_doctor_says_what_was_lost(unknown_server) -> None:
    """And measures afresh, whatever was measured before."""
    world = unknown_server
    assert swaps.check(world.control).status == "ok"
    lossy(world.server)
    checked = swaps.check(world.control)
    assert (checked.status, kept(world).is_safe) == ("failed", False)
    assert "failed and 0 were answered wrongly while a served model was loaded again" in checked.detail


def test_doctor_needs_something_that_is_served(world) -> None:
    """It says what to do first."""
    world.publish("1.0.0", 1)
    assert swaps.check(world.control).fix == "Promote a release first; the server must run."
