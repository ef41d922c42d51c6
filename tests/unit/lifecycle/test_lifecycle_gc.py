"""gc: what must stay stays, what goes is gone, and a crash between leaves nothing that cannot be settled."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from crash_states import crash_states
from hypothesis import given, settings
from hypothesis import strategies as st
from world import World, copied, left, write_export

from policyctl.adapters.papers import PAPERS, papers
from policyctl.domain.artifacts import Format
from policyctl.domain.fold import fold
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.domain.moves import Move, MoveKind, Placement
from policyctl.domain.retention import RetentionPolicy, plan
from policyctl.errors import BusyError, UsageError
from policyctl.services.integrity.verify import verify
from policyctl.services.moves.rollback import rollback
from policyctl.services.releases.gc import gc
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.pins import pin, unpin
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import status

NOTHING = RetentionPolicy(rollbacks=1, days=0, newest=1)


def _on_disk(world: World, model: str = "walker") -> set[str]:
    slots = world.state.slots(model)
    return {slots[p.name] for p in (world.root / model).iterdir() if p.name in slots}


def _intact(world: World) -> bool:
    return [f for f in verify(world.control) if not f.intact] == []


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> World:
    """Six releases; production went 1.0.0, 1.1.0, 1.2.0; staging names 1.3.0. Tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("six"), patch)
        for number in range(6):
            world.publish(f"1.{number}.0", number)
        for number in range(3):
            promote(world.control, model="walker", release=f"1.{number}.0", alias="production")
        promote(world.control, model="walker", release="1.3.0", alias="staging")
    return world


@pytest.fixture
def full(six: World, tmp_path, monkeypatch) -> World:
    """The same, to be changed."""
    return copied(six, tmp_path, monkeypatch)


def test_without_being_told_to_it_removes_nothing(full: World) -> None:
    """A dry run says what would go, with the bytes; journal and disk are as they were."""
    before = full.control.repository.journal.path.read_bytes()
    planned = gc(full.control, policy=NOTHING)
    assert {r.release for r in planned.collect} == {"1.0.0", "1.4.0"}
    assert planned.freed_bytes > 0
    assert (planned.deleted, _on_disk(full)) == (False, {f"1.{n}.0" for n in range(6)})
    assert full.control.repository.journal.path.read_bytes() == before


def test_what_is_needed_is_kept_with_its_reason(full: World) -> None:
    """Named, to be rolled back to, and the newest; everything else goes, and all is intact."""
    done = gc(full.control, policy=NOTHING, delete=True)
    assert {k.release.release: k.reasons for k in done.keep} == {
        "1.1.0": ("production can be rolled back to it",),
        "1.2.0": ("production names it", "the server has it loaded as walker"),
        "1.3.0": ("staging names it", "the server has it loaded as walker.staging"),
        "1.5.0": ("among the newest 1",),
    }
    assert _on_disk(full) == {"1.1.0", "1.2.0", "1.3.0", "1.5.0"}
    assert _intact(full)
    assert gc(full.control, policy=NOTHING, delete=True).collect == ()
    rollback(full.control, model="walker", alias="production")
    assert full.answered() == full.named() == "1.1.0"


def test_a_pinned_release_is_kept_until_it_is_unpinned(full: World) -> None:
    """Whatever else is newer; and once it is unpinned, it goes."""
    pin(full.control, model="walker", release="1.0.0")
    kept = {k.release.release: k.reasons for k in gc(full.control, policy=NOTHING, delete=True).keep}
    assert kept["1.0.0"][0] == "it is pinned"
    unpin(full.control, model="walker", release="1.0.0")
    assert {r.release for r in gc(full.control, policy=NOTHING, delete=True).collect} == {"1.0.0"}
    assert _intact(full)


def test_by_default_a_month_is_kept(full: World) -> None:
    """What was just published or just named is not collected."""
    assert gc(full.control, delete=True).collect == ()


