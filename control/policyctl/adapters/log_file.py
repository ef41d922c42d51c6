"""Log files of bounded size, which several processes may write at a time.

A line is one write to a file that is open for appending, so lines never mix.
A file that is full is set aside under ``.1``, the one before under ``.2`` and so
on, and the oldest is removed; the process that notices first does it, under a lock, and
the others go on in the new file.

What cannot be written (a full disk) is lost, and nothing fails because of it:
no line is worth a move.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Final

from policyctl.plain_files import open_plain, open_reader, refuse_if_denied

_FOLLOW_S: Final = 0.2
_MODE: Final = 0o600
_LONGEST_LINE: Final = 1 << 20
_LARGEST_BYTES: Final = 1 << 30


class LogFile:
    """Appends lines to one file. Any thread may write.

    Args:
        path: Of the file; its folder is made, its owner's alone.
        max_bytes: From this size on it is set aside.
        keep: How many of those that were set aside stay.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        self.path = path
        self._max_bytes, self._keep = max_bytes, keep
        self._descriptor = -1
        self._lock = Lock()

    def write(self, line: str) -> None:
        """Append one line, without a line feed in it."""
        with self._lock, suppress(OSError):
            self._ready()
            os.write(self._descriptor, line.encode(errors="replace") + b"\n")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _ready(self) -> None:
        """Have the file open that stands under the path now, with room in it."""
        if self._descriptor >= 0:
            mine = os.fstat(self._descriptor)
            if mine.st_nlink and mine.st_size < self._max_bytes and self._is_current(mine):
                return
            self._close()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if self.path.stat().st_size >= self._max_bytes:
                self._rotate()
        self._descriptor = open_plain(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)

    def _is_current(self, mine: os.stat_result) -> bool:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        return (found.st_ino, found.st_dev) == (mine.st_ino, mine.st_dev)

    def _rotate(self) -> None:
        lock = open_plain(self.path.with_name("lock"), os.O_WRONLY | os.O_CREAT, _MODE)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process does it; one that was stopped meanwhile must not stop this one
            if self.path.stat().st_size < self._max_bytes:
                return  # another process was quicker
            aside(self.path, self._keep).unlink(missing_ok=True)
            for number in range(self._keep - 1, 0, -1):
                with suppress(FileNotFoundError):
                    aside(self.path, number).rename(aside(self.path, number + 1))
            if self._keep:
                self.path.rename(aside(self.path, 1))
            else:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(lock)


def aside(path: Path, number: int) -> Path:
    """Where the file is that was set aside `number` times ago."""
    return path.with_name(f"{path.name}.{number}")


def lines(path: Path) -> Iterator[str]:
    """Every whole line of a log, oldest first, those that were set aside too.

    Raises:
        UsageError: This process may not read it.
    """
    try:
        suffixes = [p.suffix[1:] for p in path.parent.iterdir() if p.stem == path.name]
        numbers = sorted((int(suffix) for suffix in suffixes if suffix.isdigit()), reverse=True)
        for part in (*(aside(path, number) for number in numbers), path):
            with suppress(FileNotFoundError), open_reader(part, most_bytes=_LARGEST_BYTES) as stream:
                yield from _whole_lines(stream)
    except OSError as error:
        refuse_if_denied(error)


def _whole_lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a log file; what no log file holds (a line without end, and another file's size) is left out."""
    begins, left = True, _LARGEST_BYTES
    while left > 0 and (line := stream.readline(_LONGEST_LINE)):
        left -= len(line)
        ends = line.endswith(b"\n")
        if begins and ends:
            yield line.decode(errors="replace")
        begins = ends


class Tail:
    """Reads what is added to a log from now on, past the moments when it is set aside.

    Args:
        path: Of the log.
        from_start: Begin with what stands in the file already.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self.path = path
        self._buffer = b""
        self._descriptor = -1
        self._open()
        if not from_start and self._descriptor >= 0:
            os.lseek(self._descriptor, 0, os.SEEK_END)

    def read(self) -> list[str]:
        """The whole lines that came since."""
        found = self._rest()
        if self._moved_on():
            found += self._rest()  # what was written just before it was set aside
            self._open()
            found += self._rest()
        return found

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self.close()
        with suppress(OSError):
            self._descriptor = open_plain(self.path)

    def _rest(self) -> list[str]:
        if self._descriptor < 0:
            return []
        while chunk := os.read(self._descriptor, 1 << 16):
            self._buffer += chunk
            if len(self._buffer) > _LONGEST_LINE:
                break
        whole, _, self._buffer = self._buffer.rpartition(b"\n")
        if len(self._buffer) > _LONGEST_LINE:
            self._buffer = b""
        return whole.decode(errors="replace").splitlines() if whole else []

    def _moved_on(self) -> bool:
        try:
            now = self.path.stat()
        except OSError:
            return False
        return self._descriptor < 0 or os.fstat(self._descriptor).st_ino != now.st_ino


def follow(tails: list[Tail], stop: Callable[[], bool]) -> Iterator[list[str]]:
    """What is added to several logs together, as it comes, until `stop()`."""
    while not stop():
        if found := [line for tail in tails for line in tail.read()]:
            yield found
        time.sleep(_FOLLOW_S)
