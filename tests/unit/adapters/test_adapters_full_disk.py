"""A real file system that is full: everything stays readable, and room brings everything back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from world import World, write_export

from policyctl.domain.journal import RecordKind
from policyctl.errors import PolicyctlError, UsageError
from policyctl.services.integrity.verify import verify
from policyctl.services.releases.publish import publish
from policyctl.services.rollout.promote import promote
from policyctl.services.show.status import history, status


def _fill(folder: Path) -> Path:
    """Take every byte that is left."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


@pytest.fixture
def full_world(small_disk: Path, tmp_path: Path, monkeypatch) -> World:
    """A repository on the small disk, with a release in production and another published."""
    world = World(small_disk, monkeypatch)
    world.server.memory = tmp_path / "memory.json"  # the server's memory is not on this disk
    for number, release in enumerate(("1.0.0", "1.1.0")):
        source = write_export(tmp_path / release, number)
        publish(world.control, source, model="walker", release=release)
    promote(world.control, model="walker", release="1.0.0", alias="production")
    return world


def test_a_full_disk_refuses_a_publish_and_changes_nothing(full_world, small_disk, tmp_path) -> None:
    """No slot, no record and no staging is left, and the same command works once there is room."""
    source = write_export(tmp_path / "next", 7)
    before = sorted(p for p in small_disk.rglob("*"))
    journal = full_world.control.repository.journal.path.read_bytes()
    ballast = _fill(small_disk)
    with pytest.raises(UsageError, match="No space left"):
        publish(full_world.control, source, model="walker", release="2.0.0")
    assert sorted(p for p in small_disk.rglob("*") if p != ballast) == before
    assert full_world.control.repository.journal.path.read_bytes() == journal
    ballast.unlink()
    assert publish(full_world.control, source, model="walker", release="2.0.0").slot == 3
    assert all(f.intact for f in verify(full_world.control))


def test_a_full_disk_keeps_the_incumbent_and_what_can_be_read(full_world, small_disk) -> None:
    """A promotion is refused in words, the incumbent serves, and status, history and verify still work."""
    ballast = _fill(small_disk)
    with pytest.raises(PolicyctlError, match="No space left"):
        promote(full_world.control, model="walker", release="1.1.0", alias="production")
    assert full_world.answered() == full_world.named() == "1.0.0"
    assert history(full_world.control)
    assert status(full_world.control).aliases[0].answers == "1.0.0"
    assert all(f.intact for f in verify(full_world.control))
    ballast.unlink()
    promote(full_world.control, model="walker", release="1.1.0", alias="production")
    assert full_world.answered() == full_world.named() == "1.1.0"
    assert all(f.intact for f in verify(full_world.control))


@pytest.mark.parametrize("room", [0, 4096, 8192, 12288, 16384, 20480, 28672])
def test_a_disk_that_fills_up_during_a_promotion_leaves_one_of_the_two(full_world, small_disk, room: int) -> None:
    """Whichever write meets the end of the disk, the alias answers, and room settles what is open."""
    ballast = _fill(small_disk)
    os.truncate(ballast, max(0, ballast.stat().st_size - room))
    try:
        promote(full_world.control, model="walker", release="1.1.0", alias="staging")
    except PolicyctlError as error:
        assert "No space left" in str(error)
        assert full_world.named("staging") is None
    assert full_world.answered() == "1.0.0"
    full_world.control.repository.journal.records()
    ballast.unlink()
    promote(full_world.control, model="walker", release="1.1.0", alias="staging")
    assert full_world.answered("walker.staging") == full_world.named("staging") == "1.1.0"
    assert [f for f in verify(full_world.control) if not f.intact] == []


def test_a_journal_on_a_full_disk_stays_readable(full_world, small_disk) -> None:
    """An append that fails leaves whole lines only."""
    journal = full_world.control.repository.journal
    whole = journal.path.read_bytes()
    _fill(small_disk)
    body = {"model": "walker", "release": "9.9.9", "slot": 9, "manifest_digest": "x" * 70_000}
    with pytest.raises(UsageError, match="No space left"):
        journal.append(RecordKind.PUBLISHED, body)
    assert journal.path.read_bytes() == whole
    assert journal.records()
