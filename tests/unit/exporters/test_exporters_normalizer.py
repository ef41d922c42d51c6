"""The normaliser is part of the graph, as accurate as the float64 arithmetic it replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exporter_models as models
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policyctl.domain.artifacts import Format
from policyctl.domain.manifest import digest_of
from policyctl.errors import ParityError, UsageError
from policyctl.services.cards.check import check_folder
from policyctl_exporters import export_policy
from policyctl_exporters.normalizer import FLAT, Normalizer, Statistics, read_normalizer
from policyctl_exporters.runtimes import open_runner

CPU_FORMATS = (Format.ONNX, Format.OPENVINO, Format.TORCHSCRIPT)


def _wrapped(space: Any, **settings: Any) -> VecNormalize:
    env = DummyVecEnv([lambda: models.SpacesOnly(space, spaces.Discrete(3))])
    return VecNormalize(env, **settings)


def test_a_large_mean_and_a_small_spread_keep_their_digits(tmp_path: Path) -> None:
    """At a mean of 10,000 spreads every format still agrees with `VecNormalize` and `predict()`."""
    rng = np.random.default_rng(0)
    statistics = _wrapped(models.VECTOR)
    statistics.obs_rms.mean = rng.normal(size=5) * 1e3
    statistics.obs_rms.var = np.full(5, 1e-2)
    model = models.tiny(PPO, models.VECTOR, models.CONTINUOUS)
    result = export_policy(model, tmp_path / "out", normalizer=statistics)
    raw = (statistics.obs_rms.mean + 0.1 * rng.normal(size=(40, 5))).astype(np.float32)
    expected, _ = model.predict(statistics.normalize_obs(raw), deterministic=True)
    for form in CPU_FORMATS:
        found = open_runner(form, tmp_path / "out", result.contract)({"observation": raw})
        np.testing.assert_allclose(found["action"], expected, atol=1e-5)


def test_a_saved_normaliser_says_the_same_as_the_live_one(tmp_path: Path) -> None:
    """The pickle is read without its class, and loses nothing."""
    live = _wrapped(models.VECTOR, clip_obs=3.0, epsilon=1e-3)
    live.obs_rms.update(np.random.default_rng(0).normal(2.0, 5.0, (50, 5)))
    live.save(str(tmp_path / "vecnormalize.pkl"))
    saved, file = read_normalizer(tmp_path / "vecnormalize.pkl", trust_pickle=True)
    assert file == ("vecnormalize.pkl", digest_of((tmp_path / "vecnormalize.pkl").read_bytes()))
    assert saved is not None
    rows = np.random.default_rng(1).normal(2.0, 9.0, (30, 5)).astype(np.float32)
    np.testing.assert_array_equal(saved.apply(FLAT, rows), live.normalize_obs(rows))


def test_only_the_keys_that_were_normalised_are(tmp_path: Path) -> None:
    """With `norm_obs_keys` one part of a Dict is normalised and the other passes."""
    space = spaces.Dict({"a": spaces.Box(-9.0, 9.0, (3,)), "b": spaces.Box(-1.0, 1.0, (2,))})
    statistics = _wrapped(space, norm_obs_keys=["a"])
    statistics.obs_rms["a"].mean = np.array([1.0, -2.0, 3.0])
    statistics.obs_rms["a"].var = np.array([4.0, 0.25, 9.0])
    model = models.tiny(PPO, space, spaces.Discrete(3), policy="MultiInputPolicy")
    result = export_policy(model, tmp_path / "out", normalizer=statistics)
    rng = np.random.default_rng(2)
    raw = {
        "a": rng.uniform(-9, 9, (20, 3)).astype(np.float32),
        "b": rng.uniform(-1, 1, (20, 2)).astype(np.float32),
    }
    expected, _ = model.predict(statistics.normalize_obs(raw), deterministic=True)
    for form in CPU_FORMATS:
        found = open_runner(form, tmp_path / "out", result.contract)(raw)
        assert found["action"][:, 0].tolist() == expected.tolist()


def test_a_live_algorithms_own_normaliser_is_found(tmp_path: Path) -> None:
    """`export_policy(model, folder)` in a training script takes the statistics along."""
    env = _wrapped(models.VECTOR)
    env.obs_rms.mean = np.full(5, 7.0)
    model = PPO("MlpPolicy", env, device="cpu", policy_kwargs=dict(models.SMALL))
    result = export_policy(model, tmp_path / "out", formats=["onnx"])
    found = check_folder(tmp_path / "out")
    assert found.problems == ()
    assert found.card is not None
    assert found.card.provenance is not None
    assert found.card.provenance.source is not None
    assert found.card.provenance.source.normalizer == "live"
    assert found.card.training is not None
    assert (found.card.training.algorithm, found.card.training.environments) == ("PPO", 1)
    assert found.card.training.hyperparameters["gamma"] == 0.99
    raw = np.full((1, 5), 7.5, np.float32)
    runner = open_runner(Format.ONNX, tmp_path / "out", result.contract)
    import torch

    with torch.no_grad():
        want = model.policy.get_distribution(torch.from_numpy(env.normalize_obs(raw))).distribution.logits
    found = runner({"observation": raw})["logits"]
    np.testing.assert_allclose(found - found.mean(), want - want.mean(), atol=1e-6)


def test_a_normaliser_of_rewards_only_changes_no_observation() -> None:
    """`norm_obs=False` means that observations were left alone."""
    wrapper = _wrapped(models.VECTOR, norm_obs=False)
    assert read_normalizer(wrapper, trust_pickle=False) == (None, None)


def test_statistics_of_another_policy_are_refused(tmp_path: Path, ppo: Any) -> None:
    """Statistics of another shape, or by key for a plain observation, do not fit."""
    other = Normalizer({FLAT: Statistics(np.zeros(4), np.ones(4))}, clip_obs=10.0, epsilon=1e-8)
    keyed = Normalizer({"a": Statistics(np.zeros(4), np.ones(4))}, clip_obs=10.0, epsilon=1e-8)
    for wrong in (other, keyed):
        with pytest.raises(UsageError, match="normalizer"):
            export_policy(ppo, tmp_path / "out", normalizer=wrong)


def _float64(mean: float, std: float) -> tuple[Any, Any, Normalizer]:
    space = spaces.Box(-np.inf, np.inf, (5,), np.float64)
    normalizer = Normalizer({FLAT: Statistics(np.full(5, mean), np.full(5, std**2))}, clip_obs=10.0, epsilon=0.0)
    return models.tiny(PPO, space, models.CONTINUOUS), space, normalizer


def test_float64_observations_are_normalised_in_float64(tmp_path: Path) -> None:
    """The contract keeps float64, and where float32 would lose everything onnx and torchscript do not."""
    model, _, normalizer = _float64(1e6, 1e-3)
    result = export_policy(model, tmp_path / "out", normalizer=normalizer, formats=["onnx", "torchscript"])
    assert result.contract.observations[0].dtype == "float64"
    assert result.parity[0].max_abs["action"] < 1e-5


def test_openvino_is_refused_where_float32_cannot_hold_the_observation(tmp_path: Path) -> None:
    """OpenVINO turns float64 into float32; where that changes the action, parity says so and why."""
    model, _, normalizer = _float64(1e6, 1e-3)
    with pytest.raises(ParityError, match="openvino") as refusal:
        export_policy(model, tmp_path / "out", normalizer=normalizer, formats=["openvino"])
    assert "float32" in refusal.value.remedy
    easy, _, usual = _float64(3.0, 0.5)
    export_policy(easy, tmp_path / "out", normalizer=usual, formats=["openvino"])
