"""Files in a shared folder that are locked for as long as whoever made them lives.

A client's regions and a server's claim lie in ``/dev/shm``, and whatever is
killed leaves its own there. A lock and not a process id says who lives: ids
come back, and mean nothing across the containers that may share one folder. So
whoever gets the lock of such a file knows that its owner is gone.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/dev/shm")  # noqa: S108 - where shm_open, and so Triton, looks


def names(folder: Path, prefix: str) -> list[str]:
    """Files in `folder` whose names begin with `prefix`; none where it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if name.startswith(prefix))  # noqa: PTH208
    except OSError:
        return []


def make(path: Path) -> int | None:
    """Make a file and lock it.

    Returns:
        Its descriptor; None where somebody who sweeps was quicker than the lock, and removes it.

    Raises:
        OSError: The folder cannot be written, or the file is there.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
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