def test_a_collected_release_is_refused_with_what_to_do(full: World) -> None:
    """It cannot be promoted nor rolled back to; its number and slot are never used again; its papers stay."""
    gc(full.control, policy=NOTHING, delete=True)
    for command in (
        lambda: promote(full.control, model="walker", release="1.0.0", alias="staging"),
        lambda: rollback(full.control, model="walker", alias="production", to="1.0.0"),
    ):
        with pytest.raises(UsageError, match="policyctl gc removed its files") as refusal:
            command()
        assert "release import" in refusal.value.remedy
    with pytest.raises(UsageError, match="published already"):
        publish(full.control, write_export(full.folder / "again", 0), model="walker", release="1.0.0")
    assert publish(full.control, write_export(full.folder / "next", 9), model="walker", release="2.0.0").slot == 7
    assert {p.name for p in papers(full.control.repository, "walker", "1.0.0").iterdir()} == set(PAPERS)
    rows = {r["release"]: r["collected"] for r in status(full.control).releases}
    assert rows["1.0.0"] == full.state.releases["walker", "1.0.0"].collected
    assert rows["1.1.0"] is None


def test_what_a_server_or_a_folder_still_holds_is_kept(full: World) -> None:
    """A candidate that is loaded, or whose folder is there, is in use whatever the journal says."""
    full.server._remember({**full.server.serving(), "walker.candidate": 1})
    full.control.repository.place("walker.candidate", 5)
    kept = {k.release.release: k.reasons for k in gc(full.control, policy=NOTHING).keep}
    assert kept["1.0.0"] == ("the server has it loaded as walker.candidate",)
    assert kept["1.4.0"] == ("walker.candidate holds it",)


def test_one_model_is_collected_without_another(full: World) -> None:
    """And a model that is not there is refused."""
    for number in range(4):
        full.publish(f"1.{number}.0", number + 20, model="runner")
    gc(full.control, model="runner", policy=NOTHING, delete=True)
    assert _on_disk(full, "runner") == {"1.3.0"}
    assert len(_on_disk(full)) == 6
    with pytest.raises(UsageError, match="not published"):
        gc(full.control, model="jumper")


def test_somebody_else_at_work_is_waited_for_and_then_named(full: World) -> None:
    """gc is a writer like any other."""
    with full.control.repository.writer("something else"), pytest.raises(BusyError):
        gc(full.control, policy=NOTHING, delete=True)


def test_shared_files_are_not_counted_as_freed(world: World) -> None:
    """The bytes that another release still holds stay on disk; the last one to go frees them."""
    for number in range(3):
        source = write_export(world.folder / f"big{number}", number)
        (source / "weights.bin").write_bytes(bytes(100_000))
        publish(world.control, source, model="walker", release=f"1.{number}.0")
    inodes = {(world.root / "walker" / str(n) / "weights.bin").stat().st_ino for n in (1, 2, 3)}
    assert len(inodes) == 1
    planned = gc(world.control, policy=NOTHING)
    assert {r.release for r in planned.collect} == {"1.0.0", "1.1.0"}
    assert planned.freed_bytes < 100_000


def test_what_was_set_aside_is_swept_after_the_days(full: World) -> None:
    """Damaged slots and downloads that nobody came back for, once they are old enough."""
    aside = full.control.repository.control / "orphans" / "walker-9-abc"
    (aside / "sub").mkdir(parents=True)
    (aside / "sub" / "file").write_bytes(b"x")
    policy = RetentionPolicy(rollbacks=9, days=2, newest=9)
    assert gc(full.control, policy=policy, delete=True).leftovers == ()
    old = datetime.now(UTC).timestamp() - 3 * 86400
    os.utime(aside, (old, old))
    assert gc(full.control, policy=policy).leftovers == (".policyctl/orphans/walker-9-abc",)
    gc(full.control, policy=policy, delete=True)
    assert not aside.exists()


