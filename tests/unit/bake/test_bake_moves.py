"""A promotion that is watched: what stays, what goes back, who carries it out, and who wins."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace

import pytest
from bake_world import FOR_S

from policyctl.adapters import endpoint as endpoints
from policyctl.adapters import lock
from policyctl.adapters.endpoint import Endpoint
from policyctl.domain.bake import Then
from policyctl.domain.journal import RecordKind
from policyctl.domain.manifest import digest_of
from policyctl.domain.verdict import Verdict
from policyctl.errors import IntegrityError, MoveError, ServerError
from policyctl.services.bake import run as bake
from policyctl.services.bake.keeper import BakeKeeper
from policyctl.services.bake.verdict import recorded
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import history, status

KEY = ("walker", "production")


def to(world, release: str = "1.1.0", **more):
    """Promote, watched."""
    return promote(world.baking(**more), model="walker", release=release, alias="production")


def supervise(world) -> None:
    """One look of the supervisor, and what it takes up."""
    keeper = BakeKeeper(world.control, threading.Event())
    keeper.look()
    for thread in keeper._threads.values():
        thread.join()


def test_a_good_release_stays_and_its_figures_are_evidence(world) -> None:
    """The verdict is a gate's record with a file whose digest the journal has."""
    moved = to(world)
    assert (moved.bake.verdict, moved.bake.then) == (Verdict.PASSED, Then.KEEP), moved.bake.reason
    assert not [line for line in world.said if "WARNING" in line]
    assert world.named() == world.answered() == "1.1.0"
    assert world.verdicts() == [("1.1.0", "passed", "keep")]
    content = (world.control.repository.control / moved.bake.evidence).read_bytes()
    assert digest_of(content) == moved.bake.evidence_digest
    evidence = json.loads(content)["evidence"]
    assert {c["check"] for c in evidence["checks"]} == {"errors", "latency", "probes", "server"}
    assert evidence["incumbent"]["requests"] > 100
    assert moved.to_json()["bake"]["source"] == "Triton's statistics, read by this process"
    assert not world.state.bakes


def test_a_bake_that_another_process_ended_is_reported_whole(world) -> None:
    """The supervisor may end it in place of `promote`; source, seconds and checks come from the evidence."""
    moved = to(world)
    assert recorded(world.control, moved.move.id) == moved.bake
    (world.control.repository.control / moved.bake.evidence).write_bytes(b"{}")
    assert recorded(world.control, moved.move.id) == replace(moved.bake, source="", seconds=0.0, checks=())


@pytest.mark.parametrize("harm", ["errors", "latency", "probes"])
def test_a_harmful_release_goes_back_by_itself(world, harm) -> None:
    """Well before the time is up, by a rollback whose reason names the evidence."""
    if harm == "errors":
        world.failing["1.1.0"] = 0.2
    elif harm == "latency":
        world.latency_us["1.1.0"] = 3000.0
    else:
        certify = world.server.infer

        def infer(name, observations, outputs, *, slot=None):
            if world.state.bakes:
                world.server.wrong_slots.add(("walker", 2))
            return certify(name, observations, outputs, slot=slot)

        world.server.infer = infer
    moved = to(world)
    assert moved.bake.seconds < 40.0
    assert (moved.bake.verdict, moved.bake.then) == (Verdict.FAILED, Then.ROLLBACK), moved.bake.reason
    assert [c["check"] for c in moved.bake.checks if c["verdict"] == "failed"] == [harm]
    assert world.named() == world.answered() == "1.0.0"
    back = [r for r in world.control.repository.journal.records() if r.kind is RecordKind.INTENT][-1]
    assert (back.body["move_kind"], moved.bake.evidence in back.body["reason"]) == ("rollback", True)


@pytest.mark.parametrize(("then", "release"), [(Then.KEEP, "1.1.0"), (Then.ROLLBACK, "1.0.0")])
def test_without_traffic_the_setting_decides(world, then, release) -> None:
    """No client asks: inconclusive, and kept or rolled back as was declared."""
    world.requests_per_s = 0
    moved = to(world, then=then)
    assert (moved.bake.verdict, moved.bake.then) == (Verdict.INCONCLUSIVE, then)
    assert "no client asked" in moved.bake.reason
    assert world.named() == release


