"""One benchmark's result, as it is kept: a plain value that survives a round trip.

Its id is the digest of its canonical JSON, so that an id names exactly what was
measured and a file that was changed no longer has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from policyctl.domain.json_values import OMIT_DEFAULT, fields_to_json, from_json
from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.domain.names import check_model_name
from policyctl.errors import UsageError
from policyctl.measuring.measurement import Measurement, Point
from policyctl.measuring.memory_trace import MemorySample

SCHEMA: Final = 1
ID_LENGTH: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """One benchmark.

    Attributes:
        time: When it began, ISO 8601 with its zone.
        release: What it served, from beginning to end.
        identity: What the fingerprint is made of.
        versions: Of everything that computes or measures.
        settings: How the release was configured, and how it was measured.
        busy_percent: How busy the machine was before, by others.
        memory: The server's memory meanwhile; empty where the server is not ours.
        stopped: What ended it before all points were measured; empty where none is missing.
    """

    time: str
    model: str
    alias: str
    release: str
    format: str
    profile: str
    fingerprint: str
    identity: Mapping[str, Any]
    hardware: str
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    busy_percent: float
    duration_s: float
    points: tuple[Measurement, ...]
    memory: tuple[MemorySample, ...] = field(default=())
    stopped: str = field(default="", metadata=OMIT_DEFAULT)

    def __post_init__(self) -> None:
        # One text, and so one id, for one value: 1 is written as 1.0, as it is read back.
        object.__setattr__(self, "busy_percent", float(self.busy_percent))
        object.__setattr__(self, "duration_s", float(self.duration_s))

    @property
    def id(self) -> str:
        """Names exactly this result."""
        return digest_of(canonical_json(self._body())).removeprefix("sha256:")[:ID_LENGTH]

    def by_point(self) -> dict[Point, Measurement]:
        """The measurements, by where they were taken."""
        return {measured.point: measured for measured in self.points}

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"id": self.id, **self._body()}

    def to_bytes(self) -> bytes:
        """What is kept."""
        return canonical_json(self.to_json())

    def _body(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **fields_to_json(self)}

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read back what `to_bytes` gave, or what ``policyctl bench --json`` printed.

        Raises:
            UsageError: Not a result, a result of another version, or one that was changed.
        """
        try:
            data = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"not a benchmark's result: {error}") from error
        return cls.from_json(data)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read back what `to_json` gave.

        Raises:
            UsageError: As `from_bytes`.
        """
        if not isinstance(data, Mapping) or "schema" not in data:
            raise UsageError("not a benchmark's result: it has no schema")
        if (schema := data["schema"]) != SCHEMA:
            raise UsageError(
                f"a result of schema {schema!r}, this policyctl reads {SCHEMA}",
                remedy="Use the policyctl that made it.",
            )
        rest = {key: value for key, value in data.items() if key not in {"id", "schema"}}
        result = from_json(cls, rest, what="result")
        check_model_name(result.model)
        _check_time(result.time)
        if result.id != data.get("id"):
            raise UsageError(f"result {data.get('id')!r} was changed: its content has the id {result.id}")
        return result


def _check_time(value: str) -> None:
    try:
        aware = datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise UsageError(f"time is {value!r}, expected ISO 8601 with a zone")
