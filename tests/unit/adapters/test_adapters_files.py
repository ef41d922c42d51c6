"""Writing to disk: the old content or the new, whatever the disk says in between."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from policyctl.adapters import files
from policyctl.adapters.repository import Repository
from policyctl.errors import UsageError
from policyctl.plain_files import walk


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
    """Whichever call the disk refuses, the file is as it was, the folder is clean, and the reason is named."""
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


def test_a_folder_that_has_gone_has_nothing_in_it(tmp_path) -> None:
    """Another process may remove it at any moment, as a move does with a candidate's: no look at it may fail."""
    for name in "bca":
        (tmp_path / name).touch()
    assert [path.name for path in files.entries(tmp_path)] == ["a", "b", "c"]
    assert files.entries(tmp_path / "gone") == files.entries(tmp_path / "a") == ()


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
    """Unfinished files and folders of a living process stay, whatever its id; what is not ours is not touched."""
    child = os.fork()
    if child == 0:
        with files.scratch_folder(tmp_path) as folder:
            (folder / "slot").mkdir(mode=0o755)
            (folder / "slot" / "x").touch(mode=0o444)
            (folder / "slot").chmod(0o555)
            files.write_all = lambda *_: os._exit(0)  # killed in the middle of a write
            files.write_atomically(tmp_path / "target", b"never", scratch=tmp_path)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 3
    (tmp_path / "notes.txt").touch()
    with files.scratch_folder(tmp_path) as mine:
        files.sweep(tmp_path)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {mine.name, f"{mine.name}.lock", "notes.txt"}


def test_a_sweep_between_the_making_and_the_lock_of_a_file_costs_nothing(tmp_path, monkeypatch) -> None:
    """A sweep may be quicker than the lock: then the file is made again."""
    lock, swept = fcntl.flock, []

    def swept_first(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(descriptor)
            files.sweep(tmp_path)
        lock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", swept_first)
    files.write_atomically(tmp_path / "target", b"whole", scratch=tmp_path)
    assert swept
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("target", b"whole")]


_SWEEP_ELSEWHERE: Final = """
import os, sys
from pathlib import Path
from policyctl.adapters.repository import Repository
assert os.getpid() == 1, "not in a separate PID namespace"
Repository(Path(sys.argv[1])).create()
"""


def test_a_sweep_in_another_container_leaves_what_is_at_work_here(tmp_path) -> None:
    """There this process has no id, and another one may have it: a publish under way loses nothing."""
    apart = ["unshare", "--pid", "--fork"]
    if os.getuid() != 0:
        apart[1:1] = ["--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a PID namespace")
    repository = Repository(tmp_path)
    repository.create()
    with repository.staging() as folder:
        (folder / "slot").mkdir()
        done = subprocess.run(
            [*apart, sys.executable, "-c", _SWEEP_ELSEWHERE, tmp_path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert (folder / "slot").is_dir()


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
    """A reader knows which commands to type."""
    found = files.storage_error(Path("/x"), OSError(errno.ENOSPC, "No space left on device"))
    assert "df" in found.remedy
    assert found.exit_code == 2


def _nested(folder: Path, depth: int) -> Path:
    """`folder` with folders so deep in it, a file in each hundredth; its own process makes it, by short names."""
    folder.mkdir()
    there = os.getcwd()  # noqa: PTH109
    try:
        os.chdir(folder)
        for number in range(depth):
            if number % 100 == 0:
                Path("x").write_text(str(number))
            os.mkdir("d")  # noqa: PTH102
            os.chdir("d")
    finally:
        os.chdir(there)
    return folder


@pytest.mark.parametrize("depth", [50, 1500])
def test_a_deep_tree_is_walked_and_removed(tmp_path, depth: int) -> None:
    """Deeper than Python can call itself, too: nobody may crash a command by nesting folders."""
    folder = _nested(tmp_path / "deep", depth)
    assert len([e for e in walk(folder) if e.is_file()]) == -(-depth // 100)
    files.remove_tree(folder)
    assert not folder.exists()


def test_a_tree_beyond_what_a_path_can_name_is_an_error_or_left_out(tmp_path) -> None:
    """Who needs all of it hears of it; who looks for something gets what can be listed."""
    folder = _nested(tmp_path / "deep", 2500)
    try:
        assert len([e for e in walk(folder, on_error=lambda _error: None) if e.is_file()]) >= 10
        with pytest.raises(OSError, match="too long"):
            list(walk(folder))
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
