"""End in bounded time, whatever the main thread waits for.

A command that was asked to stop puts things in order by itself. Where it does
not get there, a thread of this module ends what it waits for, which is a server
that does not answer. Where that does not help either, the thread writes down
where every thread waits, and ends the process. The journal is the only memory,
and it is made for a process that is killed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from policyctl.plain_files import open_plain

GRACE_S: Final = 1.5
"""How long the main thread has before what it waits for is ended."""
LAST_RESORT_S: Final = 15.0
"""After that: how long it has before the process is ended."""
_AGAIN_S: Final = 1.0
_DUMP_S: Final = 5
"""For writing down where the threads wait; a disk may hang. The kernel ends the process then."""
FILE: Final = "stuck.txt"


@contextlib.contextmanager
def ends_in_time(stop: threading.Event, end: Callable[[], None], *, folder: Path) -> Iterator[None]:
    """Once `stop` is set, the block ends in bounded time, or the process does.

    Args:
        stop: Set to ask the block to end.
        end: Ends what the block may wait for. Called on another thread, at any
            moment, and perhaps again.
        folder: For the file that says where the threads of a process waited that had to be ended.
    """
    over, changing = threading.Event(), threading.Lock()

    def watch() -> None:
        stop.wait()
        pause, deadline = GRACE_S, time.monotonic() + GRACE_S + LAST_RESORT_S
        with changing:
            if not over.is_set():  # for the case that `end` itself waits, or no thread gets its turn
                bound_exit(math.ceil(GRACE_S + LAST_RESORT_S + _DUMP_S))
        while not over.wait(pause):
            if time.monotonic() > deadline:
                give_up(folder)
            with contextlib.suppress(Exception):  # what could not be ended now is tried again
                end()  # again: the main thread may have been about to begin what it waits for now
            pause = _AGAIN_S

    thread = threading.Thread(target=watch, name="ending", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with changing:
            over.set()
            signal.alarm(0)
        stop.set()  # so that the thread ends, where nobody asked


def give_up(folder: Path) -> None:
    """Write down where every thread waits, and end the process with 1; does not return."""
    bound_exit(_DUMP_S)
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = open_plain(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"{datetime.now(UTC).isoformat()} process {os.getpid()} did not end:\n".encode())
        faulthandler.dump_traceback(descriptor, all_threads=True)
    os._exit(1)


def bound_end(seconds: int) -> None:
    """Bound how long the interpreter waits for threads of libraries once the main thread is done."""

    def watch() -> None:
        threading.main_thread().join()
        bound_exit(seconds)

    threading.Thread(target=watch, name="end", daemon=True).start()


def bound_exit(seconds: int) -> None:
    """Have the kernel end this process after so many seconds, whatever it waits for then."""
    signal.alarm(seconds)
