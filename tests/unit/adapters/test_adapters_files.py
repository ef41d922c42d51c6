"""Writing to disk: the old content or the new, whatever the disk says in between."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from policyctl.adapters import files
from policyctl.errors import UsageError


def _fail(monkeypatch, name: str, number: int, *, after: int = 0, half: bool = False) -> None:
    """Let `os.<name>` fail with `number` from its call `after` on, having done half of a write."""
    real, calls = getattr(os, name), [0]

    def failing(*arguments, **keywords):
        calls[0] += 1
        if calls[0] <= after:
            return real(*arguments, **keywords)
        if half:
            real(arguments[0], arguments[1][: len(arguments[1]) // 2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, failing)


FAILURES = [
    ("open", errno.ENOSPC, False),
    ("open", errno.EROFS, False),
    ("open", errno.EACCES, False),
    ("write", errno.ENOSPC, False),
    ("write", errno.ENOSPC, True),
    ("write", errno.EIO, True),
    ("fsync", errno.EIO, False),
    ("fsync", errno.ENOSPC, False),
    ("replace", errno.ENOSPC, False),
    ("replace", errno.EXDEV, False),
]


@pytest.mark.parametrize(("call", "number", "half"), FAILURES)
@pytest.mark.parametrize("before", [b"old", None])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(
    tmp_path, monkeypatch, call: str, number: int, half: bool, before: bytes | None
) -> None:
    """Whichever call the disk refuses, the file is as it was, the folder is clean, and the reason is told."""
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with monkeypatch.context() as patch, pytest.raises(UsageError) as refusal:
        _fail(patch, call, number, half=half)
        files.write_atomically(path, b"new content")
    assert os.strerror(number) in refusal.value.problem
    assert str(path) in refusal.value.problem
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({} if before is None else {"file": before})


def test_a_write_that_cannot_be_confirmed_does_not_claim_that_nothing_changed(tmp_path, monkeypatch) -> None:
    """If only the folder's sync fails the new content is there, and the message says so."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch, pytest.raises(UsageError) as refusal:
        _fail(patch, "fsync", errno.EIO, after=1)
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert "Nothing was changed" not in refusal.value.remedy
    assert "may" in refusal.value.problem


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444])
def test_a_file_has_its_mode_from_the_first_moment(tmp_path, monkeypatch, mode: int) -> None:
    """Not even the unfinished file can be read by others when the finished one may not."""
    seen = []
    real = files.write_all
    monkeypatch.setattr(
        files, "write_all", lambda d, c: (seen.append(stat.S_IMODE(os.fstat(d).st_mode)), real(d, c))[1]
    )
    files.write_atomically(tmp_path / "file", b"x", mode=mode)
    assert seen == [mode]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path) -> None:
    """Writing never leaves the repository through a link."""
    (tmp_path / "outside").write_bytes(b"old")
    (tmp_path / "file").symlink_to("outside")
    files.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_bytes() == b"old"
    assert not (tmp_path / "file").is_symlink()


def test_short_writes_are_carried_on(tmp_path, monkeypatch) -> None:
    """A disk that takes three bytes at a time gets all of them."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda d, c: real(d, bytes(c)[:3]))
    files.write_atomically(tmp_path / "file", b"0123456789")
    files.append_durably(tmp_path / "file", b"abcdefgh\n")
    assert (tmp_path / "file").read_bytes() == b"0123456789abcdefgh\n"


@pytest.mark.parametrize("before", [b"", b"first\n"])
@pytest.mark.parametrize(
    ("call", "number", "after", "half"),
    [
        ("write", errno.ENOSPC, 0, True),
        ("write", errno.EIO, 0, False),
        ("fsync", errno.EIO, 0, False),
        ("open", errno.EROFS, 0, False),
    ],
)
def test_an_append_that_fails_leaves_the_file_as_it_was(
    tmp_path, monkeypatch, before: bytes, call: str, number: int, after: int, half: bool
) -> None:
    """Half a line is cut off again."""
    path = tmp_path / "journal"
    path.write_bytes(before)
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="cannot be written"):
        _fail(patch, call, number, after=after, half=half)
        files.append_durably(path, b"second line\n")
    assert path.read_bytes() == before


def test_a_first_line_whose_folder_cannot_be_synced_is_taken_back(tmp_path, monkeypatch) -> None:
    """The first line of a journal counts only once the journal's name is on disk."""
    path = tmp_path / "journal"
    with monkeypatch.context() as patch, pytest.raises(UsageError):
        _fail(patch, "fsync", errno.EIO, after=1)
        files.append_durably(path, b"line\n")
    assert path.read_bytes() == b""


def test_a_sweep_removes_only_what_the_dead_left(tmp_path) -> None:
    """Unfinished files of a living process stay, those of a dead one go, and what is not ours is not touched."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    names = {f"{os.getpid()}-a": True, f"{child}-a": False, f"{child}-folder": False, "notes.txt": True, "-": True}
    for name in names:
        (tmp_path / name).mkdir() if "folder" in name else (tmp_path / name).touch()
    (tmp_path / f"{child}-folder" / "slot").mkdir(mode=0o755)
    (tmp_path / f"{child}-folder" / "slot" / "x").touch(mode=0o444)
    (tmp_path / f"{child}-folder" / "slot").chmod(0o555)
    files.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {name for name, kept in names.items() if kept}


def test_a_link_in_a_removed_tree_is_removed_and_not_followed(tmp_path) -> None:
    """Removing a folder never touches what a link in it points to."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "kept").touch()
    outside.chmod(0o500)
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "link").symlink_to(outside)
    (tmp_path / "alias").symlink_to(outside)
    files.remove_tree(tree)
    files.remove_tree(tmp_path / "alias")
    files.remove_tree(tmp_path / "never was")
    assert not tree.exists()
    assert (outside / "kept").exists()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500


def test_a_linked_tree_shares_its_files_and_no_folder(tmp_path) -> None:
    """Hard links for files, fresh folders, links as links."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "x").write_bytes(b"x")
    (source / "link").symlink_to("sub/x")
    files.link_tree(source, tmp_path / "deep" / "target")
    target = tmp_path / "deep" / "target"
    assert (target / "sub" / "x").samefile(source / "sub" / "x")
    assert (target / "link").is_symlink()
    assert not (target / "sub").samefile(source / "sub")


def test_the_remedy_of_a_full_disk_tells_what_to_check(tmp_path) -> None:
    """Whoever reads it knows which commands to type."""
    found = files.storage_error(Path("/x"), OSError(errno.ENOSPC, "No space left on device"))
    assert "df" in found.remedy
    assert found.exit_code == 2
