"""The journal's records: what they look like and how they are chained.

Each record is one line of canonical JSON that carries the digest of the line
before it, so no line can be edited, removed or moved without breaking the chain
behind it. `adapters.journal` reads and appends; this module only turns records
into bytes and back, and says where a chain is broken.

What a chain alone cannot show is a change of its last line, or that whole lines
were cut off its end. The digest of the last line, noted elsewhere, shows both.

A crash can cut only the last line short. Such a tail was never a record: it
lacks its line feed, `split` sets it apart, and the writer puts it aside.

Schema 1 had no key ``schema``; lines that were written in it stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.domain.schema import Lineage, Step
from policyctl.errors import IntegrityError

GENESIS: Final = "sha256:" + "0" * 64
SCHEMA: Final = Lineage(
    "journal",
    (
        # 2: a line tells its schema.
        Step(
            up=lambda line: {**line, "schema": 2},
            down=lambda line: {key: value for key, value in line.items() if key != "schema"},
        ),
    ),
)
_KEYS: Final = {"schema", "seq", "prev", "time", "actor", "kind", "body"}
_RESTORE: Final = "Restore .policyctl/journal.jsonl from a copy; until then nothing will be moved."


class RecordKind(StrEnum):
    """What a record tells."""

    PUBLISHED = "published"
    GATE = "gate"
    MEASURED = "measured"
    INTENT = "intent"
    CERTIFIED = "certified"
    SWITCHING = "switching"
    OUTCOME = "outcome"
    TUNED = "tuned"
    SIGNED = "signed"
    COLLECTED = "collected"
    """The files of a release were removed."""
    RESTORED = "restored"
    """They were brought back."""
    REPAIRED = "repaired"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal.

    Attributes:
        seq: 0, 1, 2, ...
        prev: Digest of the line before, `GENESIS` for the first.
        time: UTC, ISO 8601 with microseconds.
        actor: ``user@host``; of what came through the control API, ``token:name@host``.
        kind: What it tells.
        body: What `kind` needs, plain JSON.
        schema: In which its line is written; its values are those of the newest.
    """

    seq: int
    prev: str
    time: str
    actor: str
    kind: RecordKind
    body: Mapping[str, Any]
    schema: int = SCHEMA.newest

    def to_line(self) -> bytes:
        """The line, with its line feed, as it was or will be written."""
        newest = {
            "schema": SCHEMA.newest,
            "seq": self.seq,
            "prev": self.prev,
            "time": self.time,
            "actor": self.actor,
            "kind": self.kind.value,
            "body": dict(self.body),
        }
        return canonical_json(dict(SCHEMA.downgrade(newest, self.schema)))

    @property
    def digest(self) -> str:
        """Digest of the line, which the next record carries."""
        return digest_of(self.to_line())


def split(content: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and the torn tail that a crash may have left."""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def parse(whole: bytes) -> tuple[Record, ...]:
    """Read whole lines and check the chain.

    Raises:
        IntegrityError: A line is not a canonical record, or does not follow
            from the line before it; names the line.
    """
    found = audit(whole)
    if found.breaks:
        raise IntegrityError(found.breaks[0].words, remedy=found.breaks[0].remedy)
    return found.records


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
class Audit:
    """What reading a whole journal showed.

    Attributes:
        records: Every line that is a record, in the order of the file.
        breaks: Where the chain is broken; none means that it is whole.
        head: Digest of the last line, `GENESIS` where there is none. Noted
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
        schema = data.get("schema", 1)
        record = _record(SCHEMA.upgrade(data, schema), schema)
        if record.to_line() != line:
            raise ValueError("not canonical")
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"journal line {number} is not a record ({error})", remedy=_RESTORE) from error
    except IntegrityError as error:
        raise IntegrityError(
            f"journal line {number} is not a record that can be read ({error.problem})", remedy=error.remedy or _RESTORE
        ) from error
    return record


def _record(data: Mapping[str, Any], schema: int) -> Record:
    if data.keys() != _KEYS or not isinstance(data["body"], dict):
        raise ValueError("not a record")
    if type(data["seq"]) is not int or not all(isinstance(data[k], str) for k in ("prev", "time", "actor", "kind")):
        raise ValueError("a value has the wrong type")
    if datetime.fromisoformat(data["time"]).tzinfo is None:
        raise ValueError("its time has no zone")
    if data["kind"] not in set(RecordKind):
        raise IntegrityError(
            f"kind {data['kind']!r} is unknown",
            remedy=f"If a newer policyctl wrote it, update this one. Else: {_RESTORE}",
        )
    return Record(
        seq=data["seq"],
        prev=data["prev"],
        time=data["time"],
        actor=data["actor"],
        kind=RecordKind(data["kind"]),
        body=data["body"],
        schema=schema,
    )
