"""Ask the journal: is it whole, and what did it say at some time?

Reading only; neither the writer lock nor a server is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from policyctl.domain.fold import fold
from policyctl.domain.instants import instant, zone_of
from policyctl.domain.journal import SCHEMA, Break
from policyctl.domain.manifest import is_digest
from policyctl.domain.timeline import Moment, moment
from policyctl.errors import IntegrityError, UsageError
from policyctl.services.control import Control


@dataclass(frozen=True, slots=True)
class Proof:
    """What checking the journal showed.

    Attributes:
        path: The file.
        records: How many.
        head: Digest of its last line; noted elsewhere, it pins all of them.
        first: Time of the first record; empty for an empty journal.
        last: Time of the last one.
        torn_bytes: What a crash left of a line that was never a record.
        expected_head: The digest that was to be found; None where none was given.
        breaks: Where it is not what was written; none means that it is whole.
    """

    path: str
    records: int
    head: str
    first: str
    last: str
    torn_bytes: int
    expected_head: str | None
    breaks: tuple[Break, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.breaks

    @property
    def words(self) -> str:
        """What was proved, and what was not."""
        if not self.intact:
            return "\n".join(f"NOT INTACT: {each.words}" for each in self.breaks)
        said = [
            f"Intact: {self.records} records, each carries the digest of the one before it"
            f"{f', from {self.first} to {self.last}' if self.records else ''}.",
            f"Head: {self.head}",
        ]
        if self.expected_head is not None:
            said.append(f"The noted head {self.expected_head} is among them: nothing up to it was changed or cut off.")
        else:
            said.append(
                "Not shown by the chain alone: a change of the very last line, and lines cut off the end."
                " Note the head elsewhere and give it next time: policyctl history --verify --head DIGEST"
            )
        if self.torn_bytes:
            said.append(f"{self.torn_bytes} bytes of an unfinished line follow; the next writer sets them aside.")
        return "\n".join(said)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "intact": self.intact,
            "path": self.path,
            "records": self.records,
            "head": self.head,
            "first": self.first or None,
            "last": self.last or None,
            "schema": SCHEMA,
            "torn_bytes": self.torn_bytes,
            "expected_head": self.expected_head,
            "problems": [{"line": b.line, "problem": b.words, "remedy": b.remedy} for b in self.breaks],
        }


def prove(control: Control, *, expected_head: str | None = None) -> Proof:
    """Check every line of the journal, its chain, and what its records say.

    Args:
        control: The control plane.
        expected_head: A head that was noted at an earlier time.

    Raises:
        UsageError: Nothing was ever published there, the journal cannot be
            read, or the head is not a digest.
    """
    if expected_head is not None and not is_digest(expected_head):
        raise UsageError(
            f"{expected_head!r} is not a digest", remedy="Give sha256:<64 hex digits>, as history --verify printed it."
        )
    control.repository.require()
    journal = control.repository.journal
    found, torn = journal.audit(expected_head=expected_head)
    breaks = list(found.breaks)
    if not breaks:
        try:
            fold(found.records)
        except IntegrityError as error:
            breaks.append(Break(0, error.problem, error.remedy))
    records = found.records
    return Proof(
        path=str(journal.path),
        records=len(records),
        head=found.head,
        first=records[0].time if records else "",
        last=records[-1].time if records else "",
        torn_bytes=len(torn),
        expected_head=expected_head,
        breaks=tuple(breaks),
    )


def at(control: Control, when: str, *, model: str | None = None, timezone: str | None = None) -> Moment:
    """What each alias named at some time.

    Args:
        control: The control plane.
        when: ISO 8601, or ``now``.
        model: Only this one's aliases.
        timezone: Of `when`, where that names none.

    Raises:
        UsageError: No such time, zone or model, or nothing was ever published.
        IntegrityError: The journal was tampered with.
    """
    now = datetime.now(UTC)
    asked = instant(when, now=now, zone=None if timezone is None else zone_of(timezone))
    control.repository.require()
    records, state = control.repository.journal.records_and_state()
    if model is not None:
        state.require(model)
    return moment(records, asked, now=now, model=model, whole=state)
