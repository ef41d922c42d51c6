"""Write to disk so that a crash leaves the old content or the new, never half of it.

Every change to the repository goes through the few functions here. That is
also what makes crash safety testable: a test stops the process inside each of
them in turn.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from policyctl import claims
from policyctl.errors import UsageError
from policyctl.plain_files import denied, open_plain, walk

Advance = Callable[[int], None]
"""Takes how many bytes of a file have been carried."""
_COPY_BYTES: Final = 1 << 20
_SCRATCH: Final = re.compile(r"scratch-[0-9a-f]{16}(\.lock)?")


def unseen(_: int) -> None:
    """Nobody looks at how far a copy has come."""


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
            it was, and no other file is left. Or the disk did not confirm
            the replacement, and says so.
    """
    with storing(path):
        temporary, descriptor = _claim(scratch or path.parent, mode=mode)
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)  # until here nobody sweeps it
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(
            f"{path} was written, but the disk did not confirm it ({error.strerror}): after a power cut it may be"
            " as it was before",
            remedy="Check the disk (dmesg), then repeat the command.",
        ) from error


def write_once(path: Path, content: bytes, *, scratch: Path) -> None:
    """Make `path` with `content`, unless it is there by then; whole or not at all.

    Raises:
        OSError: The disk refuses.
    """
    temporary, descriptor = _claim(scratch, mode=0o644)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def scratch_name() -> str:
    """A fresh name for what is unfinished."""
    return f"scratch-{secrets.token_hex(8)}"


@contextmanager
def scratch_folder(scratch: Path) -> Iterator[Path]:
    """A fresh folder in `scratch`, which nobody sweeps while the block runs; removed afterwards.

    Raises:
        OSError: It cannot be made.
    """
    lock, descriptor = _claim(scratch, ".lock")
    folder = lock.with_suffix("")
    try:
        folder.mkdir()
        yield folder
    finally:
        with suppress(OSError):  # what cannot be removed now is swept later
            remove_tree(folder)
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _claim(scratch: Path, suffix: str = "", *, mode: int = 0o600) -> tuple[Path, int]:
    """A fresh file in `scratch`, and the descriptor that keeps it locked."""
    while True:
        path = scratch / f"{scratch_name()}{suffix}"
        if (descriptor := claims.make(path, mode)) is not None:
            return path, descriptor


def entries(folder: Path) -> tuple[Path, ...]:
    """What lies in a folder, by name; nothing where it does not exist, or has just been removed."""
    try:
        return tuple(sorted(folder.iterdir()))
    except (FileNotFoundError, NotADirectoryError):
        return ()


def sweep(scratch: Path) -> None:
    """Remove what processes that are gone left in `scratch`.

    A lock says who lives, for a process id means nothing in another container:
    a file is locked itself, a folder by the file next to it, which is made
    before it and removed after it.
    """
    for path in entries(scratch):
        with suppress(FileNotFoundError):  # another process may be sweeping too
            if _SCRATCH.fullmatch(path.name):
                _sweep(path)


def _sweep(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        if not path.with_suffix(".lock").exists():
            remove_tree(path)
        return
    descriptor = claims.take(path)
    if descriptor is None:
        return
    try:
        if path.suffix == ".lock":
            remove_tree(path.with_suffix(""))
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


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
    with storing(path):
        descriptor = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
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


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(folder: Path, size_bytes: int) -> None:
    """Refuse to write so much that the disk of `folder` would be full.

    Args:
        folder: Where it is to be written; it need not exist yet.
        size_bytes: How much.

    Raises:
        UsageError: The disk has too little room.
    """
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        full = f"{os.strerror(errno.ENOSPC)}: {size_bytes} bytes are needed, {free} are free"
        raise storage_error(folder, OSError(errno.ENOSPC, full))


def copy_durably(reader: BinaryIO, target: Path, *, most_bytes: int) -> None:
    """Copy what `reader` holds to a fresh, read-only file, and have it on disk on return.

    Raises:
        OSError: The disk refuses, or `reader` holds more than `most_bytes`.
    """
    with target.open("xb", buffering=0) as writer:
        left = most_bytes + 1
        while left and (part := reader.read(min(_COPY_BYTES, left))):
            write_all(writer.fileno(), part)
            left -= len(part)
        if not left:
            raise OSError(errno.EFBIG, f"more than {most_bytes} bytes came", str(target))
        os.fsync(writer.fileno())
    target.chmod(0o444)


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a folder of hard links to every file of `source`."""
    target.mkdir(parents=True)
    for entry in walk(source):
        place = target / os.path.relpath(entry.path, source)
        if entry.is_dir(follow_symlinks=False):
            place.mkdir()
        else:
            os.link(entry.path, place, follow_symlinks=False)
    sync_folder(target)


def same_links(source: Path, target: Path) -> bool:
    """Whether `target` already holds exactly the links to `source`."""
    if target.is_symlink() or not target.is_dir():
        return False

    def inodes(folder: Path) -> dict[str, tuple[int, int]]:
        statuses = {e.path: e.stat(follow_symlinks=False) for e in walk(folder) if not e.is_dir(follow_symlinks=False)}
        return {os.path.relpath(path, folder): (found.st_dev, found.st_ino) for path, found in statuses.items()}

    return inodes(source) == inodes(target)


def remove_tree(folder: Path) -> None:
    """Remove `folder`, also where its folders are read-only; nothing to do if it is gone."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    folder.chmod(stat.S_IRWXU)
    folders = [folder]
    for entry in walk(folder):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            path.chmod(stat.S_IRWXU)  # before it is listed
            folders.append(path)
        else:
            path.unlink(missing_ok=True)
    for path in reversed(folders):
        path.rmdir()


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Report what the disk refuses in the block as a refusal to write `path`.

    Raises:
        UsageError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> UsageError:
    """What to say when the disk refuses."""
    if error.errno == errno.EISDIR:
        return UsageError(f"{path} is a folder, expected a plain file", remedy="Remove the folder, then try again.")
    if isinstance(error, PermissionError):
        refused = denied(error, path)
        return UsageError(refused.problem, remedy=f"{refused.remedy} Nothing was changed.")
    return UsageError(
        f"{path}: cannot be written ({error.strerror})",
        remedy="Check free space (df), and whether the file system is read-only. Nothing was changed.",
    )
