"""An alias moves on every node or on none, also where processes die on the way."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace

import obstore
import pytest
from fleet_world import Crash, FleetWorld
from world import write_export

from policyctl.domain.fleet import FleetMove
from policyctl.domain.journal import RecordKind
from policyctl.domain.moves import MoveKind
from policyctl.errors import BusyError, GateError, IntegrityError, MoveError, ServerError, UsageError
from policyctl.services.fleet import node as node_module
from policyctl.services.integrity.verify import verify
from policyctl.services.moves.rollback import rollback
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.request import AbortRequest, AliasRequest, PinRequest, PromotionRequest, RemovalRequest
from policyctl.settings import CutOff


def everywhere(release: str | None) -> dict[str, str | None]:
    return dict.fromkeys("abc", release)


def test_a_promotion_and_a_rollback_reach_every_node(fleet: FleetWorld) -> None:
    """Each node certifies before the commit; the journals of store and nodes name who, why and which generation."""
    first = fleet.promote("1.0.0", reason="first")
    assert fleet.answers() == everywhere("1.0.0")
    fleet.promote("1.1.0", reason="better on stairs")
    assert fleet.answers() == everywhere("1.1.0")
    done = fleet.rollback(reason="falls on ice")
    assert fleet.answers() == everywhere("1.0.0")
    assert (done.result["from"], done.result["to"], done.result["nodes"]) == ("1.1.0", "1.0.0", ["a", "b", "c"])
    assert done.result["generation"] > first.result["generation"]
    kinds = [record["kind"] for record in fleet.command().history(model="walker", limit=None)]
    assert kinds == ["intent", "switching", "outcome"] * 3
    for node in fleet.nodes.values():
        intents = [r for r in node.control.repository.journal.records() if r.kind is RecordKind.INTENT]
        assert intents[-1].body["reason"].endswith("falls on ice")
        assert intents[-1].actor == "command"
        assert all(f.intact for f in verify(node.control))
    status = fleet.command().status(model=None)
    assert status.healthy, status.rows()


def test_answers_name_the_generation_on_every_node(fleet: FleetWorld, monkeypatch) -> None:
    """Also on a node that never left the release to which all went back; a restart serves it meanwhile."""
    first = fleet.promote("1.0.0").result["generation"]
    assert {node.generation() for node in fleet.nodes.values()} == {first}
    away = fleet.nodes["c"]
    away.kill()
    fleet.nodes["b"].server.wrong_slots = {("walker", 2)}
    monkeypatch.setenv("POLICYCTL_FLEET__MAX_UNAVAILABLE", "1")
    with pytest.raises(MoveError, match="node b could not serve"):
        fleet.promote("1.1.0")
    latest = fleet.command().journal.read().aliases["walker", "production"].generation
    assert {fleet.nodes[name].generation() for name in "ab"} == {latest}
    away.start()
    assert (away.answers(), away.generation()) == ("1.0.0", first)
    fleet.settle("1.0.0")
    fleet.rest()
    assert away.generation() == latest > first


def test_the_store_is_asked_as_often_as_the_page_says(fleet: FleetWorld) -> None:
    """docs/fleet.md, "Scale": at rest by each node, for each look of a command, and for a move."""
    for release in ("1.0.0", "1.1.0"):
        fleet.promote(release)
    fleet.rest()
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    fleet.before = lambda actor, doing: asked[actor].update([re.sub("/.*", "", doing)])
    fleet.rest()
    assert asked == {node: {"reading journal": 1, "reading nodes": 1, "writing nodes": 1} for node in "abc"}
    asked.clear()
    fleet.rollback()
    command = asked["command"]
    looks = command["listing nodes"]
    assert command["creating journal"] == 3
    assert command["reading nodes"] == len("abc") * looks
    assert command["listing segments"] == 1


def test_what_withdraws_waits_for_nobody(fleet: FleetWorld, monkeypatch) -> None:
    """Another thread holds the writer lock for as long as a load takes; the lease ends all the same."""
    monkeypatch.setattr(node_module, "_LOCK_WAIT_S", 0.05)
    fleet.promote("1.0.0")
    node = fleet.nodes["b"]
    fleets = node.control.settings.fleet.model_copy(update={"when_cut_off": CutOff.WITHDRAW})
    node.process.control = replace(node.control, settings=node.control.settings.model_copy(update={"fleet": fleets}))
    fleet.cut_off("b")
    with node.control.repository.writer("validate walker 1.1.0"):
        fleet.rest(20.0)
    assert fleet.answers() == {"a": "1.0.0", "b": None, "c": "1.0.0"}


def test_a_new_generation_of_the_same_release_takes_no_candidate(fleet: FleetWorld, monkeypatch) -> None:
    """A node that stayed where all went back to needs no room for a second copy, and is ready meanwhile."""
    fleet.promote("1.0.0")
    away = fleet.nodes["c"]
    away.kill()
    fleet.nodes["b"].server.wrong_slots = {("walker", 2)}
    monkeypatch.setenv("POLICYCTL_FLEET__MAX_UNAVAILABLE", "1")
    with pytest.raises(MoveError, match="node b could not serve"):
        fleet.promote("1.1.0")
    away.start()
    assert away.process.behind() == ""
    away.server.calls.clear()
    fleet.settle("1.0.0")
    fleet.rest()
    assert away.generation() > 1
    assert "load walker.candidate" not in away.server.calls


def test_a_rollback_of_a_server_that_left_its_fleet_names_no_generation(fleet: FleetWorld) -> None:
    """Its clients would be refused for what the store named once."""
    for release in ("1.0.0", "1.1.0"):
        fleet.promote(release)
    node = fleet.nodes["a"]
    rollback(node.control, model="walker", alias="production")
    assert (node.answers(), node.generation()) == ("1.0.0", 0)


def test_a_report_without_an_end_does_not_end_the_journal(fleet: FleetWorld, monkeypatch) -> None:
    """What a node says of a move that is taken back stands in the journal, as far as a reason may be long."""
    fleet.promote("1.0.0")
    node = fleet.nodes["c"]
    node.server.wrong_slots = {("walker", 2)}
    say = node_module.Node._problem
    endless = MoveError("é" * 150_000)
    monkeypatch.setattr(node_module.Node, "_problem", lambda process, move_id, _error: say(process, move_id, endless))
    with pytest.raises(MoveError):
        fleet.promote("1.1.0")
    assert max(len(json.dumps(record)) for record in fleet.command().history(model=None, limit=None)) < 20_000
    fleet.settle("1.0.0")
    assert fleet.answers() == everywhere("1.0.0")


def test_a_node_keeps_no_files_that_the_store_holds_and_nobody_needs(fleet: FleetWorld, monkeypatch) -> None:
    """What was published on the node alone stays; what was removed is fetched again for a move."""
    monkeypatch.setattr(node_module, "_TIDY_S", 1.0)
    node = fleet.nodes["a"]
    own = write_export(fleet.folder / "own", 7)
    publish(node.control, own, model="walker", release="0.1.0")
    retention = node.control.settings.retention.model_copy(update={"days": 0.0, "newest": 1, "rollbacks": 1})
    keeping = replace(node.control, settings=node.control.settings.model_copy(update={"retention": retention}))
    for release in ("1.0.0", "1.1.0", "1.0.0", "1.1.0"):
        fleet.promote(release)
    fleet.promote("2.0.0", breaking=True)
    node.process.control = keeping
    aside = node.control.repository.control / "orphans" / "walker-9"
    aside.mkdir(parents=True)
    fleet.rest(5.0)
    assert aside.exists()

    def gone() -> set[str]:
        releases = node.control.repository.journal.state().releases
        return {release for (_, release), each in releases.items() if each.collected}

    assert gone() == {"1.0.0"}
    assert not [each for name in "bc" for each in fleet.nodes[name].control.known().releases.values() if each.collected]
    fleet.promote("1.0.0", breaking=True)
    assert fleet.answers() == everywhere("1.0.0")
    assert not gone()


def test_a_node_that_cannot_serve_the_release_stops_the_promotion(fleet: FleetWorld) -> None:
    """Its answers differ from the golden set: nothing is committed, and no node changes."""
    fleet.promote("1.0.0")
    fleet.nodes["b"].server.wrong_slots = {("walker.candidate", slot) for slot in range(9)}
    with pytest.raises(MoveError, match="node b cannot serve the release"):
        fleet.promote("1.1.0")
    assert fleet.answers() == everywhere("1.0.0")
    assert not fleet.command().journal.read().open


def test_a_node_that_fails_after_the_commit_has_everything_taken_back(fleet: FleetWorld) -> None:
    """It certified the candidate, and then answers wrongly under the alias."""
    fleet.promote("1.0.0")
    fleet.nodes["c"].server.wrong_slots = {("walker", 2)}
    with pytest.raises(MoveError, match=r"node c could not serve 1\.1\.0"):
        fleet.promote("1.1.0")
    assert fleet.answers() == everywhere("1.0.0")


def test_a_node_that_is_away_stops_a_promotion_and_no_rollback(fleet: FleetWorld) -> None:
    """It serves nothing of old when it comes back, before any client can ask it."""
    fleet.promote("1.0.0")
    fleet.promote("1.1.0")
    fleet.nodes["c"].kill()
    with pytest.raises(MoveError, match="c reported nothing"):
        fleet.promote("1.0.0")
    done = fleet.rollback()
    assert (done.result["nodes"], done.result["not_yet"]) == (["a", "b"], ["c"])
    fleet.nodes["c"].start()
    assert fleet.nodes["c"].answers() is None
    fleet.settle()
    assert fleet.answers() == everywhere("1.0.0")


def test_a_node_that_is_cut_off_serves_on_and_comes_to_what_was_committed(fleet: FleetWorld) -> None:
    """The default keeps what it serves; with `withdraw` it serves nothing once the lease is over."""
    fleet.promote("1.0.0")
    fleet.nodes["b"].withdraws(CutOff.WITHDRAW)
    fleet.cut_off("b", "c")
    for _ in range(30):
        fleet.rest()
    assert fleet.answers() == {"a": "1.0.0", "b": None, "c": "1.0.0"}
    fleet.cut_off()
    fleet.settle()
    assert fleet.answers() == everywhere("1.0.0")


def test_a_node_that_starts_without_the_store_serves_what_it_read_last_or_nothing(fleet: FleetWorld) -> None:
    """Which of them is the setting `when_cut_off`."""
    fleet.promote("1.0.0")
    node = fleet.nodes["b"]
    fleet.cut_off("b")
    node.kill()
    node.start()
    assert node.answers() == "1.0.0"
    node.withdraws(CutOff.WITHDRAW)
    node.kill()
    node.start()
    assert node.answers() is None


def test_an_older_store_is_not_followed(fleet: FleetWorld) -> None:
    """A bucket that was restored from a backup lacks records that a node has read."""
    fleet.promote("1.0.0")
    fleet.promote("1.1.0")
    for page in obstore.list(fleet.store, "journal"):
        for each in page:
            if int(each["path"].rpartition("/")[2]) >= 3:
                obstore.delete(fleet.store, each["path"])
    fleet.nodes["a"].kill()
    fleet.nodes["a"].start()
    assert fleet.nodes["a"].answers() == "1.1.0"
    assert any("older copy" in words for words in fleet.said)
    fleet.said.clear()
    for _ in range(5):
        fleet.rest(20.0)
    assert fleet.answers() == everywhere("1.1.0")
    assert sum("older copy" in words for words in fleet.said) == 3, "each node that runs says it, once"
    assert not any("can be read again" in words for words in fleet.said)


def test_what_a_fleet_cannot_do_is_refused_before_anything_begins(fleet: FleetWorld) -> None:
    """Unknown releases, gates, bakes, pins, and a contract that breaks the incumbent's."""
    fleet.promote("1.0.0")
    before = len(fleet.command().history(model=None, limit=None))
    with pytest.raises(UsageError, match=r"holds no release '3\.0\.0'"):
        fleet.promote("3.0.0")
    with pytest.raises(UsageError, match="cannot measure the gates"):
        fleet.promote("1.1.0", gates=("service_level",))
    with pytest.raises(UsageError, match="no pins"):
        fleet.ask(PinRequest(release="1.1.0"))
    with pytest.raises(GateError, match="breaks the contract"):
        fleet.promote("2.0.0")
    with pytest.raises(UsageError, match="nothing came before it"):
        fleet.rollback()
    with pytest.raises(UsageError, match="no move of walker is being prepared"):
        fleet.ask(AbortRequest())
    assert len(fleet.command().history(model=None, limit=None)) == before
    fleet.promote("2.0.0", breaking=True)
    assert fleet.answers() == everywhere("2.0.0")


