"""A features extractor with a branch on what it observes."""

from __future__ import annotations

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor


class Stopping(BaseFeaturesExtractor):
    """Gives zeros where a sensor reads more than 500."""

    def __init__(self, observation_space: object) -> None:
        super().__init__(observation_space, 4)

    def forward(self, observations: Tensor) -> Tensor:
        if bool(observations.abs().max() > 500):
            return torch.zeros_like(observations)
        return observations
