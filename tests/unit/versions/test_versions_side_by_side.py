"""Several releases at once: pins next to aliases, what takes them out again, and what status explains."""

from __future__ import annotations

from dataclasses import replace

import pytest
from exports import export_of
from world import CONTRACT

from policyctl.domain.artifacts import Format
from policyctl.domain.probes import ProbeOutcome
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import MoveError, UnsupportedError, UsageError
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.integrity.verify import verify
from policyctl.services.machine import memory_headroom as room
from policyctl.services.moves.removal import unserve
from policyctl.services.moves.rollback import abort, rollback
from policyctl.services.moves.validate import validate
from policyctl.services.observed import Observed
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.pins import pin, unpin
from policyctl.services.rollout.promote import promote
from policyctl.services.show import explain
from policyctl.services.show import status as status_module
from policyctl.services.show.status import history, status
from policyctl.services.supervise.prober import Health, Prober
from policyctl.serving.hardware import MemoryLeft
from policyctl.serving.memory import ProcessUse

MIB = 1 << 20


def _promote(world, release, alias="production", **kwargs):
    return promote(world.control, model="walker", release=release, alias=alias, **kwargs)


def _pin(world, release, **kwargs):
    return pin(world.control, model="walker", release=release, **kwargs)


def test_a_pinned_release_is_served_whatever_aliases_do(served) -> None:
    """It answers under its own number, after promotions and rollbacks of others, and verifies."""
    moved = _pin(served, "1.1.0", reason="tuned on it")
    assert (moved.move.kind, moved.move.served, moved.changed) == ("pin", "walker.1.1.0", True)
    _promote(served, "1.2.0")
    _promote(served, "1.0.0", alias="staging")
    rollback(served.control, model="walker", alias="production")
    assert served.server.serving() == {"walker": 1, "walker.staging": 1, "walker.1.1.0": 2}
    assert served.answered("walker.1.1.0") == "1.1.0"
    assert all(f.intact for f in verify(served.control))
    found = status(served.control)
    assert found.healthy
    assert [(a.alias, a.release, a.pinned) for a in found.aliases] == [
        ("1.1.0", "1.1.0", True),
        ("production", "1.0.0", False),
        ("staging", "1.0.0", False),
    ]


def test_a_pin_is_certified_and_journalled_like_a_promotion(served) -> None:
    """Candidate first, then the pin's own name; a candidate with wrong answers is never pinned."""
    served.server.calls.clear()
    _pin(served, "1.1.0")
    assert [c for c in served.server.calls if c.startswith("load")] == ["load walker.candidate", "load walker.1.1.0"]
    kinds = [r["kind"] for r in history(served.control)][-6:]
    assert kinds == ["gate", "intent", "gate", "certified", "switching", "outcome"]
    served.server.wrong_slots.add(("walker.candidate", 3))
    with pytest.raises(MoveError):
        _pin(served, "1.2.0")
    assert "walker.1.2.0" not in served.server.serving()
    assert not (served.root / "walker.1.2.0").exists()


def test_pinning_again_changes_nothing_and_a_dry_run_neither(served) -> None:
    """The second time it is pinned already."""
    assert _pin(served, "1.1.0", dry_run=True).steps
    assert "walker.1.1.0" not in served.server.serving()
    _pin(served, "1.1.0")
    before = len(history(served.control))
    assert _pin(served, "1.1.0").changed is False
    assert len(history(served.control)) == before


def test_a_pin_never_moves(served) -> None:
    """No promotion and no rollback takes its name for another release."""
    _pin(served, "1.1.0")
    for move in (
        lambda: _promote(served, "1.2.0", alias="1.1.0"),
        lambda: rollback(served.control, model="walker", alias="1.1.0", to="1.0.0"),
    ):
        with pytest.raises(UsageError, match="never moves"):
            move()


def test_a_pin_whose_number_ends_like_a_candidate_is_not_swept(served) -> None:
    """``1.3.0-x.candidate`` is a semantic version; what sweeps left-over candidates leaves its pin alone."""
    served.publish("1.3.0-x.candidate", 4)
    _pin(served, "1.3.0-x.candidate")
    _promote(served, "1.1.0")
    assert served.answered("walker.1.3.0-x.candidate") == "1.3.0-x.candidate"
    assert all(f.intact for f in verify(served.control))


