"""A load that never ends costs its own move and nothing else."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import pytest

from policyctl.adapters import lock
from policyctl.adapters.repository import Repository
from policyctl.errors import MoveError, ServerError
from policyctl.services.moves import stuck_loads
from policyctl.services.moves.abort_flag import request_abort
from policyctl.services.moves.measurement_lock import measuring
from policyctl.services.moves.recovery import recover_all
from policyctl.services.moves.removal import unserve
from policyctl.services.moves.rollback import abort, rollback
from policyctl.services.moves.stuck_loads import PATIENCE_S, StuckLoads
from policyctl.services.moves.validate import validate
from policyctl.services.rollout.pins import pin
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import status


def _promote(world, model, release, **kwargs):
    return promote(world.control, model=model, release=release, alias="production", **kwargs)


@pytest.fixture
def two(world):
    """`walker` has served 1.0.0 and serves 1.1.0; `other` 1.0.0 is published, and its load never ends."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.publish("1.0.0", 3, model="other")
    _promote(world, "walker", "1.0.0")
    _promote(world, "walker", "1.1.0")
    world.server.endless.add(("other.candidate", 1))
    return world


def test_a_candidate_that_never_loads_is_abandoned_and_its_move_ends(two) -> None:
    """The move is reverted, and no command waits for it again."""
    with pytest.raises(MoveError, match=r"Deadline Exceeded.*still serves nothing"):
        _promote(two, "other", "1.0.0")
    assert not two.state.unfinished
    assert any("abandoned" in line for line in two.said)
    assert rollback(two.control, model="walker", alias="production").changed
    assert _promote(two, "walker", "1.1.0").changed
    assert pin(two.control, model="walker", release="1.0.0").changed
    assert [r.verdict for r in validate(two.control, model="walker", release="1.0.0")] == ["passed"] * 3
    assert status(two.control).healthy


def test_the_model_itself_can_be_moved_again_once_the_server_has_ended_the_load(two) -> None:
    """Until then its next candidate is refused at once, and what needs none goes on."""
    for _ in range(2):
        with pytest.raises(MoveError):
            _promote(two, "other", "1.0.0")
    two.server.loading.clear()
    two.server.endless.clear()
    assert _promote(two, "other", "1.0.0").changed
    two.server.loading["other.candidate"] = 1
    assert unserve(two.control, model="other", alias="production").changed


def test_an_open_move_that_cannot_be_settled_stands_in_no_other_models_way(two) -> None:
    """The load of the alias itself never ends: the move stays open, all other models move, and status names it."""
    _promote(two, "walker", "1.0.0")
    two.server.endless = {("other", 1)}
    with pytest.raises(MoveError, match="Bringing back the incumbent failed too"):
        _promote(two, "other", "1.0.0")
    assert set(two.state.unfinished) == {"other"}
    assert rollback(two.control, model="walker", alias="production").changed
    assert pin(two.control, model="walker", release="1.0.0").changed
    with pytest.raises(ServerError, match="has not ended"):
        _promote(two, "other", "1.0.0")
    assert "reverting" in (status(two.control).unfinished or "")
    two.server.loading.clear()
    two.server.endless.clear()
    assert "reverted" in recover_all(two.control, two.server)[0]
    assert not two.state.unfinished
    assert two.answered("other") is None


def test_the_server_settles_what_it_can_and_says_what_it_cannot(two) -> None:
    """Two open moves: the one that can be settled is, whatever comes first."""
    two.server.endless = {("other", 1)}
    with pytest.raises(MoveError):
        _promote(two, "other", "1.0.0")
    two.server.wrong_slots |= {("walker", 1), ("walker", 2)}
    with pytest.raises(MoveError):
        rollback(two.control, model="walker", alias="production")
    assert set(two.state.unfinished) == {"other", "walker"}
    two.server.wrong_slots.clear()
    said = recover_all(two.control, two.server)
    assert len(said) == 2 and "cannot be settled" in said[0] and "reverted" in said[1]
    assert set(two.state.unfinished) == {"other"}
    assert two.answered() == two.named() == "1.1.0"


def test_an_abort_ends_the_wait_for_a_load(two) -> None:
    """A person who types `abort` does not wait for the load's own time limit."""
    asked = []

    def ask(call: str) -> None:
        if call == "load other.candidate":
            request_abort(two.control.repository, two.state.unfinished["other"].move)
            asked.append(call)

    two.server.before_call = ask
    with pytest.raises(MoveError, match="aborted"):
        _promote(two, "other", "1.0.0")
    assert asked
    assert not two.state.unfinished