def test_a_dry_run_names_the_nodes_and_changes_nothing(fleet: FleetWorld) -> None:
    """For every kind of move."""
    fleet.promote("1.0.0")
    before = len(fleet.command().history(model=None, limit=None))
    done = fleet.promote("1.1.0", dry_run=True)
    assert done.result["nodes"] == ["a", "b", "c"]
    assert "a, b, c" in done.words
    fleet.ask(RemovalRequest(alias="production", dry_run=True))
    assert len(fleet.command().history(model=None, limit=None)) == before


def test_a_removal_reaches_every_node(fleet: FleetWorld) -> None:
    """The alias names nothing, on a node that starts later as well."""
    fleet.promote("1.0.0")
    fleet.ask(RemovalRequest(alias="production"))
    assert fleet.answers() == everywhere(None)
    fleet.nodes["a"].kill()
    fleet.nodes["a"].start()
    fleet.rest()
    assert fleet.answers() == everywhere(None)


def test_a_second_promotion_is_refused_while_one_is_prepared_and_abort_ends_it(fleet: FleetWorld) -> None:
    """A command that died left it open; it has changed nothing."""
    fleet.promote("1.0.0")
    crash_at(fleet, "creating", 1)
    with pytest.raises(Crash):
        fleet.promote("1.1.0")
    fleet.before = lambda _actor, _doing: None
    with pytest.raises(BusyError, match="is being prepared since"):
        fleet.promote("1.1.0")
    fleet.ask(AbortRequest())
    fleet.promote("1.1.0")
    assert fleet.answers() == everywhere("1.1.0")


