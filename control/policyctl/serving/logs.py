"""Read Triton's log lines: a level, a source and a message.

Lines that begin without Triton's header (a table, a traceback, a backend's
print) belong to what came before and are read as information.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_WITHOUT_GPU: Final = (
    "Unable to allocate pinned system memory",
    "CudaDriverHelper has not been initialized",
    "Error: Failed to initialize NVML",
    "DCGM unable to start",
)
"""What Triton says, as warnings and errors, at every start on a machine without a GPU."""


class Level(StrEnum):
    """How much a line matters."""

    VERBOSE = "verbose"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_LEVELS: Final = {"V": Level.VERBOSE, "I": Level.INFO, "W": Level.WARNING, "E": Level.ERROR, "F": Level.ERROR}
_UNHEADED_ERROR: Final = re.compile(r"[Ee]rror:|terminate called|failed to |\S*tritonserver: ")
_HEADER: Final = re.compile(r"([VIWEF])(\d{4} \d\d:\d\d:\d\d\.\d+) \d+ ([\w.\-]+:\d+)\] ?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the server's log.

    Attributes:
        level: Its severity.
        source: File and line that wrote it; empty for a line without header.
        message: The text, without header and surrounding quotes.
        stamp: When it was written, as it stands there (``1123 08:18:14.481762``, without a
            year); empty for a line without header.
    """

    level: Level
    source: str
    message: str
    stamp: str = field(default="", compare=False)


def parse(text: str, *, secret: str = "") -> LogLine:
    """Read one line, without its line feed; `secret` is masked wherever it stands."""
    if secret:
        text = text.replace(secret, "***")
    match = _HEADER.fullmatch(text)
    if match is None:
        failing = _UNHEADED_ERROR.match(text) and not text.startswith(_WITHOUT_GPU)
        return LogLine(Level.ERROR if failing else Level.INFO, "", text)
    letter, stamp, source, message = match.groups()
    if len(message) > 1 and message.startswith('"') and message.endswith('"'):
        message = message[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return LogLine(Level.INFO if message.startswith(_WITHOUT_GPU) else _LEVELS[letter], source, message, stamp)


def last_words(lines: Iterable[LogLine]) -> str:
    """The last errors of a server's log, or its last lines if no error is in it; another thread may add lines."""
    listed = list(lines)
    chosen = [line for line in listed if line.level is Level.ERROR] or listed
    return " | ".join(line.message for line in chosen[-3:]) or "it said nothing"


OnLog = Callable[[LogLine], None]


def ignore(_line: LogLine) -> None:
    """Where nobody listens."""
