"""RecurrentPPO: over whole episodes the exported files answer like `predict()` that carries its state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import exporter_models as models
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policyctl.domain.artifacts import Format
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.memory import initial_states
from policyctl.errors import UnsupportedError
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import Runner, open_runner

ALL = (Format.ONNX, Format.OPENVINO, Format.TORCHSCRIPT)
TWO_LAYERS = {"n_lstm_layers": 2}
NO_CRITIC_LSTM = {"enable_critic_lstm": False}
SHARED = {"enable_critic_lstm": False, "shared_lstm": True}
SPLIT = {"share_features_extractor": False}
CLASHING = spaces.Dict({"lstm_h": spaces.Box(-1.0, 1.0, (2,)), "lstm_c_out": spaces.Discrete(3)})

# What, observations, actions, policy, its arguments, and of the algorithm; the first is tried in every format.
CASES: list[tuple[str, Any, Any, str, dict[str, Any], dict[str, Any]]] = [
    ("two-layers", models.VECTOR, spaces.MultiDiscrete([3, 2]), "MlpLstmPolicy", TWO_LAYERS, {}),
    ("discrete", models.VECTOR, spaces.Discrete(3), "MlpLstmPolicy", {}, {}),
    ("multi-binary", models.VECTOR, spaces.MultiBinary(3), "MlpLstmPolicy", {}, {}),
    ("continuous", models.VECTOR, models.CONTINUOUS, "MlpLstmPolicy", SPLIT, {}),
    ("sde", models.VECTOR, models.CONTINUOUS, "MlpLstmPolicy", {}, {"use_sde": True}),
    ("no-critic-lstm", models.VECTOR, spaces.Discrete(3), "MlpLstmPolicy", NO_CRITIC_LSTM, {}),
    ("shared-lstm", models.VECTOR, spaces.Discrete(3), "MlpLstmPolicy", SHARED, {}),
    ("image", models.IMAGE, spaces.Discrete(3), "CnnLstmPolicy", {}, {}),
    ("dict", models.MIXED, models.CONTINUOUS, "MultiInputLstmPolicy", {}, {}),
    ("names-that-clash", CLASHING, spaces.Discrete(3), "MultiInputLstmPolicy", {}, {}),
]


def recurrent(observations: Any, actions: Any, policy: str, kwargs: Mapping[str, Any], **settings: Any) -> Any:
    """An untrained RecurrentPPO whose weights are not small."""
    kwargs = {"net_arch": [16], "lstm_hidden_size": 8, **kwargs}
    return models.tiny(RecurrentPPO, observations, actions, policy=policy, policy_kwargs=kwargs, **settings)


def _cases() -> Iterator[Any]:
    for number, (name, *case) in enumerate(CASES):
        yield pytest.param(*case, ALL if number == 0 else ALL[:1], id=name)


@pytest.mark.parametrize(("observations", "actions", "policy", "kwargs", "settings", "formats"), list(_cases()))
def test_a_recurrent_policy_answers_like_predict_over_whole_episodes(
    observations: Any,
    actions: Any,
    policy: str,
    kwargs: dict[str, Any],
    settings: dict[str, Any],
    formats: tuple[Format, ...],
    tmp_path: Path,
) -> None:
    """Two episodes of each of three rows, whatever the critic is; `episode_start` is the contract's initial memory."""
    model = recurrent(observations, actions, policy, kwargs, **settings)
    contract = export_policy(model, tmp_path / "out", formats=formats).contract
    assert len(contract.states) == 2
    for form in formats:
        hold_against_predict(model, open_runner(form, tmp_path / "out", contract), contract, observations)


