"""Open a file that somebody names: a plain one, of a size that it can have."""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path

from policyctl.plain_files import open_reader, unreadable


def open_plain(path: Path, *, most_bytes: int) -> BufferedReader:
    """Open a plain file for reading; links are followed.

    Args:
        path: Which file.
        most_bytes: What is larger is refused before it is read.

    Raises:
        UsageError: It cannot be read, is a folder, device or FIFO, or is larger.
    """
    try:
        return open_reader(path, most_bytes=most_bytes, follow_links=True)
    except OSError as error:
        raise unreadable(path, error, remedy="Name a file, not a folder, device or pipe.") from error
