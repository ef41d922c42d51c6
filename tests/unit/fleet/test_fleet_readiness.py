"""When a node of a fleet should get requests: what a balancer reads at /readyz."""

from __future__ import annotations

import pytest
from fleet_world import FleetWorld, SimulatedNode

from policyctl.errors import MoveError
from policyctl.settings import CutOff

KEY = ("walker", "production")


def behind(node: SimulatedNode) -> str:
    """What the node says after a look at the store."""
    node.step()
    assert node.process is not None
    return node.process.behind()


def test_a_node_that_comes_back_waits_until_it_serves_what_the_store_names(fleet: FleetWorld) -> None:
    """It missed a rollback: its server is up, and serves nothing of old. Where nothing is named, nothing is awaited."""
    node = fleet.nodes["c"]
    assert behind(node) == ""
    fleet.promote("1.0.0")
    fleet.promote("1.1.0")
    node.kill()
    fleet.rollback()
    node.start()
    assert node.process is not None
    node.process._state = node.process._journal.read()
    assert node.process.behind() == "production of walker: not served as the store names it"
    fleet.settle("1.0.0")
    assert behind(node) == ""


def test_a_fresh_node_that_cannot_read_the_store_is_not_ready(fleet: FleetWorld) -> None:
    """It knows of no alias, which is not the same as a store that names none."""
    fleet.promote("1.0.0")
    fleet.cut_off("d")
    node = fleet.nodes["d"] = SimulatedNode(fleet, "d")
    node.start()
    assert behind(node) == "the store was not read yet"
    fleet.cut_off()
    fleet.settle("1.0.0")
    assert behind(node) == ""


def test_a_node_that_lost_the_store_stays_as_long_as_it_serves(fleet: FleetWorld) -> None:
    """With `keep` it serves on; with `withdraw` it serves nothing after the lease, and should get nothing."""
    fleet.promote("1.0.0")
    node = fleet.nodes["b"]
    assert behind(node) == ""
    changed = node.control.settings.fleet.model_copy(update={"when_cut_off": CutOff.WITHDRAW})
    fleet.cut_off("b")
    fleet.rest(100.0)
    assert behind(node) == ""
    node.control.settings = node.control.settings.model_copy(update={"fleet": changed})
    fleet.rest(100.0)
    assert behind(node) == "nothing of what the store names is served here"


def test_a_node_that_cannot_follow_a_commit_stays(fleet: FleetWorld) -> None:
    """It serves the incumbent rightly: where no node can follow, nobody could answer otherwise."""
    fleet.promote("1.0.0")
    node = fleet.nodes["c"]
    assert behind(node) == ""
    node.server.wrong_slots = {("walker", 2)}
    seen: list[tuple[str, int | None]] = []

    def look(_node: SimulatedNode) -> None:
        assert node.process is not None
        seen.append((node.process.behind(), node.process._serving(KEY).generation))

    fleet.looked = look
    with pytest.raises(MoveError, match=r"node c could not serve 1\.1\.0"):
        fleet.promote("1.1.0")
    assert None in {generation for _, generation in seen}
    assert {words for words, _ in seen} == {""}
