"""After a move the release before stays reachable under its number, until its episodes are over or a limit passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from crash_states import crash_states
from world import CONTRACT, World, copied, left

from policyctl.domain.contract import State as Remembered
from policyctl.domain.moves import MoveKind
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import MoveError, PolicyctlError, ServerError
from policyctl.services.moves import drain
from policyctl.services.moves.abort_flag import request_abort
from policyctl.services.moves.drain import REST_S, Drains
from policyctl.services.moves.recovery import recover_all
from policyctl.services.moves.rollback import rollback
from policyctl.services.rollout.pins import pin
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import status

MEMORY = replace(
    CONTRACT,
    observations=(*CONTRACT.observations, TensorSpec("h_in", "float32", (2,))),
    outputs=(*CONTRACT.outputs, TensorSpec("h_out", "float32", (2,))),
    states=(Remembered("h_in", "h_out"),),
)
PINNED = ("walker", "1.0.0")


def _promote(world, release="1.1.0", **kwargs):
    return promote(world.control, model="walker", release=release, alias="production", **kwargs)


@pytest.fixture
def served(world):
    """1.0.0 serves, 1.1.0 is published; nobody supervises the server, so commands end their drains themselves."""
    return _served(world)


def _served(world: World) -> World:
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0")
    return world.unsupervised()


@pytest.fixture
def draining(served, monkeypatch):
    """1.1.0 serves, and 1.0.0 drains for 30 s; the command that did it was killed."""
    with monkeypatch.context() as patch:
        patch.setattr(drain.Drain, "wait", lambda _self: None)
        _promote(served, drain_s=30.0)
    return served


class Clock:
    """Seconds that a test moves on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_promotion_that_drains_keeps_the_release_before_under_its_number(served) -> None:
    """The pin is there before the alias moves, and the command returns when it is gone."""
    moved = _promote(served, drain_s=0.2)
    calls = served.server.calls
    assert calls.index("load walker.1.0.0") < len(calls) - 1 - calls[::-1].index("load walker")
    assert moved.drain is not None
    assert moved.drain.over
    assert "walker.1.0.0 answered its episodes" in moved.words
    assert served.server.serving() == {"walker": 2}
    assert served.named() == "1.1.0"


def test_a_drain_ends_when_nobody_asks_it_for_a_while(draining) -> None:
    """Each answer puts the end off; what the server's prober asks does not count."""
    clock, probes = Clock(), [0]
    drains = Drains(draining.control, draining.server, lambda _key: probes[0], clock)
    for _ in range(3):
        draining.server.answers["walker.1.0.0"] += 1
        drains.look(draining.state)
        clock.now += REST_S - 0.1
        draining.server.answers["walker.1.0.0"] += 1
        probes[0] += 1
        drains.look(draining.state)
        assert draining.answered("walker.1.0.0") == "1.0.0"
    clock.now += 0.2
    drains.look(draining.state)
    assert PINNED not in draining.state.aliases
    assert draining.answered("walker.1.0.0") is None
    assert draining.answered() == "1.1.0"
    assert any("nobody has asked it" in line for line in draining.said)


def test_a_drain_ends_at_its_limit_however_often_it_is_asked(draining) -> None:
    """The limit counts from the end of the move."""
    clock = Clock()
    drains = Drains(draining.control, draining.server, clock=clock)
    for clock.now in (0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0, 29.9):
        draining.server.answers["walker.1.0.0"] += 1
        drains.look(draining.state)
        assert PINNED in draining.state.aliases
    clock.now = 30.0
    drains.look(draining.state)
    assert PINNED not in draining.state.aliases


def test_a_drain_does_not_end_before_the_move_that_it_is_for(draining) -> None:
    """While a writer is at work its time has not begun."""
    clock = Clock()
    drains = Drains(draining.control, draining.server, clock=clock)
    with draining.control.repository.writer("a long load"):
        for _ in range(3):
            drains.look(draining.state)
            clock.now += 60.0
    drains.look(draining.state)
    assert PINNED in draining.state.aliases


