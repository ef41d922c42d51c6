"""What is checked of an observation before it is sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.client.observation import inputs_of, prepare
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.tensor import DTYPES, Role, TensorSpec
from policyctl.errors import UsageError


def contract(*observations: TensorSpec) -> Contract:
    return Contract(observations, (TensorSpec("action", "float32", (1,)),), ActionKind.CONTINUOUS)


POLE = contract(
    TensorSpec(
        "observation",
        "float32",
        (4,),
        low=(-4.8, float("-inf"), -0.4, float("-inf")),
        high=4.8,
        features=("position", "velocity", "angle", "angular velocity"),
    )
)
CAMERA = contract(TensorSpec("image", "uint8", (2, 3)), TensorSpec("speed", "float32", (1,)))
STATE = contract(TensorSpec("observation", "int64", (1,)))


@pytest.mark.parametrize("given_", [[1, 2.5, 3, 4], np.array([1, 2.5, 3, 4]), (1.0, 2.5, 3.0, 4.0)])
def test_one_observation_becomes_a_batch_of_one(given_: Any) -> None:
    """Lists, tuples and arrays of any float are cast to the contract's dtype."""
    sent = prepare(inputs_of(POLE), given_, batched=False)["observation"]
    assert sent.shape == (1, 4) and sent.dtype == np.float32
    np.testing.assert_array_equal(sent[0], [1, 2.5, 3, 4])


def test_what_is_sent_lies_in_memory_row_by_row() -> None:
    """A transposed or strided array is sent in its logical order."""
    array = np.arange(8, dtype=np.float32).reshape(4, 2).T
    sent = prepare(inputs_of(POLE), array, batched=True)["observation"]
    assert sent.flags.c_contiguous
    assert sent.tobytes() == np.array([[0, 2, 4, 6], [1, 3, 5, 7]], dtype=np.float32).tobytes()


def test_a_discrete_observation_may_be_a_plain_number() -> None:
    """A contract of shape (1,) takes a scalar, and a batch of scalars."""
    assert prepare(inputs_of(STATE), 3, batched=False)["observation"].tolist() == [[3]]
    assert prepare(inputs_of(STATE), np.int32(3), batched=False)["observation"].dtype == np.int64
    assert prepare(inputs_of(STATE), [3, 4], batched=True)["observation"].tolist() == [[3], [4]]


@pytest.mark.parametrize("observation", [[1, 2], {"observation": [1, 2]}], ids=["alone", "by name"])
def test_a_mask_that_is_missing_is_refused_by_name(observation: Any) -> None:
    """The sentence says what the input is for."""
    mask = TensorSpec("action_mask", "bool", (3,), role=Role.ACTION_MASK)
    board = inputs_of(contract(TensorSpec("observation", "float32", (2,)), mask))
    with pytest.raises(UsageError, match=r"action_mask \(which choices are allowed\)"):
        prepare(board, observation, batched=False)
    sent = prepare(board, {"observation": [1, 2], "action_mask": [True, False, True]}, batched=False)
    assert sent["action_mask"].tolist() == [[True, False, True]]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
def test_a_mask_of_truth_values_may_be_zeros_and_ones(dtype: str) -> None:
    """As environments give it; any other number, and any float, is refused."""
    board = inputs_of(contract(TensorSpec("action_mask", "bool", (3,), role=Role.ACTION_MASK)))
    sent = prepare(board, np.array([1, 0, 1], dtype), batched=False)["action_mask"]
    assert sent.dtype == bool and sent.tolist() == [[True, False, True]]
    with pytest.raises(UsageError, match=r"action_mask\[2\] is 2, which bool cannot hold"):
        prepare(board, np.array([1, 0, 2], dtype), batched=False)
    with pytest.raises(UsageError, match="is float64, the policy takes bool"):
        prepare(board, np.array([1.0, 0.0, 1.0]), batched=False)


