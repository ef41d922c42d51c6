"""Two nodes on the real Triton follow a store that speaks S3."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from embedded import PATIENCE_S, exported, here, wait_for

from harness import fleet as harness
from harness.fleet import LocalFleet, s3_server
from policyctl.client import PolicyClient, StaleError
from policyctl.errors import MoveError

pytestmark = pytest.mark.server
pytest.importorskip("moto.server", reason="moto is not installed, which speaks S3")
OBSERVATION = [0.1, 0.2, 0.3, 0.4]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Two nodes; walker 1.0.0 and 1.1.0 are in the store, the first is in production."""
    folder = tmp_path_factory.mktemp("fleet")
    with s3_server(folder) as (store, asking), harness.environment(asking):
        found = LocalFleet(folder, store, ("left", "right"), asking)
        for number, release in enumerate(("1.0.0", "1.1.0"), 1):
            publisher = folder / "publisher"
            here(publisher, "publish", str(exported(number)), "--model", "walker", "--release", release)
            done = here(publisher, "release", "export", "walker", release, store)
            assert done.returncode == 0, done.stderr
        try:
            found.start()
            found.run("promote", "walker", "1.0.0", "--reason", "first")
            yield found
        finally:
            found.stop()


def seen(fleet: LocalFleet) -> list[tuple[str, int]]:
    """The release that answers on each node, and its generation."""
    found = []
    for node in fleet.nodes.values():
        with PolicyClient("walker", url=node.address, deadline_s=PATIENCE_S) as client:
            action = client.act(OBSERVATION)
            found.append((action.release, action.generation))
    return found


def answers(fleet: LocalFleet) -> list[str]:
    """The release that answers on each node."""
    return [release for release, _ in seen(fleet)]


def test_every_node_moves_and_moves_back(fleet: LocalFleet) -> None:
    """By the words of one machine; the store's history has who, why and how it ended."""
    fleet.run("promote", "walker", "1.1.0", "--reason", "better on stairs")
    assert answers(fleet) == ["1.1.0"] * 2
    done = json.loads(fleet.run("rollback", "walker", "--reason", "falls on ice", "--json").stdout)
    assert (done["to"], done["nodes"]) == ("1.0.0", ["left", "right"])
    assert seen(fleet) == [("1.0.0", done["generation"])] * 2
    records = json.loads(fleet.run("history", "--json").stdout)
    assert [r["reason"] for r in records if r["kind"] == "outcome"][-2:] == ["better on stairs", "falls on ice"]
    fleet.run("status", "--check")


def test_what_a_client_has_seen_is_answered_by_nothing_older(fleet: LocalFleet) -> None:
    """A node whose policyctl stands still answers on by the release before: clients of the other node refuse that."""
    fleet.run("promote", "walker", "1.1.0")
    fleet.wait_until_healthy()
    left, right = fleet.nodes["left"], fleet.nodes["right"]
    assert left.process is not None
    assert right.process is not None
    right.process.send_signal(signal.SIGSTOP)
    try:
        done = json.loads(fleet.run("rollback", "walker", "--json").stdout)
        assert (done["nodes"], done["not_yet"]) == (["left"], ["right"])
        with PolicyClient("walker", url=right.address, deadline_s=PATIENCE_S) as client:
            before = client.act(OBSERVATION)
            assert (before.release, before.generation < done["generation"]) == ("1.1.0", True)
        with PolicyClient("walker", url=[left.address, right.address], deadline_s=PATIENCE_S) as client:
            wait_for(lambda: client.act(OBSERVATION).generation == done["generation"] or turned(client))
            left.kill()
            with pytest.raises(StaleError, match=f"this client has seen {done['generation']}"):
                client.act(OBSERVATION)
            right.process.send_signal(signal.SIGCONT)
            wait_for(lambda: answered_by(client) == "1.0.0")
    finally:
        right.process.send_signal(signal.SIGCONT)
    fleet.start()
    fleet.wait_until_healthy()
    assert {generation for _, generation in seen(fleet)} == {done["generation"]}


