"""Spaces as a person types them: ``12``, ``uint8:96x96x3``, ``4:-1..1``, ``discrete:6``.

=============================  ==================================================
text                           what it says
=============================  ==================================================
``12``, ``5x8``                numbers of float32 of that shape, without bounds
``4:-1..1``, ``4:0..``         the same with bounds; either side may be left out
``2:-2,-0.5..2,1.5``           one bound an element, C order
``uint8:96x96x3``              another type; whole numbers are bounded by it
``discrete:6``                 one choice of 0 to 5; ``discrete:10..15`` counts from 10
``multidiscrete:3,2,5..9``     several choices, each as above
``multibinary:5``              that many zeros and ones
=============================  ==================================================

This module only reads text: `policyctl_exporters.made_spaces` builds gymnasium spaces from the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policyctl.domain.tensor import DTYPES
from policyctl.errors import UsageError

_MOST_ELEMENTS: Final = 1 << 26
_SHAPE: Final = re.compile(r"[0-9]{1,9}(x[0-9]{1,9}){0,7}")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_TYPES: Final = tuple(name for name in DTYPES if name != "bool")
_EXAMPLES: Final = "For example 12, 4:-1..1, uint8:96x96x3, discrete:6, multidiscrete:3,2 or multibinary:5."


class SpaceKind(StrEnum):
    """The kinds of spaces that a policy can have."""

    BOX = "box"
    DISCRETE = "discrete"
    MULTI_DISCRETE = "multidiscrete"
    MULTI_BINARY = "multibinary"


@dataclass(frozen=True, slots=True)
class SpaceText:
    """What a text says of one space.

    Attributes:
        kind: Which kind.
        dtype: NumPy dtype of a box; int64 for choices, int8 for zeros and ones.
        shape: Of one item; ``(1,)`` for one choice.
        low: Smallest values: one for all, or one an element; ``-inf`` for none.
        high: Largest values, in the same form.
    """

    kind: SpaceKind
    dtype: str
    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def parse_space(text: str, *, what: str) -> SpaceText:
    """Read one space.

    Args:
        text: As the table above has it.
        what: The option or field that it stands in, for messages.

    Raises:
        UsageError: The text says no space; says which part of it, and gives examples.
    """
    head, _, rest = text.strip().partition(":")
    try:
        match head:
            case "discrete" | "multidiscrete":
                return _choices(SpaceKind(head), rest)
            case "multibinary":
                shape = _shape(rest)
                return SpaceText(SpaceKind.MULTI_BINARY, "int8", shape, (0.0,), (1.0,))
        return _box(text.strip())
    except ValueError as error:
        raise UsageError(f"{what} {text!r}: {error}", remedy=_EXAMPLES) from error


def parse_named(texts: Sequence[str], *, what: str) -> dict[str, SpaceText]:
    """Read ``NAME=SPACE`` of each input, or one space without a name.

    Returns:
        By name; the one that has none under ``""``.

    Raises:
        UsageError: A text says no space, a name stands twice, or one of several has none.
    """
    named: dict[str, SpaceText] = {}
    for text in texts:
        name, equals, space = text.partition("=")
        key = name.strip() if equals else ""
        if equals and not key:
            raise UsageError(f"{what} {text!r}: the name before '=' is empty", remedy="Write NAME=SPACE.")
        if key in named:
            again = f"{key!r} stands twice" if key else "there are several, and one has no name"
            raise UsageError(f"{what}: {again}", remedy=f"Name each once: {what} pose=3 {what} target=3.")
        named[key] = parse_space(space if equals else text, what=what)
    if "" in named and len(named) > 1:
        raise UsageError(
            f"{what}: there are several, and one has no name", remedy=f"Name each: {what} pose=3 {what} target=3."
        )
    return named


def parse_fields(data: Mapping[str, object], *, what: str) -> tuple[dict[str, SpaceText], SpaceText | None]:
    """Read the content of a file: ``observation``, a space or a mapping by name, and ``action``.

    Returns:
        Observations as `parse_named` gives them, and the action's space.

    Raises:
        UsageError: Another field, or a value that says no space.
    """
    if unknown := sorted(set(data) - {"observation", "action"}):
        raise UsageError(f"{what}: unknown field {unknown[0]!r}", remedy="The fields are observation and action.")
    stated = data.get("observation", {})
    if isinstance(stated, Mapping):
        if "" in stated:
            raise UsageError(f"{what}: an observation has an empty name", remedy="Give each observation a name.")
        observations = {str(key): parse_space(str(value), what=f"{what}: {key}") for key, value in stated.items()}
    else:
        observations = {"": parse_space(str(stated), what=f"{what}: observation")}
    action = data.get("action")
    return observations, None if action is None else parse_space(str(action), what=f"{what}: action")


def _box(text: str) -> SpaceText:
    parts = text.split(":")
    dtype = parts.pop(0) if parts[0][:1].isalpha() else "float32"
    if dtype not in _TYPES:
        raise ValueError(f"unknown type {dtype!r}; the types are {', '.join(_TYPES)}")
    if not 1 <= len(parts) <= 2:
        raise ValueError("expected TYPE:SHAPE:LOW..HIGH, of which SHAPE has to be there")
    shape = _shape(parts[0])
    whole = "int" in dtype
    low: tuple[float, ...] = (-math.inf,)
    high: tuple[float, ...] = (math.inf,)
    if len(parts) == 2:
        low, high = _range(parts[1], math.prod(shape), whole=whole)
    if whole:
        first, last = _limits(dtype)
        low = tuple(first if value == -math.inf else value for value in low)
        high = tuple(last if value == math.inf else value for value in high)
        if min(low) < first or max(high) > last:
            raise ValueError(f"{dtype} holds {first} to {last} only")
    return SpaceText(SpaceKind.BOX, dtype, shape, low, high)


def _choices(kind: SpaceKind, text: str) -> SpaceText:
    spans = [_span(item) for item in text.split(",")]
    if kind is SpaceKind.DISCRETE and len(spans) != 1:
        raise ValueError("one choice has one count; several are multidiscrete:" + text)
    low, high = zip(*spans, strict=True)
    return SpaceText(kind, "int64", (len(spans),), low, high)


def _span(text: str) -> tuple[int, int]:
    first, dots, last = text.strip().partition("..")
    if not (_WHOLE.fullmatch(first) and (not dots or _WHOLE.fullmatch(last))):
        raise ValueError(f"{text!r} is neither a count of choices nor FIRST..LAST")
    low, high = (int(first), int(last)) if dots else (0, int(first) - 1)
    if high < low:
        raise ValueError(f"{text!r} leaves no choice")
    return low, high


def _shape(text: str) -> tuple[int, ...]:
    if _SHAPE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a shape; write 12, or 96x96x3")
    shape = tuple(int(size) for size in text.split("x"))
    if 0 in shape or math.prod(shape) > _MOST_ELEMENTS:
        raise ValueError(f"a shape has 1 to {_MOST_ELEMENTS} elements, {text} has {math.prod(shape)}")
    return shape


def _range(text: str, size: int, *, whole: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low_text, dots, high_text = text.partition("..")
    if not dots:
        raise ValueError(f"{text!r} is not a range; write LOW..HIGH, or leave one of them out")
    low = _numbers(low_text, -math.inf, size, whole=whole)
    high = _numbers(high_text, math.inf, size, whole=whole)
    pairs = zip(low * (size // len(low)), high * (size // len(high)), strict=True)
    for index, (first, last) in enumerate(pairs):
        if first > last:
            raise ValueError(f"element {index} would lie between {first:g} and {last:g}")
    return low, high


def _numbers(text: str, missing: float, size: int, *, whole: bool) -> tuple[float, ...]:
    if not text.strip():
        return (missing,)
    numbers = tuple(_number(part.strip(), whole=whole) for part in text.split(","))
    if -missing in numbers:
        raise ValueError(f"{-missing:g} leaves no value on this side")
    if len(numbers) not in (1, size):
        raise ValueError(f"{len(numbers)} bounds for {size} elements; write one for all, or one an element")
    return numbers


def _number(text: str, *, whole: bool) -> float:
    if whole and _WHOLE.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a whole number")
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if math.isnan(number):
        raise ValueError("nan is not a bound")
    return number


def _limits(dtype: str) -> tuple[int, int]:
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
