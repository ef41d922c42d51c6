"""Promotion and rollback, on a real repository and a server that is a file."""

from __future__ import annotations

import pytest

from policyctl.errors import BusyError, GateError, IntegrityError, MoveError, UsageError
from policyctl.integrity import read_release
from policyctl.services import control as control_module
from policyctl.services.integrity.verify import verify
from policyctl.services.moves.rollback import abort, rollback
from policyctl.services.moves.validate import validate
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import history, status


def _promote(world, release, alias="production", **kwargs):
    return promote(world.control, model="walker", release=release, alias=alias, **kwargs)


def test_a_promoted_release_answers_and_its_candidate_is_gone(world) -> None:
    """After a promotion the alias's model answers, and nothing of the certification is left."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    assert world.answered() == world.named() == "1.0.0"
    assert world.server.serving() == {"walker": 1}
    assert not (world.root / "walker.candidate").exists()
    assert all(f.intact for f in verify(world.control))
    assert status(world.control).healthy


def test_a_release_that_is_only_published_or_validated_is_never_served(world) -> None:
    """Publishing and validating next to an incumbent leave it in service."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    world.publish("1.1.0", 2)
    results = validate(world.control, model="walker", release="1.1.0")
    assert [r.verdict for r in results] == ["passed"] * 3
    assert world.server.serving() == {"walker": 1}


def test_a_command_reads_a_release_once(world, monkeypatch) -> None:
    """Gates, mover and certification share what was read; a rollback reads its target once as well."""
    read: list[str] = []

    def counted(folder, **more):
        read.append(folder.name)
        return read_release(folder, **more)

    monkeypatch.setattr(control_module, "read_release", counted)
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0")
    _promote(world, "1.1.0")
    rollback(world.control, model="walker", alias="production")
    assert read == ["1", "2", "1"]


@pytest.mark.parametrize("call", ["load walker.candidate", "load walker"])
def test_a_file_that_changes_after_it_was_read_is_refused_and_the_incumbent_kept(world, call) -> None:
    """The server reads the very bytes that it serves, so a change before either load is seen there."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    world.publish("1.1.0", 2)
    artifact = world.root / "walker" / "2" / "model.onnx"

    def change(name: str) -> None:
        if name == call:
            artifact.chmod(0o644)
            artifact.write_bytes(b"another policy")

    world.server.before_call = change
    with pytest.raises(MoveError, match=r"model\.onnx .* still serves 1\.0\.0"):
        _promote(world, "1.1.0")
    assert world.answered() == world.named() == "1.0.0"
    assert not world.state.unfinished


def test_the_switch_comes_after_the_certification(world) -> None:
    """The alias's model is loaded only after the candidate answered its golden set."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    loads = [c for c in world.server.calls if c.startswith("load")]
    assert loads == ["load walker.candidate", "load walker"]
    kinds = [r["kind"] for r in history(world.control)]
    assert kinds == ["published", "gate", "gate", "intent", "gate", "certified", "switching", "outcome"]


def test_a_candidate_with_wrong_answers_is_refused_and_the_incumbent_kept(world) -> None:
    """A release that the server computes wrongly is not promoted, and says so."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    world.publish("1.1.0", 2)
    world.server.wrong_slots.add(("walker.candidate", 2))
    with pytest.raises(MoveError, match=r"golden row .* still serves 1\.0\.0"):
        _promote(world, "1.1.0")
    assert world.answered() == world.named() == "1.0.0"
    assert not world.state.unfinished
    assert not (world.root / "walker.candidate").exists()


def test_a_target_that_turns_wrong_after_the_switch_is_taken_back(world) -> None:
    """If the alias itself answers wrongly after the switch, the incumbent is brought back."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    world.publish("1.1.0", 2)
    world.server.wrong_slots.add(("walker", 2))
    with pytest.raises(MoveError):
        _promote(world, "1.1.0")
    assert world.answered() == world.named() == "1.0.0"
    assert [f for f in verify(world.control) if not f.intact] == []


def test_a_first_promotion_that_fails_after_the_switch_leaves_nothing_served(world) -> None:
    """Without an incumbent, taking back means serving nothing, not something uncertified."""
    world.publish("1.0.0", 1)
    world.server.wrong_slots.add(("walker", 1))
    with pytest.raises(MoveError):
        _promote(world, "1.0.0")
    assert world.server.serving() == {}
    assert not (world.root / "walker" / "config.pbtxt").exists()