def test_an_open_move_is_aborted_by_name(two) -> None:
    """As soon as the load has ended; before that, the refusal says what it waits for."""
    two.server.endless = {("other", 1)}
    with pytest.raises(MoveError):
        _promote(two, "other", "1.0.0")
    with pytest.raises(ServerError, match="has not ended"):
        abort(two.control, model="other")
    two.server.loading.clear()
    assert "Reverted" in abort(two.control, model="other")


def test_an_abort_waits_for_the_server_that_ends_the_load(two, monkeypatch) -> None:
    """The move has let go of the writer lock, and the supervisor holds it for a moment before the abort does."""
    two.server.endless = {("other", 1)}
    with pytest.raises(MoveError):
        _promote(two, "other", "1.0.0")
    two.server.loading.clear()
    holds, asked = threading.Event(), threading.Event()

    def end_the_load() -> None:
        with Repository(two.root).writer("end of abandoned loads"):
            holds.set()
            asked.wait(300)
            time.sleep(0.1)

    supervisor = threading.Thread(target=end_the_load)
    supervisor.start()
    assert holds.wait(300)
    is_held, writers = lock.is_held, two.control.repository.lock_path
    monkeypatch.setattr(lock, "is_held", lambda path: asked.set() if path == writers else is_held(path))
    assert "Reverted" in abort(two.control, model="other")
    supervisor.join()


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loads(two, monkeypatch):
    """What looks after the loads of `two`; `ended` holds whose backend process it ended, and the load with it."""
    two.ended = []

    def end(pid: int, name: str, slot: int) -> int:
        two.ended.append((pid, name, slot))
        return int(two.server.loading.pop(name, None) is not None and pid == 7)

    monkeypatch.setattr(stuck_loads, "end_stubs", end)
    object.__setattr__(two.server.endpoint, "pid", 7)
    return StuckLoads(two.control, two.server, clock=Clock())


def test_the_server_ends_the_backend_process_of_an_abandoned_load(two, loads) -> None:
    """At the first look after its move gave up; then its folder goes, and the model can be moved again."""
    with pytest.raises(MoveError):
        _promote(two, "other", "1.0.0")
    assert (loads.look(), loads.look()) == ("", "")
    assert two.ended == [(7, "other.candidate", 1)]
    assert not (two.root / "other.candidate").exists()
    two.server.endless.clear()
    assert _promote(two, "other", "1.0.0").changed


def test_a_load_that_somebody_waits_for_is_left_alone(two, loads) -> None:
    """While a writer is at work, a load is his."""
    two.server.loading["other.candidate"] = 1
    with two.control.repository.writer("promote other 1.0.0 to production"):
        assert loads.look() == ""
    assert two.ended == []


@pytest.mark.parametrize("measured", [False, True])
def test_an_abandoned_candidate_that_gets_ready_late_is_unloaded(two, loads, monkeypatch, measured) -> None:
    """It was slow, and holds memory that nobody uses; one that is measured by now was loaded since, and stays."""
    monkeypatch.setattr(stuck_loads, "end_stubs", lambda *_: 0)
    with pytest.raises(MoveError):
        _promote(two, "other", "1.0.0")
    loads.look()
    two.server.loading.clear()
    two.server._remember({**two.server.serving(), "other.candidate": 1})
    with measuring(two.control, "validate other 1.0.0") if measured else nullcontext():
        loads.look()
    assert ("other.candidate" in two.server.serving()) is measured
    assert (two.root / "other.candidate").exists() is measured


@pytest.mark.parametrize(("stuck", "again"), [(1, False), (2, False), (3, True)])
def test_the_server_is_started_again_only_before_no_load_is_possible(two, loads, monkeypatch, stuck, again) -> None:
    """What runs inside the server cannot be ended; one or two such loads cost a thread each, and no client notices."""
    monkeypatch.setattr(stuck_loads, "end_stubs", lambda *_: 0)
    two.server.loading |= {f"m{number}.candidate": 1 for number in range(stuck)}
    assert loads.look() == ""
    loads.clock.now += PATIENCE_S + 1
    assert bool(loads.look()) is again


def test_the_server_is_started_again_for_an_alias_whose_move_cannot_be_taken_back(two, loads, monkeypatch) -> None:
    """Nothing else gives the model back; an alias that merely loads for long does not count."""
    monkeypatch.setattr(stuck_loads, "end_stubs", lambda *_: 0)
    two.server.loading["walker"] = 2
    loads.look()
    loads.clock.now += PATIENCE_S + 1
    assert loads.look() == ""
    two.server.loading.clear()
    two.server.endless = {("other", 1)}
    with pytest.raises(MoveError):
        _promote(two, "other", "1.0.0")
    loads.look()
    loads.clock.now += PATIENCE_S + 1
    assert "other never ends" in loads.look()
