"""The journal's records: what they look like and how they are chained.

Each record is one line of canonical JSON that carries the digest of the line
before it, so no line can be edited, removed or moved without breaking the chain
behind it. `adapters.journal` reads and appends; this module only turns records
into bytes and back, and says where a chain is broken.

What a chain alone cannot show is a change of its last line, or that whole lines
were cut off its end, as when an older copy was put in its place. The last line,
noted elsewhere, shows both: `Head`.

A crash can cut only the last line short. Such a tail was never a record: it
lacks its line feed, `split` sets it apart, and the writer puts it aside.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.json_values import from_json, to_json
from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.domain.schema import require_schema
from policyctl.errors import IntegrityError, UsageError

GENESIS: Final = "sha256:" + "0" * 64
SCHEMA: Final = 2
_KEYS: Final = {"schema", "seq", "prev", "time", "actor", "kind", "body"}
_RESTORE: Final = "Restore .policyctl/journal.jsonl from a copy; until then nothing will be moved."


class RecordKind(StrEnum):
    """What a record is about."""

    PUBLISHED = "published"
    GATE = "gate"
    MEASURED = "measured"
    INTENT = "intent"
    CERTIFIED = "certified"
    SWITCHING = "switching"
    REVERTING = "reverting"
    """A move that had switched is being taken back."""
    OUTCOME = "outcome"
    TUNED = "tuned"
    SIGNED = "signed"
    COLLECTED = "collected"
    """The files of a release were removed."""
    RESTORED = "restored"
    """They were brought back."""
    REPAIRED = "repaired"


_KINDS: Final = frozenset(RecordKind)


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal.

    Attributes:
        seq: 0, 1, 2, ...
        prev: Digest of the line before, `GENESIS` for the first.
        time: UTC, ISO 8601 with microseconds.
        actor: ``user@host``; of what came through the control API, ``token:name@host``.
        kind: What it is about.
        body: What `kind` needs, plain JSON.
    """

    seq: int
    prev: str
    time: str
    actor: str
    kind: RecordKind
    body: Mapping[str, Any]

    def to_line(self) -> bytes:
        """The line, with its line feed, as it was or will be written."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "seq": self.seq,
                "prev": self.prev,
                "time": self.time,
                "actor": self.actor,
                "kind": self.kind.value,
                "body": dict(self.body),
            }
        )

    @property
    def digest(self) -> str:
        """Digest of the line, which the next record carries."""
        return digest_of(self.to_line())


def split(content: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and the torn tail that a crash may have left."""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def parse(whole: bytes, *, known: tuple[bytes, tuple[Record, ...]] = (b"", ())) -> tuple[Record, ...]:
    """Read whole lines and check the chain.

    Args:
        whole: As `split` gives it.
        known: Lines that were read before, and what they say. Where `whole` begins with the very same bytes, only
            the lines behind them are read.

    Raises:
        IntegrityError: A line is not a canonical record, or does not follow
            from the line before it; names the line.
    """
    before, earlier = known if whole.startswith(known[0]) else (b"", ())
    records = _chained(whole[len(before) :].splitlines(keepends=True), earlier)
    if records is not None:
        return records
    found = audit(whole)
    if found.breaks:
        raise IntegrityError(found.breaks[0].words, remedy=found.breaks[0].remedy)
    return found.records


def _chained(lines: Sequence[bytes], earlier: tuple[Record, ...]) -> tuple[Record, ...] | None:
    """`earlier` and the records of the lines behind; None where anything is wrong, and `audit` has to say what.

    The last line alone is held against its canonical text: the digest of any other line pins every byte of it.
    """
    decode, records = _decoder(), list(earlier)
    prev = records[-1].digest if records else GENESIS
    try:
        for line in lines:
            schema, *values = decode(line)
            record = Record(*values)
            if (schema, record.seq, record.prev) != (SCHEMA, len(records), prev):
                return None
            if datetime.fromisoformat(record.time).tzinfo is None:
                return None
            records.append(record)
            prev = digest_of(line)
    except (ValueError, RecursionError):
        return None
    return tuple(records) if not lines or records[-1].to_line() == lines[-1] else None


@functools.cache
def _decoder() -> Callable[[bytes], Iterable[Any]]:
    """Reads the schema and the fields of a `Record` out of one line, six times as fast as `json`."""
    import msgspec  # a thirtieth of a second, which a command without a journal saves

    line = msgspec.defstruct(
        "line",
        [
            ("schema", int),
            ("seq", int),
            ("prev", str),
            ("time", str),
            ("actor", str),
            ("kind", RecordKind),
            ("body", dict[str, Any]),
        ],
        forbid_unknown_fields=True,
    )
    read = msgspec.json.Decoder(line).decode
    return lambda content: msgspec.structs.astuple(read(content))


