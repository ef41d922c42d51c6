"""Only one process measures on a repository at a time, because two would measure each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policyctl.adapters import lock
from policyctl.services.control import Control


@contextmanager
def measuring(control: Control, what: str) -> Iterator[None]:
    """Be the one process that measures on this repository; moves are not held up by it.

    Raises:
        BusyError: Another process measures.
    """
    with lock.hold(_path(control), doing=what, wait_s=control.settings.lock_wait_s):
        yield


def is_measuring(control: Control) -> bool:
    """Whether some process measures now, and so may have a candidate loaded while it lets others write."""
    return lock.is_held(_path(control))


def _path(control: Control) -> Path:
    return control.repository.control / "measuring.lock"