def test_selectors_name_a_release_in_every_service(served) -> None:
    """Promote, pin, validate and roll back take a range, latest, or an alias."""
    _promote(served, "latest", alias="staging")
    assert served.named("staging") == "1.2.0"
    _promote(served, "~1.1.0")
    assert served.named() == "1.1.0"
    assert "~1.1.0 of walker is 1.1.0." in served.said
    assert _pin(served, "staging").move.served == "walker.1.2.0"
    assert rollback(served.control, model="walker", alias="production", to="~1.0").move.target.release == "1.0.0"
    assert [r.verdict for r in validate(served.control, model="walker", release="^1.1")] == ["passed"] * 3
    assert unpin(served.control, model="walker", release="latest").move.alias == "1.2.0"
    for text in ("^2", "~1.3", "nobody", "1.2"):
        with pytest.raises(UsageError, match="no release"):
            _promote(served, text)


def test_what_is_taken_out_of_service_is_gone_and_the_rest_is_not(served) -> None:
    """Alias and pin leave neither folder nor model nor name; others answer on."""
    _pin(served, "1.1.0")
    _promote(served, "1.2.0", alias="staging")
    moved = unpin(served.control, model="walker", release="1.1.0", reason="nobody asks")
    assert (moved.move.kind, moved.to_json()["from"], moved.to_json()["to"]) == ("removal", "1.1.0", None)
    unserve(served.control, model="walker", alias="staging")
    assert served.server.serving() == {"walker": 1}
    assert sorted(p.name for p in served.root.iterdir() if p.name != ".policyctl") == ["walker"]
    assert set(served.state.aliases) == {("walker", "production")}
    assert all(f.intact for f in verify(served.control))
    record = history(served.control)[-1]
    assert (record["move_kind"], record["from"], record["to"], record["result"]) == ("removal", "1.2.0", None, "done")
    unserve(served.control, model="walker", alias="production")
    assert served.server.serving() == {}
    assert sorted(p.name for p in (served.root / "walker").iterdir()) == ["1", "2", "3"]
    _promote(served, "1.1.0")
    assert served.answered() == "1.1.0"


@pytest.mark.parametrize("alias", ["production", "1.1.0"])
def test_a_dry_run_of_a_removal_changes_nothing(served, alias: str) -> None:
    """It shows the steps, and everything is served as before."""
    _pin(served, "1.1.0")
    before = served.control.repository.journal.path.read_bytes()
    moved = unserve(served.control, model="walker", alias=alias, dry_run=True)
    assert any(step.startswith("withdraw") for step in moved.steps)
    assert served.control.repository.journal.path.read_bytes() == before
    assert served.server.serving() == {"walker": 1, "walker.1.1.0": 2}


def test_an_alias_that_was_removed_has_nothing_to_roll_back_to(served) -> None:
    """Promoted again, it begins a new trail."""
    _promote(served, "1.1.0")
    unserve(served.control, model="walker", alias="production")
    with pytest.raises(UsageError, match="names no release"):
        rollback(served.control, model="walker", alias="production")
    _promote(served, "1.2.0")
    with pytest.raises(UsageError, match="nothing came before"):
        rollback(served.control, model="walker", alias="production")


def test_a_removal_that_is_refused_by_the_server_brings_the_alias_back(served, monkeypatch) -> None:
    """If it cannot be withdrawn, it is served on, and nothing is open."""
    from policyctl.errors import ServerError

    _pin(served, "1.1.0")
    unload = served.server.unload

    def refuse(name: str) -> None:
        if name == "walker.1.1.0":
            raise ServerError("still ready after 60 s")
        unload(name)

    monkeypatch.setattr(served.server, "unload", refuse)
    with pytest.raises(MoveError, match=r"still serves 1\.1\.0"):
        unpin(served.control, model="walker", release="1.1.0")
    assert served.answered("walker.1.1.0") == served.named("1.1.0") == "1.1.0"
    assert not served.state.unfinished