@dataclass(frozen=True, slots=True)
class Break:
    """One place where a journal is not what was written.

    Attributes:
        line: Which line, from 1; 0 where it is about the journal as a whole.
        words: What is wrong, naming the line.
        remedy: What to do.
    """

    line: int
    words: str
    remedy: str = _RESTORE


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a journal, as it was noted outside of it.

    Attributes:
        seq: Which record; -1 where the journal was begun and nothing is recorded yet.
        digest: Of its line.
        time: Its time; empty where there is no record.
    """

    seq: int = -1
    digest: str = GENESIS
    time: str = ""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Head:
        """The head of `records`."""
        return cls(records[-1].seq, records[-1].digest, records[-1].time) if records else cls()

    def to_bytes(self) -> bytes:
        """What a file holds."""
        return canonical_json(to_json(self))

    @classmethod
    def from_bytes(cls, content: bytes) -> Head | None:
        """Read what `to_bytes` wrote; None where it is something else."""
        try:
            return from_json(cls, json.loads(content), what="head")
        except (ValueError, RecursionError, UsageError):
            return None

    def missing_from(self, records: Sequence[Record]) -> Break | None:
        """How `records` lack what was noted; None where they hold it."""
        if self.seq < 0 or (self.seq < len(records) and records[self.seq].digest == self.digest):
            return None
        return Break(
            0,
            f"the journal lacks record {self.seq} of {self.time} ({self.digest}), which was written: an older copy was"
            " put in its place, or its end was cut off",
            remedy="Restore the newest copy of .policyctl/journal.jsonl. If there is no newer one, stop the server and"
            " remove .policyctl/head: what the missing records say is lost then.",
        )


@dataclass(frozen=True, slots=True)
class Audit:
    """What reading a whole journal showed.

    Attributes:
        records: Every line that is a record, in the order of the file.
        breaks: Where the chain is broken; none means that it is whole.
        head: Digest of the last line, `GENESIS` of an empty journal. Noted
            elsewhere, it pins everything up to there.
    """

    records: tuple[Record, ...]
    breaks: tuple[Break, ...]
    head: str


def audit(whole: bytes, *, expected_head: str | None = None) -> Audit:
    """Read whole lines and find every break of the chain, not the first alone.

    Args:
        whole: As `split` gives it.
        expected_head: The digest of some line, noted at an earlier time: there
            must be that line, and so every line before it.
    """
    lines = whole.splitlines(keepends=True)
    digests = [digest_of(line) for line in lines]
    breaks: list[Break] = []
    records: list[Record] = []
    before: Record | None = None
    for index, line in enumerate(lines):
        try:
            record = _parse_line(line, index + 1)
        except IntegrityError as error:
            breaks.append(Break(index + 1, error.problem, error.remedy))
            before = None
            continue
        after_garbled = index > 0 and before is None
        if not after_garbled and (found := _break(record, index, before, digests)):
            breaks.append(found)
        records.append(record)
        before = record
    head = digests[-1] if digests else GENESIS
    if expected_head not in {None, GENESIS, *digests}:
        words = f"no line of the journal has the digest {expected_head} that was noted"
        breaks.append(Break(0, f"{words}: that line, or one before it, was edited, or lines were cut off the end"))
    return Audit(tuple(records), tuple(breaks), head)


def _break(record: Record, index: int, before: Record | None, digests: list[str]) -> Break | None:
    """How the line at `index` does not follow from the one before it; None where it does."""
    number, prev = index + 1, digests[index - 1] if index else GENESIS
    expected = 0 if before is None else before.seq + 1
    if record.prev == prev and record.seq == expected:
        return None
    said = f"journal line {number} does not follow from the line before it: "
    if (first := digests.index(digests[index])) < index:
        return Break(number, f"{said}it repeats line {first + 1}")
    if record.seq > expected:
        gone = record.seq - expected
        many = f"record {expected} was" if gone == 1 else f"records {expected} to {record.seq - 1} were"
        return Break(number, f"{said}{many} removed or moved")
    if record.seq < expected:
        return Break(number, f"{said}it is record {record.seq}, so it was moved or inserted")
    if index == 0:
        return Break(number, f"{said}it was edited")
    return Break(number, f"{said}line {number - 1} was edited (it is {prev}, line {number} says {record.prev})")


def _parse_line(line: bytes, number: int) -> Record:
    try:
        data = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError("not an object")
        record = _record(data)
        if record.to_line() != line:
            raise ValueError("not canonical")
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"journal line {number} is not a record ({error})", remedy=_RESTORE) from error
    except IntegrityError as error:
        raise IntegrityError(
            f"journal line {number} is not a record that can be read ({error.problem})", remedy=error.remedy or _RESTORE
        ) from error
    return record


def _record(data: Mapping[str, Any]) -> Record:
    if data.get("schema") != SCHEMA:
        require_schema("journal", data.get("schema"), known=SCHEMA)
    if data.keys() != _KEYS or not isinstance(data["body"], dict):
        raise ValueError("not a record")
    if type(data["seq"]) is not int or not all(isinstance(data[k], str) for k in ("prev", "time", "actor", "kind")):
        raise ValueError("a value has the wrong type")
    if datetime.fromisoformat(data["time"]).tzinfo is None:
        raise ValueError("its time has no zone")
    if data["kind"] not in _KINDS:
        raise IntegrityError(
            f"kind {data['kind']!r} is unknown",
            remedy=f"If a newer policyctl wrote it, update this one. Else: {_RESTORE}",
        )
    return Record(data["seq"], data["prev"], data["time"], data["actor"], RecordKind(data["kind"]), data["body"])
