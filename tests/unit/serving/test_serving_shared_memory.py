"""Whose shared memory is removed, and whose is not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from policyctl.errors import UnsupportedError
from policyctl.serving import shared_memory


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_claim_has_a_prefix_of_its_own(tmp_path: Path) -> None:
    """Two servers of one repository share a beginning and nothing more."""
    first = shared_memory.claim(Path("/repo"), folder=tmp_path)
    second = shared_memory.claim(Path("/repo"), folder=tmp_path)
    base = shared_memory.prefix_base(Path("/repo"))
    assert first.prefix != second.prefix
    assert first.prefix.startswith(base)
    assert second.prefix.startswith(base)
    assert shared_memory.prefix_base(Path("/other")) != base
    first.close()
    second.close()


def test_a_crashed_server_s_regions_are_removed(tmp_path: Path) -> None:
    """When nobody holds the claim any more, everything under its prefix goes, the claim too."""
    crashed = shared_memory.claim(Path("/repo"), folder=tmp_path)
    (tmp_path / f"{crashed.prefix}region").touch()
    crashed.close()
    removed = shared_memory.cleanup_stale(Path("/repo"), folder=tmp_path)
    assert set(removed) == {f"{crashed.prefix}region", f"{crashed.prefix}claim"}
    assert names(tmp_path) == set()


def test_a_held_claim_protects_its_regions(tmp_path: Path) -> None:
    """A live server loses nothing to the start of another one."""
    live = shared_memory.claim(Path("/repo"), folder=tmp_path)
    (tmp_path / f"{live.prefix}region").touch()
    assert shared_memory.cleanup_stale(Path("/repo"), folder=tmp_path) == ()
    assert f"{live.prefix}region" in names(tmp_path)
    live.close()


def test_a_claim_is_held_by_the_server_s_process_as_well(tmp_path: Path) -> None:
    """The claim of a supervisor that is gone stays held until its server is gone, too."""
    given = shared_memory.claim(Path("/repo"), folder=tmp_path)
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(given.descriptor,))
    given.close()
    assert shared_memory.cleanup_stale(Path("/repo"), folder=tmp_path) == ()
    assert server.stdin is not None
    server.stdin.close()
    server.wait()
    assert shared_memory.cleanup_stale(Path("/repo"), folder=tmp_path) == (f"{given.prefix}claim",)


def test_what_is_not_ours_is_never_removed(tmp_path: Path) -> None:
    """Other programs' memory, other repositories', and names that only look like ours are left alone."""
    base = shared_memory.prefix_base(Path("/repo"))
    other = shared_memory.claim(Path("/other"), folder=tmp_path)
    other.close()
    kept = {"sem.x", "triton_python_backend_shm_region_1", f"{base}claim", f"{base}zz-claim", f"{other.prefix}claim"}
    for name in kept:
        (tmp_path / name).touch()
    shared_memory.cleanup_stale(Path("/repo"), folder=tmp_path)
    assert names(tmp_path) == kept


def test_a_link_in_place_of_a_claim_is_not_followed(tmp_path: Path) -> None:
    """Anybody can write to /dev/shm: a planted link leads to nothing being opened or removed."""
    base, victim = shared_memory.prefix_base(Path("/repo")), tmp_path / "victim"
    victim.touch()
    (tmp_path / f"{base}00000000-claim").symlink_to(victim)
    assert shared_memory.cleanup_stale(Path("/repo"), folder=tmp_path) == ()
    assert victim.exists()


def test_removing_takes_the_claim_last(tmp_path: Path) -> None:
    """A removal that is cut short leaves the claim, by which the rest is found."""
    mine = shared_memory.claim(Path("/repo"), folder=tmp_path)
    for name in ("a", "zz"):
        (tmp_path / (mine.prefix + name)).touch()
    assert mine.remove() == (f"{mine.prefix}a", f"{mine.prefix}zz", f"{mine.prefix}claim")
    mine.close()


def test_memory_that_cannot_be_written_is_refused_with_a_remedy(tmp_path: Path) -> None:
    """A container without /dev/shm learns how to get one."""
    with pytest.raises(UnsupportedError) as caught:
        shared_memory.claim(Path("/repo"), folder=tmp_path / "absent")
    assert "shm-size" in caught.value.remedy


def test_a_claim_that_somebody_cleared_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers that start at once do not take each other's fresh claim for a stale one."""
    real, cleared = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not cleared:
            cleared.extend(tmp_path.iterdir())
            cleared[0].unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    mine = shared_memory.claim(Path("/repo"), folder=tmp_path)
    assert names(tmp_path) == {f"{mine.prefix}claim"}
    assert cleared[0].name not in names(tmp_path)
    mine.close()


def test_a_claim_is_locked(tmp_path: Path) -> None:
    """Who opens it sees that it is held."""
    mine = shared_memory.claim(Path("/repo"), folder=tmp_path)
    descriptor = os.open(tmp_path / f"{mine.prefix}claim", os.O_RDWR)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    mine.close()
