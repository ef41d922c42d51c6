"""The journal as a long-running server knows it: read when it changes, and remembered when it breaks.

A journal that somebody edits or loses stops every move. What is served was
certified before that and goes on, so its supervisor must go on too: it keeps
what the journal said when it was last whole, and says once what is wrong. An
older copy in its place is a lost journal as well, whole as it is: it would move
what is served back to where it was then.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field

from policyctl.domain.journal import Head, Record
from policyctl.domain.journal_metrics import JournalCount, JournalNumbers
from policyctl.domain.log_event import LogLevel
from policyctl.domain.state import State
from policyctl.errors import IntegrityError, PolicyctlError
from policyctl.services.control import Control


@dataclass(slots=True)
class KnownJournal:
    """What the journal says, or said last. Any thread may ask.

    Attributes:
        control: The control plane.
        problem: Why the journal cannot be read now; empty while it can.
    """

    control: Control
    problem: str = ""
    _records: tuple[Record, ...] | None = None
    _count: JournalCount = field(default_factory=JournalCount)
    _numbers: JournalNumbers = field(default_factory=JournalNumbers)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def numbers(self, *, patient: bool = True) -> JournalNumbers:
        """Everything that was counted; the journal is read again only where it changed.

        Args:
            patient: Wait where another thread is reading a long journal; else what was counted before it counts.
        """
        if not self._lock.acquire(blocking=patient):
            return self._numbers
        try:
            self._look()
            return self._numbers
        finally:
            self._lock.release()

    def _look(self) -> None:
        try:
            self._read()
        except PolicyctlError as error:
            if error.problem != self.problem:
                words = f"The journal cannot be relied on: {error.problem}. What is served goes on; {error.remedy}"
                self.control.tell(words, level=LogLevel.ERROR, code=error.code)
            self.problem = error.problem
        else:
            if self.problem:
                self.control.tell("The journal is whole again.")
            self.problem = ""

    @property
    def last(self) -> JournalNumbers:
        """What was counted last, without a look at the journal."""
        return self._numbers

    def state(self) -> State:
        """What the records say together."""
        return self.numbers().state

    def _read(self) -> None:
        journal = self.control.repository.journal
        records = journal.records()
        if records is not self._records:
            self._require_known(records)
            self._numbers = self._count.update(records)
            self._records = records

    def _require_known(self, records: tuple[Record, ...]) -> None:
        """Refuse records without those that were read before; and note what was, so that every command refuses too.

        Raises:
            IntegrityError: Some are missing.
        """
        known = Head.of(self._records or ())
        if lacking := known.missing_from(records):
            with suppress(PolicyctlError):
                self.control.repository.journal.note(known)
            raise IntegrityError(lacking.words, remedy=lacking.remedy)
