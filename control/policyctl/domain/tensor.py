"""One named tensor of a contract: its name, dtype, shape, bounds, features and units.

Shapes leave out the batch dimension, which is always first and dynamic. Triton
has no zero-dimensional tensor, so every shape has at least one dimension.

Law: ``from_json(TensorSpec, t.to_json(), what="tensor") == t`` for every tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from policyctl.domain.json_values import OMIT_DEFAULT, fields_to_json
from policyctl.errors import UsageError

DTYPES: Final = (
    "bool",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
)
TRITON_TYPES: Final = {name: name.upper().replace("FLOAT", "FP") for name in DTYPES}
"""What Triton calls each type, as ``FP32``; configurations write ``TYPE_`` before it."""
_TENSOR_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")

Units = str | tuple[str, ...]
"""One unit for all elements, or one an element (C order); an empty text where nobody stated it."""

Bound = float | tuple[float | None, ...] | None
"""One bound for all elements, one an element, or none. JSON has no infinity, so null stands for it in a list."""


class Role(StrEnum):
    """What an input is for, where it is more than an observation."""

    ACTION_MASK = "action_mask"
    """Which choices are allowed: true or 1; one element for each score."""
    GOAL = "goal"
    """What is to be reached; the caller gives it."""
    PREVIOUS_ACTION = "previous_action"
    """The action of the step before, zeros at the first; an episode of the client gives it."""
    TIME_STEP = "time_step"
    """How many steps of the episode are over; an episode of the client gives it."""

    @property
    def words(self) -> str:
        """What it says, for people."""
        return {
            Role.ACTION_MASK: "which choices are allowed",
            Role.GOAL: "what is to be reached",
            Role.PREVIOUS_ACTION: "the action of the step before",
            Role.TIME_STEP: "how many steps of the episode are over",
        }[self]


OWN_ROLES: Final = (Role.PREVIOUS_ACTION, Role.TIME_STEP)
"""What an episode knows itself, so that its caller need not give it."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor, without its batch dimension.

    Attributes:
        name: A letter, then letters, digits and ``_``.
        dtype: A NumPy dtype name, one of `DTYPES`.
        shape: At least one positive dimension.
        low: Smallest value: one for all, one an element (C order), or None
            for unbounded. An element that is unbounded alone is ``-inf``,
            also where it was given as None.
        high: Largest value, in the same form (``inf``).
        features: What each element is called, C order; empty where unknown.
        role: What an input is for; None for an observation like any other, and for outputs.
        units: What 1 of each element is, as ``rad`` or ``N m``: one for all, or one an element (C order).
            An element without a stated unit has an empty text.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: Bound = None
    high: Bound = None
    features: tuple[str, ...] = ()
    role: Role | None = field(default=None, metadata=OMIT_DEFAULT)
    units: Units = field(default="", metadata=OMIT_DEFAULT)

    def __post_init__(self) -> None:
        if _TENSOR_NAME.fullmatch(self.name) is None:
            raise UsageError(
                f"tensor name {self.name!r} is not allowed",
                remedy="Use a letter, then up to 62 letters, digits and '_'.",
            )
        if self.dtype not in DTYPES:
            raise UsageError(
                f"tensor {self.name}: dtype {self.dtype!r} is not served",
                remedy=f"Use one of {', '.join(DTYPES)}.",
            )
        if not self.shape or any(d <= 0 for d in self.shape):
            raise UsageError(
                f"tensor {self.name}: shape {self.shape} is not at least one positive dimension",
                remedy="Give the shape of one observation or action, without the batch dimension.",
            )
        self._set_bound("low", self.low, unbounded=-math.inf)
        self._set_bound("high", self.high, unbounded=math.inf)
        if self.features and len(self.features) != self.size:
            raise UsageError(
                f"tensor {self.name}: {len(self.features)} feature names, its shape {self.shape} needs {self.size}",
                remedy="Name every element, in C order, or none.",
            )
        self._set_units()

    def _set_units(self) -> None:
        """Keep the shortest form, so that equal units are written alike."""
        each = self.units if isinstance(self.units, tuple) else (self.units,)
        if odd := [unit for unit in each if unit != unit.strip() or not unit.isprintable()]:
            raise UsageError(
                f"tensor {self.name}: the unit {odd[0]!r} is not a word",
                remedy="Write it without spaces around it: rad, m/s or N m.",
            )
        if isinstance(self.units, tuple) and len(each) != self.size:
            raise UsageError(
                f"tensor {self.name}: {len(each)} units, its shape {self.shape} needs {self.size}",
                remedy="Give one unit, or one for each element, in C order.",
            )
        if len({*each}) == 1:
            object.__setattr__(self, "units", each[0])

    def _set_bound(self, which: str, bound: Bound, *, unbounded: float) -> None:
        """Put infinity where an element has no bound, and refuse what is not a bound.

        Raises:
            UsageError: A bound too many or too few, NaN, or an infinity on the wrong side.
        """
        if bound is None:
            return
        alone = not isinstance(bound, tuple)
        values = tuple(unbounded if v is None else v for v in (bound if isinstance(bound, tuple) else (bound,)))
        if not alone:
            if len(values) != self.size:
                raise UsageError(
                    f"tensor {self.name}: {which} has {len(values)} values, its shape {self.shape} needs {self.size}",
                )
            object.__setattr__(self, which, values)
        for value in values:
            if not math.isfinite(value) and (alone or value != unbounded):
                raise UsageError(
                    f"tensor {self.name}: {which} {bound} is not a bound",
                    remedy=f"Leave it out where no bound exists; {unbounded} stands for one element alone.",
                )

    @property
    def size(self) -> int:
        """Elements of one item."""
        return math.prod(self.shape)

    def feature(self, index: int) -> str:
        """What element `index` (C order) is called, for messages."""
        if self.features:
            return f"{self.name}[{index}] ({self.features[index]})"
        return f"{self.name}[{index}]"

    @property
    def each_unit(self) -> tuple[str, ...]:
        """The unit of each element, C order; an empty text where nobody stated it."""
        return self.units if isinstance(self.units, tuple) else (self.units,) * self.size

    def to_json(self) -> dict[str, Any]:
        """A JSON object; unbounded values become null."""
        return {**fields_to_json(self), "low": _or_null(self.low), "high": _or_null(self.high)}


def bound_of(values: Sequence[float], *, unbounded: float) -> Bound:
    """The shortest form of one bound an element.

    Args:
        values: One a element, C order.
        unbounded: The value that means no bound (``-inf`` or ``inf``).
    """
    distinct = set(values)
    if distinct == {unbounded}:
        return None
    if len(distinct) == 1:
        return float(next(iter(distinct)))
    return tuple(float(v) for v in values)


def _or_null(bound: Bound) -> Any:
    """A bound for JSON: null where an element has none."""
    return [v if v is not None and math.isfinite(v) else None for v in bound] if isinstance(bound, tuple) else bound