def test_a_removal_cannot_be_aborted_once_it_is_done(served) -> None:
    """Nothing is under way any more, and the message says so."""
    unserve(served.control, model="walker", alias="production")
    with pytest.raises(UsageError, match="no move of walker is under way"):
        abort(served.control, model="walker")


def test_an_alias_that_is_removed_while_it_is_probed_is_not_loaded_again(served) -> None:
    """The supervisor saw it unanswered twice; meanwhile it was taken out of service."""
    prober = Prober(served.control, served.server, Observed(), KnownJournal(served.control))
    stale = served.control.repository.journal.state()
    unserve(served.control, model="walker", alias="production")
    served.server.calls.clear()
    for key, state in stale.aliases.items():
        assert prober.ask(key, state, Health()) is ProbeOutcome.FAILED
        prober._reload(key, state, Health())
    assert [c for c in served.server.calls if c.startswith("load")] == []
    assert prober.probe()


def _use(own_mib: int) -> ProcessUse:
    return ProcessUse(1, own_mib * MIB, own_mib * MIB, 0, own_mib * MIB, 3, 1)


@pytest.fixture
def measured(served, monkeypatch):
    """A server whose processes can be seen: what each has, and what is left, are what a test says."""
    uses: dict[str, ProcessUse] = {"walker_0_0": _use(100)}
    left = {"bytes": 500 * MIB}
    object.__setattr__(served.server.endpoint, "pid", 4711)
    monkeypatch.setattr(room, "usage", lambda _pid, _others: uses)
    for module in (room, status_module):
        monkeypatch.setattr(module, "memory_left", lambda **_: MemoryLeft(left["bytes"], 1 << 30, "its control group"))
    return served, uses, left


def test_what_does_not_fit_in_memory_is_refused_before_anything_is_touched(measured) -> None:
    """A pin and a promotion hold two copies next to the incumbent; a rollback is never held up."""
    world, _, left = measured
    _promote(world, "1.1.0")
    left["bytes"] = 150 * MIB
    before = world.control.repository.journal.path.read_bytes()
    world.server.calls.clear()
    for move in (
        lambda: _pin(world, "1.2.0"),
        lambda: _promote(world, "1.2.0"),
        lambda: _pin(world, "1.2.0", dry_run=True),
    ):
        with pytest.raises(UnsupportedError, match=r"does not fit in memory.*200 MiB.*150 MiB of 1024 MiB") as refusal:
            move()
        assert "policyctl unpin" in refusal.value.remedy
        assert "its control group" in refusal.value.problem
    assert world.server.calls == []
    assert world.control.repository.journal.path.read_bytes() == before
    rollback(world.control, model="walker", alias="production")
    assert world.answered() == "1.0.0"
    left["bytes"] = 265 * MIB  # twice 100, and 64 kept free
    _pin(world, "1.2.0")


def _cost(release: str, own_mib: int, kind: Format = Format.ONNX, instances: int = 1) -> room.ServedCost:
    return room.ServedCost("a", release, kind, {f"i{n}": _use(own_mib) for n in range(instances)})