def test_a_release_whose_parity_failed_is_not_promoted(world) -> None:
    """The offline gates run by themselves, and one that fails stops the promotion before anything moves."""
    world.publish("1.0.0", 1, agrees=False)
    with pytest.raises(GateError, match="parity"):
        _promote(world, "1.0.0")
    assert world.server.calls == []
    assert not world.state.unfinished


def test_a_changed_file_is_refused_before_anything_moves(world) -> None:
    """Promotion reads the whole release first."""
    world.publish("1.0.0", 1)
    path = world.root / "walker" / "1" / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        _promote(world, "1.0.0")
    assert world.server.calls == []


def test_a_rollback_on_the_same_server_switches_at_once(world) -> None:
    """A release that this server certified before needs no second candidate."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0")
    _promote(world, "1.1.0")
    world.server.calls.clear()
    moved = rollback(world.control, model="walker", alias="production")
    assert (moved.move.target.release, world.answered()) == ("1.0.0", "1.0.0")
    assert [c for c in world.server.calls if c.startswith("load")] == ["load walker"]


def test_a_rollback_on_another_server_certifies_first(world) -> None:
    """What one server certified says nothing about another."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0")
    _promote(world, "1.1.0")
    object.__setattr__(world.server.endpoint, "server_id", "s2")
    world.server.calls.clear()
    rollback(world.control, model="walker", alias="production")
    assert [c for c in world.server.calls if c.startswith("load")] == ["load walker.candidate", "load walker"]
    assert world.answered() == "1.0.0"


def test_rollbacks_walk_back_and_then_refuse(world) -> None:
    """Each rollback goes one release further back; at the first there is nothing left."""
    for n, release in enumerate(("1.0.0", "1.1.0", "1.2.0"), start=1):
        world.publish(release, n)
        _promote(world, release)
    assert rollback(world.control, model="walker", alias="production").move.target.release == "1.1.0"
    assert rollback(world.control, model="walker", alias="production").move.target.release == "1.0.0"
    with pytest.raises(UsageError, match="nothing came before"):
        rollback(world.control, model="walker", alias="production")
    moved = rollback(world.control, model="walker", alias="production", to="1.2.0")
    assert moved.move.target.release == world.answered() == "1.2.0"


def test_a_rollback_needs_no_gate(world) -> None:
    """Gates that would fail today do not keep anyone from going back."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0")
    _promote(world, "1.1.0")
    gates = sum(r["kind"] == "gate" for r in history(world.control))
    rollback(world.control, model="walker", alias="production")
    assert sum(r["kind"] == "gate" for r in history(world.control)) == gates


def test_aliases_move_apart_from_one_another(world) -> None:
    """Promoting to staging leaves production alone, and the other way round."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0")
    _promote(world, "1.1.0", alias="staging")
    assert world.server.serving() == {"walker": 1, "walker.staging": 2}
    _promote(world, "1.0.0", alias="staging")
    assert world.server.serving() == {"walker": 1, "walker.staging": 1}
    assert sorted(p.name for p in (world.root / "walker.staging").iterdir()) == ["1", "config.pbtxt"]
    assert all(f.intact for f in verify(world.control))


def test_promoting_what_is_served_already_changes_nothing(world) -> None:
    """A promotion is idempotent."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    before = len(history(world.control))
    assert _promote(world, "1.0.0").changed is False
    assert len(history(world.control)) == before


def test_a_dry_run_changes_not_one_byte(world) -> None:
    """`--dry-run` names the steps and touches neither disk nor server."""
    world.publish("1.0.0", 1)
    before = {p: p.read_bytes() for p in world.root.rglob("*") if p.is_file() and p.name != "lock"}
    moved = _promote(world, "1.0.0", dry_run=True)
    assert moved.steps[-1] == "journal: outcome done"
    assert {p: p.read_bytes() for p in world.root.rglob("*") if p.is_file() and p.name != "lock"} == before
    assert world.server.calls == []


def test_a_second_writer_is_told_who_is_at_work(world) -> None:
    """Two people at once: one works, the other learns who, what and since when."""
    world.publish("1.0.0", 1)
    with (
        world.control.repository.writer("promote walker 1.0.0 to production"),
        pytest.raises(BusyError, match=r"process \d+.*promote walker"),
    ):
        _promote(world, "1.0.0")


def test_an_abort_before_the_switch_keeps_the_incumbent(world) -> None:
    """A move that is asked to stop while it certifies reverts and says aborted."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    world.publish("1.1.0", 2)

    def ask(call: str) -> None:
        if call == "loaded walker.candidate":
            from policyctl.services.moves.abort_flag import request_abort

            request_abort(world.control.repository, world.state.unfinished["walker"].move)

    world.server.before_call = ask
    with pytest.raises(MoveError, match="aborted"):
        _promote(world, "1.1.0")
    assert world.answered() == world.named() == "1.0.0"
    assert history(world.control)[-1]["result"] == "aborted"
    world.server.before_call = lambda _: None
    with pytest.raises(UsageError, match="no move"):
        abort(world.control, model="walker")


