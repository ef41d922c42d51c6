"""The journal on disk: append a record, read them all, put a torn tail aside.

Appending is durable before it returns, and only the holder of the writer lock
appends. Reading needs no lock: a line that is being written lacks its line
feed, and is not a record yet.

The last record is noted in a separate file, ``head``, when its writer lets go
of the lock. So a journal that was emptied, or replaced by an older copy, is
known for that by every command. A note may be behind, for a crash may come
before it, and is never ahead. A journal without a note (of an earlier release)
is missed where slots or evidence are.

The file is read whole whenever it has changed. What its first bytes say need
not be found out again where this process has read the very same bytes before.
"""

from __future__ import annotations

import gc
import getpass
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files
from policyctl.domain import journal
from policyctl.domain.artifacts import MANIFEST_FILE
from policyctl.domain.fold import fold
from policyctl.domain.journal import Head, Record, RecordKind
from policyctl.domain.state import State
from policyctl.errors import IntegrityError, PolicyctlError, UsageError
from policyctl.plain_files import NOTE_BYTES, read_plain, refuse_if_denied, unreadable

MOST_BYTES: Final = 1 << 30
"""Some hundred thousand promotions. A larger file is not a journal, and reading it would take the memory."""
_Identity = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Read:
    """One reading of the journal.

    Attributes:
        journal: Which file was read.
        head: Which note it was held against.
        whole: Its whole lines.
        records: What they say.
        is_torn: Whether a crash left an unfinished line behind them.
    """

    journal: _Identity
    head: _Identity
    whole: bytes
    records: tuple[Record, ...]
    is_torn: bool


@dataclass(slots=True)
class _Latest:
    """What this process read and understood last: a journal that begins with the same bytes says the same so far.

    Attributes:
        read: The last lines and their records.
        folded: The last state, and the records that say it.
    """

    read: tuple[bytes, tuple[Record, ...]] = (b"", ())
    folded: tuple[tuple[Record, ...], State] = ((), State())


_latest: Final = _Latest()