ESTIMATES = {
    "the same release is served: measured": ({("walker", "a"): _cost("1.1.0", 80)}, False, 80 * MIB),
    "in two instances: what one has": ({("walker", "a"): _cost("1.1.0", 80, instances=2)}, False, 80 * MIB),
    "another release of the format: and its files twice": ({("walker", "a"): _cost("1.0.0", 70)}, False, 74 * MIB),
    "the least of several": ({("x", "a"): _cost("1.1.0", 70), ("x", "b"): _cost("1.1.0", 50)}, False, 54 * MIB),
    "another format says nothing": ({("walker", "a"): _cost("1.1.0", 70, Format.TORCHSCRIPT)}, False, 34 * MIB),
    "nothing is served": ({}, False, 34 * MIB),
    "inside the server": ({("walker", "a"): _cost("1.0.0", 70)}, True, 4 * MIB),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_what_a_release_will_take_is_measured_where_it_can_be(served, name: str) -> None:
    """Else it is estimated from a process like it, and from its files: here 2 MiB of them."""
    have, inside, size = ESTIMATES[name]
    config = served.state.aliases["walker", "production"].placement
    placement = replace(config, release="1.1.0", format=Format.ONNX)
    found = room.expect(placement, 2 * MIB, served=have, model="walker", inside=inside)
    assert found.size_bytes == size
    assert ("measured" in found.basis) == bool(have and not inside and "another format" not in name)


def test_the_reserve_is_a_setting_and_null_does_not_look(measured, monkeypatch) -> None:
    """With no reserve only what does not fit is refused; with null nothing is."""
    from policyctl.settings import load

    world, _, left = measured
    left["bytes"] = 1
    for text, fits in (("0", False), ("null", True)):
        monkeypatch.setenv("POLICYCTL_SERVING__MEMORY_RESERVE_MIB", text)
        control = replace(world.control, settings=load(repository=world.root))
        if fits:
            assert pin(control, model="walker", release="1.1.0").changed
        else:
            with pytest.raises(UnsupportedError, match="0 MiB are kept free"):
                pin(control, model="walker", release="1.1.0")


def test_status_tells_what_each_costs_and_what_is_left(measured) -> None:
    """The memory of each alias's processes, and a warning where a promotion would not fit."""
    world, uses, left = measured
    _pin(world, "1.1.0")
    uses["walker.1.1.0_0_0"] = _use(80)
    found = status(world.control)
    assert {a.alias: a.memory_bytes for a in found.aliases} == {"production": 100 * MIB, "1.1.0": 80 * MIB}
    assert found.memory == MemoryLeft(500 * MIB, 1 << 30, "its control group")
    (said,) = [n.words for n in found.notes if n.about == "memory"]
    assert "500 MiB of 1024 MiB are left of its control group" in said
    assert "180 MiB to themselves" in said
    left["bytes"] = 170 * MIB
    warned = [n.words for n in status(world.control).notes if n.about == "memory"]
    assert any("walker (100 MiB) cannot be moved" in words for words in warned)
    assert not any("walker.1.1.0 (80 MiB) cannot" in words for words in warned)
    document = status(world.control).to_json()
    assert document["memory"]["left_bytes"] == 170 * MIB
    assert {"about", "model", "words"} == set(document["notes"][0])


def test_status_explains_conflicts(served) -> None:
    """Aliases whose clients cannot ask each other's releases, and the same thing served twice."""
    seen = replace(CONTRACT, outputs=(*CONTRACT.outputs, TensorSpec("value", "float32", (1,))))
    publish(served.control, export_of(served.folder / "x", seen), model="walker", release="1.3.0")
    assert [n for n in status(served.control).notes if n.about == "conflict"] == []
    _pin(served, "1.0.0")
    (twice,) = [n.words for n in status(served.control).notes]
    assert "walker.1.0.0 and walker serve the same release" in twice
    unpin(served.control, model="walker", release="1.0.0")
    broken = replace(CONTRACT, outputs=(replace(CONTRACT.outputs[0], high=2.0),))
    publish(served.control, export_of(served.folder / "y", broken), model="walker", release="2.0.0")
    state = served.state
    named = state.aliases["walker", "production"]
    other = replace(named, placement=replace(named.placement, release="2.0.0", config="# another"))
    state = replace(state, aliases={**state.aliases, ("walker", "staging"): other})
    notes = explain.explain(served.control, state, model=None, costs={}, left=None)
    (words,) = [n.words for n in notes]
    assert "walker.staging (2.0.0) is not compatible with walker (1.0.0)" in words
    assert "bounded more loosely" in words


def test_status_explains_what_is_being_switched(served, monkeypatch) -> None:
    """Who moves what, how far it came, who answers meanwhile, and what happens if they died."""
    seen = []

    def look(*_: object) -> None:
        seen.append([n.words for n in status(served.control).notes if n.about == "switching"])
        raise KeyboardInterrupt

    monkeypatch.setattr("policyctl.services.moves.mover.require_certified", look)
    with pytest.raises(KeyboardInterrupt):
        _promote(served, "1.1.0")
    ((words,),) = seen
    assert "promotion of walker's production from 1.0.0 to 1.1.0" in words
    assert "walker is answered by 1.0.0 until 1.1.0 is ready" in words
    assert "the next command reverts it" in words
