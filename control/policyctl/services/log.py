"""What the control plane logs: lines for machines, next to the words for people.

Every line carries what is bound in `policyctl.correlation`: the operation, and
the move where there is one. Secrets that the settings hold are replaced,
wherever in a line they stand. Observations and actions are never written: no
code hands any to it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from policyctl import correlation
from policyctl.adapters.log_file import LogFile
from policyctl.domain.log_event import LogLevel, event, to_line
from policyctl.domain.names import served_name
from policyctl.settings import LogSettings, Settings

CONTROL_LOG: Final = "control.jsonl"
TRITON_LOG: Final = "triton.jsonl"
FOLDER: Final = "logs"
_HIDDEN: Final = "***"
_SHORTEST_SECRET: Final = 4

Sink = Callable[[str], None]


@dataclass(slots=True)
class Log:
    """Where one process writes its lines; by itself it keeps none.

    Attributes:
        level: The least that is written; may be changed at any time.
        sinks: Each takes a line without its line feed.
        hidden: Texts that are replaced.
    """

    level: LogLevel = LogLevel.INFO
    sinks: tuple[Sink, ...] = ()
    hidden: tuple[str, ...] = field(default=(), repr=False)

    def write(self, level: LogLevel, words: str, *, logger: str = "policyctl", **fields: Any) -> None:
        """Write one line, if it matters enough.

        Args:
            level: How much it matters.
            words: For people.
            logger: Who says it.
            fields: For machines; ``model`` and ``alias`` give ``served`` too.
        """
        if not self.sinks or level.rank < self.level.rank:
            return
        known: dict[str, Any] = {**correlation.current(), **fields}
        if "model" in known and "alias" in known:
            known.setdefault("served", served_name(known["model"], known["alias"]))
        self.emit(event(datetime.now(UTC), level, words, logger, known))

    def emit(self, found: Mapping[str, Any]) -> None:
        """Write an event that is whole already."""
        line = to_line(found)
        for secret in self.hidden:
            line = line.replace(secret, _HIDDEN)
        for sink in self.sinks:
            sink(line)


def folder(control_folder: Path) -> Path:
    """Where the log files of a repository are."""
    return control_folder / FOLDER


def open_file(control_folder: Path, name: str, settings: LogSettings) -> LogFile:
    """One of the log files; it is made with its first line."""
    return LogFile(folder(control_folder) / name, max_bytes=settings.max_bytes, keep=settings.keep)


def log_of(settings: Settings, control_folder: Path) -> Log:
    """The log of a process that works on a repository.

    Where there is no repository yet, nothing is written: a log must not make one.
    """
    hidden = secrets_of(settings)
    if not settings.logs.file:
        return Log(settings.logs.level, (), hidden)
    file = open_file(control_folder, CONTROL_LOG, settings.logs)

    def write(line: str) -> None:
        with suppress(OSError):
            if control_folder.is_dir():
                file.write(line)

    return Log(settings.logs.level, (write,), hidden)


def secrets_of(settings: BaseModel) -> tuple[str, ...]:
    """Every secret in the settings, as it would stand in a line."""
    found: list[str] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            found += secrets_of(value)
        elif isinstance(value, SecretStr) and len(value.get_secret_value()) >= _SHORTEST_SECRET:
            found.append(as_in_a_line(value.get_secret_value()))
    return tuple(found)


def as_in_a_line(secret: str) -> str:
    """A text as JSON writes it."""
    return json.dumps(secret, ensure_ascii=False)[1:-1]


def new_operation(name: str) -> str:
    """A name for one run of a command."""
    return f"{name}-{secrets.token_hex(4)}"
