"""One writer at a time, and a lock that tells who holds it.

The lock is the kernel's (`flock`), so it ends with its process however that
ends; the text in the file is only for people.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from policyctl.adapters.files import storage_error
from policyctl.adapters.journal import actor as whoever
from policyctl.errors import BusyError

_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Held:
    """The lock, while it is ours."""

    path: Path
    doing: str
    descriptor: int
    actor: str = ""

    @contextmanager
    def aside(self, *, wait_s: float) -> Iterator[None]:
        """Let others write while the block runs, and take the lock again after it.

        What was true before the block need not be true after it.

        Args:
            wait_s: How long to wait for whoever writes when the block ends.

        Raises:
            BusyError: It was not given back in time.
        """
        _describe(self.descriptor, b"")
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        try:
            yield
        finally:
            _acquire(self.descriptor, self.path, wait_s)
            _describe(self.descriptor, _description(self.doing, self.actor))


@contextmanager
def hold(path: Path, *, doing: str, wait_s: float = 0.0, actor: str = "") -> Iterator[Held]:
    """Hold the lock at `path` while the block runs.

    Args:
        path: The lock file; made if need be.
        doing: What for, told to whoever finds it held.
        wait_s: How long to wait for another holder.
        actor: Who holds it; empty for whoever runs this process.

    Raises:
        BusyError: Somebody else holds it; names who, since when and what for.
        UsageError: The lock file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        _acquire(descriptor, path, wait_s)
        _describe(descriptor, _description(doing, actor))
        yield Held(path, doing, descriptor, actor)
        _describe(descriptor, b"")
    finally:
        os.close(descriptor)


@contextmanager
def hold_alone(path: Path, *, doing: str, taken: str, remedy: str) -> Iterator[None]:
    """Hold the lock of something that only one process may do at a time, at once or not at all.

    Args:
        path: The lock file; made if need be.
        doing: What for, told to whoever finds it held.
        taken: What to say of it where somebody else holds it; who that is is added.
        remedy: What to do then.

    Raises:
        BusyError: Somebody else holds it.
        UsageError: The lock file cannot be made.
    """
    with ExitStack() as stack:
        # Around the lock alone: what the block finds busy is something else.
        try:
            stack.enter_context(hold(path, doing=doing))
        except BusyError as error:
            raise BusyError(f"{taken}: {holder(path)}", remedy=remedy) from error
        yield


def _describe(descriptor: int, text: bytes) -> None:
    # A full disk takes no text; the lock is the kernel's, and holds without it.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)


def _acquire(descriptor: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"another writer is at work: {holder(path)}",
                    remedy="Wait until it is done and try again, or stop it with: policyctl abort MODEL",
                ) from None
            time.sleep(_POLL_S)
        else:
            return


def holder(path: Path) -> str:
    """Who holds the lock, in words."""
    try:
        data = json.loads(path.read_text())
        return f"{data['actor']} (process {data['pid']}): {data['doing']}, since {data['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said who it is"


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock right now."""
    try:
        # Reading is enough to ask, so whoever may only look can ask too.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _description(doing: str, actor: str) -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = {"actor": actor or whoever(), "pid": os.getpid(), "doing": doing, "since": since}
    return json.dumps(text).encode()
