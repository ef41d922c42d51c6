"""How the text of an option or argument becomes its value, and what is said where it cannot.

Typer builds one of pydantic's validators for every parameter of a command, also
for those that are not given. That takes longer than a rollback by URL, and its
messages speak Python ("Value error, ...").
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperOption

from policyctl.errors import UsageError
from policyctl.plain_files import scheme_of

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def take_over(parameters: list[Any]) -> list[Any]:
    """`parameters`, to be read by our rules; those without a rule stay as they are."""
    for parameter in parameters:
        if isinstance(parameter, TyperArgument | TyperOption):
            annotation: Any = parameter.type_descriptor.annotation
            several = get_origin(annotation) is list
            kind = get_args(annotation)[0] if several else annotation
            if (read := _reader(kind)) is not None and parameter.type_descriptor.parameter_info.parser is None:
                parameter._runtime_param = _Value(read, several=several)  # type: ignore[assignment]
    return parameters


class _Value:
    """What Typer calls for the value of a parameter."""

    def __init__(self, read: Callable[[str], Any], *, several: bool) -> None:
        self._read, self._several = read, several

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of `param`; a default is one already."""
        if value is None:
            return () if self._several else None
        try:
            if self._several:
                return [self._read(each) for each in value]
            found = self._read(value) if isinstance(value, str) else value
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None
        if isinstance(found, int | float) and (limits := _limits(param.min, param.max, found)):
            raise typer.BadParameter(f"{value} is not {limits}", ctx=ctx, param=param)
        return found


def _reader(kind: Any) -> Callable[[str], Any] | None:
    """How a text becomes a value of `kind`; None where we have no rule."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return lambda text: _choice(kind, text)
    readers: dict[Any, Callable[[str], Any]] = {bool: bool, str: str, int: _whole, float: _number, Path: _path}
    return {**readers, datetime: _time}.get(kind)


def _choice(kind: type[StrEnum], text: str) -> StrEnum:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not one of {', '.join(kind)}") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{text!r} is not a number")
    return found


def _time(text: str) -> datetime:
    """A time without a zone is meant in UTC."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 time such as 2026-11-20T10:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _path(text: str) -> Path:
    """An empty path, as a variable that is not set leaves it, would mean the working directory."""
    if not text:
        raise ValueError("'' names no file or folder; . is the working directory")
    if scheme := scheme_of(text):
        raise ValueError(f"{text!r} begins with {scheme}, and names no file or folder of this machine")
    return Path(text)


def _limits(least: float | None, most: float | None, value: float) -> str:
    """What `value` should be; empty where it is."""
    if least is not None and value < least:
        return f"at least {least:g}"
    return f"at most {most:g}" if most is not None and value > most else ""


def seconds(option: str, text: str, *, example: str, or_none: bool = False) -> float:
    """``90``, ``90s``, ``10m``, ``1.5h``, ``5ms`` in seconds; 0 where it may be none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or (float(match[1]) <= 0 and not or_none):
        raise UsageError(f"{option} {text!r} is not a length of time", remedy=f"For example {option} {example}.")
    return float(match[1]) * _SECONDS[match[2]]
