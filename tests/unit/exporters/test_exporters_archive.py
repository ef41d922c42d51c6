"""Archives of every age become the policy that was saved."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import exporter_models as models
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy

from policyctl.demo.place import ARCHIVES
from policyctl.errors import UnsupportedError
from policyctl_exporters import load_reference
from policyctl_exporters.sb3_archive import build_policy, read_archive


@pytest.mark.parametrize("algorithm", [PPO, A2C, TRPO, DQN, QRDQN, SAC, TD3, DDPG, TQC, CrossQ, ARS])
def test_an_archive_gives_the_saved_policy_and_its_algorithm(algorithm: Any, tmp_path: Path) -> None:
    """What is read from the file predicts what the live algorithm predicts, bit by bit."""
    discrete = algorithm in (DQN, QRDQN)
    settings = {"zero_policy": False} if algorithm is ARS else {}
    actions = spaces.Discrete(3) if discrete else models.CONTINUOUS
    model = models.tiny(algorithm, models.VECTOR, actions, **settings)
    model.save(tmp_path / "model.zip")
    trained = read_archive(tmp_path / "model.zip", trust_pickle=True)
    assert trained.algorithm == algorithm.__name__
    # Without unpickling anything DDPG looks like TD3; its card gets the name that the policy gave.
    assert trained.training["algorithm"] == ("TD3" if algorithm is DDPG else algorithm.__name__)
    assert trained.training["framework"]["version"] == version("stable-baselines3")
    assert trained.training["environments"] == 1
    rows = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    expected, _ = model.predict(rows, deterministic=True)
    found, _ = trained.policy.predict(rows, deterministic=True)
    np.testing.assert_array_equal(found, expected)
    answers = load_reference(tmp_path / "model.zip", normalizer=False, trust_pickle=True)({"observation": rows})
    np.testing.assert_array_equal(answers["action"].reshape(expected.shape), expected)


def test_an_extractor_that_once_had_one_name_has_three() -> None:
    """Before 1.7 the features extractor was saved once."""
    policy = models.tiny(PPO, models.IMAGE, spaces.Discrete(3), policy="CnnPolicy").policy
    state = {
        key: value
        for key, value in policy.state_dict().items()
        if not key.startswith(("pi_features_extractor", "vf_features_extractor"))
    }
    again = build_policy(type(policy), models.IMAGE, spaces.Discrete(3), dict(models.SMALL), use_sde=False, state=state)
    image = models.IMAGE.sample()[None]
    with torch.no_grad():
        first, second = (p.get_distribution(torch.from_numpy(image)).distribution.logits for p in (policy, again))
    torch.testing.assert_close(first, second)


def test_layers_that_actor_and_critic_once_shared_are_copied_to_both() -> None:
    """Before 1.8 `net_arch=[32, dict(pi=[16], vf=[8])]` shared its first layer."""
    torch.manual_seed(0)
    shapes = {
        "mlp_extractor.shared_net.0": (32, 5),
        "mlp_extractor.policy_net.0": (16, 32),
        "mlp_extractor.value_net.0": (8, 32),
        "action_net": (3, 16),
        "value_net": (1, 8),
    }
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(shape), torch.randn(shape[0])
    arch = {"net_arch": [32, {"pi": [16], "vf": [8]}]}
    policy = build_policy(ActorCriticPolicy, models.VECTOR, spaces.Discrete(3), arch, use_sde=False, state=state)
    x = torch.randn(4, 5)
    hidden = x
    for name in ("mlp_extractor.shared_net.0", "mlp_extractor.policy_net.0"):
        hidden = torch.tanh(hidden @ state[f"{name}.weight"].T + state[f"{name}.bias"])
    want = hidden @ state["action_net.weight"].T + state["action_net.bias"]
    with torch.no_grad():
        found = policy.get_distribution(x).distribution.logits
    torch.testing.assert_close(found, want - want.logsumexp(dim=1, keepdim=True))


def test_an_unknown_argument_is_refused_and_not_dropped() -> None:
    """An argument that today's class does not know might have changed the answer."""
    with pytest.raises(UnsupportedError, match="secret_sauce"):
        build_policy(
            ActorCriticPolicy,
            models.VECTOR,
            spaces.Discrete(3),
            {"secret_sauce": True},
            use_sde=False,
            state={},
        )


@pytest.mark.parametrize("release", ["1.0.0", "1.1.0"])
def test_the_example_policies_are_exported(release: str, tmp_path: Path) -> None:
    """The committed CartPole archives are small, readable and whole."""
    from policyctl_exporters import export_policy

    path = ARCHIVES / f"ppo-{release}.zip"
    assert path.stat().st_size < 100_000
    result = export_policy(path, tmp_path / "out", trust_pickle=True, feature_names=["x", "v", "a", "w"])
    assert result.contract.observations[0].feature(2) == "observation[2] (a)"