def test_a_node_that_stayed_on_the_release_comes_to_its_new_generation(fleet: LocalFleet) -> None:
    """It was away while all went back and forth again: Triton loads what it has under the new name, and says so."""
    fleet.run("promote", "walker", "1.1.0")
    fleet.wait_until_healthy()
    right = fleet.nodes["right"]
    assert right.process is not None
    right.process.send_signal(signal.SIGSTOP)
    fleet.environment["POLICYCTL_FLEET__MAX_UNAVAILABLE"] = "1"
    try:
        fleet.run("rollback", "walker")
        done = json.loads(fleet.run("promote", "walker", "1.1.0", "--json").stdout)
        assert done["not_yet"] == ["right"]
    finally:
        del fleet.environment["POLICYCTL_FLEET__MAX_UNAVAILABLE"]
        right.process.send_signal(signal.SIGCONT)
    wait_for(lambda: seen(fleet) == [("1.1.0", done["generation"])] * 2)
    fleet.run("rollback", "walker")
    fleet.wait_until_healthy()


def turned(client: PolicyClient) -> bool:
    """Have the client begin with its other server, as chance decides at first; always False."""
    client._servers._chosen = 1 - client._servers._chosen
    return False


def answered_by(client: PolicyClient) -> str:
    """The release that answers; empty while none does that the client accepts."""
    try:
        return client.act(OBSERVATION).release
    except StaleError:
        return ""


def test_a_node_that_was_away_serves_what_was_committed_meanwhile(fleet: LocalFleet) -> None:
    """A rollback needs no node that is gone; it answers by nothing older once it is back."""
    fleet.run("promote", "walker", "1.1.0")
    right = fleet.nodes["right"]
    right.kill()
    done = json.loads(fleet.run("rollback", "walker", "--json").stdout)
    assert (done["nodes"], done["not_yet"]) == (["left"], ["right"])
    fleet.start()
    fleet.wait_until_healthy()
    assert answers(fleet) == ["1.0.0"] * 2


def test_a_release_that_a_node_cannot_serve_changes_nothing(fleet: LocalFleet) -> None:
    """The blob in the store is not what the manifest says: the promotion ends with 7, and names a node."""
    import obstore

    from policyctl.adapters.bucket import Bucket
    from policyctl.adapters.bucket_releases import BucketReleases
    from policyctl.domain.oci import read_artifact

    bucket = Bucket(fleet.store)
    here(
        Path(fleet.nodes["left"].repository).parents[1] / "publisher",
        "publish",
        str(exported(3)),
        "--model",
        "walker",
        "--release",
        "1.2.0",
    )
    here(
        Path(fleet.nodes["left"].repository).parents[1] / "publisher",
        "release",
        "export",
        "walker",
        "1.2.0",
        fleet.store,
    )
    artifact = read_artifact(BucketReleases(bucket).manifest("walker:1.2.0"))
    entry = max(artifact.files, key=lambda each: each.size_bytes)
    content = bytearray(bucket.get(f"blobs/sha256/{entry.digest[7:]}", most_bytes=1 << 30) or b"")
    content[len(content) // 2] ^= 1
    obstore.put(bucket._store, f"blobs/sha256/{entry.digest[7:]}", bytes(content))
    done = fleet.run("promote", "walker", "1.2.0", check=False)
    assert done.returncode == MoveError.exit_code, done.stderr
    assert "cannot serve the release" in done.stderr
    assert answers(fleet) == ["1.0.0"] * 2


def test_a_node_refuses_a_move_of_its_own(fleet: LocalFleet) -> None:
    """What the store names would take it back."""
    left = fleet.nodes["left"]
    done = fleet.run("rollback", "walker", "--repository", str(left.repository), check=False)
    assert done.returncode == 2
    assert "--store" in done.stderr
    wait_for(lambda: answers(fleet) == ["1.0.0"] * 2)
