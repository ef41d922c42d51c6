"""Only one process measures on a repository at a time, because two would measure each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from policyctl.adapters import lock
from policyctl.services.control import Control


@contextmanager
def measuring(control: Control, what: str) -> Iterator[None]:
    """Be the one process that measures on this repository; moves are not held up by it.

    Raises:
        BusyError: Another process measures.
    """
    path = control.repository.control / "measuring.lock"
    with lock.hold(path, doing=what, wait_s=control.settings.lock_wait_s):
        yield
