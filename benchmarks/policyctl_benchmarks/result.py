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

from policyctl.domain.json_values import expect_keys, integer, items, number, text
from policyctl.domain.manifest import canonical_json, digest_of
from policyctl.domain.names import check_model_name
from policyctl.domain.protocol import Protocol
from policyctl.errors import UsageError
from policyctl_benchmarks.measurement import Measurement
from policyctl_benchmarks.memory_trace import MemorySample
from policyctl_benchmarks.perf_analyzer import SharedMemory
from policyctl_benchmarks.profiles import Point

SCHEMA: Final = 1
ID_LENGTH: Final = 12


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """What was measured at one point."""

    protocol: Protocol
    shared_memory: SharedMemory
    measurement: Measurement

    @property
    def point(self) -> Point:
        """Where it was measured."""
        m = self.measurement
        return Point(self.protocol, self.shared_memory, m.batch_size, m.mode, m.level)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "protocol": self.protocol.value,
            "shared_memory": self.shared_memory.value,
            **self.measurement.to_json(),
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read back what `to_json` gave.

        Raises:
            UsageError: It is not that.
        """
        if not isinstance(data, Mapping):
            raise UsageError(f"point: expected an object, found {type(data).__name__}")
        rest = {key: value for key, value in data.items() if key not in {"protocol", "shared_memory"}}
        try:
            protocol = Protocol(text("protocol", data.get("protocol")))
            shared = SharedMemory(text("shared_memory", data.get("shared_memory")))
        except ValueError as error:
            raise UsageError(f"point: {error}") from None
        return cls(protocol, shared, Measurement.from_json(rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """One benchmark.

    Attributes:
        time: When it began, ISO 8601 with its zone.
        model: Which model.
        alias: Which alias was asked.
        release: What it served, from beginning to end.
        format: The artifact that was served.
        profile: The profile's name.
        fingerprint: Of the machine.
        identity: What the fingerprint is made of.
        hardware: The machine in words.
        versions: Of everything that computes or measures.
        settings: How the release was configured, and how it was measured.
        busy_percent: How busy the machine was before, by others.
        duration_s: How long it took.
        points: What was measured.
        memory: The server's memory meanwhile; empty where the server is not ours.
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
    points: tuple[MeasuredPoint, ...]
    memory: tuple[MemorySample, ...] = field(default=())

    @property
    def id(self) -> str:
        """Names exactly this result."""
        return digest_of(canonical_json(self._body())).removeprefix("sha256:")[:ID_LENGTH]

    def by_point(self) -> dict[Point, Measurement]:
        """The measurements, by where they were taken."""
        return {measured.point: measured.measurement for measured in self.points}

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"id": self.id, **self._body()}

    def to_bytes(self) -> bytes:
        """What is kept."""
        return canonical_json(self.to_json())

    def _body(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "time": self.time,
            "model": self.model,
            "alias": self.alias,
            "release": self.release,
            "format": self.format,
            "profile": self.profile,
            "fingerprint": self.fingerprint,
            "identity": dict(self.identity),
            "hardware": self.hardware,
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "busy_percent": float(self.busy_percent),
            "duration_s": float(self.duration_s),
            "points": [point.to_json() for point in self.points],
            "memory": [sample.to_json() for sample in self.memory],
        }

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read back what `to_bytes` gave, or what ``policyctl bench --json`` printed.

        Raises:
            UsageError: It is no result, one of another version, or one that was changed.
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
        words = ("time", "model", "alias", "release", "format", "profile", "fingerprint", "hardware")
        objects = ("identity", "versions", "settings")
        numbers = ("busy_percent", "duration_s")
        expect_keys("result", data, {"id", "schema", *words, *objects, *numbers, "points", "memory"})
        for name in objects:
            if not isinstance(data[name], Mapping):
                raise UsageError(f"{name} is {data[name]!r}, expected an object")
        integer("schema", schema)
        plain: dict[str, Any] = {
            **{name: text(name, data[name]) for name in words},
            **{name: dict(data[name]) for name in objects},
            **{name: number(name, data[name]) for name in numbers},
        }
        found = cls(
            **plain,
            points=tuple(MeasuredPoint.from_json(each) for each in items("points", data["points"])),
            memory=tuple(MemorySample.from_json(each) for each in items("memory", data["memory"])),
        )
        check_model_name(found.model)
        _check_time(found.time)
        if found.id != data["id"]:
            raise UsageError(f"result {data['id']!r} was changed: what it says has the id {found.id}")
        return found


def _check_time(value: str) -> None:
    try:
        aware = datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise UsageError(f"time is {value!r}, expected ISO 8601 with a zone")
