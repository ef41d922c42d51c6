"""Promises of `domain.json_values`: plain values become JSON and come back, and nothing is bent on the way."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.domain.json_values import OMIT, OMIT_DEFAULT, fields_to_json, from_json, to_json
from policyctl.errors import UsageError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Row(NamedTuple):
    count: int
    mean: float


@dataclass(frozen=True, slots=True)
class Part:
    count: int
    share: float = 0.0

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("13 is not allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    name: str
    colour: Colour
    parts: tuple[Part, ...] = ()
    rows: tuple[Row, ...] = ()
    by_name: Mapping[str, Part] = field(default_factory=dict)
    by_slot: Mapping[int, str] = field(default_factory=dict)
    bound: float | tuple[float | None, ...] | None = None
    at: datetime | None = None
    ready: bool = False
    limit: int | None = field(default=None, metadata=OMIT_DEFAULT)


@dataclass(frozen=True, slots=True)
class Shown:
    """A class that adds to its object, and hides a field."""

    part: Part
    secret: str = field(default="", metadata=OMIT)

    def to_json(self) -> dict[str, Any]:
        return {**fields_to_json(self), "is_empty": self.part.count == 0}


finite = st.floats(allow_nan=False, allow_infinity=False)
parts = st.builds(Part, st.integers().filter(lambda n: n != 13), finite)
wholes = st.builds(
    Whole,
    name=st.text(),
    colour=st.sampled_from(Colour),
    parts=st.lists(parts).map(tuple),
    rows=st.lists(st.builds(Row, st.integers(), finite)).map(tuple),
    by_name=st.dictionaries(st.text(), parts),
    by_slot=st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.text()),
    bound=st.none() | finite | st.lists(st.none() | finite).map(tuple),
    at=st.none() | st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),
    ready=st.booleans(),
    limit=st.none() | st.integers(),
)
PLAIN: dict[str, Any] = to_json(Whole(name="n", colour=Colour.RED))


@given(wholes)
def test_a_value_survives_the_way_to_json_and_back(value: Whole) -> None:
    """Also through text."""
    assert from_json(Whole, json.loads(json.dumps(to_json(value))), what="whole") == value


def test_an_object_has_the_fields_in_their_order() -> None:
    """One value has one text; enums, tuples, rows, times and paths are written as the tree always wrote them."""
    value = Whole(
        name="n",
        colour=Colour.BLUE,
        parts=(Part(1),),
        rows=(Row(1, 2.5),),
        at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    assert json.dumps(to_json(value)) == (
        '{"name": "n", "colour": "blue", "parts": [{"count": 1, "share": 0.0}], "rows": [[1, 2.5]], "by_name": {},'
        ' "by_slot": {}, "bound": null, "at": "2026-01-02T03:04:05+00:00", "ready": false}'
    )
    assert to_json({"path": Path("a/b"), "set": {"b", "a"}}) == {"path": "a/b", "set": ["a", "b"]}


def test_a_field_that_may_be_left_out_is_left_out_at_its_default_alone() -> None:
    """And is read back either way."""
    assert "limit" not in to_json(Whole(name="n", colour=Colour.RED))
    assert to_json(Whole(name="n", colour=Colour.RED, limit=0))["limit"] == 0


def test_a_class_may_add_to_its_object() -> None:
    """Wherever it stands, its own method is called; a hidden field is never written."""
    assert to_json({"all": [Shown(Part(0), "s")]}) == {"all": [{"part": {"count": 0, "share": 0.0}, "is_empty": True}]}


def test_numbers_of_numpy_are_plain_numbers_in_json() -> None:
    """Scalars and arrays; the text is that of Python's own numbers."""
    data = {"scalar": np.float64(0.5), "count": np.int64(3), "array": np.arange(2), "yes": np.bool_(True)}
    assert json.dumps(to_json(data)) == '{"scalar": 0.5, "count": 3, "array": [0, 1], "yes": true}'


