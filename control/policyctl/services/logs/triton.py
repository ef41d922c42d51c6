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
from policyctl.domain.names import split_served_name
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
_INSTANCE: Final = re.compile(r"_\d+_\d+$")
"""What Triton adds to a model's name for one instance of it: walker_0_0."""
_FAR: Final = timedelta(minutes=1)
"""A line is read as it is written; a time further off is of another clock, or of another zone."""


def level_of(line: LogLine) -> LogLevel:
    """A line's level, in our words."""
    return _LEVELS[line.level]


def models_of(state: State) -> tuple[str, ...]:
    """Every model that a line may be about, the longest name first."""
    return tuple(sorted({model for model, _ in state.releases}, key=lambda name: (-len(name), name)))


def triton_event(line: LogLine, models: tuple[str, ...], now: datetime, **more: str) -> dict[str, Any]:
    """A line of Triton's log as an event.

    Args:
        models: `models_of`, to find out which it is about.
        more: Fields that every line of this server carries.
    """
    logger, words, fields = "triton", line.message, dict[str, Any]()
    if match := _OURS.fullmatch(line.message):
        logger, (words, fields) = "triton.backend", _of_backend(*match.groups())
    if "served" not in fields:
        fields["served"] = _about(line.message, models)
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
        sent = json.loads(text)
        fields = {"slot": sent.pop("version", ""), "served": sent.pop("model", ""), **sent}
    except (ValueError, AttributeError, RecursionError):
        return f"{verb} {text}", {}
    words = {
        "refused": "refused a request",
        "loaded": "loaded a release",
        "reused": "reused the graphs of a release",
        "unloaded": "unloaded a release",
    }
    error = f": {fields['error']}" if "error" in fields else ""
    return words.get(verb, verb) + error, {name: value for name, value in fields.items() if name != "error"}


def _about(message: str, models: tuple[str, ...]) -> str:
    """The Triton model that a line names; empty where it names none of ours."""
    match = _pattern(models).search(message) if models else None
    return _INSTANCE.sub("", match.group(1)) if match else ""


@lru_cache(maxsize=8)
def _pattern(models: Iterable[str]) -> re.Pattern[str]:
    # A version is walker.staging:3. The journal knows the models, but an alias only after its first move.
    names = "|".join(re.escape(name) for name in models)
    return re.compile(
        rf"(?<![\w.\-/])((?:{names})(?:\.[a-z0-9](?:[a-z0-9_.\-]*[a-z0-9])?)?(?:_\d+_\d+)?)(?![\w\-/]|\.\w)"
    )


def _time(stamp: str, now: datetime) -> datetime:
    if not stamp:
        return now
    try:
        found = datetime.strptime(f"{now.year}{stamp}", "%Y%m%d %H:%M:%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return now
    return found if abs(found - now) < _FAR else now