def test_a_pin_of_a_person_is_no_drain(draining) -> None:
    """Who pins a release that drains has it for good; a promotion leaves a pin as it is."""
    assert pin(draining.control, model="walker", release="1.0.0").changed
    clock = Clock()
    drains = Drains(draining.control, draining.server, clock=clock)
    for clock.now in (0.0, 100.0, 200.0):
        drains.look(draining.state)
    assert draining.answered("walker.1.0.0") == "1.0.0"
    rollback(draining.control, model="walker", alias="production")
    assert _promote(draining, drain_s=10.0).drain is None
    assert draining.answered("walker.1.0.0") == "1.0.0"


def test_only_what_has_memory_drains_unless_asked_for(world) -> None:
    """A promotion drains an incumbent with memory for as long as the settings say; a rollback does not."""
    for release, contract in (("1.0.0", CONTRACT), ("2.0.0", MEMORY), ("2.1.0", MEMORY)):
        world.publish(release, 1, contract=contract)
    _promote(world, "1.0.0")

    def pins(moved) -> bool:
        return any("place: slot" in step and "walker.candidate" not in step for step in moved.steps)

    assert not pins(_promote(world, "2.0.0", breaking=True, dry_run=True))
    assert pins(_promote(world, "2.0.0", breaking=True, dry_run=True, drain_s=1.0))
    assert _promote(world, "2.0.0", breaking=True).drain is None
    assert pins(_promote(world, "2.1.0", dry_run=True))
    assert not pins(_promote(world, "2.1.0", dry_run=True, drain_s=0.0))
    assert not pins(rollback(world.control, model="walker", alias="production", dry_run=True))
    assert pins(rollback(world.control, model="walker", alias="production", dry_run=True, drain_s=1.0))


def test_a_promotion_that_fails_takes_its_drain_back(served) -> None:
    """What was served before is served after, and nothing else."""
    served.server.wrong_slots.add(("walker.candidate", 2))
    with pytest.raises(MoveError):
        _promote(served, drain_s=30.0)
    assert served.server.serving() == {"walker": 1}
    assert served.state.aliases.keys() == {("walker", "production")}


def test_a_drain_that_cannot_be_had_stops_a_promotion_and_no_rollback(served, monkeypatch) -> None:
    """A promotion says how to do without; a rollback ends harm, and warns."""
    load = served.server.load

    def refuse_pins(name: str, slot: int, **kwargs) -> None:
        if name.count(".") > 1:
            raise ServerError(f"cannot load {name}")
        load(name, slot, **kwargs)

    monkeypatch.setattr(served.server, "load", refuse_pins)
    with pytest.raises(MoveError, match=r"cannot load walker\.1\.0\.0") as caught:
        _promote(served, drain_s=30.0)
    assert "--drain 0" in caught.value.remedy
    assert served.answered() == "1.0.0"
    _promote(served, drain_s=0.0)
    assert rollback(served.control, model="walker", alias="production", drain_s=30.0).changed
    assert served.answered() == "1.0.0"
    assert any("Episodes are interrupted" in line for line in served.said)


