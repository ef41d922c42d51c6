"""What the command line makes of `--store`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from world import World

from policyctl.adapters.bucket import Bucket
from policyctl.adapters.fleet_store import FleetJournal
from policyctl.domain.fleet import FleetMove, StoredRelease
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import MoveKind
from policyctl.errors import UsageError
from policyctl.services import running
from policyctl.services.rollout.here import carry_out
from policyctl.services.rollout.request import AliasRequest, RollbackRequest


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def test_a_store_that_is_typed_goes_before_a_control_api_that_is_set(run, elsewhere, monkeypatch, store: str) -> None:
    """Nobody moves another server than the one that was typed; both typed are refused."""
    monkeypatch.setenv("POLICYCTL_API__URL", "http://127.0.0.1:1")
    done = run("--store", store, "status", "--json")
    assert (done.code, done.document["store"], done.document["nodes"]) == (0, store, [])
    refused = run("--store", store, "--api", "http://127.0.0.1:1", "status")
    assert (refused.code, "two different things" in refused.err) == (2, True)


def test_status_of_a_store_that_nobody_follows_says_what_to_do(run, elsewhere, store: str) -> None:
    """An empty table alone says nothing; an alias that is named shows also without a node."""
    done = run("--store", store, "status")
    assert "No alias names a release yet" in done.err
    assert f"No node follows {store}. Start one: policyctl --store {store} serve" in done.err
    move = FleetMove("m", MoveKind.PROMOTION, "walker", "production", None, StoredRelease("1.0.0", "a", "m"))
    journal = FleetJournal(Bucket(store), "somebody")
    journal.append(RecordKind.INTENT, move.to_json())
    journal.append(RecordKind.SWITCHING, {"move": "m"})
    assert "no node" in run("--store", store, "status").out


def test_the_commands_that_go_by_a_store_are_named_without_those_it_refuses(run, elsewhere, store: str) -> None:
    """A store has no pins."""
    assert (
        "With --store go promote, rollback, abort, unserve, status, history and serve."
        in run("--store", store, "verify").err
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify",), "works on a repository of this machine"),
        (("promote", "walker", "1.0.0", "--repository", "x"), "two different things"),
        (("promote", "walker", "1.0.0"), "holds no release '1.0.0' of walker"),
        (("promote", "walker", "1.0.0", "--format", "onnx"), "cannot choose an artifact"),
        (("rollback", "walker"), "nothing to roll back"),
        (("abort", "walker"), "no move of walker is being prepared"),
        (("pin", "walker", "1.0.0"), "no pins"),
    ],
)
def test_what_a_store_cannot_do_is_refused(run, elsewhere, store: str, arguments: tuple[str, ...], said: str) -> None:
    """In one sentence, with exit code 2; nothing is written into the store."""
    done = run("--store", store, *arguments)
    assert done.code == 2, done.err
    assert said in done.err
    assert not list(Path(store.removeprefix("file://")).rglob("*.json"))


def test_a_repository_whose_server_follows_a_store_is_not_moved_alone(tmp_path: Path, monkeypatch, store: str) -> None:
    """Also by a command that does not know of the store itself."""
    world = World(tmp_path, monkeypatch)
    world.publish("1.0.0", 1)
    monkeypatch.setattr(
        running, "read", lambda _repository: SimpleNamespace(settings={"fleet.store": store}, places={})
    )
    with pytest.raises(UsageError, match="this repository follows"):
        carry_out(world.control, AliasRequest("walker", RollbackRequest()))