def crash_at(fleet: FleetWorld, what: str, after: int, *, afterwards: bool = False) -> list[int]:
    """The command ends before (or right after) its request number `after` to the store, counted from 0."""
    count = [0]

    def crash(actor: str, doing: str) -> None:
        if actor == "command" and doing.startswith(what):
            count[0] += 1
            if count[0] == after + 1:
                raise Crash

    if afterwards:
        fleet.after = crash
    else:
        fleet.before = crash
    return count


@pytest.mark.parametrize("afterwards", [False, True])
@pytest.mark.parametrize("number", range(3))
def test_a_command_that_dies_at_any_record_leaves_all_nodes_on_one_release(
    fleet: FleetWorld, number: int, *, afterwards: bool
) -> None:
    """Before the commit all keep the incumbent; after it all come to the target; a rollback works at once."""
    fleet.promote("1.0.0")
    crash_at(fleet, "creating", number, afterwards=afterwards)
    with pytest.raises(Crash):
        fleet.promote("1.1.0")
    fleet.before = fleet.after = lambda _actor, _doing: None
    fleet.settle()
    committed = number > 1 or (number == 1 and afterwards)
    assert fleet.answers() == everywhere("1.1.0" if committed else "1.0.0")
    if committed:
        fleet.rollback()
        assert fleet.answers() == everywhere("1.0.0")


