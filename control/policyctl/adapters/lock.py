"""One writer at a time, and a lock that names its holder.

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

from policyctl.adapters.files import storing
from policyctl.adapters.journal import actor as this_user
from policyctl.errors import BusyError
from policyctl.plain_files import open_plain, read_json, unreadable

_POLL_S = 0.05
_ASKING_S = 0.2


@dataclass(frozen=True, slots=True)
class Held:
    """The lock, while it is ours."""

    path: Path
    doing: str
    descriptor: int
    actor: str = ""
    stop: str = ""

    @contextmanager
    def aside(self, *, wait_s: float) -> Iterator[None]:
        """Let others write while the block runs, and take the lock again after it.

        What was true before the block need not be true after it.

        Args:
            wait_s: How long to wait for another writer when the block ends.

        Raises:
            BusyError: It was not given back in time.
        """
        _describe(self.descriptor, b"")
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        try:
            yield
        finally:
            acquire(self.descriptor, self.path, wait_s)
            _describe(self.descriptor, _description(self.doing, self.actor, self.stop))


@contextmanager
def hold(path: Path, *, doing: str, wait_s: float = 0.0, actor: str = "", stop: str = "") -> Iterator[Held]:
    """Hold the lock at `path` while the block runs.

    Args:
        path: The lock file; made if need be.
        doing: What for; others read it while they wait.
        wait_s: How long to wait for another holder.
        actor: Who holds it; empty for the user of this process.
        stop: A command that ends it before it is done; empty where none does.

    Raises:
        BusyError: Somebody else holds it; names who, since when and what for.
        UsageError: The lock file cannot be made.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        acquire(descriptor, path, wait_s)
        _describe(descriptor, _description(doing, actor, stop))
        yield Held(path, doing, descriptor, actor, stop)
        _describe(descriptor, b"")
    finally:
        os.close(descriptor)


@contextmanager
def hold_alone(path: Path, *, doing: str, taken: str, remedy: str) -> Iterator[None]:
    """Hold the lock of something that only one process may do at a time, nearly at once or not at all.

    Args:
        path: The lock file; made if need be.
        doing: What for; others read it while they wait.
        taken: What to say of it where somebody else holds it; who that is is added.
        remedy: What to do then.

    Raises:
        BusyError: Somebody else holds it.
        UsageError: The lock file cannot be made.
    """
    with ExitStack() as stack:
        # Around the lock alone: what the block finds busy is something else.
        try:
            # Who asks whether it is held (`is_held`) holds it for an instant.
            stack.enter_context(hold(path, doing=doing, wait_s=_ASKING_S))
        except BusyError as error:
            raise BusyError(f"{taken}: {holder(path)}", remedy=remedy) from error
        yield


def _describe(descriptor: int, text: bytes) -> None:
    # A full disk takes no text; the lock is the kernel's, and holds without it.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)


def acquire(descriptor: int, path: Path, wait_s: float) -> None:
    """Lock an open file.

    Args:
        descriptor: The file.
        path: Where its holder says who it is.
        wait_s: How long to wait for another holder.

    Raises:
        BusyError: Somebody else holds it.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BusyError(f"another writer is at work: {holder(path)}", remedy=_remedy(path)) from None
            time.sleep(_POLL_S)
        else:
            return


def holder(path: Path) -> str:
    """Who holds the lock, in words."""
    try:
        data = read_json(path)
        return f"{data['actor']} (process {data['pid']}): {data['doing']}, since {data['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said who it is"


def _remedy(path: Path) -> str:
    """What to do about a lock that somebody else holds."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if stop := read_json(path)["stop"]:
            return f"Wait until it is done and try again, or stop it: {stop}"
    return "Wait until it is done and try again."


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock right now.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        # Reading is enough to ask, so a user who may only look can ask too.
        descriptor = open_plain(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, error, remedy="Remove it, if policyctl did not make it.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: others may ask at the same time
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _description(doing: str, actor: str, stop: str) -> bytes:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = {"actor": actor or this_user(), "pid": os.getpid(), "doing": doing, "since": since, "stop": stop}
    return json.dumps(text).encode()
