"""Why a library failed, as one line of what it said."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 300


def first_line(error: Exception) -> str:
    """Where a library says first what went wrong, and then where."""
    return _lines(error)[0][:_LONGEST]


def last_line(error: Exception) -> str:
    """Where a library says first where it was: TorchScript and OpenVINO put what went wrong at the end."""
    return _lines(error)[-1][:_LONGEST]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
