"""Signals as requests, for commands that have something to put in order first.

Python runs a signal's handler between any two steps of the main thread, also
where that thread holds a lock. A handler that takes the same lock then waits
for itself: `threading.Event.set` does so in the middle of `Event.wait`. So the
handlers here do nothing. The kernel's own handler writes the signal's number to
a pipe, and a thread that reads it acts. That also works while the main thread
is in a library's call and runs no Python at all.

SIGHUP means two things: to a daemon, to read its settings again; and to whatever
runs in a terminal, that the terminal is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Final

_END: Final = b"\0"
_JOIN_S: Final = 2.0


def _nothing(_signal: int, _frame: FrameType | None) -> None:
    """What Python runs on the main thread; the thread of `on_signals` acts."""


@contextlib.contextmanager
def on_signals(actions: Mapping[int, Callable[[], None]]) -> Iterator[None]:
    """Call an action for each signal that comes, on another thread, while the block runs.

    Blocks may be nested: a signal that the inner one does not name goes to the outer one.

    Args:
        actions: By the signal's number; none may wait for long.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    outer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    previous = {number: signal.signal(number, _nothing) for number in actions}

    def listen() -> None:
        while (number := os.read(reader, 1)) != _END:
            if (action := actions.get(number[0])) is not None:
                action()
            elif outer >= 0:
                with contextlib.suppress(BlockingIOError):  # it has signals enough to read
                    os.write(outer, number)

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(outer)
        with contextlib.suppress(BlockingIOError):
            os.write(writer, _END)
        thread.join(timeout=_JOIN_S)
        if not thread.is_alive():
            os.close(reader)
        os.close(writer)


def stop_on_signal(stop: threading.Event) -> contextlib.AbstractContextManager[None]:
    """SIGTERM and SIGINT set `stop` instead of killing, while the block runs."""
    return on_signals({signal.SIGTERM: stop.set, signal.SIGINT: stop.set})


def reread_on_hangup(reread: threading.Event, stop: threading.Event) -> contextlib.AbstractContextManager[None]:
    """SIGHUP sets `reread`, or `stop` where it came because the terminal is gone, while the block runs."""
    in_terminal = os.isatty(2)

    def ask() -> None:
        (stop if in_terminal and not os.isatty(2) else reread).set()

    return on_signals({signal.SIGHUP: ask})
