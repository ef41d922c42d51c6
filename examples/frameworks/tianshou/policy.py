"""What a Tianshou policy does when it evaluates: its statistics, the actor's mean, and `map_action` to the bounds."""

import numpy as np
import torch
from train import CHECKPOINT, make_policy


class Deployed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        saved, policy = torch.load(CHECKPOINT, map_location="cpu", weights_only=False), make_policy()
        policy.load_state_dict(saved["model"])
        self.actor, statistics = policy.actor, saved["obs_rms"]
        self.register_buffer("mean", torch.tensor(statistics.mean))
        self.register_buffer("std", torch.tensor(np.sqrt(statistics.var + statistics.eps)))

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        (mean, std), _ = self.actor(((observation - self.mean) / self.std).clip(-10, 10))
        # The bounds are -2 and 2: one of the actor's units is two of the environment's.
        return {"mean": 2 * mean, "log_std": (2 * std).log()}