def test_a_gc_killed_anywhere_leaves_what_is_served_and_is_finished_by_the_next(tmp_path, monkeypatch) -> None:
    """At every crash point aliases answer, what is kept is intact, and the next gc leaves nothing over."""
    template = World(tmp_path / "template", monkeypatch)
    for number in range(4):
        template.publish(f"1.{number}.0", number)
    for number in (1, 2):
        promote(template.control, model="walker", release=f"1.{number}.0", alias="production")
    states = crash_states(template, tmp_path / "states", lambda: gc(template.control, policy=NOTHING, delete=True))
    for state in states:
        world = left(state, monkeypatch)
        assert world.answered() == world.named() == "1.2.0", state
        wrong = [f for f in verify(world.control) if not f.intact]
        assert all("belongs to no release" in f.detail for f in wrong), state
        assert _on_disk(world) >= {"1.1.0", "1.2.0", "1.3.0"}
        gc(world.control, policy=NOTHING, delete=True)
        assert _on_disk(world) == {"1.1.0", "1.2.0", "1.3.0"}, state
        assert _intact(world), state
    assert len(states) > 7


RELEASES = [f"1.{n}.0" for n in range(7)]
T0 = datetime(2026, 1, 1, tzinfo=UTC)


@st.composite
def histories(draw) -> list[Record]:
    """Journals of one model with releases, moves of two aliases, and maybe an open move at the end."""
    records: list[Record] = []

    def add(kind: RecordKind, body: dict) -> None:
        time = (T0 + timedelta(days=len(records))).isoformat()
        records.append(Record(len(records), GENESIS, time, "a@b", kind, body))

    count = draw(st.integers(1, len(RELEASES)))
    for slot, release in enumerate(RELEASES[:count], 1):
        add(
            RecordKind.PUBLISHED,
            {"model": "m", "release": release, "slot": slot, "manifest_digest": release, "contract": {}},
        )
    moves = draw(st.lists(st.tuples(st.sampled_from(["production", "staging"]), st.integers(1, count)), max_size=8))
    last_open = draw(st.booleans())
    for index, (alias, slot) in enumerate(moves):
        named = fold(records).alias("m", alias)
        target = Placement(RELEASES[slot - 1], slot, RELEASES[slot - 1], Format.ONNX, f"{index}")
        kind = draw(st.sampled_from(MoveKind))
        move = Move(str(index), kind, "m", alias, None if named is None else named.placement, target)
        add(RecordKind.INTENT, {**move.to_json(), "server": ""})
        if not (last_open and index == len(moves) - 1):
            add(RecordKind.OUTCOME, {"move": str(index), "result": draw(st.sampled_from(["done", "reverted"]))})
    return records


policies = st.builds(RetentionPolicy, rollbacks=st.integers(1, 4), days=st.integers(0, 30), newest=st.integers(1, 4))


@settings(max_examples=200, deadline=None)
@given(histories(), policies, st.sets(st.sampled_from(RELEASES)))
def test_nothing_that_is_needed_is_ever_collected(records, policy: RetentionPolicy, held: set[str]) -> None:
    """Named, held, open, within the window, or among the newest: kept; and every release is in one list, once."""
    now = T0 + timedelta(days=len(records) + 1)
    found = plan(records, now=now, policy=policy, held={("m", r): "held" for r in held})
    state = fold(records)
    collect = {r.release for r in found.collect}
    assert sorted([*collect, *(k.release.release for k in found.keep)]) == sorted(
        r.release for r in state.of_model("m")
    )
    assert all(k.reasons for k in found.keep)
    assert not collect & held
    for named in state.aliases.values():
        assert named.placement.release not in collect
        trail = [p.release for p in named.trail]
        assert not collect & set(trail[-1 - policy.rollbacks :])
    for move in (unfinished.move for unfinished in state.unfinished.values()):
        assert not collect & {p.release for p in (move.target, move.incumbent) if p is not None}
    assert not collect & {r.release for r in state.of_model("m")[-policy.newest :]}


@settings(max_examples=100, deadline=None)
@given(histories(), policies, policies)
def test_a_wider_policy_keeps_at_least_as_much(records, one: RetentionPolicy, other: RetentionPolicy) -> None:
    """More rollbacks, more days and more of the newest never collect what less kept."""
    wider = RetentionPolicy(
        max(one.rollbacks, other.rollbacks), max(one.days, other.days), max(one.newest, other.newest)
    )
    now = T0 + timedelta(days=len(records) + 5)
    kept = {k.release.release for k in plan(records, now=now, policy=one, held={}).keep}
    assert kept <= {k.release.release for k in plan(records, now=now, policy=wider, held={}).keep}
