"""Read values out of JSON without bending them: a wrong type is refused, never converted.

Python would make text of null, 2 of 2.7, and two characters of a text where a
list was meant. A file that says such a thing was not written by us.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from policyctl.errors import UsageError


def expect_keys(what: str, data: Any, keys: set[str]) -> None:
    """Refuse what is not an object with exactly `keys`.

    Raises:
        UsageError: Not an object, or a key is missing or unknown.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{what}: expected an object, found {type(data).__name__}")
    if missing := keys - data.keys():
        raise UsageError(f"{what}: {', '.join(sorted(missing))} missing")
    if unknown := data.keys() - keys:
        raise UsageError(f"{what}: {', '.join(sorted(unknown))} unknown")


def items(what: str, value: Any) -> list[Any]:
    """A list.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, list):
        raise UsageError(f"{what} is {value!r}, expected a list")
    return value


def text(what: str, value: Any) -> str:
    """A text.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} is {value!r}, expected a text")
    return value


def integer(what: str, value: Any) -> int:
    """A whole number; true and 1.0 are none.

    Raises:
        UsageError: It is none.
    """
    if type(value) is not int:
        raise UsageError(f"{what} is {value!r}, expected a whole number")
    return value


def number(what: str, value: Any) -> float:
    """A finite number.

    Raises:
        UsageError: It is none.
    """
    try:
        if type(value) in {int, float} and math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise UsageError(f"{what} is {value!r}, expected a finite number")
