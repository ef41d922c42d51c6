"""Parity: where agreement ends, and which differing choices are forgiven."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind, State
from policyctl.domain.parity import Tolerance, compare
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

OBS = (TensorSpec("observation", "float32", (1,)),)
BOX = Contract(OBS, (TensorSpec("action", "float64", (2,)),), ActionKind.CONTINUOUS)


def _box(want, got, **tolerance):
    return compare(
        BOX,
        {"action": np.array([want], dtype=np.float64)},
        {"action": np.array([got], dtype=np.float64)},
        Tolerance(**tolerance),
    )


def test_the_edge_of_the_tolerance_agrees_and_beyond_does_not() -> None:
    """`atol + rtol * |expected|` is the largest difference that agrees."""
    assert _box([4.0, 0.0], [4.5, 0.0], atol=0.25, rtol=0.0625).agrees
    assert not _box([4.0, 0.0], [np.nextafter(4.5, 5), 0.0], atol=0.25, rtol=0.0625).agrees
    assert _box([0.0, 0.0], [0.25, -0.25], atol=0.25, rtol=1.0).agrees
    assert not _box([0.0, 0.0], [0.0, -0.2500001], atol=0.25, rtol=1.0).agrees


def test_memory_is_held_to_its_own_scale_however_large_actions_are() -> None:
    """An error of it is what every later step begins with; another output may be off as the action may."""
    memory = TensorSpec("h", "float32", (1,))
    outputs = (TensorSpec("action", "float32", (1,)), TensorSpec("h_out", "float32", (1,)))
    further = Contract((*OBS, memory), outputs, ActionKind.CONTINUOUS)
    states = Contract((*OBS, memory), outputs, ActionKind.CONTINUOUS, states=(State("h", "h_out"),))
    want = {"action": np.float32([[1e6]]), "h_out": np.float32([[1.0]])}
    got = want | {"h_out": np.float32([[1.01]])}
    assert compare(further, want, got, Tolerance(atol=100.0)).agrees
    assert compare(states, want, got, Tolerance(atol=100.0)).worst.name == "h_out"
    assert not compare(states, want, got, Tolerance(atol=100.0)).agrees


def test_a_further_output_is_held_to_its_own_scale_and_the_action_is_not() -> None:
    """A height of 10,000 m may be off by a centimetre, and an action next to it may not."""
    both = Contract(
        OBS, (TensorSpec("action", "float64", (1,)), TensorSpec("height", "float64", (2,))), BOX.action_kind
    )

    def agrees(action: float, height: float) -> bool:
        want = {"action": np.array([[0.0]]), "height": np.array([[1e4, 0.0]])}
        got = {"action": np.array([[action]]), "height": np.array([[1e4, height]])}
        return compare(both, want, got, Tolerance(atol=1e-5, rtol=0.0)).agrees

    assert agrees(0.0, 0.009)
    assert not agrees(0.0, 0.011)
    assert not agrees(1.1e-5, 0.0)


def test_a_zero_tolerance_asks_for_equality_without_a_warning() -> None:
    """Zero is a tolerance like another."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _box([1.0, -0.0], [1.0, 0.0], atol=0.0, rtol=0.0).agrees
        assert not _box([1.0, 0.0], [1.0, 5e-324], atol=0.0, rtol=0.0).agrees


