"""What libraries log, in the shape of our own lines.

For processes that serve: `policyctl serve` and the control API.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from policyctl.domain.log_event import LogLevel
from policyctl.services.log import Log

_LEVELS: Final = {"warning": LogLevel.WARNING, "error": LogLevel.ERROR, "critical": LogLevel.ERROR}


class _Handler(logging.Handler):
    """Gives records of the standard library's logging to a log, from warnings up."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"error": record.exc_info[0].__name__} if record.exc_info and record.exc_info[0] else {}
        level = _LEVELS.get(record.levelname.lower(), LogLevel.WARNING)
        self._log.write(level, record.getMessage(), logger=record.name, **fields)


@contextmanager
def captured(log: Log) -> Iterator[None]:
    """While the block runs, libraries write their warnings and errors to `log`."""
    handler, root = _Handler(log), logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
