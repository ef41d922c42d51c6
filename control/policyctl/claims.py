"""Files in a shared folder that are locked for as long as the process that made them lives.

A client's regions and a server's claim lie in ``/dev/shm``, unfinished files in
a repository's scratch folder, and whatever is killed leaves its own there. A
lock and not a process id says who lives: ids come back, and mean nothing across
the containers that may share one folder. So a process that gets the lock of such a
file knows that its owner is gone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where shm_open, and so Triton, looks


def names(folder: Path, prefix: str) -> list[str]:
    """Files in `folder` whose names begin with `prefix`; none where it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith(prefix))  # noqa: PTH208
    except OSError:
        return []


def make(path: Path, mode: int = 0o600) -> int | None:
    """Make a file and lock it.

    Args:
        path: The file, which is not there yet.
        mode: Its permissions.

    Returns:
        Its descriptor; None where somebody who sweeps was quicker than the lock, and removes it.

    Raises:
        OSError: The folder cannot be written, or the file is there.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink > 0:
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def take(path: Path) -> int | None:
    """Lock a file whose owner is gone; None where it lives, or the file is another user's."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def orphans(folder: Path, prefix: str, *, suffix: str = "") -> Iterator[tuple[str, ...]]:
    """Names of the files whose owners are gone, locked while the block runs; files of other users are left alone."""
    wanted = [name for name in names(folder, prefix) if name.endswith(suffix)]
    taken = {name: descriptor for name in wanted if (descriptor := take(folder / name)) is not None}
    try:
        yield tuple(taken)
    finally:
        for descriptor in taken.values():
            os.close(descriptor)
