"""Which values of a tensor lie within its bounds, held in the tensor's own type."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.tensor import Bound, TensorSpec

_FEW = 16
"""Numbers that Python holds apart sooner than NumPy."""


@dataclass(frozen=True, slots=True)
class TensorLimits:
    """The bounds of one tensor.

    Attributes:
        low: Least values, of the tensor's dtype; broadcasts over items.
        high: Greatest values, likewise.
    """

    low: NDArray[Any]
    high: NDArray[Any]

    def outside(self, array: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which elements are out of bounds; None where all are within.

        Args:
            array: Shape (n, *spec.shape), of the tensor's dtype.
        """
        wrong: NDArray[np.bool_] = (array < self.low) | (array > self.high)
        return wrong if wrong.any() else None

    def text(self, element: int) -> str:
        """The range of one element (C order)."""
        low, high = self.low.reshape(-1), self.high.reshape(-1)
        return f"{low[element % low.size]!s} to {high[element % high.size]!s}"


def all_finite(array: NDArray[Any]) -> bool:
    """Whether `array` holds neither NaN nor infinity.

    NumPy's overhead is what counts for the few numbers of a policy. So few are asked one by one; of more, a search in
    the bytes of the truth values takes a third of the time of NumPy's `all`.
    """
    if array.size <= _FEW:
        return all(map(math.isfinite, array.ravel().tolist()))
    return b"\0" not in np.isfinite(array).tobytes()


def bounds(spec: TensorSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest value of each element, infinite where unbounded; each of shape (size,)."""
    low = np.asarray(-np.inf if spec.low is None else spec.low, dtype=np.float64)
    high = np.asarray(np.inf if spec.high is None else spec.high, dtype=np.float64)
    return np.broadcast_to(low, (spec.size,)), np.broadcast_to(high, (spec.size,))


@functools.lru_cache(maxsize=256)
def limits(spec: TensorSpec) -> TensorLimits | None:
    """The bounds of `spec`; None where its type cannot leave them."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return None
    least, greatest = _range(dtype)
    found = TensorLimits(
        _inside(spec, spec.low, least, dtype, np.ceil), _inside(spec, spec.high, greatest, dtype, np.floor)
    )
    return None if (found.low == least).all() and (found.high == greatest).all() else found


@functools.lru_cache(maxsize=256)
def choices(spec: TensorSpec) -> TensorLimits | None:
    """The limits that an observation of `spec` must always keep; None where it has none.

    Integers count or choose: what lies outside of the range names nothing that
    the policy was made for, and an artifact computes with it all the same. A
    measured number may exceed its bound by a little, so floats may.
    """
    return limits(spec) if np.dtype(spec.dtype).kind in "iu" else None


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        return -np.inf, np.inf
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _inside(spec: TensorSpec, bound: Bound, unbounded: float, dtype: np.dtype[Any], inwards: Any) -> NDArray[Any]:
    if bound is None:
        return np.full((), unbounded, dtype)
    each = np.asarray(bound, np.float64)
    if dtype.kind != "f":
        # By Python's integers: float64 holds no more than 53 bits of one.
        least, greatest = _range(dtype)
        values = [unbounded if np.isinf(value) else int(inwards(value)) for value in each.reshape(-1)]
        each = np.asarray([min(max(value, least), greatest) for value in values], dtype).reshape(each.shape)
    # A float32 of -0.4 is below a float64 of -0.4: compare in the observation's own type.
    typed: NDArray[Any] = each.astype(dtype)
    return typed.reshape(spec.shape) if typed.ndim else typed