class Journal:
    """The append-only record of a repository.

    Args:
        path: The file.
        actor: Who appends; empty for the user of this process.
    """

    def __init__(self, path: Path, *, actor: str = "") -> None:
        self.path = path
        self.head_path = path.with_name("head")
        self._scratch = path.parent / "staging"
        self._actor = actor
        self._appending = threading.Lock()
        self._read: _Read | None = None

    def records(self) -> tuple[Record, ...]:
        """Every whole record, its chain checked.

        Raises:
            IntegrityError: A line was edited, removed or moved; or the journal
                was lost, or is older than what was noted of it.
            UsageError: The file cannot be read.
        """
        # An unchanged file is not read again: a promotion asks many times, the supervisor every second.
        journal_now, head_now = _identity(self.path), _identity(self.head_path)
        known = self._read
        if known is None or (known.journal, known.head) != (journal_now, head_now):
            noted = self._noted()  # before the journal, which may grow meanwhile
            whole, torn = journal.split(self._content())
            records = _parsed(whole)
            self._require_noted(records, noted)
            known = self._read = _Read(journal_now, head_now, whole, records, is_torn=bool(torn))
        return known.records

    def size_bytes(self) -> int:
        """Size of the file; 0 where nothing was recorded yet.

        Raises:
            UsageError: It cannot be read.
        """
        return _identity(self.path)[1]

    def state(self) -> State:
        """What the records say together; only what is new of them is read."""
        return self.records_and_state()[1]

    def records_and_state(self) -> tuple[tuple[Record, ...], State]:
        """Every whole record, and what just these say together."""
        records = self.records()
        known, state = _latest.folded
        if records is not known:
            # Each record pins all before it, so the last one that was read stands for them.
            grown = 0 < len(known) <= len(records) and records[len(known) - 1] == known[-1]
            with _no_garbage_looked_for():
                state = fold(records[len(known) :], state) if grown else fold(records)
            _latest.folded = (records, state)
        return records, state

    def audit(self, *, expected_head: str | None = None) -> tuple[journal.Audit, bytes]:
        """Every break of the chain, and the torn tail; reads the file again.

        Raises:
            UsageError: The file cannot be read.
        """
        noted = self._noted()
        whole, torn = journal.split(self._content())
        found = journal.audit(whole, expected_head=expected_head)
        if noted is not None and not found.breaks and (lacking := noted.missing_from(found.records)):
            found = replace(found, breaks=(lacking,))
        return found, torn

    def append(self, kind: RecordKind, body: Mapping[str, Any]) -> Record:
        """Append one record, from any thread; the caller holds the writer lock.

        Raises:
            UsageError: The disk refuses; the journal is as it was.
            IntegrityError: The journal was tampered with.
        """
        with self._appending:
            return self._append(kind, body)

    def _append(self, kind: RecordKind, body: Mapping[str, Any]) -> Record:
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
        line, known = record.to_line(), self._read
        files.append_durably(self.path, line)
        if known is not None:
            after = _identity(self.path)
            if known.journal[0] in {0, after[0]} and after[1] == known.journal[1] + len(line):
                whole, records = known.whole + line, (*records, record)
                self._read = replace(known, journal=after, whole=whole, records=records)
                _latest.read = (whole, records)
        return record

    def set_torn_tail_aside(self) -> bytes:
        """Cut off what a crash left of a last line, keeping it in a file next to the journal; the cut bytes."""
        known = self._read
        if known is not None and not known.is_torn and known.journal == _identity(self.path):
            return b""
        whole, torn = journal.split(self._content())
        if torn:
            files.write_atomically(self.path.with_suffix(".torn"), torn, scratch=self._scratch)
            files.write_atomically(self.path, whole, scratch=self._scratch)
        return torn

    def begin(self) -> None:
        """Note that records are to come, so that the slot of the first one may be there before its record is.

        Raises:
            UsageError: The disk refuses.
        """
        if not self.records() and self._noted() is None:
            self.note(Head())

    def note(self, head: Head) -> None:
        """Note what the journal's last record is; the caller holds the writer lock, or knows better than the file.

        Raises:
            UsageError: The disk refuses.
        """
        if self._noted() != head:
            known, before = self._read, _identity(self.head_path)
            files.write_atomically(self.head_path, head.to_bytes(), scratch=self._scratch)
            if known is not None and known.head == before and head == Head.of(known.records):
                self._read = replace(known, head=_identity(self.head_path))

    def note_head(self) -> None:
        """Note the last record of the journal as it is now; the caller holds the writer lock."""
        # A writer that cannot note it has recorded all the same, and the next writer notes it.
        with suppress(PolicyctlError):
            if records := self.records():
                self.note(Head.of(records))

    def require_not_lost(self) -> None:
        """Refuse an absent or empty journal where there was one: its numbers would be used again.

        Raises:
            IntegrityError: It was lost.
        """
        self._require_noted((), self._noted())

    def _require_noted(self, records: tuple[Record, ...], noted: Head | None) -> None:
        gone = "" if records else f" is {'empty' if self.path.exists() else 'missing'}"
        if noted is not None and (lacking := noted.missing_from(records)):
            raise IntegrityError(f"{self.path}{gone}: {lacking.words}", remedy=lacking.remedy)
        if records or noted is not None:
            return
        trace = self._trace()
        # The first publish of all may have begun the journal, and then made its slot, between the looks.
        if trace and self._noted() is None and not journal.split(self._content())[0]:
            raise IntegrityError(
                f"{self.path}{gone}, but {trace} says that there was one",
                remedy="Restore the journal from a copy; without it nothing can tell which releases were published.",
            )

    def _trace(self) -> str:
        """What says that something was recorded once; empty where nothing does."""
        control = self.path.parent
        slots = (p for model in files.entries(control.parent) for p in files.entries(model) if p.name.isdigit())
        evidence = (p for gate in files.entries(control / "evidence") for p in files.entries(gate))
        slot = next((p for p in slots if (p / MANIFEST_FILE).is_file()), None)
        return str(slot or ("evidence" if any(evidence) else ""))

    def _noted(self) -> Head | None:
        try:
            head, reason = Head.from_bytes(read_plain(self.head_path, most_bytes=NOTE_BYTES)), "it holds something else"
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            refuse_if_denied(error)
            head, reason = None, str(error.strerror)
        if head is None:
            # It is replaced as a whole, so no crash leaves half of one.
            raise IntegrityError(
                f"{self.head_path} does not say what the journal's last record is: {reason}",
                remedy="Restore it. If there is no copy, make sure that the journal is the newest one, and remove it.",
            )
        return head

    def _content(self) -> bytes:
        try:
            return read_plain(self.path, most_bytes=MOST_BYTES)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _unreadable(self.path, error) from error


def _parsed(whole: bytes) -> tuple[Record, ...]:
    """The records of whole lines; only those behind what this process read last are parsed.

    Raises:
        IntegrityError: The chain is broken.
    """
    with _no_garbage_looked_for():
        records = journal.parse(whole, known=_latest.read)
    _latest.read = (whole, records)
    return records


@contextmanager
def _no_garbage_looked_for() -> Iterator[None]:
    """Make many values that all stay, without Python looking through them for garbage: a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    except OSError as error:
        raise _unreadable(path, error) from error
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _unreadable(path: Path, error: OSError) -> UsageError:
    return unreadable(path, error, remedy="Check the path of the repository and its permissions.")


def actor() -> str:
    """Who is at work: ``user@host``."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