def test_named_observations_come_in_the_order_of_the_contract() -> None:
    """Whatever the order of the mapping."""
    sent = prepare(inputs_of(CAMERA), {"speed": 1.5, "image": np.zeros((2, 3), np.uint8)}, batched=False)
    assert list(sent) == ["image", "speed"]
    assert sent["speed"].shape == (1, 1)


def test_a_single_observation_may_be_named_too() -> None:
    """A mapping with the one name is the same as the array."""
    assert prepare(inputs_of(POLE), {"observation": np.zeros(4)}, batched=False)["observation"].shape == (1, 4)


@pytest.mark.parametrize(
    ("which", "observation", "batched", "problem"),
    [
        (POLE, np.zeros(5), False, r"shape \(5,\), the policy takes \(4,\)"),
        (POLE, np.zeros((2, 4)), False, r"shape \(2, 4\)"),
        (POLE, np.zeros(4), True, r"takes \(n, 4\)"),
        (POLE, np.zeros((0, 4)), True, "empty batch"),
        (POLE, 1.0, False, r"shape \(\)"),
        (POLE, [[1, 2], [3]], False, "not an array"),
        (POLE, ["a", "b", "c", "d"], False, "is <U1"),
        (POLE, np.zeros(4, complex), False, "is complex128"),
        (POLE, [None] * 4, False, "is object"),
        (POLE, {"obs": np.zeros(4)}, False, "observation is missing, obs is unknown"),
        (CAMERA, np.zeros((2, 3)), False, "takes image and speed, found one array"),
        (CAMERA, {"image": np.zeros((2, 3))}, False, "speed is missing"),
        (STATE, 3.0, False, "is float64, the policy takes int64"),
        (STATE, 2**63, False, "which int64 cannot hold"),
        (POLE, [0, 0, 1e39, 0], False, r"observation\[2\] \(angle\) is 1e\+39, which float32 cannot hold"),
        (POLE, [0, np.nan, 0, 0], False, r"observation\[1\] \(velocity\) is nan, which is not finite"),
        (POLE, [[0, 0, 0, 0], [0, 0, 0, -np.inf]], True, r"row 1: observation\[3\] \(angular velocity\) is -inf"),
        (POLE, np.array([2**53 + 1, 0, 0, 0]), False, r"observation\[0\] \(position\) is 9007199254740993"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    which: Contract, observation: Any, batched: bool, problem: str
) -> None:
    """The message names the input, the very feature, its value, and what is expected."""
    with pytest.raises(UsageError, match=problem):
        prepare(inputs_of(which), observation, batched=batched)


@pytest.mark.parametrize(
    ("value", "batched", "hint"), [(np.zeros((2, 4)), False, "act_batch"), (np.zeros(4), True, "use act")]
)
def test_a_batch_mistaken_for_one_is_told_the_other_call(value: Any, batched: bool, hint: str) -> None:
    """The remedy names the call that takes it."""
    with pytest.raises(UsageError) as caught:
        prepare(inputs_of(POLE), value, batched=batched)
    assert hint in caught.value.remedy


def test_a_pixel_that_uint8_cannot_hold_is_refused_and_one_that_it_can_is_cast() -> None:
    """An integer is cast where its value survives; 256 would become 0."""
    image = np.full((2, 3), 255)
    assert prepare(inputs_of(CAMERA), {"image": image, "speed": 0}, batched=False)["image"].dtype == np.uint8
    image[1, 2] = 256
    with pytest.raises(UsageError, match=r"image\[5\] is 256, which uint8 cannot hold"):
        prepare(inputs_of(CAMERA), {"image": image, "speed": 0}, batched=False)


def test_batches_of_different_length_are_refused() -> None:
    """Every named observation has one row for each."""
    with pytest.raises(UsageError, match="differ in their number of rows"):
        prepare(inputs_of(CAMERA), {"image": np.zeros((2, 2, 3), np.uint8), "speed": np.zeros(3)}, batched=True)


def test_bounds_of_floats_are_checked_only_on_request_and_each_element_by_its_own() -> None:
    """Beyond its bound by one feature: accepted as it is, refused with `check_bounds`, by name and range."""
    observation = [0.0, 1e6, 0.0, 0.0]
    prepare(inputs_of(POLE), observation, batched=False)
    with pytest.raises(UsageError, match=r"observation\[1\] \(velocity\) is 1000000.0, its range is -inf to 4.8"):
        prepare(inputs_of(POLE), observation, batched=False, check_bounds=True)
    with pytest.raises(UsageError, match=r"row 1: observation\[2\] \(angle\) is -0.5, its range is -0.4 to 4.8"):
        prepare(inputs_of(POLE), [[0, 0, 0, 0], [0, 0, -0.5, 0]], batched=True, check_bounds=True)
    prepare(inputs_of(POLE), [4.8, -1e6, -0.4, 0.0], batched=False, check_bounds=True)


CHOICES = contract(
    TensorSpec("room", "int64", (1,), 2.0, 7.0),
    TensorSpec("dials", "int64", (2,), 0.0, (2.0, 3.0)),
    TensorSpec("switches", "int8", (3,), 0.0, 1.0),
)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"room": 1}, r"room\[0\] is 1, its range is 2 to 7"),
        ({"room": 8}, r"room\[0\] is 8, its range is 2 to 7"),
        ({"dials": [2, 4]}, r"dials\[1\] is 4, its range is 0 to 3"),
        ({"dials": [3, 3]}, r"dials\[0\] is 3, its range is 0 to 2"),
        ({"switches": [0, 1, 2]}, r"switches\[2\] is 2, its range is 0 to 1"),
        ({"switches": [-1, 1, 1]}, r"switches\[0\] is -1, its range is 0 to 1"),
    ],
)
def test_an_integer_out_of_its_range_is_always_refused(changed: dict[str, Any], words: str) -> None:
    """Discrete with a start, MultiDiscrete and MultiBinary: a policy computes with it, and means nothing by it."""
    good = {"room": 7, "dials": [2, 3], "switches": [True, False, True]}
    assert prepare(inputs_of(CHOICES), good, batched=False)["room"].tolist() == [[7]]
    with pytest.raises(UsageError, match=words):
        prepare(inputs_of(CHOICES), good | changed, batched=False)
    rows = {name: [value, (good | changed)[name]] for name, value in good.items()}
    with pytest.raises(UsageError, match=f"row 1: {words}"):
        prepare(inputs_of(CHOICES), rows, batched=True)


