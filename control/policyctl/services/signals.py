"""SIGTERM and SIGINT as a request to stop, for commands that have something to put in order first.

SIGHUP means two things: to a daemon, to read its settings anew; and to whatever
runs in a terminal, that the terminal is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` instead of killing, while the block runs."""

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def reread_on_hangup(reread: threading.Event, stop: threading.Event) -> Iterator[None]:
    """SIGHUP sets `reread`, or `stop` where it came because the terminal is gone, while the block runs."""
    in_terminal = os.isatty(2)

    def ask(_signal: int, _frame: FrameType | None) -> None:
        (stop if in_terminal and not os.isatty(2) else reread).set()

    previous = signal.signal(signal.SIGHUP, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)
