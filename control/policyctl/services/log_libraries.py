"""What libraries log, and whoever uses structlog in this process, in the shape of our own lines.

For processes that serve: `policyctl serve` and the control API. A command does
without (see `services.log`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

import structlog

from policyctl.domain.log_event import LogLevel
from policyctl.services.log import Log

_LEVELS: Final = {"critical": LogLevel.ERROR, "exception": LogLevel.ERROR, "warn": LogLevel.WARNING}
_OWN_KEYS: Final = {"event", "level", "logger", "timestamp", "_record", "_from_structlog", "exc_info", "stack_info"}


class _Handler(logging.Handler):
    """Gives records of the standard library's logging to a log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"error": record.exc_info[0].__name__} if record.exc_info and record.exc_info[0] else {}
        self._log.write(_level(record.levelname.lower()), record.getMessage(), logger=record.name, **fields)


@contextmanager
def captured(log: Log) -> Iterator[None]:
    """While the block runs, structlog writes to `log`, and so do libraries, warnings and above."""

    def write(_logger: Any, method: str, found: MutableMapping[str, Any]) -> str:
        fields = {name: value for name, value in found.items() if name not in _OWN_KEYS}
        log.write(_level(method), str(found.get("event", "")), logger=str(found.get("logger", "policyctl")), **fields)
        raise structlog.DropEvent

    handler, root = _Handler(log), logging.getLogger()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, write],
        wrapper_class=structlog.BoundLogger,
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        structlog.configure(**before)


def _level(name: str) -> LogLevel:
    try:
        return _LEVELS.get(name) or LogLevel(name)
    except ValueError:
        return LogLevel.DEBUG if name == "notset" else LogLevel.INFO