INTEGERS = [name for name in DTYPES if np.dtype(name).kind in "iu"]


@given(st.data(), st.sampled_from(INTEGERS), st.sampled_from(DTYPES))
def test_an_integer_arrives_as_itself_or_not_at_all(data: st.DataObject, have: str, want: str) -> None:
    """Law, for every pair of dtypes: what is sent for an integer equals it, or the call is refused."""
    info = np.iinfo(have)
    edges = [v + d for e in range(65) for v in (2**e, -(2**e)) for d in (-1, 0, 1)]
    value = data.draw(
        st.one_of(st.sampled_from([e for e in edges if info.min <= e <= info.max]), st.integers(info.min, info.max))
    )
    which = contract(TensorSpec("x", want, (1,)))
    with np.errstate(over="ignore"):
        exact = np.array([value], dtype=have)
        kind = np.dtype(want)
        fits = (
            float(np.float64(exact.astype(want)[0])) == value and np.isfinite(exact.astype(want)[0])
            if kind.kind == "f"
            else value in (0, 1)
            if kind.kind == "b"
            else np.iinfo(want).min <= value <= np.iinfo(want).max
        )
    if not fits:
        with pytest.raises(UsageError, match="cannot hold"):
            prepare(inputs_of(which), exact, batched=False)
        return
    sent = prepare(inputs_of(which), exact, batched=False)["x"]
    assert sent.dtype == kind and int(sent[0, 0]) == value