@pytest.mark.parametrize("number", range(3))
def test_a_write_whose_answer_is_lost_is_found(fleet: FleetWorld, number: int) -> None:
    """The store carried it out, and the network failed: the command goes on, and writes nothing twice."""
    fleet.promote("1.0.0")
    count = [0]

    def lose(actor: str, doing: str) -> None:
        if actor == "command" and doing.startswith("creating"):
            count[0] += 1
            if count[0] == number + 1:
                raise ServerError("the answer was lost")

    fleet.after = lose
    fleet.promote("1.1.0")
    assert fleet.answers() == everywhere("1.1.0")
    kinds = [record["kind"] for record in fleet.command().history(model=None, limit=None)]
    assert kinds == ["intent", "switching", "outcome"] * 2


def test_a_move_whose_intent_was_superseded_unseen_is_not_committed(fleet: FleetWorld) -> None:
    """The answer to its intent is lost; then the command reads its intent, and behind it that of another move."""
    fleet.promote("1.0.0")
    fleet.promote("1.1.0")
    lost = [0]

    def lose(actor: str, doing: str) -> None:
        if actor == "command" and doing.startswith("creating") and not lost[0]:
            lost[0] += 1
            other = fleet.command("other").journal
            named = other.read().named("walker", "production")
            move = FleetMove("m", MoveKind.REMOVAL, "walker", "production", named, None)
            other.append(RecordKind.INTENT, move.to_json())
            raise ServerError("the answer was lost")

    fleet.after = lose
    with pytest.raises(BusyError, match="somebody else began another move"):
        fleet.rollback()
    kinds = [record["kind"] for record in fleet.command().history(model=None, limit=None)]
    assert kinds[6:] == ["intent", "intent"]
    assert fleet.answers() == everywhere("1.1.0")


