"""Spaces as a person types them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from policyctl.domain.space_text import SpaceText, parse_fields, parse_named, parse_space
from policyctl.errors import UsageError
from policyctl_exporters.made_spaces import observation_space, space_of

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3)
REALS = st.floats(-1e6, 1e6, width=32).map(float)


def _shape(sizes: list[int]) -> str:
    return "x".join(map(str, sizes))


def _bound(values: list[Any] | None) -> str:
    return "" if values is None else ",".join(map(repr, values))


@st.composite
def boxes(draw: Any) -> tuple[str, spaces.Box]:
    """A text, and the space that it says."""
    sizes, dtype = draw(SHAPES), draw(st.sampled_from(["float32", "float64", "int16", "uint8"]))
    number = REALS if dtype.startswith("float") else st.integers(0, 100)
    size = math.prod(sizes)
    count = draw(st.sampled_from([None, 1, size]))
    low = high = None
    if count is not None:
        pairs = [sorted(draw(st.tuples(number, number))) for _ in range(count)]
        low, high = ([pair[side] for pair in pairs] for side in (0, 1))
        low, high = draw(st.sampled_from([(low, high), (None, high), (low, None)]))
    text = f"{dtype}:{_shape(sizes)}" + ("" if count is None else f":{_bound(low)}..{_bound(high)}")
    text = text.removeprefix("float32:") if draw(st.booleans()) else text
    ends = (-np.inf, np.inf) if dtype.startswith("float") else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    arrays = [
        np.broadcast_to(np.asarray(end if bound is None else bound, dtype), (size,)).reshape(sizes)
        for bound, end in zip((low, high), ends, strict=True)
    ]
    return text, spaces.Box(arrays[0].copy(), arrays[1].copy(), dtype=np.dtype(dtype).type)


@st.composite
def choices(draw: Any) -> tuple[str, spaces.Space[Any]]:
    """A text of counts and spans, and the space that it says."""
    spans = draw(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 9)), min_size=1, max_size=4))
    items = [str(n) if first == 0 and draw(st.booleans()) else f"{first}..{first + n - 1}" for first, n in spans]
    if len(spans) == 1 and draw(st.booleans()):
        return f"discrete:{items[0]}", spaces.Discrete(spans[0][1], start=spans[0][0])
    counts, firsts = [n for _, n in spans], [first for first, _ in spans]
    return f"multidiscrete:{','.join(items)}", spaces.MultiDiscrete(counts, start=firsts)


@given(st.one_of(boxes(), choices(), SHAPES.map(lambda s: (f"multibinary:{_shape(s)}", spaces.MultiBinary(s)))))
def test_what_a_text_says_is_the_space_that_is_made(case: tuple[str, spaces.Space[Any]]) -> None:
    """Types, shapes, bounds, counts and first values survive, whichever way they are written."""
    text, space = case
    made = space_of(parse_space(text, what="--observation"))
    assert type(made) is type(space)
    assert made.shape == (space.shape or ()) or made.shape == tuple(np.atleast_1d(space.shape))
    assert made.dtype == space.dtype
    if isinstance(space, spaces.MultiBinary):
        return
    assert made == space


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is not a shape"),
        ("x", "unknown type 'x'"),
        ("12:", "'' is not a range"),
        ("flot32:3", "unknown type 'flot32'"),
        ("uint8", "SHAPE has to be there"),
        ("4:1", "'1' is not a range"),
        ("4:2..1", "element 0 would lie between 2 and 1"),
        ("3:1,2..", "2 bounds for 3 elements"),
        ("4:nan..", "nan is not a bound"),
        ("4:inf..", "leaves no value"),
        ("4:a..", "'a' is not a number"),
        ("0x3", "1 to 67108864 elements"),
        ("99999x99999", "1 to 67108864 elements"),
        ("uint8:3:-1..", "uint8 holds 0 to 255 only"),
        ("uint8:3:0.5..", "'0.5' is not a whole number"),
        ("discrete:0", "'0' leaves no choice"),
        ("discrete:", "'' is neither a count"),
        ("discrete:3,4", "several are multidiscrete:3,4"),
        ("multidiscrete:3,x", "'x' is neither a count"),
        ("multibinary:-1", "'-1' is not a shape"),
        ("4:1..2:3", "expected TYPE:SHAPE:LOW..HIGH"),
    ],
)
def test_a_text_that_says_no_space_is_refused_with_the_part_and_examples(text: str, problem: str) -> None:
    """The option, the text, what is wrong in it, and texts that are right."""
    with pytest.raises(UsageError) as refusal:
        parse_space(text, what="--action")
    assert problem in refusal.value.problem
    assert refusal.value.problem.startswith(f"--action {text!r}: ")
    assert "uint8:96x96x3" in refusal.value.remedy


@given(st.text(max_size=30))
def test_no_text_is_answered_with_a_traceback(text: str) -> None:
    """Whatever is typed is a space or a usage error."""
    try:
        assert isinstance(parse_space(text, what="--action"), SpaceText)
    except UsageError as refusal:
        assert repr(text) in refusal.problem


def test_several_observations_have_a_name_each() -> None:
    """A Dict space of them; one without a name is the space itself."""
    space = observation_space(parse_named(["pose=3", "camera=uint8:8x8x1"], what="--observation"))
    assert space == spaces.Dict(
        {"pose": spaces.Box(-np.inf, np.inf, (3,), np.float32), "camera": spaces.Box(0, 255, (8, 8, 1), np.uint8)}
    )
    assert observation_space(parse_named(["3"], what="--observation")).shape == (3,)


@pytest.mark.parametrize("texts", [["3", "pose=3"], ["pose=3", "pose=4"], ["3", "4"], ["=3"]])
def test_names_that_are_missing_or_stand_twice_are_refused(texts: list[str]) -> None:
    """The remedy shows how several are named."""
    with pytest.raises(UsageError, match="--observation") as refusal:
        parse_named(texts, what="--observation")
    assert "=" in refusal.value.remedy


def test_a_file_says_the_same_in_the_same_words() -> None:
    """`observation` is a space or names with one each, and other fields are refused."""
    named, action = parse_fields({"observation": {"pose": 3, "target": "3:-1..1"}, "action": "discrete:6"}, what="f")
    assert (list(named), action) == (["pose", "target"], parse_space("discrete:6", what="x"))
    assert parse_fields({"observation": 12}, what="f") == ({"": parse_space("12", what="x")}, None)
    with pytest.raises(UsageError, match="f: unknown field 'actions'"):
        parse_fields({"actions": 3}, what="f")
    with pytest.raises(UsageError, match="f: an observation has an empty name"):
        parse_fields({"observation": {"": 3, "pose": 3}}, what="f")
    with pytest.raises(UsageError, match="f: pose '0'"):
        parse_fields({"observation": {"pose": 0}}, what="f")
