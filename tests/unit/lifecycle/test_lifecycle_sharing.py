"""Identical files are stored once, and only where that is safe."""

from __future__ import annotations

import errno
import os

import pytest
from lifecycle_exports import LARGE, not_intact, publish_large, spoil
from world import World

from policyctl.adapters import sharing
from policyctl.services.control import Control
from policyctl.services.rollout.promote import promote
from policyctl.settings import load


def _inode(world: World, slot: int, path: str = "sub/weights.bin", model: str = "walker") -> int:
    return (world.root / model / str(slot) / path).stat().st_ino


def test_a_large_file_is_stored_once_for_all_releases_and_models(world: World) -> None:
    """Across releases and models; small files, and files that differ, stay their own."""
    publish_large(world, "1.0.0", 1)
    publish_large(world, "1.1.0", 2)
    publish_large(world, "1.0.0", 3, model="runner")
    publish_large(world, "1.2.0", 4, large=LARGE[::-1])
    assert _inode(world, 1) == _inode(world, 2) == _inode(world, 1, model="runner") != _inode(world, 3)
    assert _inode(world, 1, "contract.json") != _inode(world, 2, "contract.json")
    assert not_intact(world) == []
    promote(world.control, model="walker", release="1.1.0", alias="staging")
    assert (world.root / "walker.staging" / "2" / "sub" / "weights.bin").stat().st_ino == _inode(world, 1)


def test_a_shared_file_rots_in_every_release_and_verify_says_so(world: World) -> None:
    """That is the price of one copy; nothing hides it."""
    publish_large(world, "1.0.0", 1)
    publish_large(world, "1.1.0", 2)
    spoil(world.root / "walker" / "1" / "sub" / "weights.bin")
    found = not_intact(world)
    assert [w.partition(":")[0] for w in found] == ["walker 1.0.0 (slot 1)", "walker 1.1.0 (slot 2)"]
    assert all("sub/weights.bin is sha256:" in w for w in found)


def test_a_damaged_file_is_never_shared(world: World) -> None:
    """A new release has a separate copy, and is intact."""
    publish_large(world, "1.0.0", 1)
    spoil(world.root / "walker" / "1" / "sub" / "weights.bin")
    publish_large(world, "1.1.0", 2)
    assert _inode(world, 1) != _inode(world, 2)
    assert [w.partition(":")[0] for w in not_intact(world)] == ["walker 1.0.0 (slot 1)"]


def test_a_file_that_can_be_written_is_never_shared(world: World) -> None:
    """The user who made it writable may mean to write."""
    publish_large(world, "1.0.0", 1)
    (world.root / "walker" / "1" / "sub" / "weights.bin").chmod(0o644)
    publish_large(world, "1.1.0", 2)
    assert _inode(world, 1) != _inode(world, 2)


def test_a_file_that_is_replaced_while_it_is_read_is_never_shared(world: World, monkeypatch) -> None:
    """The link must be to what was hashed."""
    publish_large(world, "1.0.0", 1)
    path = world.root / "walker" / "1" / "sub" / "weights.bin"
    intact = sharing.is_intact

    def look_and_replace(place, wanted) -> bool:
        found = intact(place, wanted)
        path.parent.chmod(0o755)
        path.rename(path.with_name("gone"))
        path.write_bytes(b"something else")
        path.chmod(0o444)
        return found

    monkeypatch.setattr(sharing, "is_intact", look_and_replace)
    publish_large(world, "1.1.0", 2)
    assert (world.root / "walker" / "2" / "sub" / "weights.bin").read_bytes() == LARGE
    assert [p.name for p in (world.root / "walker" / "2" / "sub").iterdir()] == ["weights.bin"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP])
def test_where_no_link_can_be_made_the_copy_stays(world: World, monkeypatch, number: int) -> None:
    """Another file system, too many links, or a file system without links: nothing fails."""
    publish_large(world, "1.0.0", 1)

    def refuse(*_args, **_kwargs) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        publish_large(world, "1.1.0", 2)
    assert _inode(world, 1) != _inode(world, 2)
    assert not_intact(world) == []


@pytest.mark.parametrize(("from_bytes", "shared"), [(None, False), (len(LARGE), True), (len(LARGE) + 1, False)])
def test_the_setting_says_from_which_size_on(world: World, from_bytes: int | None, shared: bool) -> None:
    """Null shares nothing."""
    chosen = load(repository=world.root)
    chosen = chosen.model_copy(update={"storage": chosen.storage.model_copy(update={"share_from_bytes": from_bytes})})
    world.control = Control.of(chosen)
    publish_large(world, "1.0.0", 1)
    publish_large(world, "1.1.0", 2)
    assert (_inode(world, 1) == _inode(world, 2)) is shared
