"""Hash plain files: streamed, on all cores, past the page cache where that is asked.

Opens each file once, follows no link, and takes constant memory however large
the files are. hashlib lets go of the interpreter while OpenSSL computes, so
threads are enough to keep all cores busy. One file is one stream: SHA-256
cannot be divided.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path

from policyctl.domain.manifest import FileEntry, size_difference
from policyctl.errors import IntegrityError
from policyctl.plain_files import open_plain, unreadable_release

_CHUNK_BYTES = 1 << 20
_PACED_BYTES = 64 << 10
"""At once for a slow reader: hashing it takes some tens of microseconds, so nobody waits for the core."""
_WORTH_THREADS_BYTES = 8 << 20
"""Less than this is hashed sooner than threads are started."""

Item = tuple[Path, str, int | None]
"""A folder, a path in it, and the size that it must have; None where nothing states one."""


def hash_file(
    folder: Path,
    path: str,
    size_bytes: int | None = None,
    *,
    on_chunk: Callable[[int], None] | None = None,
    past_cache: bool = False,
) -> FileEntry:
    """Size and digest of one file, in constant memory.

    Args:
        folder: The release.
        path: Relative to it.
        size_bytes: The size that it must have. A file of another size is not
            read: hashing a sparse one can take hours.
        on_chunk: Called with the number of bytes after each part that was read;
            a slow reader waits in it.
        past_cache: Read what the disk holds and not what memory remembers of
            it, and leave no trace in memory; as far as the system does that.

    Raises:
        IntegrityError: It is not a plain file, has another size, or cannot be read.
    """
    hasher, size = hashlib.sha256(), 0
    most = _CHUNK_BYTES if on_chunk is None else min(_CHUNK_BYTES, _PACED_BYTES)
    try:
        descriptor = open_plain(folder / path)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if size_bytes is not None:
                _require_size(path, size_bytes, os.fstat(descriptor).st_size)
            for chunk in _views(file, most, past_cache=past_cache):
                hasher.update(chunk)
                size += len(chunk)
                if size_bytes is not None and size > size_bytes:
                    break  # it grows while it is read
                if on_chunk is not None:
                    on_chunk(len(chunk))
    except OSError as error:
        raise unreadable_release(folder / path, error) from error
    if size_bytes is not None:
        _require_size(path, size_bytes, size)
    return FileEntry(path, size, "sha256:" + hasher.hexdigest())


def _require_size(path: str, expected: int, size: int) -> None:
    if size != expected:
        raise IntegrityError(size_difference(path, expected, size))


def hash_all(items: Sequence[Item]) -> list[FileEntry | IntegrityError]:
    """`hash_file` of each, in order, on all cores where that is worth it; several names of one file are read once."""
    inodes = [_inode(folder / path) for folder, path, _ in items]
    groups: dict[tuple[int, int, int | None], list[int]] = {}
    for index, (device, inode, _) in enumerate(inodes):
        groups.setdefault((device, inode, items[index][2]) if inode else (0, 0, index), []).append(index)
    results: list[FileEntry | IntegrityError] = [IntegrityError("not hashed")] * len(items)

    def hash_group(group: list[int]) -> None:
        try:
            entry = hash_file(*items[group[0]])
        except IntegrityError as error:
            for index in group:
                results[index] = error
            return
        for index in group:
            results[index] = replace(entry, path=items[index][1])

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
    return results


def _inode(path: Path) -> tuple[int, int, int]:
    """Device, inode and size; zeros where the system does not say."""
    try:
        status = os.lstat(path)
    except OSError:
        return (0, 0, 0)
    return (status.st_dev, status.st_ino, status.st_size)


def _views(file: FileIO, most_bytes: int, *, past_cache: bool) -> Iterator[memoryview]:
    """The bytes of a file, part by part; each view is overwritten by the next."""
    descriptor = file.fileno()
    _advise(descriptor, os.POSIX_FADV_DONTNEED if past_cache else os.POSIX_FADV_SEQUENTIAL)
    # One byte more than there should be: a small file and its end in one read.
    buffer = bytearray(min(os.fstat(descriptor).st_size + 1, most_bytes))
    view = memoryview(buffer)
    try:
        while count := file.readinto(buffer):
            yield view[:count]
    finally:
        if past_cache:
            _advise(descriptor, os.POSIX_FADV_DONTNEED)


def _advise(descriptor: int, advice: int) -> None:
    with suppress(OSError):  # advice, and some file systems take none
        os.posix_fadvise(descriptor, 0, 0, advice)
