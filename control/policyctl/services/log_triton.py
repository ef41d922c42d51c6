"""Triton's log in the shape of our own: a level, a time, and the ids that stand in the words.

The backends write ``policyctl refused {...}`` with the request's id as JSON, so
that a client's text cannot forge a line; Triton itself writes
``[request id: ...]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from policyctl.domain.log_event import LogLevel, event
from policyctl.domain.names import CANDIDATE, served_name, split_served_name
from policyctl.domain.protocol import move_of
from policyctl.domain.state import State
from policyctl.serving.logs import Level, LogLine

_LEVELS: Final = {
    Level.VERBOSE: LogLevel.DEBUG,
    Level.INFO: LogLevel.INFO,
    Level.WARNING: LogLevel.WARNING,
    Level.ERROR: LogLevel.ERROR,
}
_REQUEST: Final = re.compile(r"\[request id: (?!<id_unknown>)([^\]]*)\]")
_OURS: Final = re.compile(r"policyctl (\w+) (\{.*\})", re.DOTALL)
_FAR: Final = timedelta(minutes=1)
"""A line is read as it is written; a time further off was told by another clock, or in another zone."""


def level_of(line: LogLine) -> LogLevel:
    """A line's level, in our words."""
    return _LEVELS[line.level]


def served_names(state: State) -> tuple[str, ...]:
    """Every Triton model of ours that a line may be about, the longest first."""
    names = {served_name(*key) for key in state.aliases} | {served_name(m, CANDIDATE) for m, _ in state.releases}
    return tuple(sorted(names, key=lambda name: (-len(name), name)))


def triton_event(line: LogLine, names: tuple[str, ...], now: datetime, **more: str) -> dict[str, Any]:
    """A line of Triton's log as an event.

    Args:
        line: As it was parsed.
        names: `served_names`, to find out which model it is about.
        now: When it was read.
        more: Fields that every line of this server carries.
    """
    logger, words, fields = "triton", line.message, dict[str, Any]()
    if match := _OURS.fullmatch(line.message):
        logger, (words, fields) = "triton.backend", _of_backend(*match.groups())
    if "served" not in fields:
        fields["served"] = _about(line.message, names)
    if "request_id" not in fields and (request := _REQUEST.search(line.message)):
        fields["request_id"] = request.group(1)
    if served := str(fields["served"]):
        fields["model"], fields["alias"] = split_served_name(served)
    fields["move"] = move_of(str(fields.get("request_id", "")))
    fields["source"] = line.source
    return event(_time(line.stamp, now), level_of(line), words, logger, {**more, **fields})


def _of_backend(verb: str, text: str) -> tuple[str, dict[str, Any]]:
    """Words and fields of a line that one of our backends wrote."""
    try:
        told = json.loads(text)
        fields = {"slot": told.pop("version", ""), "served": told.pop("model", ""), **told}
    except (ValueError, AttributeError, RecursionError):
        return f"{verb} {text}", {}
    words = {"refused": "refused a request", "loaded": "loaded a release", "unloaded": "unloaded a release"}
    error = f": {fields['error']}" if "error" in fields else ""
    return words.get(verb, verb) + error, {name: value for name, value in fields.items() if name != "error"}


def _about(message: str, names: tuple[str, ...]) -> str:
    match = _pattern(names).search(message) if names else None
    return match.group(1) if match else ""


@lru_cache(maxsize=8)
def _pattern(names: Iterable[str]) -> re.Pattern[str]:
    # An instance is called walker_0_0, and a version walker:3; walker.staging is another model than walker.
    alternatives = "|".join(re.escape(name) for name in names)
    return re.compile(rf"(?<![\w.\-/])({alternatives})(?:_\d+_\d+)?(?![\w\-/]|\.\w)")


def _time(stamp: str, now: datetime) -> datetime:
    if not stamp:
        return now
    try:
        found = datetime.strptime(f"{now.year}{stamp}", "%Y%m%d %H:%M:%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return now
    return found if abs(found - now) < _FAR else now
