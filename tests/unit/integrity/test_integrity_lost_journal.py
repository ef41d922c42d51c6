"""A journal that was emptied, lost or replaced by an older copy is never taken for the true one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from world import World, copied

from policyctl.adapters import files
from policyctl.errors import IntegrityError, UsageError
from policyctl.services.integrity.journal import prove
from policyctl.services.integrity.known_journal import KnownJournal
from policyctl.services.integrity.verify import verify
from policyctl.services.moves.rollback import rollback
from policyctl.services.observed import Observed
from policyctl.services.releases.gc import gc
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import history, status
from policyctl.services.supervise.prober import Prober


def _promote(world: World, release: str) -> object:
    return promote(world.control, model="walker", release=release, alias="production")


def _path(world: World) -> Path:
    return world.control.repository.journal.path


@pytest.fixture
def moved(world) -> World:
    """1.0.0 and 1.1.0 of walker are published; 1.1.0 is in production, after 1.0.0."""
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    for release in ("1.0.0", "1.1.0"):
        _promote(world, release)
    return world


def _refused(world: World) -> list[str]:
    """What every command says of the journal; each refuses, and changes nothing."""
    commands = {
        "publish": lambda: world.publish("1.2.0", 3),
        "promote": lambda: _promote(world, "1.0.0"),
        "rollback": lambda: rollback(world.control, model="walker", alias="production"),
        "status": lambda: status(world.control),
        "history": lambda: history(world.control),
        "verify": lambda: verify(world.control),
        "gc": lambda: gc(world.control),
    }
    before, said = _path(world).read_bytes() if _path(world).exists() else None, []
    slots = sorted(p.name for p in (world.root / "walker").iterdir())
    for name, command in commands.items():
        with pytest.raises(IntegrityError) as error:
            command()
        said.append(f"{name}: {error.value.problem}")
        for leftover in (world.folder / "export-walker-1.2.0",):
            files.remove_tree(leftover)
    assert (_path(world).read_bytes() if _path(world).exists() else None) == before
    assert sorted(p.name for p in (world.root / "walker").iterdir()) == slots
    return said


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("content", [b"", None, b'{"torn'])
def test_an_emptied_journal_is_a_lost_one(moved, content, noted) -> None:
    """Next to slots it refuses everything, with the note of its head and, as earlier releases left it, without."""
    if content is None:
        _path(moved).unlink()
    else:
        _path(moved).write_bytes(content)
    if not noted:
        moved.control.repository.journal.head_path.unlink()
    words = "lacks record" if noted else "says that there was one"
    assert all(words in said for said in _refused(moved))
    assert not (moved.root / ".policyctl" / "orphans").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda head: head.write_bytes(b""),
        lambda head: head.write_bytes(b'{"seq": "7"}'),
        lambda head: (head.unlink(), os.mkfifo(head)),
        lambda head: (head.unlink(), head.mkdir()),
    ],
)
def test_a_damaged_note_is_no_missing_one(moved, damage) -> None:
    """Else who damages it could put an older journal in place."""
    damage(moved.control.repository.journal.head_path)
    assert all("does not say what the journal's last record is" in said for said in _refused(moved))


def test_an_older_journal_stops_every_command(moved) -> None:
    """Its chain is whole, and its end is not the one that was noted; the newer one in its place is right again."""
    newest = _path(moved).read_bytes()
    older = b"".join(newest.splitlines(keepends=True)[:-3])
    _path(moved).write_bytes(older)
    assert all("an older copy was put in its place" in said for said in _refused(moved))
    proof = prove(moved.control)
    assert not proof.intact and "lacks record" in proof.words
    _path(moved).write_bytes(newest)
    assert prove(moved.control).intact
    assert status(moved.control).healthy
    rollback(moved.control, model="walker", alias="production")


def test_a_running_server_keeps_what_it_knows(moved) -> None:
    """Journal and note of yesterday: production stays, `journal_intact` is 0, and commands refuse from then on."""
    journal = moved.control.repository.journal
    known = KnownJournal(moved.control)
    prober = Prober(moved.control, moved.server, Observed(), known)
    old = (_path(moved).read_bytes(), journal.head_path.read_bytes())
    rollback(moved.control, model="walker", alias="production")
    newest = _path(moved).read_bytes()
    assert known.state().aliases["walker", "production"].placement.release == "1.0.0"
    _path(moved).write_bytes(old[0])
    journal.head_path.write_bytes(old[1])
    moved.server.calls.clear()
    for _ in range(5):
        assert prober.probe()
    assert (moved.server.calls, moved.server.serving()) == ([], {"walker": 1})
    assert "lacks record" in known.problem
    assert all("lacks record" in said for said in _refused(moved))
    _path(moved).write_bytes(newest)
    assert known.state().aliases["walker", "production"].placement.release == "1.0.0"
    assert known.problem == ""


def test_a_restored_or_copied_repository_is_whole(moved, tmp_path_factory, monkeypatch) -> None:
    """Journal and note travel together; each goes on by itself."""
    copy = copied(moved, tmp_path_factory.mktemp("copies") / "copy", monkeypatch)
    assert prove(copy.control).intact
    rollback(copy.control, model="walker", alias="production")
    assert (copy.named(), moved.named()) == ("1.0.0", "1.1.0")


def test_whoever_accepts_an_older_journal_removes_the_note(moved) -> None:
    """As the refusal says; the slots that the older one does not know are set aside by the next publish."""
    first = _path(moved).read_bytes().splitlines(keepends=True)[0]
    _path(moved).write_bytes(first)
    with pytest.raises(IntegrityError) as error:
        status(moved.control)
    assert "remove .policyctl/head" in error.value.remedy
    moved.control.repository.journal.head_path.unlink()
    assert [r["release"] for r in status(moved.control).releases] == ["1.0.0"]
    assert moved.publish("1.2.0", 3).slot == 2
    assert any(p.name.startswith("walker-2-") for p in (moved.root / ".policyctl" / "orphans").iterdir())


def test_a_note_that_cannot_be_written_costs_no_move(moved, monkeypatch) -> None:
    """A disk that takes the record and not the note: the next writer notes it."""
    write = files.write_atomically

    def refuse(path: Path, *args, **kwargs) -> None:
        if path.name == "head":
            raise UsageError("disk full")
        write(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", refuse)
        rollback(moved.control, model="walker", alias="production")
    assert status(moved.control).healthy
    with moved.control.repository.writer("a look"):
        pass
    head = moved.control.repository.journal.head_path.read_text()
    assert moved.control.repository.journal.records()[-1].digest in head


def test_an_empty_repository_is_no_lost_one(world) -> None:
    """Nothing was recorded: it says so, and the first publish begins it."""
    with pytest.raises(UsageError, match="holds no published policy"):
        status(world.control)
    assert world.publish("1.0.0", 1).slot == 1


def test_an_append_reads_no_journal_again(world, monkeypatch) -> None:
    """What a process has appended it knows; ten thousand records cost a move nothing."""
    from policyctl.domain import journal

    world.publish("1.0.0", 1)
    world.state  # noqa: B018
    parsed: list[int] = []
    parse = journal.parse
    monkeypatch.setattr(journal, "parse", lambda whole: parsed.append(len(whole)) or parse(whole))
    _promote(world, "1.0.0")
    assert len(parsed) <= 1
    assert len(world.control.repository.journal.records()) == len(_path(world).read_bytes().splitlines())