def test_what_is_not_watched(world) -> None:
    """Off, a first promotion, a pin, a rollback, and a release that is named already."""
    assert promote(world.control, model="walker", release="1.1.0", alias="production").bake is None
    assert promote(world.baking(), model="walker", release="1.1.0", alias="staging").bake is None
    assert "nothing that it could be rolled back to" in world.said[-3] + world.said[-2] + " ".join(world.said)
    assert promote(world.baking(), model="walker", release="1.2.0", alias="1.2.0").bake is None
    assert to(world).bake is None
    rollback(world.baking(), model="walker", alias="production")
    assert (world.named(), world.verdicts()) == ("1.0.0", [])


def test_a_dry_run_says_that_it_would_watch_and_changes_nothing(world) -> None:
    """The last step is the bake."""
    moved = promote(world.baking(), model="walker", release="1.1.0", alias="production", dry_run=True)
    assert moved.steps[-1].startswith("bake: watch walker for 60 s; roll back where it fails")
    assert world.named() == "1.0.0"


@pytest.mark.parametrize("by", ["rollback", "promotion", "another promotion that is watched"])
def test_whoever_moves_the_alias_meanwhile_wins(world, by) -> None:
    """The writer lock is free during the watch; the bake ends, says by whom, and touches nothing."""

    def move() -> None:
        if by == "rollback":
            rollback(world.control, model="walker", alias="production", reason="by hand")
        elif by == "promotion":
            promote(world.control, model="walker", release="1.2.0", alias="production")
        else:
            assert to(world, "1.2.0").bake.verdict is Verdict.PASSED

    world.failing["1.1.0"] = 0.02  # bad, but not proved so at once
    world.meanwhile[3] = move
    moved = to(world)
    assert (moved.bake.verdict, moved.bake.then) == (None, None)
    assert "took precedence" in moved.bake.reason
    expected = "1.0.0" if by == "rollback" else "1.2.0"
    assert world.named() == world.answered() == expected


def test_a_move_between_the_verdict_and_its_rollback_wins(world, monkeypatch) -> None:
    """The rollback asks under the lock whether the alias is still where this promotion brought it."""
    world.failing["1.1.0"] = 0.5
    back = bake.rollback

    def late(*arguments, **more):
        promote(world.control, model="walker", release="1.2.0", alias="production")
        return back(*arguments, **more)

    monkeypatch.setattr(bake, "rollback", late)
    moved = to(world)
    assert (moved.bake.verdict, moved.bake.then) == (Verdict.FAILED, None)
    assert "to 1.2.0" in moved.bake.reason
    assert world.named() == "1.2.0"


def killed_while_baking(world, **more) -> None:
    """A promoting process that is killed (SIGKILL) during the watch."""
    child = os.fork()
    if child == 0:
        world.meanwhile[3] = lambda: os.kill(os.getpid(), signal.SIGKILL)
        to(world, **more)
        os._exit(1)
    _, how = os.waitpid(child, 0)
    assert os.WTERMSIG(how) == signal.SIGKILL
    assert world.state.bakes[KEY].move.target.release == "1.1.0"
    assert not lock.is_held(bake.lock_path(world.control, world.state.bakes[KEY].move.id))


def test_the_supervisor_carries_out_what_a_killed_promotion_left(world) -> None:
    """It watches for the rest of the time, by itself, and rolls back."""
    killed_while_baking(world)
    assert any(n.about == "bake" for n in status(world.control).notes)
    world.failing["1.1.0"] = 0.5
    supervise(world)
    assert world.named() == "1.0.0"
    assert world.verdicts() == [("1.1.0", "failed", "rollback")]


def test_where_no_supervisor_runs_the_same_promotion_carries_it_on(world) -> None:
    """Typed again, it moves nothing and resumes the bake."""
    killed_while_baking(world)
    world.failing["1.1.0"] = 0.5
    moved = to(world)
    assert (moved.changed, moved.bake.verdict, world.named()) == (False, Verdict.FAILED, "1.0.0")


