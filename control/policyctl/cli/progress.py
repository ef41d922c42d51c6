"""How long work shows that it goes on: on stderr, and in one way for all commands.

On a terminal one line changes each second. Elsewhere (a file, a build's log) a
plain line comes from time to time. Short work shows nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from policyctl.cli.output import printable

TERMINAL_S: Final = 1.0
"""Between two states of the line on a terminal."""
PLAIN_S: Final = 15.0
"""Between two lines elsewhere."""
CLEAR: Final = "\r\x1b[K"

_lock = threading.RLock()
_under_way: list[_Line] = []


class _Line:
    """What one piece of work shows."""

    def __init__(self, words: str, at_most_s: float | None) -> None:
        self.words, self.at_most_s, self.note = words, at_most_s, ""
        self.began, self.shown, self.over = time.monotonic(), False, threading.Event()

    def state(self) -> str:
        """How long it has taken, and how far it has come."""
        limit = f" of at most {self.at_most_s:.0f}" if self.at_most_s else ""
        note = f", {printable(self.note)}" if self.note else ""
        return f"{time.monotonic() - self.began:.0f}{limit} s{note}"

    def run(self) -> None:
        """Show the state again and again until the work is over; work inside this one shows its own instead."""
        terminal = _on_terminal()
        while not self.over.wait(TERMINAL_S if terminal else PLAIN_S):
            with _lock:
                if self.over.is_set() or _under_way[-1] is not self:
                    continue
                if terminal:
                    text = f"  {self.state()}"[: shutil.get_terminal_size().columns - 1]
                    sys.stderr.write(CLEAR + text)
                    self.shown = True
                else:
                    sys.stderr.write(f"{self.words}: {self.state()}\n")
                sys.stderr.flush()


def write_line(text: str) -> None:
    """Write a line to stderr, in the place of a line that changes."""
    with _lock:
        for line in _under_way:
            if line.shown:
                sys.stderr.write(CLEAR)
                line.shown = False
        sys.stderr.write(text)


@contextmanager
def working(words: str, at_most_s: float | None) -> Iterator[Callable[[str], None]]:
    """Show that work goes on while the block runs.

    Args:
        words: What is done.
        at_most_s: How long it may take, where that is known.

    Yields:
        Takes how far it has come, in words.
    """
    line = _Line(words, at_most_s)

    def note(text: str) -> None:
        line.note = text

    thread = threading.Thread(target=line.run, name="progress", daemon=True)
    with _lock:
        _under_way.append(line)
    thread.start()
    try:
        yield note
    finally:
        line.over.set()
        write_line("")
        with _lock:
            _under_way.remove(line)


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
