"""Every algorithm, every kind of space: the exported files answer like `predict()`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exporter_models as models
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

from policyctl.domain.artifacts import Format
from policyctl.domain.contract import ActionKind, DistributionKind, Transform
from policyctl.errors import UnsupportedError
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import open_runner

CPU_FORMATS = (Format.ONNX, Format.OPENVINO, Format.TORCHSCRIPT)
SDE = {"use_sde": True}
SQUASHED_SDE = {"use_sde": True, "policy_kwargs": {**models.SMALL, "squash_output": True, "use_expln": True}}
SPLIT = {"policy_kwargs": {**models.SMALL, "share_features_extractor": False}}

# What, algorithm, observations, actions, settings.
CASES: list[tuple[str, Any, Any, Any, dict[str, Any]]] = [
    ("ppo-discrete", PPO, models.VECTOR, spaces.Discrete(4), {}),
    ("ppo-continuous", PPO, models.VECTOR, models.CONTINUOUS, {}),
    ("ppo-matrix", PPO, models.VECTOR, spaces.Box(-1.0, 1.0, (2, 3)), {}),
    ("ppo-multi-discrete", PPO, models.VECTOR, spaces.MultiDiscrete([3, 2, 5]), {}),
    ("ppo-multi-binary", PPO, models.VECTOR, spaces.MultiBinary(4), {}),
    ("ppo-sde", PPO, models.VECTOR, models.CONTINUOUS, SDE),
    ("ppo-sde-squashed", PPO, models.VECTOR, models.CONTINUOUS, SQUASHED_SDE),
    ("ppo-image", PPO, models.IMAGE, spaces.Discrete(3), {"policy": "CnnPolicy"}),
    ("ppo-dict", PPO, models.MIXED, models.CONTINUOUS, {"policy": "MultiInputPolicy", **SPLIT}),
    ("ppo-discrete-observation", PPO, spaces.Discrete(6), spaces.Discrete(3), {}),
    ("ppo-multi-discrete-observation", PPO, spaces.MultiDiscrete([3, 4]), spaces.Discrete(3), {}),
    ("ppo-multi-binary-observation", PPO, spaces.MultiBinary(5), spaces.Discrete(3), {}),
    ("ppo-float64", PPO, spaces.Box(-5.0, 5.0, (4,), np.float64), models.CONTINUOUS, {}),
    ("ppo-matrix-observation", PPO, spaces.Box(-1.0, 1.0, (3, 4)), spaces.Discrete(3), {}),
    ("a2c-discrete", A2C, models.VECTOR, spaces.Discrete(3), {}),
    ("trpo-continuous", TRPO, models.VECTOR, models.CONTINUOUS, {}),
    ("dqn", DQN, models.VECTOR, spaces.Discrete(4), {}),
    ("dqn-image", DQN, models.IMAGE, spaces.Discrete(3), {"policy": "CnnPolicy"}),
    ("dqn-dict", DQN, models.MIXED, spaces.Discrete(3), {"policy": "MultiInputPolicy"}),
    ("qrdqn", QRDQN, models.VECTOR, spaces.Discrete(4), {"policy_kwargs": {**models.SMALL, "n_quantiles": 7}}),
    ("sac", SAC, models.VECTOR, models.CONTINUOUS, {}),
    ("sac-sde", SAC, models.VECTOR, models.CONTINUOUS, SDE),
    ("sac-dict", SAC, models.MIXED, models.CONTINUOUS, {"policy": "MultiInputPolicy"}),
    ("td3", TD3, models.VECTOR, models.CONTINUOUS, {}),
    ("ddpg", DDPG, models.VECTOR, models.CONTINUOUS, {}),
    ("tqc", TQC, models.VECTOR, models.CONTINUOUS, {}),
    ("tqc-sde", TQC, models.VECTOR, models.CONTINUOUS, SDE),
    ("crossq", CrossQ, models.VECTOR, models.CONTINUOUS, {}),
    ("crossq-sde", CrossQ, models.VECTOR, models.CONTINUOUS, SDE),
    ("ars-continuous", ARS, models.VECTOR, models.CONTINUOUS, {"zero_policy": False}),
    ("ars-linear", ARS, models.VECTOR, models.CONTINUOUS, {"policy": "LinearPolicy", "zero_policy": False}),
    ("ars-discrete", ARS, models.VECTOR, spaces.Discrete(3), {"zero_policy": False}),
]


IN_EVERY_FORMAT = ("ppo-multi-discrete", "ppo-sde-squashed", "dqn-image", "sac-dict", "ppo-float64", "crossq-sde")
"""Together they hold every kind of layer, observation and head."""


def _cases() -> Iterator[Any]:
    for name, *case in CASES:
        short = CPU_FORMATS if name in IN_EVERY_FORMAT else CPU_FORMATS[:1]
        yield pytest.param(*case, short, id=name)
        if short != CPU_FORMATS:
            yield pytest.param(*case, CPU_FORMATS[1:], id=f"{name}-in-the-others", marks=pytest.mark.long)


@pytest.mark.parametrize(("algorithm", "observations", "actions", "settings", "formats"), list(_cases()))
def test_every_algorithm_and_space_answers_like_predict(
    algorithm: Any,
    observations: Any,
    actions: Any,
    settings: dict[str, Any],
    formats: tuple[Format, ...],
    tmp_path: Path,
) -> None:
    """On fresh observations each file's action is what the live `predict()` returns."""
    model = models.tiny(algorithm, observations, actions, **settings)
    result = export_policy(model, tmp_path / "out", formats=formats)
    assert result.formats == formats
    rng_rows = 5
    observations.seed(1)
    samples = [observations.sample() for _ in range(rng_rows)]
    expected = np.stack([np.asarray(model.predict(sample, deterministic=True)[0]) for sample in samples])
    served = _served(result.contract, observations, samples)
    for form in formats:
        found = open_runner(form, tmp_path / "out", result.contract)(served)
        action = found["action"].reshape(expected.shape)
        np.testing.assert_allclose(action, expected, atol=5e-5, rtol=1e-4)
        assert found["action"].dtype == np.dtype(result.contract.action.dtype)
        assert found["action"].shape == (rng_rows, *result.contract.action.shape)