def test_a_person_may_end_a_bake_and_keep_the_release(world) -> None:
    """`promote --no-bake` of what is baking says so in the journal."""
    killed_while_baking(world)
    moved = promote(world.control, model="walker", release="1.1.0", alias="production", bake=False)
    assert (moved.bake.then, moved.bake.reason) == (Then.KEEP, "ended by hand before its time")
    assert (world.named(), world.state.bakes) == ("1.1.0", {})


def test_time_that_nobody_watched_is_not_made_up(world) -> None:
    """A bake that is found after its time is inconclusive by our own figures, and the setting decides."""
    killed_while_baking(world, then=Then.KEEP)
    found = world.state.bakes[KEY]
    long_ago = "2020-01-01T00:00:00+00:00"
    one = bake._Bake(world.control, KEY, bake.replace(found, since=long_ago), threading.Event())
    assert one.run().verdict is Verdict.INCONCLUSIVE
    assert world.named() == "1.1.0"


def test_a_rollback_that_fails_is_said_and_stays_owed(world) -> None:
    """The incumbent is not intact on disk; once it is again, the supervisor takes the alias back."""
    world.failing["1.1.0"] = 0.5
    path = world.root / "walker" / "1" / "model.onnx"
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"spoilt")
    with pytest.raises(MoveError, match="and the rollback failed"):
        to(world)
    assert world.state.bakes[KEY].verdict is Verdict.FAILED
    assert world.named() == "1.1.0"
    path.write_bytes(good)
    supervise(world)
    assert world.named() == "1.0.0"
    assert world.verdicts() == [("1.1.0", "failed", "rollback")]


def test_a_server_that_died_fails_the_bake_and_one_that_was_stopped_does_not(world) -> None:
    """Another run under the same supervisor is a crash; another supervisor is a person's doing."""

    def replace_by(supervisor: str) -> None:
        endpoints.write(world.control.repository, Endpoint("fake:1", "fake:2", server_id="s2", supervisor=supervisor))

    for supervisor, expected in (("one", Verdict.FAILED), ("two", Verdict.PASSED)):
        one = Endpoint("fake:1", "fake:2", server_id="s1", supervisor="one")
        endpoints.write(world.control.repository, one)
        world.meanwhile[world.waits + 3] = lambda supervisor=supervisor: replace_by(supervisor)
        moved = to(world)
        assert moved.bake.verdict is expected, moved.bake.reason
        promote(world.control, model="walker", release="1.0.0", alias="production")


def test_a_server_that_is_away_is_no_data(world) -> None:
    """Nothing is held against the release; if it stays away, the verdict is inconclusive."""
    world.meanwhile[1] = lambda: endpoints.clear(world.control.repository)
    moved = to(world, then=Then.KEEP)
    assert moved.bake.verdict is Verdict.INCONCLUSIVE
    assert moved.bake.checks[2]["failed"] == 0


def test_the_journal_of_a_bake_is_short(world) -> None:
    """`history` shows what was declared, and not the incumbent's figures."""
    to(world)
    (intent,) = [r for r in history(world.control) if r["kind"] == "intent" and "bake" in r]
    assert intent["bake"]["for_s"] == FOR_S
    assert "incumbent" not in intent["bake"]


def test_a_release_that_is_not_intact_is_no_reason_to_fail(world, monkeypatch) -> None:
    """What the server holds was verified when it was loaded; without its golden set there are no probes."""

    def damaged(*_):
        raise IntegrityError("damaged")

    monkeypatch.setattr("policyctl.services.golden_questions.read_question", damaged)
    moved = to(world, then=Then.KEEP)
    assert moved.bake.verdict is Verdict.INCONCLUSIVE
    assert "golden probes" in moved.bake.reason


def test_probes_that_fail_on_a_live_server_are_held_against_it(world) -> None:
    """Live, and silent."""
    ask = world.server.infer

    def infer(name, observations, outputs, *, slot=None):
        if world.state.bakes and world.answered() == "1.1.0":
            raise ServerError("no answer")
        return ask(name, observations, outputs, slot=slot)

    world.server.infer = infer
    moved = to(world)
    assert moved.bake.verdict is Verdict.FAILED
    assert "golden probes were not answered" in moved.bake.reason
    assert moved.bake.seconds >= 1.0  # one silence alone does not count
    assert moved.bake.checks[2]["failed"] < 10
