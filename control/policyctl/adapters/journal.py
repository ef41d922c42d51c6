"""The journal on disk: append a record, read them all, put a torn tail aside.

Appending is durable before it returns, and only whoever holds the writer lock
appends. Reading needs no lock: a line that is being written lacks its line
feed, and is not a record yet.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from policyctl.adapters import files
from policyctl.domain import journal
from policyctl.domain.journal import Record, RecordKind
from policyctl.domain.state import State, fold
from policyctl.errors import UsageError


class Journal:
    """The append-only record of a repository.

    Args:
        path: The file.
        actor: Who appends; empty for whoever runs this process.
    """

    def __init__(self, path: Path, *, actor: str = "") -> None:
        self.path = path
        self._actor = actor
        self._seen: tuple[tuple[int, int, int], tuple[Record, ...]] | None = None

    def records(self) -> tuple[Record, ...]:
        """Every whole record, its chain checked.

        Raises:
            IntegrityError: A line was edited, removed or moved.
            UsageError: The file cannot be read.
        """
        # The supervisor asks every second: an unchanged file is not read again.
        before = self._identity()
        if self._seen is None or self._seen[0] != before:
            whole, _ = journal.split(self._content())
            self._seen = (before, journal.parse(whole))
        return self._seen[1]

    def state(self) -> State:
        """What the records say together."""
        return fold(self.records())

    def audit(self, *, expected_head: str | None = None) -> tuple[journal.Audit, bytes]:
        """Every break of the chain, and the torn tail; reads the file anew.

        Raises:
            UsageError: The file cannot be read.
        """
        whole, torn = journal.split(self._content())
        return journal.audit(whole, expected_head=expected_head), torn

    def append(self, kind: RecordKind, body: Mapping[str, Any]) -> Record:
        """Append one record; the caller holds the writer lock.

        Raises:
            UsageError: The disk refuses; the journal is as it was.
            IntegrityError: The journal was tampered with.
        """
        self.set_torn_tail_aside()
        records = self.records()
        record = Record(
            seq=len(records),
            prev=records[-1].digest if records else journal.GENESIS,
            time=datetime.now(UTC).isoformat(timespec="microseconds"),
            actor=self._actor or actor(),
            kind=kind,
            body=body,
        )
        files.append_durably(self.path, record.to_line())
        return record

    def set_torn_tail_aside(self) -> bytes:
        """Cut off what a crash left of a last line, keeping it in a file beside; the cut bytes."""
        whole, torn = journal.split(self._content())
        if torn:
            scratch = self.path.parent / "staging"
            files.write_atomically(self.path.with_suffix(".torn"), torn, scratch=scratch)
            files.write_atomically(self.path, whole, scratch=scratch)
        return torn

    def _identity(self) -> tuple[int, int, int]:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return (0, 0, 0)
        except OSError as error:
            raise self._unreadable(error) from error
        return (found.st_ino, found.st_size, found.st_mtime_ns)

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.path}: cannot be read ({error.strerror})",
            remedy="Check the path of the repository and its permissions.",
        )


def actor() -> str:
    """Who is at work: ``user@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