def test_two_commands_at_once_agree_on_one_release(fleet: FleetWorld) -> None:
    """A rollback by somebody else ends a promotion that is being prepared; its command says so."""
    fleet.promote("1.0.0")
    fleet.promote("1.1.0")
    slow = fleet.command()

    def meanwhile(_seconds: float) -> None:
        slow.sleep = fleet.rest
        fleet.rollback()

    slow.sleep = meanwhile
    with fleet.acting("command"), pytest.raises(MoveError, match="somebody ended"):
        slow.carry_out(AliasRequest("walker", PromotionRequest(release="2.0.0", breaking=True)))
    assert fleet.answers() == everywhere("1.0.0")


def test_a_node_that_was_killed_in_a_switch_does_not_finish_what_was_taken_back(fleet: FleetWorld) -> None:
    """Its own journal says that it was switching; the store names the incumbent again."""
    fleet.promote("1.0.0")
    node = fleet.nodes["b"]

    def die(name: str) -> None:
        if name == "load walker" and node.named_in_store() == "1.1.0":
            raise Crash

    node.server.before_call = die
    with pytest.raises(Crash):
        fleet.promote("1.1.0")
    node.kill()
    assert node.control.repository.journal.state().unfinished
    fleet.rollback()
    node.start()
    assert not node.control.repository.journal.state().unfinished
    assert node.answers() in {None, "1.0.0"}
    fleet.settle()
    assert fleet.answers() == everywhere("1.0.0")


def test_a_node_that_read_a_commit_and_died_does_not_serve_what_was_before(fleet: FleetWorld) -> None:
    """The store is away when it starts again; what this machine read of the journal counts."""
    fleet.promote("1.0.0")
    node = fleet.nodes["b"]
    node.server.endless = {("walker.candidate", slot) for slot in range(9)}
    command = fleet.command()
    named = command.journal.read().named("walker", "production")
    assert named is not None
    target = command._release(command.journal.state, "walker", "1.1.0")
    move = FleetMove("m", MoveKind.PROMOTION, "walker", "production", named, target)
    command.journal.append(RecordKind.INTENT, move.to_json())
    command.journal.append(RecordKind.SWITCHING, {"move": "m"})
    with fleet.acting("b"):
        node.process._journal.read()
    node.kill()
    fleet.cut_off("b")
    node.start()
    assert node.answers() is None


def test_an_alias_that_was_refused_once_is_reached_by_the_next_release(fleet: FleetWorld) -> None:
    """What the supervisor refused at a start is one placement, and not the alias for ever."""
    fleet.promote("1.0.0")
    node = fleet.nodes["b"]
    local = node.control.repository.journal.state().alias("walker", "production")
    node.process.observed.refused["walker", "production"] = local.placement
    fleet.rest()
    assert not fleet.command().status(model=None).healthy
    fleet.promote("1.1.0")
    assert fleet.command().status(model=None).healthy


def test_a_report_that_cannot_be_read_stops_no_rollback(fleet: FleetWorld) -> None:
    """It counts as a node that is cut off."""
    fleet.promote("1.0.0")
    fleet.promote("1.1.0")
    obstore.put(fleet.store, "nodes/strange", b'{"schema": 99}')
    done = fleet.rollback()
    assert (done.result["nodes"], done.result["not_yet"]) == (["a", "b", "c"], ["strange"])


def test_a_number_that_names_another_release_in_the_store_is_refused(fleet: FleetWorld) -> None:
    """Somebody put the manifest of 1.0.0 in the place of 1.1.0."""
    fleet.promote("1.0.0")
    content = bytes(obstore.get(fleet.store, "releases/walker/1.0.0").bytes())
    obstore.put(fleet.store, "releases/walker/1.1.0", content)
    with pytest.raises(IntegrityError, match=r"walker:1\.1\.0 is walker 1\.0\.0"):
        fleet.promote("1.1.0")


def test_a_store_that_fails_after_the_commit_is_waited_for(fleet: FleetWorld) -> None:
    """The command does not leave the nodes to themselves for one answer that is missing."""
    fleet.promote("1.0.0")
    committed = [0]

    def fail(actor: str, doing: str) -> None:
        if actor == "command" and doing.startswith("creating journal"):
            committed[0] += 1
        if actor == "command" and doing == "listing nodes" and committed[0] == 2:
            committed[0] += 1
            raise ServerError("no answer")

    fleet.before = fail
    fleet.promote("1.1.0")
    assert committed[0] > 2
    assert fleet.answers() == everywhere("1.1.0")
