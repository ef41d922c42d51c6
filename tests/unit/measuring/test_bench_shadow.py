"""Figures of a replay: known differences are found, at their size."""

from __future__ import annotations

import numpy as np
import pytest

from policyctl.domain.contract import ActionKind, Contract, Distribution, DistributionKind
from policyctl.domain.recording import Recording, RecordingOrigin
from policyctl.domain.tensor import TensorSpec
from policyctl.measuring.shadow import shadow, wanted_outputs

CONTINUOUS = Contract(
    (TensorSpec("observation", "float32", (3,)),),
    (TensorSpec("action", "float32", (2,), (-1.0, -2.0), (1.0, 2.0)),),
    ActionKind.CONTINUOUS,
)
DISCRETE = Contract(
    (TensorSpec("observation", "float32", (3,)),),
    (TensorSpec("action", "int64", (1,), 0.0, 2.0), TensorSpec("logits", "float32", (3,))),
    ActionKind.DISCRETE,
    Distribution(DistributionKind.CATEGORICAL),
)


def _recording(actions=None, *, rows: int = 200, name: str = "loop/{}") -> Recording:
    outputs = {} if actions is None else {"action": actions}
    return Recording(
        RecordingOrigin("walker", "production", {1: "1.0.0"}, 1, False, "", 1.0),
        {"observation": np.zeros((rows, 3), np.float32)},
        outputs,
        np.arange(rows, dtype=np.int64),
        np.ones(rows, dtype=np.int64),
        np.arange(rows, dtype=np.int64),
        tuple(name.format(i) for i in range(rows)),
    )


def test_the_same_actions_agree_wholly_and_nothing_rises() -> None:
    """What 200 requests can still hide stands in the interval, and is 1.5 %."""
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (200, 2)).astype(np.float32)
    found = shadow(CONTINUOUS, _recording(actions), {"action": actions}, within=0.01)
    assert found.agreement is not None and found.saturation is not None and found.saturation.rise is not None
    assert (found.agreement.mean, found.agreement.high) == (1.0, 1.0)
    assert found.agreement.low == pytest.approx(1 - 3 / 200)
    assert (found.largest, found.mean, found.saturation.candidate) == (0.0, 0.0, 0.0)
    assert found.saturation.rise.high == pytest.approx(3 / 200)
    assert found.pairs == 199


def test_an_offset_is_told_as_a_share_of_each_components_range() -> None:
    """0.1 of a range of 2 is 5 %, and of a range of 4 is 2.5 %."""
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2)).astype(np.float32)
    found = shadow(CONTINUOUS, _recording(actions), {"action": actions + np.float32(0.1)}, within=0.01)
    assert found.largest == pytest.approx(0.05, rel=1e-4)
    assert found.mean == pytest.approx(0.0375, rel=1e-4)
    assert found.agreement is not None and found.agreement.mean == 0.0
    loose = shadow(CONTINUOUS, _recording(actions), {"action": actions + np.float32(0.1)}, within=0.051)
    assert loose.agreement is not None and loose.agreement.mean == 1.0


def test_saturation_counts_components_at_either_bound() -> None:
    """One of two components at its bound in half of the rows is a quarter."""
    calm, hard = np.zeros((200, 2), np.float32), np.zeros((200, 2), np.float32)
    hard[::2, 0], hard[::4, 0] = 1.0, -1.0
    found = shadow(CONTINUOUS, _recording(calm), {"action": hard}, within=0.01).saturation
    assert found is not None and found.rise is not None
    assert (found.recorded, found.candidate, found.rise.mean) == (0.0, 0.25, 0.25)
    assert found.rise.low > 0.05


def test_an_action_without_bounds_cannot_saturate_and_is_measured_by_what_was_seen() -> None:
    """Its range is the recorded one."""
    free = Contract(CONTINUOUS.observations, (TensorSpec("action", "float32", (1,)),), ActionKind.CONTINUOUS)
    actions = np.linspace(0, 10, 200, dtype=np.float32)[:, None]
    found = shadow(free, _recording(actions), {"action": actions + 1}, within=0.01)
    assert found.saturation is None
    assert found.largest == pytest.approx(0.1, rel=1e-4)


def test_roughness_is_the_mean_change_of_known_steps() -> None:
    """A candidate that flips from bound to bound moves its whole range at every step."""
    calm, wild = np.zeros((200, 2), np.float32), np.ones((200, 2), np.float32) * np.array([1, 2], np.float32)
    wild[::2] *= -1
    found = shadow(CONTINUOUS, _recording(calm), {"action": wild}, within=0.01).roughness
    assert found is not None and (found.recorded, found.candidate) == (0.0, 1.0)
    assert shadow(CONTINUOUS, _recording(calm, name="x"), {"action": wild}, within=0.01).roughness is None


def test_discrete_actions_agree_but_for_real_differences() -> None:
    """A near-tie by the candidate's own scores agrees, and is counted apart."""
    assert wanted_outputs(DISCRETE) == ("action", "logits")
    then = np.zeros((200, 1), np.int64)
    now, logits = then.copy(), np.tile(np.array([2.0, 1.0, 0.0], np.float32), (200, 1))
    now[:50], logits[:50] = 1, (2.0, 2.0 + 1e-5, 0.0)
    now[50:60], logits[50:60] = 1, (1.0, 2.0, 0.0)
    found = shadow(DISCRETE, _recording(then), {"action": now, "logits": logits}, within=0.01)
    assert found.agreement is not None and found.agreement.mean == pytest.approx(190 / 200)
    assert (found.near_ties, found.largest, found.saturation) == (50, None, None)


def test_without_recorded_actions_only_the_candidate_is_known() -> None:
    """No agreement is made up."""
    found = shadow(CONTINUOUS, _recording(), {"action": np.ones((200, 2), np.float32)}, within=0.01)
    assert found.agreement is None and found.saturation is not None
    assert (found.saturation.recorded, found.saturation.rise, found.saturation.candidate) == (None, None, 0.5)


def test_blocks_of_alike_rows_widen_the_interval() -> None:
    """Ten stretches that agree or do not are ten observations, not two hundred."""
    then = np.zeros((200, 2), np.float32)
    stretches = then.copy()
    stretches[np.repeat(np.arange(10) % 5 == 0, 20)] = 0.9
    scattered = then.copy()
    scattered[::5] = 0.9
    wide, narrow = (
        shadow(CONTINUOUS, _recording(then), {"action": a}, within=0.01).agreement for a in (stretches, scattered)
    )
    assert wide is not None and narrow is not None
    assert wide.mean == narrow.mean == pytest.approx(0.8)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize("rows", [0, 1])
def test_next_to_nothing_gives_no_interval(rows: int) -> None:
    """An empty recording is refused, one request has a figure and no interval."""
    actions = np.zeros((rows, 2), np.float32)
    if rows == 0:
        with pytest.raises(ValueError, match="empty"):
            shadow(CONTINUOUS, _recording(actions, rows=0), {"action": actions}, within=0.01)
        return
    assert shadow(CONTINUOUS, _recording(actions, rows=1), {"action": actions}, within=0.01).agreement is None
