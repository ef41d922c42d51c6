"""What a set of actions looks like: figures that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.domain.actions import MOST_CHOICES, MOST_COMPONENTS, describe
from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind
from policyctl.domain.tensor import TensorSpec

OBSERVATION = (TensorSpec("observation", "float32", (3,)),)


def _contract(kind: ActionKind, law: Distribution, action: TensorSpec, *more: TensorSpec) -> Contract:
    return Contract(OBSERVATION, (action, *more), kind, law)


DISCRETE = _contract(
    ActionKind.DISCRETE,
    Distribution(DistributionKind.CATEGORICAL),
    TensorSpec("action", "int64", (1,), low=0, high=3),
    TensorSpec("logits", "float32", (4,)),
)
GAUSSIAN = _contract(
    ActionKind.CONTINUOUS,
    Distribution(DistributionKind.GAUSSIAN),
    TensorSpec("action", "float32", (2,), low=(-1.0, -math.inf), high=(1.0, math.inf), features=("hip", "knee")),
    TensorSpec("mean", "float32", (2,)),
    TensorSpec("log_std", "float32", (2,)),
)


def test_equal_logits_have_the_entropy_of_a_fair_die() -> None:
    """ln 4 for four choices, 0 where one is certain, whatever -inf masks."""
    actions = np.array([[0], [1], [1], [3]])
    fair = describe(DISCRETE, {"action": actions, "logits": np.zeros((4, 4))})
    assert fair.entropy == pytest.approx(math.log(4), rel=1e-5)
    sure = np.array([[0.0, -np.inf, -np.inf, -np.inf]] * 4)
    assert describe(DISCRETE, {"action": actions, "logits": sure}).entropy == 0.0
    assert fair.actions[0].shares == {"0": 0.25, "1": 0.5, "3": 0.25}
    assert (fair.saturation, fair.roughness, fair.rows) == (None, None, 4)


def test_components_add_their_entropies() -> None:
    """Two fair coins and a die of three sides: 2 ln 2, and ln 2 + ln 3."""
    coins = _contract(
        ActionKind.MULTI_BINARY,
        Distribution(DistributionKind.BERNOULLI),
        TensorSpec("action", "int8", (2,)),
        TensorSpec("logits", "float32", (2,)),
    )
    both = {"action": np.array([[0, 1]]), "logits": np.zeros((1, 2))}
    assert describe(coins, both).entropy == pytest.approx(2 * math.log(2), rel=1e-5)
    mixed = _contract(
        ActionKind.MULTI_DISCRETE,
        Distribution(DistributionKind.MULTI_CATEGORICAL, nvec=(2, 3)),
        TensorSpec("action", "int64", (2,)),
        TensorSpec("logits", "float32", (5,)),
    )
    assert describe(mixed, {"action": np.array([[0, 1]]), "logits": np.zeros((1, 5))}).entropy == pytest.approx(
        math.log(2) + math.log(3), rel=1e-5
    )


def test_a_gaussian_has_the_entropy_of_its_deviation() -> None:
    """Half of ln(2 pi e) and the logarithm of the deviation, for each component."""
    outputs = {"action": np.zeros((3, 2)), "mean": np.zeros((3, 2)), "log_std": np.full((3, 2), -1.0)}
    assert describe(GAUSSIAN, outputs).entropy == pytest.approx(math.log(2 * math.pi * math.e) - 2, rel=1e-5)
    assert describe(GAUSSIAN, {"action": np.zeros((3, 2))}).entropy is None


def test_saturation_counts_components_that_have_bounds() -> None:
    """Of two components one is bounded; it is at a bound in half of the rows."""
    actions = np.array([[-1.0, 5.0], [0.0, -5.0], [0.9999, 0.0], [0.5, 0.0]], dtype=np.float32)
    found = describe(GAUSSIAN, {"action": actions})
    assert found.saturation == 0.5
    assert [component.name for component in found.actions] == ["action[0] (hip)", "action[1] (knee)"]


def test_roughness_is_the_mean_step_as_a_share_of_the_range() -> None:
    """From one bound to the other is 1; of choices, the share of steps that change one."""
    steps = (np.array([0, 1]), np.array([1, 2]))
    bounded = _contract(
        ActionKind.CONTINUOUS, Distribution(), TensorSpec("action", "float32", (1,), low=-1.0, high=1.0)
    )
    actions = np.array([[-1.0], [1.0], [1.0]])
    assert describe(bounded, {"action": actions}, steps=steps).roughness == 0.5
    assert describe(DISCRETE, {"action": np.array([[0], [1], [1]])}, steps=steps).roughness == 0.5


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 200), min_size=1, max_size=300),
    st.floats(-1e6, 1e6, width=32),
)
def test_a_description_is_bounded_and_adds_up(choices: list[int], value: float) -> None:
    """Shares are of all actions and at most so many; quantiles rise; one action has no spread."""
    shares = describe(DISCRETE, {"action": np.array(choices)[:, None]}).actions[0].shares or {}
    assert len(shares) <= MOST_CHOICES
    assert sum(shares.values()) <= 1 + 1e-4
    if len(set(choices)) <= MOST_CHOICES:
        assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    wide = _contract(ActionKind.CONTINUOUS, Distribution(), TensorSpec("action", "float32", (100,)))
    found = describe(wide, {"action": np.full((2, 100), value, dtype=np.float32)})
    assert len(found.actions) == MOST_COMPONENTS
    assert len(set(found.actions[0].quantiles or ())) == 1


def test_nothing_cannot_be_described() -> None:
    """No action has no figures, and says so."""
    with pytest.raises(ValueError, match="no action"):
        describe(DISCRETE, {"action": np.zeros((0, 1), dtype=np.int64)})