def _served(contract: Any, observations: Any, samples: list[Any]) -> dict[str, Any]:
    keys = list(observations.spaces) if isinstance(observations, spaces.Dict) else [None]
    served = {}
    for key, spec in zip(keys, contract.observations, strict=True):
        values = [np.asarray(sample if key is None else sample[key], dtype=spec.dtype) for sample in samples]
        served[spec.name] = np.stack(values).reshape(len(samples), *spec.shape)
    return served


@pytest.mark.parametrize(
    ("algorithm", "actions", "settings"),
    [
        (PPO, spaces.Discrete(4), {}),
        (PPO, spaces.MultiDiscrete([3, 2]), {}),
        (PPO, spaces.MultiBinary(3), {}),
        (PPO, models.CONTINUOUS, {}),
        (PPO, models.CONTINUOUS, SDE),
        (PPO, models.CONTINUOUS, SQUASHED_SDE),
    ],
    ids=["categorical", "multi-categorical", "bernoulli", "gaussian", "sde", "sde-squashed"],
)
def test_the_distribution_is_the_policys_own(
    algorithm: Any, actions: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    """What a client draws from has the parameters of `policy.get_distribution()`."""
    import torch

    model = models.tiny(algorithm, models.VECTOR, actions, **settings)
    result = export_policy(model, tmp_path / "out", formats=["onnx"])
    rows = np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
    found = open_runner(Format.ONNX, tmp_path / "out", result.contract)({"observation": rows})
    with torch.no_grad():
        law = model.policy.get_distribution(torch.from_numpy(rows)).distribution
    match result.contract.distribution.kind:
        case DistributionKind.GAUSSIAN:
            np.testing.assert_allclose(found["mean"], law.mean, atol=1e-5)
            np.testing.assert_allclose(np.exp(found["log_std"]), law.stddev, rtol=1e-4)
        case DistributionKind.BERNOULLI:
            np.testing.assert_allclose(1 / (1 + np.exp(-found["logits"])), law.probs, atol=1e-6)
        case DistributionKind.CATEGORICAL:
            np.testing.assert_allclose(_softmax(found["logits"]), law.probs, atol=1e-6)
        case DistributionKind.MULTI_CATEGORICAL:
            nvec = result.contract.distribution.nvec
            parts = np.split(found["logits"], np.cumsum(nvec)[:-1], axis=1)
            for part, inner in zip(parts, law, strict=True):
                np.testing.assert_allclose(_softmax(part), inner.probs, atol=1e-6)
        case kind:
            pytest.fail(f"no distribution was exported: {kind}")


def _softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("algorithm", [SAC, CrossQ])
@pytest.mark.parametrize("use_sde", [False, True])
def test_an_actors_mean_and_spread_stand_before_the_squashing(algorithm: Any, use_sde: bool, tmp_path: Path) -> None:
    """For SAC and its kin, `mean` and `log_std` are the Gaussian's, and tanh then rescaling gives the action."""
    import torch

    model = models.tiny(algorithm, models.VECTOR, models.CONTINUOUS, use_sde=use_sde)
    result = export_policy(model, tmp_path / "out", formats=["onnx"])
    assert result.contract.distribution.transform is Transform.TANH_RESCALE
    rows = np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
    found = open_runner(Format.ONNX, tmp_path / "out", result.contract)({"observation": rows})
    actor = model.policy.actor.eval()
    with torch.no_grad():
        mean, log_std, more = actor.get_action_dist_params(torch.from_numpy(rows))
        law = actor.action_dist.proba_distribution(mean, log_std, **more).distribution
    np.testing.assert_allclose(found["mean"], law.mean, atol=1e-5)
    np.testing.assert_allclose(found["log_std"], np.log(law.stddev), atol=1e-5)
    low, high = models.CONTINUOUS.low, models.CONTINUOUS.high
    squashed = low + 0.5 * (np.tanh(found["mean"]) + 1) * (high - low)
    np.testing.assert_allclose(found["action"], squashed, atol=1e-6)


def test_discrete_actions_count_as_predict_counts_them(tmp_path: Path) -> None:
    """Stable-Baselines3 ignores `start`; so does the export, and its contract says so."""
    model = models.tiny(PPO, models.VECTOR, spaces.Discrete(3, start=5))
    contract = export_policy(model, tmp_path / "out", formats=["onnx"]).contract
    assert (contract.action.low, contract.action.high) == (0.0, 2.0)
    assert contract.action_kind is ActionKind.DISCRETE


def test_an_unknown_policy_is_refused_by_name(tmp_path: Path) -> None:
    """What cannot be exported faithfully is refused, and nothing is written."""
    from stable_baselines3.common.policies import BasePolicy

    class Habit(BasePolicy):
        def _predict(self, observation: Any, deterministic: bool = False) -> Any:
            return observation.new_zeros(len(observation), dtype=int)

    with pytest.raises(UnsupportedError, match="policies of class Habit cannot be exported"):
        export_policy(Habit(models.VECTOR, spaces.Discrete(2)), tmp_path / "out", normalizer=False)
    assert not list(tmp_path.iterdir())


def test_a_subclass_with_its_own_prediction_is_refused(tmp_path: Path) -> None:
    """A policy that overrides what `predict()` runs through would be exported without it."""
    from stable_baselines3.common.policies import ActorCriticPolicy

    class Contrary(ActorCriticPolicy):
        def _predict(self, observation: Any, deterministic: bool = False) -> Any:
            return 1 - super()._predict(observation, deterministic)

    model = PPO(Contrary, models.SpacesOnly(models.VECTOR, spaces.Discrete(2)), device="cpu")
    with pytest.raises(UnsupportedError, match=r"Contrary has its own _predict\(\)"):
        export_policy(model, tmp_path / "out")


def test_exporting_leaves_a_live_algorithm_as_it_was(tmp_path: Path) -> None:
    """The training policy keeps its mode, its noise and its gradients."""
    model = models.tiny(SAC, models.VECTOR, models.CONTINUOUS, use_sde=True)
    model.policy.set_training_mode(True)
    noise = model.policy.actor.action_dist.exploration_mat
    export_policy(model, tmp_path / "out", formats=["torchscript"])
    assert model.policy.actor.training
    assert model.policy.actor.action_dist.exploration_mat is noise
    assert all(parameter.requires_grad for parameter in model.policy.actor.parameters())
    assert model.policy.actor.optimizer is not None