def test_a_folder_in_the_place_of_a_request_to_abort_stops_no_move(world) -> None:
    """It does not count as a request; a person who wants to abort reads what is in the way."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    _promote(world, "1.0.0")
    (world.root / ".policyctl" / "abort").mkdir()
    world.server.wrong_slots.add(("walker.candidate", 2))
    with pytest.raises(MoveError, match=r"still serves 1\.0\.0"):
        _promote(world, "1.1.0")
    world.server.wrong_slots.clear()
    _promote(world, "1.1.0")
    rollback(world.control, model="walker", alias="production")
    asked = []

    def ask(call: str) -> None:
        if call == "load walker.candidate":
            with pytest.raises(UsageError, match="abort is a folder, expected a plain file") as refused:
                abort(world.control, model="walker")
            asked.append(refused.value.remedy)

    world.server.before_call = ask
    world.publish("1.2.0", 3)
    _promote(world, "1.2.0")
    assert asked == ["Remove the folder, then try again."]


def test_a_config_that_was_edited_by_hand_is_found(world) -> None:
    """`verify` holds the generated configuration against the journal."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    config = world.root / "walker" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 64", "max_batch_size: 65"))
    (bad,) = [f for f in verify(world.control) if not f.intact]
    assert "config.pbtxt" in bad.what


@pytest.mark.parametrize("again", ["promote", "rollback"])
def test_naming_again_what_does_not_answer_loads_it(world, again) -> None:
    """Where an alias names a release and serves nothing, the release is loaded."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    world.server.unload("walker")
    if again == "promote":
        moved = _promote(world, "1.0.0")
    else:
        moved = rollback(world.control, model="walker", alias="production", to="1.0.0")
    assert not moved.changed
    assert moved.loaded_again
    assert world.answered() == "1.0.0"
    assert not _promote(world, "1.0.0").loaded_again


def test_a_dry_run_asks_the_gates_and_keeps_nothing(world) -> None:
    """A promotion that the gates would refuse is refused by its dry run too, and the journal is as it was."""
    world.publish("1.0.0", 1, agrees=False)
    before = len(history(world.control))
    with pytest.raises(GateError, match="parity failed"):
        _promote(world, "1.0.0", dry_run=True)
    assert len(history(world.control)) == before


def test_changed_evidence_and_loose_files_are_found(world) -> None:
    """`verify` holds each gate's evidence against the journal, and knows every file of the root."""
    world.publish("1.0.0", 1)
    _promote(world, "1.0.0")
    path = next((world.root / ".policyctl" / "evidence").rglob("*.json"))
    good = path.read_bytes()
    for bad in (good.replace(b"passed", b"failed", 1), None):
        path.unlink() if bad is None else path.write_bytes(bad)
        (wrong,) = [f for f in verify(world.control) if not f.intact]
        assert path.name in wrong.detail
    path.write_bytes(good)
    (world.root / "walker.foo").touch()
    (wrong,) = [f for f in verify(world.control) if not f.intact]
    assert wrong.what == "walker.foo"


def test_a_lost_journal_stops_publishing_instead_of_using_numbers_again(world) -> None:
    """Where slots are and no journal, nothing is published, dry run or not, and nothing is moved."""
    world.publish("1.0.0", 1)
    path = world.root / ".policyctl" / "journal.jsonl"
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        world.publish("1.0.1", 2)
    assert (world.root / "walker" / "1").is_dir()
    path.write_bytes(kept)
    assert world.publish("1.0.2", 2).slot == 2
