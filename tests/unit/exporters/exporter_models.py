"""Tiny policies of every algorithm and space, built without training.

Weights are drawn large enough that every output depends visibly on every
input: an untrained policy's answers are near zero, and a broken export of it
would look right.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

SMALL = {"net_arch": [16, 16]}
CONTINUOUS = spaces.Box(np.array([-2.0, -0.5], np.float32), np.array([2.0, 1.5], np.float32))
VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
MIXED = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (1, 36, 36), np.uint8),
        "joint angles": spaces.Box(-3.0, 3.0, (4,), np.float32),
        "mode": spaces.Discrete(3),
    }
)


class SpacesOnly(gymnasium.Env[Any, Any]):
    """An environment of which only the spaces matter."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


def tiny(
    algorithm: type[Any],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    *,
    policy: str = "MlpPolicy",
    seed: int = 0,
    **settings: Any,
) -> Any:
    """An untrained algorithm on the CPU whose weights are not small."""
    settings.setdefault("policy_kwargs", dict(SMALL) if policy != "LinearPolicy" else {})
    if issubclass(algorithm, _off_policy()):
        settings.setdefault("buffer_size", 10)
    model = algorithm(policy, SpacesOnly(observation_space, action_space), device="cpu", seed=seed, **settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            if parameter.ndim > 1:
                fan = parameter[0].numel()
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1.5 * noise / np.sqrt(fan))
            else:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def _off_policy() -> Any:
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    return OffPolicyAlgorithm
