"""Read the control plane's lines and Triton's together, in order of time."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from policyctl.adapters.log_file import Tail, follow, lines
from policyctl.domain.instants import instant
from policyctl.domain.log_event import LogFilter, from_line
from policyctl.errors import UsageError
from policyctl.services.control import Control
from policyctl.services.log import CONTROL_LOG, TRITON_LOG, folder

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read(control: Control, wanted: LogFilter, *, limit: int | None = None) -> tuple[list[dict[str, Any]], bool]:
    """The lines that are asked for, oldest first.

    Args:
        limit: Only the last of them; None for all.

    Returns:
        The lines, and whether there were more than `limit`.
    """
    found: list[dict[str, Any]] = []
    more = False
    for name in (CONTROL_LOG, TRITON_LOG):
        kept: deque[dict[str, Any]] = deque(maxlen=limit)
        for each in _wanted(lines(folder(control.repository.control) / name), wanted):
            more = more or len(kept) == limit
            kept.append(each)
        found += kept
    found.sort(key=_time)
    if limit is not None and len(found) > limit:
        return found[-limit:], True
    return found, more


def followed(control: Control, wanted: LogFilter, stop: threading.Event) -> Iterator[dict[str, Any]]:
    """The lines that are written from now on, as they come, until `stop` is set."""
    tails = [Tail(folder(control.repository.control) / name) for name in (CONTROL_LOG, TRITON_LOG)]
    try:
        for batch in follow(tails, stop.is_set):
            yield from sorted(_wanted(iter(batch), wanted), key=_time)
    finally:
        for tail in tails:
            tail.close()


def since(text: str, *, now: datetime) -> datetime:
    """The instant that a person means: ISO 8601 with a zone, or how long ago (``90s``, ``10m``, ``2h``, ``1d``)."""
    if match := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return now - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    try:
        return instant(text, now=now)
    except UsageError as error:
        raise UsageError(f"--since: {error.problem}", remedy=f"{error.remedy} Or how long ago: 10m, 2h.") from error


def _wanted(texts: Iterator[str], wanted: LogFilter) -> Iterator[dict[str, Any]]:
    needle = wanted.request_id if wanted.request_id.isascii() and wanted.request_id.isalnum() else ""
    for text in texts:
        # Most lines are somebody else's: they need not be parsed to know.
        if needle in text and (found := from_line(text)) is not None and wanted.wants(found):
            yield found


def _time(found: dict[str, Any]) -> str:
    return str(found["time"])
