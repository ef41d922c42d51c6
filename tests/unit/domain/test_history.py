"""The last steps of an episode, laid into an observation as the training framework did it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.domain.compatibility import compare, needed
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.history import Beginning, Frames, History, Newest
from policyctl.domain.tensor import TensorSpec
from policyctl.domain.versions import Bump
from policyctl.errors import UsageError

SPEC = TensorSpec("obs", "float32", (12,))
CONTRACT = Contract((SPEC,), (TensorSpec("action", "float32", (1,)),), ActionKind.CONTINUOUS)
STACKED = History("obs", 4)

histories = st.builds(
    History,
    observation=st.just("obs"),
    length=st.just(4),
    terms=st.sampled_from([(), (1, 2), (2, 1), (3,), (1, 1, 1)]),
    newest=st.sampled_from(Newest),
    beginning=st.sampled_from(Beginning),
)


@given(histories, st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 99))
def test_every_element_is_where_the_layout_says(history, resets, seed) -> None:
    """For each term and step, in every layout; an episode knows nothing of the one before."""
    frames, rng, steps = Frames(history, SPEC), np.random.default_rng(seed), []
    for reset in resets:
        if reset:
            frames.reset()
            steps = []
        steps.append(rng.standard_normal(3).astype(np.float32))
        found = frames.push(steps[-1])
        before = np.zeros(3, np.float32) if history.beginning is Beginning.ZEROS else steps[0]
        recent = ([before] * 4 + steps)[-4:]
        ordered = recent if history.newest is Newest.LAST else recent[::-1]
        wanted, start = [], 0
        for size in history.terms or (3,):
            wanted += [step[start : start + size] for step in ordered]
            start += size
        assert found.tolist() == np.concatenate(wanted).tolist()
        assert (found.shape, found.dtype) == ((12,), np.float32)


def test_vec_frame_stack_of_stable_baselines3_lays_steps_as_the_default_does() -> None:
    """Over episodes that end, on its own class."""
    gym = pytest.importorskip("gymnasium")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    env = VecFrameStack(DummyVecEnv([lambda: gym.make("CartPole-v1")]), 3)
    env.seed(0)
    history = History("obs", 3)
    frames, stacked = Frames(history, TensorSpec("obs", "float32", (12,))), env.reset()
    assert frames.push(stacked[0][-4:]).tolist() == stacked[0].tolist()
    ends = 0
    for _ in range(60):
        stacked, _, done, _ = env.step(np.array([1]))
        if done[0]:
            frames.reset()
            ends += 1
        assert frames.push(stacked[0][-4:]).tolist() == stacked[0].tolist()
    assert ends > 2


@given(histories, histories)
def test_another_layout_is_a_breaking_change_though_no_shape_changes(earlier, later) -> None:
    """A contract that states one survives its JSON; a first one breaks nothing."""
    before, after = (replace(CONTRACT, histories=(history,)) for history in (earlier, later))
    assert Contract.from_json(before.to_json()) == before
    assert needed(compare(CONTRACT, before)) is Bump.MINOR
    assert needed(compare(before, CONTRACT)) is Bump.MAJOR
    assert needed(compare(before, after)) is (Bump.PATCH if earlier == later else Bump.MAJOR)


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (History("obs", 5), "5 steps do not make 12 elements"),
        (History("obs", 1), "1 steps do not make 12 elements"),
        (History("obs", 4, terms=(1, 1)), r"terms of \[1, 1\] over 4 steps do not make 12 elements"),
        (History("obs", 4, terms=(4, -1)), r"terms of \[4, -1\]"),
        (History("camera", 4), "unknown observation 'camera'"),
    ],
)
def test_a_history_that_does_not_fit_its_observation_is_refused(history, words) -> None:
    """By the value and the expectation."""
    with pytest.raises(UsageError, match=words):
        replace(CONTRACT, histories=(history,))


def test_frames_come_from_the_contract_and_refuse_another_shape() -> None:
    """What was refused is not remembered."""
    with pytest.raises(UsageError, match="states the histories of 0 observations"):
        CONTRACT.frames()
    frames = replace(CONTRACT, histories=(STACKED,)).frames()
    first = frames.push([1, 2, 3])
    with pytest.raises(UsageError, match=r"shape \(4,\), expected \(3,\)"):
        frames.push([1, 2, 3, 4])
    whole = Frames(STACKED, replace(SPEC, dtype="uint8"))
    assert whole.push([1.9, 0, 0]).tolist() == [0.0] * 9 + [1.9, 0, 0], "the client refuses it, nobody cuts it"
    assert first.tolist() == [0.0] * 9 + [1, 2, 3]
    assert frames.push([4, 5, 6]).tolist() == [0.0] * 6 + [1, 2, 3, 4, 5, 6]
