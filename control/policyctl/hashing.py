"""Hash plain files: streamed, on all cores, past the page cache where that is asked.

Opens each file once, follows no link, and takes constant memory however large
the files are. hashlib lets go of the interpreter while OpenSSL computes, so
threads are enough to keep all cores busy. One file is one stream: SHA-256
cannot be divided.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from policyctl.domain.manifest import FileEntry
from policyctl.errors import IntegrityError

_CHUNK_BYTES = 1 << 20
_PACED_BYTES = 64 << 10
"""At once for whoever reads slowly: hashing it takes some tens of microseconds, so nobody waits for the core."""
_WORTH_THREADS_BYTES = 8 << 20
"""Less than this is hashed sooner than threads are started."""


def hash_file(
    folder: Path, path: str, *, on_chunk: Callable[[int], None] | None = None, past_cache: bool = False
) -> FileEntry:
    """Size and digest of one file, in constant memory.

    Args:
        folder: The release.
        path: Relative to it.
        on_chunk: Called with the number of bytes after each part that was read;
            whoever wants to read slowly waits in it.
        past_cache: Read what the disk holds and not what memory remembers of
            it, and leave no trace in memory; as far as the system does that.

    Raises:
        IntegrityError: It is not a plain file, or cannot be read.
    """
    hasher, size = hashlib.sha256(), 0
    most = _CHUNK_BYTES if on_chunk is None else min(_CHUNK_BYTES, _PACED_BYTES)
    for chunk in _views(folder / path, most, past_cache=past_cache):
        hasher.update(chunk)
        size += len(chunk)
        if on_chunk is not None:
            on_chunk(len(chunk))
    return FileEntry(path, size, "sha256:" + hasher.hexdigest())


def hash_all(items: Sequence[tuple[Path, str]], *, once_per_inode: bool = False) -> list[FileEntry | IntegrityError]:
    """`hash_file` of each, in order, on all cores where that is worth it."""
    inodes = [_inode(folder / path) for folder, path in items]
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, (device, inode, _) in enumerate(inodes):
        key = (device, inode, 0) if once_per_inode and inode else (0, 0, index)
        groups.setdefault(key, []).append(index)
    found: list[FileEntry | IntegrityError] = [IntegrityError("not hashed")] * len(items)

    def hash_group(group: list[int]) -> None:
        entry = _try_hash(*items[group[0]])
        for index in group:
            found[index] = _renamed(entry, items[index])

    # The largest first, so that the last thread is not left with the longest work.
    order = sorted(groups.values(), key=lambda group: -inodes[group[0]][2])
    workers = min(len(order), len(os.sched_getaffinity(0)))
    if workers < 2 or sum(inodes[group[0]][2] for group in order) < _WORTH_THREADS_BYTES:
        for group in order:
            hash_group(group)
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
            for _ in pool.map(hash_group, order):
                pass
    return found


def _try_hash(folder: Path, path: str) -> FileEntry | IntegrityError:
    try:
        return hash_file(folder, path)
    except IntegrityError as error:
        return error


def _renamed(entry: FileEntry | IntegrityError, item: tuple[Path, str]) -> FileEntry | IntegrityError:
    """The result for one name of a file as that of another."""
    if isinstance(entry, FileEntry):
        return entry if entry.path == item[1] else FileEntry(item[1], entry.size_bytes, entry.digest)
    return entry


def _inode(path: Path) -> tuple[int, int, int]:
    """Device, inode and size; zeros where it cannot be told."""
    try:
        found = os.lstat(path)
    except OSError:
        return (0, 0, 0)
    return (found.st_dev, found.st_ino, found.st_size)


def _open_plain(path: Path) -> int:
    try:
        # O_NONBLOCK: opening a FIFO that was put in a file's place must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IntegrityError(f"{path} is a symbolic link", remedy="Put the file itself there.") from error
        raise IntegrityError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(f"{path} is not a plain file")
    return descriptor


def read_plain(path: Path) -> bytes:
    """All of a plain file.

    Raises:
        IntegrityError: It is not one, or cannot be read.
    """
    return b"".join(bytes(view) for view in _views(path, _CHUNK_BYTES))


def _views(path: Path, most_bytes: int, *, past_cache: bool = False) -> Iterator[memoryview]:
    """The bytes of a plain file, part by part; each view is overwritten by the next."""
    with os.fdopen(_open_plain(path), "rb", buffering=0) as file:
        descriptor = file.fileno()
        _advise(descriptor, os.POSIX_FADV_DONTNEED if past_cache else os.POSIX_FADV_SEQUENTIAL)
        # One byte more than there should be: a small file and its end in one read.
        buffer = bytearray(min(os.fstat(descriptor).st_size + 1, most_bytes))
        view = memoryview(buffer)
        try:
            while count := file.readinto(buffer):
                yield view[:count]
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read ({error.strerror})") from error
        finally:
            if past_cache:
                _advise(descriptor, os.POSIX_FADV_DONTNEED)


def _advise(descriptor: int, advice: int) -> None:
    with suppress(OSError):  # advice, and some file systems take none
        os.posix_fadvise(descriptor, 0, 0, advice)
