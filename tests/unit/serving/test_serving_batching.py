"""Checking, joining and splitting requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.tensor import TensorSpec
from policyctl.serving.backends.batching import BadAnswerError, BadRequestError, Checker, example, join, split

CONTRACT = Contract(
    observations=(
        TensorSpec("observation", "float32", (2, 2), features=("a", "b", "c", "d")),
        TensorSpec("mode", "int64", (1,), 3.0, 5.0),
    ),
    outputs=(TensorSpec("action", "float32", (2,)), TensorSpec("value", "float32", (1,))),
    action_kind=ActionKind.CONTINUOUS,
)
CHECKER = Checker(CONTRACT)


def inputs(rows: int = 2) -> list[np.ndarray]:
    return [np.zeros((rows, 2, 2), np.float32), np.full((rows, 1), 3)]


def outputs(rows: int = 2) -> list[np.ndarray]:
    return [np.zeros((rows, 2), np.float32), np.zeros((rows, 1), np.float32)]


def test_a_good_request_tells_its_rows() -> None:
    """Rows are the first dimension of every input."""
    assert CHECKER.request(inputs(5)) == 5


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: [None, a[1]], "input observation is missing"),
        (lambda a: [a[0].astype(np.float64), a[1]], r"observation is float64\[2, 2, 2\], .* float32\[n, 2, 2\]"),
        (lambda a: [a[0][:, :1], a[1]], r"observation is float32\[2, 1, 2\]"),
        (lambda a: [a[0], a[1][:1]], "mode has 1 rows, the inputs before it have 2"),
        (lambda a: [a[0][:0], a[1][:0]], "no rows"),
        (lambda a: [np.float32(1), a[1]], "observation is float32"),
        (lambda a: [a[0], np.array([[3], [6]])], r"mode\[0\] of row 1 as 6, its range is 3 to 5"),
        (lambda a: [a[0], np.array([[2], [6]])], r"mode\[0\] of row 0 as 2, its range is 3 to 5"),
    ],
)
def test_a_bad_request_is_told_why(spoil, words: str) -> None:
    """Names the input, what it is and what the contract says."""
    with pytest.raises(BadRequestError, match=words):
        CHECKER.request(spoil(inputs()))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_by_feature_and_row(value: float) -> None:
    """The client reads which of its sensors sent it."""
    arrays = inputs()
    arrays[0][1, 1, 0] = value
    with pytest.raises(BadRequestError, match=rf"observation\[2\] \(c\) of row 1 as {value}"):
        CHECKER.request(arrays)


def test_the_largest_float_is_finite() -> None:
    """A check that sums would overflow here and refuse a good observation."""
    arrays = inputs()
    arrays[0][...] = np.finfo(np.float32).max
    assert CHECKER.request(arrays) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a[:1],
        lambda a: [a[0][:1], a[1]],
        lambda a: [a[0].astype(np.float64), a[1]],
        lambda a: [a[0], a[1][:, 0]],
    ],
)
def test_an_answer_of_another_form_is_not_sent(spoil) -> None:
    """Too few outputs, rows or dimensions, or another type, are the artifact's fault and reported as such."""
    CHECKER.shapes(outputs(), 2)
    with pytest.raises(BadAnswerError, match="the artifact gave"):
        CHECKER.shapes(spoil(outputs()), 2)


def test_an_action_that_is_not_finite_is_withheld_and_a_value_is_not() -> None:
    """Only what an actuator would get is held back."""
    answer = outputs()
    answer[1][0, 0] = np.nan
    CHECKER.finite(answer)
    answer[0][1, 1] = np.inf
    with pytest.raises(BadAnswerError, match=r"action\[1\] of row 1 as inf"):
        CHECKER.finite(answer)


def test_an_action_chosen_by_scores_of_which_one_is_nan_is_withheld() -> None:
    """An index looks sound whatever it was chosen by; minus infinity rules a choice out and is sound."""
    discrete = Contract(
        observations=CONTRACT.observations,
        outputs=(TensorSpec("action", "int64", (1,), 0, 2), TensorSpec("q_values", "float32", (3,))),
        action_kind=ActionKind.DISCRETE,
    )
    answer = [np.zeros((2, 1), np.int64), np.array([[0, 1, -np.inf], [-np.inf, 0, 1]], np.float32)]
    Checker(discrete).finite(answer)
    answer[1][1, 2] = np.nan
    with pytest.raises(BadAnswerError, match=r"q_values\[2\] of row 1 as nan; the action is withheld"):
        Checker(discrete).finite(answer)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_splitting_is_the_inverse_of_joining(rows: list[int]) -> None:
    """Whatever sizes come together, each request gets back exactly its own rows, in order."""
    start, requests = 0, []
    for count in rows:
        requests.append([np.arange(start, start + count)[:, None], np.arange(start, start + count)[:, None] * 2.0])
        start += count
    joined = join(requests)
    assert joined[0][:, 0].tolist() == list(range(start))
    for request, answer in zip(requests, split(joined, rows), strict=True):
        for own, got in zip(request, answer, strict=True):
            np.testing.assert_array_equal(own, got)


def test_one_request_is_not_copied() -> None:
    """The commonest case costs nothing."""
    only = inputs()
    assert join([only]) is only
    assert split(only, [2])[0] is only


def test_an_example_is_allowed_by_the_contract() -> None:
    """What warms a policy up is as near to 0 as its bounds allow: a discrete input from 3 on gets 3."""
    observation, mode = example(CONTRACT)
    assert observation.shape == (1, 2, 2)
    assert not observation.any()
    assert (mode.dtype, mode.tolist()) == (np.dtype("int64"), [[3]])
    assert CHECKER.request([observation, mode]) == 1


def test_an_example_respects_bounds_of_single_elements() -> None:
    """Each element has its own bounds, and an unbounded one stays 0."""
    spec = TensorSpec("observation", "float32", (3,), (1.0, -np.inf, -5.0), (2.0, np.inf, -4.0))
    contract = Contract((spec,), CONTRACT.outputs, ActionKind.CONTINUOUS)
    assert example(contract)[0].tolist() == [[1.0, 0.0, -4.0]]
