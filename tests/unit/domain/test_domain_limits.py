"""Which values lie within a tensor's bounds, in the tensor's own type."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.domain.limits import choices, limits
from policyctl.domain.tensor import DTYPES, TensorSpec

INTEGERS = [name for name in DTYPES if np.dtype(name).kind in "iu"]


@given(st.sampled_from(INTEGERS), st.data())
def test_an_integer_is_outside_exactly_where_arithmetic_says_so(dtype: str, data: st.DataObject) -> None:
    """Bounds are floats, and need neither be whole nor within what the type holds."""
    info = np.iinfo(dtype)
    number = st.floats(-(2.0**70), 2.0**70) | st.integers(info.min, info.max).map(float) | st.floats(-20, 20)
    low, high = data.draw(st.none() | number), data.draw(st.none() | number)
    near = [int(bound) + d for bound in (low or 0, high or 0, info.min, info.max) for d in (-1, 0, 1)]
    values = [min(max(value, info.min), info.max) for value in near]
    found = limits(TensorSpec("x", dtype, (1,), low, high))
    wrong = None if found is None else found.outside(np.array(values, dtype)[:, None])
    # 2^63 as a float stands for the largest value that its type holds.
    above = math.inf if high is None or high >= info.max else high
    expected = [value < (-math.inf if low is None or low <= info.min else low) or value > above for value in values]
    if (low or 0) <= info.max and (high or 0) >= info.min:
        assert (np.zeros(len(values), bool) if wrong is None else wrong[:, 0]).tolist() == expected


@pytest.mark.parametrize(
    ("spec", "checked"),
    [
        (TensorSpec("x", "int64", (1,), 0.0, 5.0), True),
        (TensorSpec("x", "int8", (3,), 0.0, 1.0), True),
        (TensorSpec("x", "uint8", (4, 4), 0.0, 255.0), False),
        (TensorSpec("x", "uint8", (4, 4)), False),
        (TensorSpec("x", "int32", (1,)), False),
        (TensorSpec("x", "float32", (1,), 0.0, 5.0), False),
        (TensorSpec("x", "bool", (1,), 0.0, 1.0), False),
    ],
)
def test_only_integers_that_can_leave_their_range_are_always_held_against_it(spec: TensorSpec, checked: bool) -> None:
    """An image costs nothing, and a measured float may exceed its bound a little."""
    assert (choices(spec) is not None) is checked


def test_each_element_has_its_own_range() -> None:
    """Of any shape; the text names that of one element."""
    found = limits(TensorSpec("x", "int64", (2, 2), (0.0, 1.0, 2.0, float("-inf")), (5.0, 6.0, 7.0, 8.0)))
    assert found is not None
    wrong = found.outside(np.array([[[0, 1], [2, -9]], [[5, 7], [1, 9]]]))
    assert wrong is not None
    assert wrong.tolist() == [[[False, False], [False, False]], [[False, True], [True, True]]]
    assert found.text(2) == "2 to 7"
