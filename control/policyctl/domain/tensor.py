"""One named tensor of a contract: its name, dtype, shape, bounds and features.

Shapes leave out the batch dimension, which is always first and dynamic. Triton
has no zero-dimensional tensor, so every shape has at least one dimension.

Law: ``TensorSpec.from_json(t.to_json()) == t`` for every tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from policyctl.domain.json_values import expect_keys, integer, items, number, text
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
_TENSOR_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")

Bound = float | tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor, without its batch dimension.

    Attributes:
        name: A letter, then letters, digits and ``_``.
        dtype: A NumPy dtype name, one of `DTYPES`.
        shape: At least one positive dimension.
        low: Smallest value: one for all, one an element (C order), or None
            for unbounded. An element that is unbounded alone is ``-inf``.
        high: Largest value, in the same form (``inf``).
        features: What each element is called, C order; empty where unknown.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: Bound = None
    high: Bound = None
    features: tuple[str, ...] = ()

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
        self._check_bound("low", self.low, unbounded=-math.inf)
        self._check_bound("high", self.high, unbounded=math.inf)
        if self.features and len(self.features) != self.size:
            raise UsageError(
                f"tensor {self.name}: {len(self.features)} feature names, its shape {self.shape} needs {self.size}",
                remedy="Name every element, in C order, or none.",
            )

    def _check_bound(self, which: str, bound: Bound, *, unbounded: float) -> None:
        if bound is None:
            return
        if isinstance(bound, tuple) and len(bound) != self.size:
            raise UsageError(
                f"tensor {self.name}: {which} has {len(bound)} values, its shape {self.shape} needs {self.size}",
            )
        alone = not isinstance(bound, tuple)
        for value in bound if isinstance(bound, tuple) else (bound,):
            if not math.isfinite(value) and (alone or value != unbounded):
                raise UsageError(
                    f"tensor {self.name}: {which} {bound} is not a bound",
                    remedy=f"Leave it out where there is none; {unbounded} stands for one element alone.",
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

    def to_json(self) -> dict[str, Any]:
        """A JSON object; unbounded values become null."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "low": _bound_to_json(self.low),
            "high": _bound_to_json(self.high),
            "features": list(self.features),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Read what `to_json` wrote.

        Raises:
            UsageError: A key is missing, unknown, or has a wrong type.
        """
        expect_keys("tensor", data, {"name", "dtype", "shape", "low", "high", "features"})
        name = text("tensor: name", data["name"])
        what = f"tensor {name!r}:"
        return cls(
            name=name,
            dtype=text(f"{what} dtype", data["dtype"]),
            shape=tuple(integer(f"{what} shape: a dimension", d) for d in items(f"{what} shape", data["shape"])),
            low=_bound_from_json(f"{what} low", data["low"], -math.inf),
            high=_bound_from_json(f"{what} high", data["high"], math.inf),
            features=tuple(text(f"{what} features: one", f) for f in items(f"{what} features", data["features"])),
        )


def bound_of(values: Sequence[float], *, unbounded: float) -> Bound:
    """The shortest form of one bound an element.

    Args:
        values: One a element, C order.
        unbounded: The value that means there is none (``-inf`` or ``inf``).
    """
    distinct = set(values)
    if distinct == {unbounded}:
        return None
    if len(distinct) == 1:
        return float(next(iter(distinct)))
    return tuple(float(v) for v in values)


def _bound_to_json(bound: Bound) -> Any:
    if bound is None:
        return None
    if isinstance(bound, tuple):
        return [v if math.isfinite(v) else None for v in bound]
    return bound


def _bound_from_json(what: str, data: Any, unbounded: float) -> Bound:
    if data is None:
        return None
    if isinstance(data, list):
        return tuple(unbounded if v is None else number(what, v) for v in data)
    return number(what, data)
