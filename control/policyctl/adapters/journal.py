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


class Journal:
    """The append-only record of a repository."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> tuple[Record, ...]:
        """Every whole record, its chain checked.

        Raises:
            IntegrityError: A line was edited, removed or moved.
        """
        whole, _ = journal.split(self._content())
        return journal.parse(whole)

    def state(self) -> State:
        """What the records say together."""
        return fold(self.records())

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
            actor=actor(),
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

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""


def actor() -> str:
    """Who is at work: ``user@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
