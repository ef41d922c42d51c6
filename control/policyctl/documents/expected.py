"""What belongs where pydantic refused a value, and which name is meant by an unknown one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from pydantic_core import ErrorDetails

_EXPECTED: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "a number below {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "a text that is not empty",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "path_type": "a path",
    "form": "{expected}",
}


def expectation(detail: ErrorDetails) -> str:
    """What should stand there: ``a whole number``, ``0 or more``."""
    context = {key: _words(value) for key, value in detail.get("ctx", {}).items()}
    return _EXPECTED.get(detail["type"], "").format_map(_Lenient(context)) or detail["msg"].removeprefix(
        "Value error, "
    )


class _Lenient(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return key


def _words(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def nearest_name(wrong: str, names: Sequence[str]) -> str:
    """What to write instead of an unknown name: ``http_port, or another of: host, ...``."""
    near = get_close_matches(wrong, names, n=1)
    return f"{near[0]}, or another of: {', '.join(names)}" if near else f"one of: {', '.join(names)}"
