"""Plain values become JSON and come back: the one place where the tree does it.

`to_json` turns a frozen dataclass into a JSON object: its fields in their order,
under their own names. `from_json` reads one. It bends nothing: it
refuses true and 2.7 where a whole number is expected, NaN where a number is,
and a time without its zone. It refuses unknown keys as well, unless the caller
reads documents that a later minor version may have written.

Some classes have more in their JSON than their fields. Such a class has a method
``to_json``, which calls `fields_to_json` and adds the rest; `to_json` calls that
method wherever the value stands. A field that is not always written says so::

    bake: Baking | None = field(default=None, metadata=OMIT_DEFAULT)

A class whose JSON is an array is a ``NamedTuple``.

Law: ``from_json(type(value), to_json(value), what=...) == value``, for every
dataclass without a ``to_json`` and without fields that are never written.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Set
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, overload

from policyctl.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

OMIT_DEFAULT: Final[Mapping[str, str]] = {"json": "omit default"}
"""Metadata of a field that is written only where it differs from its default."""

OMIT: Final[Mapping[str, str]] = {"json": "omit"}
"""Metadata of a field that is never written."""

_EXPECTED: Final = re.compile(r"Expected `(?P<types>[^`]*)`(?P<rest>.*)")
_PLACE: Final = re.compile(r" - at `(\$[^`]*)`$")
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_PLAIN: Final = {str, int, bool, type(None)}
"""Nearly every value is of these, and they are as msgspec read them."""
_NAMES: Final = {
    "int": "a whole number",
    "float": "a finite number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "datetime": "a time in ISO 8601",
    "null": "null",
}


@overload
def to_json(value: DataclassInstance) -> dict[str, Any]: ...
@overload
def to_json(value: object) -> Any: ...
def to_json(value: object) -> Any:
    """What `value` is in JSON: a text, a number, a list or an object, as ``json.dumps`` takes it.

    Raises:
        TypeError: A value in it has no JSON.
    """
    match value:
        case Enum():
            return value.value
        case float():
            return float(value)  # also that of NumPy, which is one
        case None | str() | int():
            return value
        case Mapping():
            return {str(to_json(key)): to_json(each) for key, each in value.items()}
        case list() | tuple():
            return [to_json(each) for each in value]
        case datetime():
            return value.isoformat()
        case PurePath():
            return str(value)
        case Set():
            return sorted(to_json(each) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = getattr(value, "to_json", None)
        return fields_to_json(value) if own is None else own()
    # Arrays and scalars of NumPy, which this module need not import.
    if (as_list := getattr(value, "tolist", None)) is not None:
        return as_list()
    raise TypeError(f"{type(value).__name__} has no JSON")


def fields_to_json(value: DataclassInstance) -> dict[str, Any]:
    """The fields of a dataclass as a JSON object, without its own method ``to_json``."""
    written: dict[str, Any] = {}
    for name, default in _written_fields(type(value)):
        each = getattr(value, name)
        if default is dataclasses.MISSING or each != default:
            written[name] = to_json(each)
    return written


def from_json(kind: type[T], data: Any, *, what: str, unknown_keys: bool = False, every_key: bool = False) -> T:
    """Read what `to_json` wrote.

    Args:
        kind: A dataclass, or any other type that msgspec converts to.
        data: What ``json.loads`` gave.
        what: Names the document, for the error.
        unknown_keys: Whether keys that no field has are ignored; they are refused otherwise.
        every_key: Whether every key that `to_json` writes must be there; else a default may stand for it.

    Raises:
        UsageError: A key is missing or unknown, or a value has the wrong type.
            One sentence names the place, the value and the expectation.
    """
    import msgspec  # a thirtieth of a second, and many commands read no document

    try:
        value = msgspec.convert(data, kind, str_keys=True)
        fault = _fault(value, data, _Keys(unknown=unknown_keys, every=every_key))
    except msgspec.ValidationError as error:
        raise UsageError(_sentence(what, data, str(error))) from None
    except RecursionError:
        raise UsageError(f"{what} is nested too deeply") from None
    if fault:
        raise UsageError(what + fault)
    return value


@functools.cache
def _written_fields(kind: type[DataclassInstance]) -> tuple[tuple[str, Any], ...]:
    """Names of the fields that are written, each with the default that is left out, or MISSING."""
    listed: list[tuple[str, Any]] = []
    for field in dataclasses.fields(kind):
        rule = field.metadata.get("json")
        if rule == OMIT["json"]:
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        listed.append((field.name, default if rule == OMIT_DEFAULT["json"] else dataclasses.MISSING))
    return tuple(listed)


@functools.cache
def _keys(kind: type[DataclassInstance]) -> tuple[frozenset[str], frozenset[str]]:
    """The keys that an object may have, and those that it must have."""
    fields = dataclasses.fields(kind)
    return frozenset(f.name for f in fields), frozenset(f.name for f in fields if f.metadata.get("json") is None)


class _Keys(NamedTuple):
    """Which keys an object may have: unknown ones as well, and whether it must have every one."""

    unknown: bool
    every: bool


def _fault(value: Any, data: Any, keys: _Keys) -> str:
    """What msgspec lets through: missing and unknown keys, NaN and infinity, times without a zone.

    Returns:
        A sentence without the name of its document, from the path on; empty where nothing is wrong.
    """
    if isinstance(data, float):
        return "" if math.isfinite(data) else f" is {data!r}, expected a finite number"
    if isinstance(value, datetime):
        return "" if value.tzinfo is not None else f" is {data!r}, expected a time in ISO 8601 with its zone"
    if isinstance(data, (list, tuple)):
        for index, (each, raw) in enumerate(zip(value, data, strict=True)):
            if type(each) not in _PLAIN and (fault := _fault(each, raw, keys)):
                return f"[{index}]{fault}"
    elif isinstance(data, Mapping):
        if not hasattr(value, "__dataclass_fields__"):
            pairs: Iterable[tuple[tuple[str, Any], Any]] = zip(data.items(), value.values(), strict=True)
        elif fault := _fault_of_keys(value, data, keys):
            return fault
        else:
            known = _keys(value.__class__)[0]
            pairs = (((key, raw), getattr(value, key)) for key, raw in data.items() if key in known)
        for (key, raw), each in pairs:
            if type(each) not in _PLAIN and (fault := _fault(each, raw, keys)):
                return f".{key}{fault}"
    return ""


def _fault_of_keys(value: DataclassInstance, data: Mapping[str, Any], keys: _Keys) -> str:
    allowed, required = _keys(type(value))
    if keys.every and (missing := required - data.keys()):
        return f": {', '.join(sorted(missing))} missing"
    if keys.unknown:
        return ""
    unknown = sorted(map(str, data.keys() - allowed))
    return f": {', '.join(unknown)} unknown; expected {', '.join(sorted(allowed))}" if unknown else ""


def _sentence(what: str, data: Any, message: str) -> str:
    """An error of msgspec as a sentence that names the place, the value and the expectation."""
    path = match.group(1) if (match := _PLACE.search(message)) else "$"
    place, problem = what + path[1:], _PLACE.sub("", message)
    if (expected := _EXPECTED.fullmatch(problem)) and "length" not in expected["rest"]:
        kinds = " or ".join(_NAMES.get(kind, kind) for kind in expected["types"].split(" | "))
        return f"{place} is {_value_at(data, path)}, expected {kinds}"
    if problem.startswith("Object missing required field"):
        return f"{place}: {problem.split('`')[1]} missing"
    return f"{place}: {problem[:1].lower()}{problem[1:]}"


def _value_at(data: Any, path: str) -> str:
    """The value at a path such as ``$.points[0].mode``, shortened; a word where the path does not say which."""
    for name, index in _STEP.findall(path):
        if index == "...":
            return "something else"
        data = data[name] if name else data[int(index)]
    return reprlib.repr(data)
