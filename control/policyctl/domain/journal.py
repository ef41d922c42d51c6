"""The journal's records: what they look like and how they are chained.

Each record is one line of canonical JSON that carries the digest of the line
before it, so no line can be edited, removed or moved without breaking every
later one. `adapters.journal` reads and appends; this module only turns records
into bytes and back.

A crash can cut only the last line short. Such a tail was never a record: it
lacks its line feed, `split` sets it apart, and the writer puts it aside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.errors import IntegrityError

GENESIS: Final = "sha256:" + "0" * 64
_KEYS: Final = {"seq", "prev", "time", "actor", "kind", "body"}


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


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal.

    Attributes:
        seq: 0, 1, 2, ...
        prev: Digest of the line before, `GENESIS` for the first.
        time: UTC, ISO 8601 with microseconds.
        actor: ``user@host``.
        kind: What it tells.
        body: What `kind` needs, plain JSON.
    """

    seq: int
    prev: str
    time: str
    actor: str
    kind: RecordKind
    body: Mapping[str, Any]

    def to_line(self) -> bytes:
        """The line, with its line feed."""
        return canonical_json(
            {
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


def parse(whole: bytes) -> tuple[Record, ...]:
    """Read whole lines and check the chain.

    Raises:
        IntegrityError: A line is not a canonical record, or does not follow
            from the line before it; names the line.
    """
    records: list[Record] = []
    prev = GENESIS
    for number, line in enumerate(whole.splitlines(keepends=True), start=1):
        record = _parse_line(line, number)
        if record.seq != number - 1 or record.prev != prev:
            raise IntegrityError(
                f"journal line {number} does not follow from the line before it: a line was edited, removed or moved",
                remedy="Restore .policyctl/journal.jsonl from a copy; until then nothing will be moved.",
            )
        prev = digest_of(line)
        records.append(record)
    return tuple(records)


def _parse_line(line: bytes, number: int) -> Record:
    try:
        data = json.loads(line)
        if not isinstance(data, dict) or data.keys() != _KEYS or not isinstance(data["body"], dict):
            raise ValueError("not a record")
        if type(data["seq"]) is not int or not all(isinstance(data[k], str) for k in ("prev", "time", "actor", "kind")):
            raise ValueError("a value has the wrong type")
        record = Record(
            seq=data["seq"],
            prev=data["prev"],
            time=data["time"],
            actor=data["actor"],
            kind=RecordKind(data["kind"]),
            body=data["body"],
        )
        if record.to_line() != line:
            raise ValueError("not canonical")
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"journal line {number} is not a record ({error})",
            remedy="Restore .policyctl/journal.jsonl from a copy; until then nothing will be moved.",
        ) from error
    return record