@pytest.mark.parametrize("want", [0.0, 1e300, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("got", [0.0, 1e300, math.inf, -math.inf, math.nan])
def test_nan_and_infinity_agree_with_themselves_alone(want: float, got: float) -> None:
    """No tolerance bridges NaN and a number, or an infinity and anything else; the report stays strict JSON."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _box([0.0, want], [0.0, got], atol=1.0, rtol=1.0)
    same = want == got or (math.isnan(want) and math.isnan(got))
    expected = same or ({want, got} == {0.0, 1e300} and want == 1e300)
    assert found.agrees is expected
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", ["atol", "rtol", "tie"])
@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
def test_a_tolerance_that_forgives_everything_is_refused(name: str, value: float) -> None:
    """A negative, infinite or NaN tolerance would let any answer agree."""
    with pytest.raises(UsageError, match=name):
        Tolerance(**{name: value})


def test_the_worst_row_and_output_are_named() -> None:
    """The report points at the row where the largest excess stands."""
    contract = Contract(OBS, (BOX.action, TensorSpec("value", "float32", (1,))), ActionKind.CONTINUOUS)
    want = {"action": np.zeros((5, 2)), "value": np.zeros((5, 1), np.float32)}
    got = {name: array.copy() for name, array in want.items()}
    got["action"][1, 0], got["value"][3, 0] = 0.5, -2.0
    found = compare(contract, want, got, Tolerance(atol=1.0, rtol=0.0))
    assert (found.worst.name, found.worst.worst_row, found.worst.excess) == ("value", 3, 2.0)
    assert [o.max_abs for o in found.outputs] == [0.5, 2.0]
    assert found.rows == 5


def test_missing_misshapen_and_mistyped_outputs_are_no_comparison() -> None:
    """An absent output, another shape, or integers for numbers cannot be compared at all."""
    want = {"action": np.zeros((2, 2))}
    for got, said in (
        ({}, "missing"),
        ({"action": np.zeros((2, 1))}, "shape"),
        ({"action": np.zeros((1, 2))}, "shape"),
        ({"action": np.zeros((2, 2), np.int64)}, "int64"),
    ):
        with pytest.raises(ValueError, match=said):
            compare(BOX, want, got, Tolerance())


def _discrete(start: int = 0, head: str = "logits") -> Contract:
    law = Distribution(DistributionKind.CATEGORICAL) if head == "logits" else Distribution()
    action = TensorSpec("action", "int64", (1,), float(start), float(start + 2))
    return Contract(OBS, (action, TensorSpec(head, "float32", (3,))), ActionKind.DISCRETE, law)


def _choice(contract, scores, want, got, tolerance=None, name="logits"):
    scores = np.array([scores], np.float32)
    return compare(
        contract,
        {"action": np.array([[want]]), name: scores},
        {"action": np.array([[got]]), name: scores},
        tolerance or Tolerance(tie=1e-3),
    )


@pytest.mark.parametrize("start", [0, 5, -3])
@pytest.mark.parametrize("head", ["logits", "q_values"])
def test_a_choice_between_equals_is_a_near_tie_wherever_the_actions_start(start: int, head: str) -> None:
    """Choices 0 and 2 score alike, 1 does not: the offset of the first action is taken into account."""
    contract = _discrete(start, head)
    scores = [1.0, 0.0, 1.0005]
    tie = _choice(contract, scores, start + 2, start, name=head)
    assert tie.agrees
    assert tie.near_ties == 1
    for got in (start + 1, start + 3, start - 1):
        flip = _choice(contract, scores, start + 2, got, name=head)
        assert not flip.agrees
        assert flip.near_ties == 0


def test_a_near_tie_is_measured_against_the_two_choices_alone() -> None:
    """A masked choice with a score of minus a hundred million, or infinity, does not make the others equal."""
    for masked in (-1e8, -math.inf):
        found = _choice(_discrete(), [1.0, 0.0, masked], 0, 1)
        assert not found.agrees
        assert not _choice(_discrete(), [1.0, 0.0, masked], 0, 2).agrees
    assert _choice(_discrete(), [1000.0, 999.5, 0.0], 0, 1).agrees  # relative to a thousand
    assert not _choice(_discrete(), [1.0, 0.5, 0.0], 0, 1).agrees


def test_scores_that_are_nan_excuse_nothing() -> None:
    """Where the policy itself scored NaN there is no near-tie."""
    assert not _choice(_discrete(), [math.nan, math.nan, 0.0], 0, 1).agrees


def test_a_fraction_is_no_choice() -> None:
    """An answer between two choices is not one of them."""
    contract, scores = _discrete(), np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match="float"):
        compare(
            contract,
            {"action": np.array([[1]]), "logits": scores},
            {"action": np.array([[1.5]]), "logits": scores},
            Tolerance(),
        )


def test_multi_discrete_forgives_only_the_component_that_ties() -> None:
    """Each component has its own block of scores; a flip in one is not excused by a tie in the other."""
    action = TensorSpec("action", "int64", (2,), (0.0, 10.0), (1.0, 12.0))
    law = Distribution(DistributionKind.MULTI_CATEGORICAL, (2, 3))
    contract = Contract(OBS, (action, TensorSpec("logits", "float32", (5,))), ActionKind.MULTI_DISCRETE, law)
    scores = np.array([[2.0, 0.0, 1.0, 1.0, 0.0]], np.float32)

    def found(*got):
        return compare(
            contract,
            {"action": np.array([[0, 10]]), "logits": scores},
            {"action": np.array([got]), "logits": scores},
            Tolerance(),
        )

    assert found(0, 11).agrees
    assert found(0, 11).near_ties == 1
    assert not found(1, 10).agrees
    assert not found(0, 12).agrees
    assert not found(1, 11).agrees
    assert found(1, 11).worst.max_abs == 1


def test_multi_binary_forgives_a_bit_whose_logit_is_about_zero() -> None:
    """A bit ties with its opposite where its own logit is zero, whatever the other bits' logits are."""
    action = TensorSpec("action", "int64", (3,), 0.0, 1.0)
    contract = Contract(
        OBS,
        (action, TensorSpec("logits", "float32", (3,))),
        ActionKind.MULTI_BINARY,
        Distribution(DistributionKind.BERNOULLI),
    )
    scores = np.array([[1e-6, 0.5, 30000.0]], np.float32)

    def found(*got):
        return compare(
            contract,
            {"action": np.array([[1, 1, 1]]), "logits": scores},
            {"action": np.array([got]), "logits": scores},
            Tolerance(tie=1e-4),
        )

    assert found(0, 1, 1).agrees
    assert not found(1, 0, 1).agrees
    assert not found(1, 1, 0).agrees


def test_integers_without_scores_must_be_equal() -> None:
    """Where the contract gives no scores, no difference is a tie."""
    contract = Contract(OBS, (TensorSpec("action", "int64", (1,)),), ActionKind.DISCRETE)
    one, two = {"action": np.array([[1]])}, {"action": np.array([[2]])}
    assert compare(contract, one, one, Tolerance()).agrees
    assert not compare(contract, one, two, Tolerance(tie=100.0)).agrees


@given(st.lists(st.floats(width=32), min_size=2, max_size=2))
def test_every_answer_agrees_with_itself(values: list[float]) -> None:
    """Comparison is reflexive, at any tolerance, for every float."""
    found = _box(values, values, atol=0.0, rtol=0.0)
    assert found.agrees
    assert found.worst.max_abs == 0.0
