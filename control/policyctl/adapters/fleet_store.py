"""The journal of a store, and what its nodes report: objects that one writer creates and everybody reads.

``journal/<number>`` holds one record and is created only where nothing has that
key. So the store itself decides which of two writers comes first.
``segments/<number>`` holds that record and those behind it once more, so that
a long journal is read with few requests.
``nodes/<name>`` is written by that node alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from policyctl.adapters import files
from policyctl.adapters.bucket import Bucket
from policyctl.adapters.journal import MOST_BYTES as MOST_JOURNAL_BYTES
from policyctl.domain import journal
from policyctl.domain.fleet import FleetState, NodeReport, fold
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.manifest import canonical_json
from policyctl.domain.schema import require_schema
from policyctl.errors import BusyError, IntegrityError, PolicyctlError, UsageError
from policyctl.plain_files import read_plain, unreadable

_MOST_BYTES: Final = 1 << 20
"""Of one object: a record has some hundred bytes."""
SEGMENT: Final = 256
"""Records of one segment."""
_MOST_SEGMENT_BYTES: Final = 16 << 20
_SCHEMA: Final = 1
_AT_ONCE: Final = 16
_SEGMENTS: Final = "segments"
_READ_AGAIN: Final = "Remove the file: everything in it is read from the store again."
_RESTORE: Final = "Restore the newest copy of the store. What a node has read stays in force there until then."


@dataclass(slots=True)
class FleetJournal:
    """The journal of one store, as far as it was read.

    Attributes:
        bucket: Where.
        actor: In whose name records are written.
        copy: Where this machine keeps what it read; None for nowhere.
        records: What was read.
        state: What they say.
    """

    bucket: Bucket
    actor: str
    copy: Path | None = None
    records: tuple[Record, ...] = ()
    state: FleetState = field(default_factory=FleetState)
    _whole: bytes = b""
    _is_begun: bool = False

    def __post_init__(self) -> None:
        """Begin with what this machine has read before.

        Raises:
            IntegrityError: The copy was changed.
            UsageError: It cannot be read.
        """
        if self.copy is None:
            return
        try:
            whole, _ = journal.split(read_plain(self.copy, most_bytes=MOST_JOURNAL_BYTES))
            self._take([whole], where=str(self.copy))
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(self.copy, error, remedy=_READ_AGAIN) from error
        except IntegrityError as error:
            raise IntegrityError(error.problem, remedy=_READ_AGAIN) from error

    def read(self) -> FleetState:
        """What the journal says now; only what is behind the records that were read before is asked for.

        Raises:
            IntegrityError: A record does not follow from the one before it, or cannot be read.
            PolicyctlError: As `Bucket.get`.
        """
        if not self._is_begun:
            with suppress(PolicyctlError):
                self._take_segments()
            self._is_begun = True
        key = _key(len(self.records))
        if (content := self._get(key)) is None:
            return self.state
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            more = [each for each in pool.map(self._get, self.bucket.keys("journal", after=key)) if each is not None]
        lines = [content, *more]
        self._take(lines, where=f"{self.bucket.url}/{key}")
        if self.copy is not None:
            # What cannot be kept is read again after a restart.
            with suppress(PolicyctlError):
                files.write_atomically(self.copy, self._whole)
        return self.state

    def look(self) -> None:
        """See whether the store answers; nothing is taken of it, so another thread may read meanwhile.

        Raises:
            PolicyctlError: As `Bucket.get`.
        """
        self._get(_key(len(self.records)))

    def require_not_older(self) -> None:
        """Refuse a store that lacks the last record that was read: an older copy was put in its place.

        Raises:
            IntegrityError: It lacks it.
            PolicyctlError: As `Bucket.get`.
        """
        if not self.records:
            return
        key = _key(len(self.records) - 1)
        if self._get(key) != self.records[-1].to_line():
            raise IntegrityError(
                f"{self.bucket.url}/{key} is not what was read there before: an older copy took the store's place",
                remedy=_RESTORE,
            )

    def append(self, kind: RecordKind, body: Mapping[str, Any]) -> Record:
        """Write a record behind those that were read.

        Raises:
            BusyError: Somebody else wrote there first; nothing was written. Read again and decide again.
            UsageError: It is longer than what anybody reads; nothing was written.
            PolicyctlError: As `Bucket.get`.
        """
        last = self.records[-1].digest if self.records else GENESIS
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        record = Record(len(self.records), last, now, self.actor, kind, to_json(body))
        key, line = _key(record.seq), record.to_line()
        if len(line) > _MOST_BYTES:
            raise UsageError(f"a record of {len(line)} bytes, at most {_MOST_BYTES} are read", remedy="Say it shorter.")
        if not self.bucket.create(key, line):
            raise BusyError(
                "somebody else wrote to the store's journal at the same moment; nothing was changed",
                remedy="See what was done (policyctl history), then try again.",
            )
        self._take([line], where=f"{self.bucket.url}/{key}")
        if len(self.records) % SEGMENT == 0:
            self._write_segments()
        return record

    def _take_segments(self) -> None:
        """Read whole segments as long as there are some; the last record of each proves what is in it.

        They are a help for readers: one that is missing or wrong costs requests, and nothing else.

        Raises:
            PolicyctlError: One cannot be read, or is wrong; those before it were taken.
        """
        behind = len(self.records) % SEGMENT
        first = len(self.records) - behind
        keys = self.bucket.keys(_SEGMENTS, after=_segment_key(first - 1) if first else "")
        whole = [key for number, key in enumerate(keys) if key == _segment_key(first + number * SEGMENT)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for key, content, last in pool.map(self._segment, whole):
                lines = (content or b"").splitlines(keepends=True)[behind:]
                if not lines or lines[-1] != last:
                    return
                self._take(lines, where=f"{self.bucket.url}/{key}")
                behind = 0

    def _segment(self, key: str) -> tuple[str, bytes | None, bytes | None]:
        """A segment, and what the journal has as its last record."""
        last = int(key.rpartition("/")[2]) + SEGMENT - 1
        return key, self.bucket.get(key, most_bytes=_MOST_SEGMENT_BYTES), self._get(_key(last))

    def _write_segments(self) -> None:
        """Write the segments that the store lacks; what cannot be written now is with the next."""
        lines = self._whole.splitlines(keepends=True)
        with suppress(PolicyctlError):
            lacking = {_segment_key(first) for first in range(0, len(lines), SEGMENT)} - {*self.bucket.keys(_SEGMENTS)}
            for key in sorted(lacking):
                first = int(key.rpartition("/")[2])
                content = b"".join(lines[first : first + SEGMENT])
                if len(content) <= _MOST_SEGMENT_BYTES:
                    self.bucket.create(key, content)

    def _get(self, key: str) -> bytes | None:
        return self.bucket.get(key, most_bytes=_MOST_BYTES)

    def _take(self, lines: Iterable[bytes], *, where: str) -> None:
        whole = self._whole + b"".join(lines)
        try:
            if journal.split(whole)[1]:
                raise IntegrityError("it holds no whole record")
            records = journal.parse(whole, known=(self._whole, self.records))
            self.state = fold(records[len(self.records) :], self.state)
        except IntegrityError as error:
            raise IntegrityError(f"{where}: {error.problem}", remedy=_RESTORE) from error
        self.records, self._whole = records, whole


def _key(seq: int) -> str:
    return f"journal/{seq:012d}"


def _segment_key(seq: int) -> str:
    return f"{_SEGMENTS}/{seq:012d}"


def write_report(bucket: Bucket, report: NodeReport) -> None:
    """Replace what a node says of itself.

    Raises:
        PolicyctlError: As `Bucket.get`.
    """
    bucket.put(f"nodes/{report.node}", canonical_json({"schema": _SCHEMA, **to_json(report)}))


def read_report(bucket: Bucket, node: str) -> NodeReport | None:
    """What a node says of itself; None where it never said anything.

    Raises:
        IntegrityError: It cannot be read.
        PolicyctlError: As `Bucket.get`.
    """
    content = bucket.get(f"nodes/{node}", most_bytes=_MOST_BYTES)
    if content is None:
        return None
    try:
        document = json.loads(content)
        require_schema("report of a node", document.pop("schema", None), known=_SCHEMA)
        report = from_json(NodeReport, document, what=f"nodes/{node}", unknown_keys=True)
        if report.node != node:
            raise ValueError(f"it is of node {report.node!r}")
        return report
    except (ValueError, AttributeError, RecursionError, UsageError, IntegrityError) as error:
        raise IntegrityError(
            f"{bucket.url}/nodes/{node} cannot be read ({error})", remedy="The node writes it again; or remove it."
        ) from error


def read_reports(bucket: Bucket) -> tuple[NodeReport, ...]:
    """What every node says of itself, by name; a report that cannot be read is that of a node that says nothing.

    Raises:
        PolicyctlError: As `Bucket.get`.
    """

    def read(name: str) -> NodeReport | None:
        try:
            return read_report(bucket, name)
        except IntegrityError:
            return NodeReport(node=name, run="", beat=0, time="", policyctl="", endpoint="", read=0)

    names = [key.rpartition("/")[2] for key in bucket.keys("nodes")]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return tuple(each for each in pool.map(read, names) if each is not None)