def test_what_has_no_json_is_refused() -> None:
    """A defect of the caller, so a TypeError."""
    with pytest.raises(TypeError, match="bytes has no JSON"):
        to_json({"a": b""})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parts": [{"count": True}]}, "whole.parts[0].count is True, expected a whole number"),
        ({"parts": [{"count": 1.0}]}, "whole.parts[0].count is 1.0, expected a whole number"),
        ({"parts": [{"count": 2.7}]}, "whole.parts[0].count is 2.7, expected a whole number"),
        ({"parts": [{"count": "1"}]}, "whole.parts[0].count is '1', expected a whole number"),
        ({"parts": [{"count": 1, "share": True}]}, "whole.parts[0].share is True, expected a finite number"),
        ({"parts": [{"count": 1, "share": math.nan}]}, "whole.parts[0].share is nan, expected a finite number"),
        ({"parts": [{"count": 1, "share": -math.inf}]}, "whole.parts[0].share is -inf, expected a finite number"),
        ({"parts": [{}]}, "whole.parts[0]: count missing"),
        ({"parts": [{"count": 1, "share": 0, "size": 2}]}, "whole.parts[0]: size unknown; expected count, share"),
        ({"parts": [{"count": 13}]}, "whole.parts[0]: 13 is not allowed"),
        ({"parts": "ab"}, "whole.parts is 'ab', expected a list"),
        ({"parts": None}, "whole.parts is None, expected a list"),
        ({"name": None}, "whole.name is None, expected a text"),
        ({"name": 3}, "whole.name is 3, expected a text"),
        ({"ready": 1}, "whole.ready is 1, expected true or false"),
        ({"colour": "green"}, "whole.colour: invalid enum value 'green'"),
        ({"bound": [1, "x"]}, "whole.bound[1] is 'x', expected a finite number or null"),
        ({"bound": 10**400}, "whole.bound: number out of range"),
        ({"rows": [[1, 2, 3]]}, "whole.rows[0]: expected `array` of length 2, got 3"),
        ({"by_name": {"a.b": {"count": None}}}, "whole.by_name[...].count is something else, expected a whole number"),
        ({"at": "2026-01-02T03:04:05"}, "expected a time in ISO 8601 with its zone"),
        ({"at": 5}, "whole.at is 5, expected a time in ISO 8601 or null"),
        ({"extra": 1}, "whole: extra unknown"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place(change: dict[str, Any], sentence: str) -> None:
    """One sentence names the place, the value and the expectation."""
    with pytest.raises(UsageError) as refused:
        from_json(Whole, {**PLAIN, **change}, what="whole")
    assert sentence in str(refused.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists) | st.just({}))
def test_what_is_no_object_is_refused(data: Any) -> None:
    """Whatever it is instead, the error is the caller's to show."""
    with pytest.raises(UsageError):
        from_json(Whole, data, what="whole")


def test_lenient_may_be_allowed() -> None:
    """At every depth, for documents of a later minor version."""
    data = {"name": "n", "colour": "red", "extra": 1, "parts": [{"count": 1, "size": 2}]}
    assert from_json(Whole, data, what="whole", unknown_keys=True).parts == (Part(1),)


def test_nesting_without_end_is_refused() -> None:
    """As any other document that was not written by this project."""
    data: Any = 1
    for _ in range(100_000):
        data = [data]
    with pytest.raises(UsageError, match="nested too deeply"):
        from_json(Mapping[str, Any], {"a": data}, what="whole")  # type: ignore[type-abstract]


def test_any_mapping_is_an_object() -> None:
    """Also one that is read-only."""
    assert from_json(Part, MappingProxyType({"count": 1, "share": 0.5}), what="part") == Part(1, 0.5)


def test_the_library_is_loaded_with_the_first_document() -> None:
    """Commands that read none start without it."""
    code = "import sys, policyctl.domain.json_values; sys.exit('msgspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_key_may_be_required() -> None:
    """At every depth, but for those that are left out at their default: a digest pins such documents."""
    assert from_json(Whole, PLAIN, what="whole", every_key=True) == from_json(Whole, PLAIN, what="whole")
    with pytest.raises(UsageError, match=r"whole\.parts\[0\]: share missing"):
        from_json(Whole, {**PLAIN, "parts": [{"count": 1}]}, what="whole", every_key=True)
