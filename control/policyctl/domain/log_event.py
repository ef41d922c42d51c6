"""One line of a log: the shape that the control plane's and Triton's lines share.

::

    {"time": "2026-11-23T10:00:00.123456Z", "level": "warning", "event": "...", "logger": "policyctl.prober", ...}

The words are for people, the other keys for machines: ``operation`` (one
command, or one run of the server), ``move`` (as the journal calls it),
``request_id`` (as the client calls it), ``served`` (the Triton model) with
``model`` and ``alias``, ``release``, ``slot``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

Event = Mapping[str, Any]

MOST_CHARACTERS: Final = 8192
"""Of any one text in a line; what is longer is cut, so that no line drives out all others."""


class LogLevel(StrEnum):
    """How much a line matters, rising."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(LogLevel).index(self)


def event(time: datetime, level: LogLevel, words: str, logger: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A line's content; empty fields are left out, and long texts cut."""
    stamp = time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    known = {name: _cut(value) for name, value in fields.items() if value not in (None, "")}
    return {"time": stamp, "level": level.value, "event": _cut(words), "logger": logger, **known}


def to_line(found: Event) -> str:
    """One line of JSON, without its line feed."""
    return json.dumps(found, ensure_ascii=False, default=str)


def from_line(text: str) -> dict[str, Any] | None:
    """Read a line; None for anything else, as after a crash in the middle of a write."""
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or found["level"] not in set(LogLevel):
            return None
        if datetime.fromisoformat(found["time"]).tzinfo is None or not isinstance(found["event"], str):
            return None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return found


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines are asked for; what is empty asks for nothing.

    Attributes:
        request_id: As the client called it.
        move: As the journal calls it; its first characters suffice.
        operation: One command or run of the server; its first characters suffice.
        model: The policy's name, or the Triton model's.
        level: At least that.
        since: Not before that.
    """

    request_id: str = ""
    move: str = ""
    operation: str = ""
    model: str = ""
    level: LogLevel = LogLevel.DEBUG
    since: datetime | None = None

    def wants(self, found: Event) -> bool:
        """Whether a line is asked for."""
        return (
            (not self.request_id or found.get("request_id") == self.request_id)
            and str(found.get("move", "")).startswith(self.move)
            and str(found.get("operation", "")).startswith(self.operation)
            and (not self.model or self.model in {found.get("model"), found.get("served")})
            and LogLevel(found["level"]).rank >= self.level.rank
            and (self.since is None or datetime.fromisoformat(found["time"]) >= self.since)
        )


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        return f"{value[:MOST_CHARACTERS]}... ({len(value) - MOST_CHARACTERS} more)"
    return value
