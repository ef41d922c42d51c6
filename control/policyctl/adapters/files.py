"""Write to disk so that a crash leaves the old content or the new, never half of it.

Every change to the repository goes through the few functions here. That is
also what makes crash safety testable: a test stops the process inside each of
them in turn.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from policyctl.errors import UsageError


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644, scratch: Path | None = None) -> None:
    """Replace `path` by `content` as a whole, and have it on disk on return.

    Args:
        path: The file.
        content: All of it.
        mode: Its permissions.
        scratch: A folder on the same file system for the unfinished file, which
            a crash leaves behind; None for the folder of `path`.

    Raises:
        UsageError: The disk is full, read-only, or not writable; `path` is as
            it was, and nothing is left beside it. Or the disk did not confirm
            the replacement, and says so.
    """
    temporary = (scratch or path.parent) / scratch_name()
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(
            f"{path} was written, but the disk did not confirm it ({error.strerror}): after a power cut it may be"
            " as it was before",
            remedy="Check the disk (dmesg), then repeat the command.",
        ) from error


def scratch_name() -> str:
    """A fresh name that tells which process it belongs to."""
    return f"{os.getpid()}-{secrets.token_hex(8)}"


def sweep(scratch: Path) -> None:
    """Remove what processes that are gone left in `scratch`."""
    for path in scratch.iterdir() if scratch.is_dir() else ():
        owner = path.name.partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            with suppress(FileNotFoundError):  # another process may be sweeping too
                remove_tree(path)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`, however many calls it takes."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def append_durably(path: Path, line: bytes, *, mode: int = 0o644) -> None:
    """Append `line` and have it on disk on return; a file that was not there gets the permissions `mode`.

    Raises:
        UsageError: The line could not be written whole; the file is as it was.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
        try:
            before = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, line)
                os.fsync(descriptor)
                if before == 0:
                    sync_folder(path.parent)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_durably(reader: BinaryIO, target: Path) -> None:
    """Copy what `reader` holds to a fresh, read-only file, and have it on disk on return."""
    with target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())
    target.chmod(0o444)


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a folder of hard links to every file of `source`."""
    target.mkdir(parents=True)
    for entry in sorted(source.rglob("*")):
        place = target / entry.relative_to(source)
        if entry.is_dir() and not entry.is_symlink():
            place.mkdir()
        else:
            os.link(entry, place, follow_symlinks=False)
    sync_folder(target)


def same_links(source: Path, target: Path) -> bool:
    """Whether `target` already holds exactly the links to `source`."""
    if target.is_symlink() or not target.is_dir():
        return False

    def inodes(folder: Path) -> dict[str, tuple[int, int]]:
        found = {}
        for path in folder.rglob("*"):
            status = os.lstat(path)
            if not path.is_dir() or path.is_symlink():
                found[str(path.relative_to(folder))] = (status.st_dev, status.st_ino)
        return found

    return inodes(source) == inodes(target)


def remove_tree(folder: Path) -> None:
    """Remove `folder`, also where its folders are read-only; nothing to do if it is gone."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    for parent, folders, _ in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in folders)):  # noqa: PTH118
            if not os.path.islink(path):  # noqa: PTH114
                Path(path).chmod(stat.S_IRWXU)
    shutil.rmtree(folder)


def storage_error(path: Path, error: OSError) -> UsageError:
    """What to say when the disk refuses."""
    return UsageError(
        f"{path}: cannot be written ({error.strerror})",
        remedy="Check free space (df), permissions, and whether the file system is read-only. Nothing was changed.",
    )