def hold_against_predict(model: Any, run: Runner, contract: Contract, observations: Any, rows: int = 3) -> None:
    """Play episodes of six steps with both, each with the memory that it made itself."""
    observations.seed(1)
    state: Any = None
    memory: dict[str, NDArray[Any]] = {}
    for step in range(12):
        begins = step % 6 == 0
        if begins:
            memory = {name: np.repeat(array, rows, axis=0) for name, array in initial_states(contract).items()}
        seen = _stacked([observations.sample() for _ in range(rows)])
        expected, state = model.predict(seen, state, np.full(rows, begins), deterministic=True)
        parts = list(seen.values()) if isinstance(seen, dict) else [seen]
        given = {
            spec.name: np.asarray(part, spec.dtype).reshape(rows, *spec.shape)
            for spec, part in zip(contract.environment, parts, strict=True)
        }
        found = run(given | memory)
        np.testing.assert_allclose(found["action"].reshape(expected.shape), expected, atol=5e-5, rtol=1e-4)
        memory = {each.input: found[each.output] for each in contract.states}


def _stacked(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return np.stack(samples)


def test_an_archive_of_recurrent_ppo_is_read_with_its_statistics(tmp_path: Path) -> None:
    """VecNormalize stands before the LSTM, and the card names the algorithm."""
    env = VecNormalize(DummyVecEnv([lambda: models.SpacesOnly(models.VECTOR, spaces.Discrete(3))]))
    kwargs = {"net_arch": [16], "lstm_hidden_size": 8}
    model = RecurrentPPO("MlpLstmPolicy", env, device="cpu", seed=0, n_steps=16, batch_size=8, policy_kwargs=kwargs)
    model.learn(16)
    model.save(tmp_path / "agent.zip")
    env.save(str(tmp_path / "statistics.pkl"))
    statistics = {"normalizer": tmp_path / "statistics.pkl", "trust_pickle": True}
    result = export_policy(tmp_path / "agent.zip", tmp_path / "out", formats=["onnx"], **statistics)
    assert "algorithm: RecurrentPPO" in (tmp_path / "out" / "model_card.yaml").read_text()
    run = open_runner(Format.ONNX, tmp_path / "out", result.contract)
    states, memory = None, initial_states(result.contract)
    for step in range(8):
        raw = np.random.default_rng(step).normal(size=(1, 5)).astype(np.float32)
        expected, states = model.predict(env.normalize_obs(raw), states, deterministic=True)
        found = run({"observation": raw} | memory)
        assert found["action"].item() == expected.item()
        np.testing.assert_allclose(found["lstm_h_out"].swapaxes(0, 1), states[0], atol=1e-5)
        memory = {each.input: found[each.output] for each in result.contract.states}


def test_recorded_observations_are_played_as_one_episode(tmp_path: Path) -> None:
    """What the environment gave is enough: the policy itself makes the memory of each step, which golden rows show."""
    model = recurrent(models.VECTOR, spaces.Discrete(3), "MlpLstmPolicy", {})
    rows = np.random.default_rng(5).normal(size=(40, 5)).astype(np.float32)
    result = export_policy(model, tmp_path / "out", formats=["onnx"], recorded=rows)
    golden = Golden.from_bytes((tmp_path / "out" / "golden.npz").read_bytes(), result.contract)
    state, played = None, {}
    for row in rows:
        played[row.tobytes()] = np.zeros((1, 1, 8)) if state is None else state[0]
        _, state = model.predict(row[None], state, deterministic=True)
    shown = {
        row.tobytes(): hidden
        for row, hidden in zip(golden.observations["observation"], golden.observations["lstm_h"], strict=True)
        if row.tobytes() in played
    }
    assert len(shown) > 5
    for key, hidden in shown.items():
        np.testing.assert_allclose(hidden[None], played[key].swapaxes(0, 1), atol=1e-6)


def test_an_lstm_that_cannot_be_trained_is_refused_by_name(tmp_path: Path) -> None:
    """sb3-contrib builds such policies, and runs them on one episode at most."""
    model = recurrent(models.VECTOR, spaces.Discrete(3), "MlpLstmPolicy", {"lstm_kwargs": {"batch_first": True}})
    with pytest.raises(UnsupportedError, match="RecurrentActorCriticPolicy has an LSTM that is batch_first"):
        export_policy(model, tmp_path / "out")