def test_a_move_that_is_left_open_stays_open_and_its_drain_ends_later(served, monkeypatch) -> None:
    """Where the incumbent cannot be brought back, the promotion is what the next command settles."""
    load = served.server.load

    def refuse_production(name: str, slot: int, **kwargs) -> None:
        if name == "walker":
            raise ServerError("cannot load walker")
        load(name, slot, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(served.server, "load", refuse_production)
        with pytest.raises(MoveError, match="Bringing back the incumbent failed too"):
            _promote(served, drain_s=30.0)
    clock = Clock()
    drains = Drains(served.control, served.server, clock=clock)
    assert served.state.unfinished["walker"].move.kind is MoveKind.PROMOTION
    for clock.now in (0.0, 60.0):
        drains.look(served.state)
    assert PINNED in served.state.aliases
    recover_all(served.control, served.server)
    assert served.answered() == served.named() == "1.0.0"
    for clock.now in (100.0, 160.0):
        drains.look(served.state)
    assert served.server.serving() == {"walker": 1}


def test_a_rollback_whose_pin_is_left_open_waits_for_that(served, monkeypatch) -> None:
    """It says so, and the next rollback goes."""
    _promote(served, drain_s=0.0)

    def fail(name: str, *_args, **_kwargs) -> None:
        raise ServerError(f"{name}: the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(served.server, "load", fail)
        patch.setattr(served.server, "unload", fail)
        with pytest.raises(MoveError, match="the server is gone"):
            rollback(served.control, model="walker", alias="production", drain_s=30.0)
    assert served.state.unfinished["walker"].move.kind is MoveKind.PIN
    assert rollback(served.control, model="walker", alias="production").changed
    assert served.server.serving() == {"walker": 1}


def test_what_was_pinned_for_good_meanwhile_is_not_removed(draining) -> None:
    """The journal is read again under the lock: a pin that a person makes in that moment stays."""
    clock, seen = Clock(), draining.state
    drains = Drains(draining.control, draining.server, clock=clock)
    drains.look(seen)
    assert pin(draining.control, model="walker", release="1.0.0").changed
    clock.now = 60.0
    drains.look(seen)
    assert draining.state.aliases[PINNED].drain_s is None
    assert draining.answered("walker.1.0.0") == "1.0.0"


@pytest.mark.parametrize("when", ["load walker.1.0.0", "loaded walker.1.0.0", "infer walker.1.0.0"])
@pytest.mark.parametrize("kind", ["promotion", "rollback"])
def test_an_abort_while_the_pin_is_made_stops_the_move(served, when, kind) -> None:
    """Nothing was moved, and nothing is left of the pin."""
    if kind == "rollback":
        _promote(served, drain_s=0.0)
        when = when.replace("1.0.0", "1.1.0")
    before, asked = served.answered(), []

    def abort_then(name: str) -> None:
        if name == when and not asked:
            asked.append(name)
            request_abort(served.control.repository, served.state.unfinished["walker"].move)

    served.server.before_call = abort_then
    with pytest.raises(PolicyctlError, match="aborted") as caught:
        if kind == "promotion":
            _promote(served, drain_s=30.0)
        else:
            rollback(served.control, model="walker", alias="production", drain_s=30.0)
    assert asked
    assert caught.value.exit_code == 7
    assert "--drain" not in caught.value.remedy
    assert served.answered() == served.named() == before
    assert served.server.serving().keys() == {"walker"}
    assert not served.state.unfinished
    assert _promote(served, "1.0.0" if before == "1.1.0" else "1.1.0", drain_s=0.0).changed, "the request is forgotten"


def test_status_says_what_drains(draining) -> None:
    """In a sentence; two releases of one model that are served for that do not count as a conflict."""
    notes = [note.words for note in status(draining.control).notes if note.about == "drain"]
    assert len(notes) == 1
    assert "walker.1.0.0 drains since" in notes[0]
    assert "30 s at most" in notes[0]


def test_a_promotion_that_drains_may_be_killed_anywhere(tmp_path, monkeypatch) -> None:
    """The alias answers as the incumbent or the target, and no drain stays behind."""
    template = World(tmp_path / "template", monkeypatch)
    _served(template)
    moved = copied(template, tmp_path / "moved", monkeypatch).unsupervised()
    states = crash_states(moved, tmp_path / "states", lambda: _promote(moved, drain_s=0.01))
    drained = 0
    for folder in states[::3]:
        world = left(folder, monkeypatch)
        assert world.answered() in {"1.0.0", "1.1.0"}, folder
        if world.named() != "1.1.0" or world.state.unfinished:
            _promote(world, drain_s=0.0)
        clock = Clock()
        drains = Drains(world.control, world.server, clock=clock)
        drained += PINNED in world.state.aliases
        for clock.now in (0.0, 0.02):
            drains.look(world.state)
        assert world.answered() == world.named() == "1.1.0", folder
        assert world.server.serving() == {"walker": 2}, folder
        assert not world.state.unfinished
    assert drained > 3
