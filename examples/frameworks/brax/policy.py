"""What a Brax policy does when it is deterministic, in torch: its statistics, its layers with swish, the mean, tanh."""

import numpy as np
import torch
from brax.training.agents.ppo import checkpoint
from torch.nn.functional import silu, softplus
from train import newest


class Deployed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        normalizer, policy, _ = checkpoint.load(newest())
        self.register_buffer("mean", torch.tensor(np.asarray(normalizer.mean)))
        self.register_buffer("std", torch.tensor(np.asarray(normalizer.std)))
        self.layers = torch.nn.ModuleList()
        for number in range(len(policy["params"])):
            held = {name: torch.tensor(np.asarray(x)) for name, x in policy["params"][f"hidden_{number}"].items()}
            layer = torch.nn.Linear(*held["kernel"].shape)
            layer.load_state_dict({"weight": held["kernel"].T, "bias": held["bias"]})
            self.layers.append(layer)

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = (observation - self.mean) / self.std
        for layer in self.layers[:-1]:
            seen = silu(layer(seen))
        mean, spread = self.layers[-1](seen).chunk(2, dim=1)
        return {"action": mean.tanh(), "mean": mean, "log_std": (softplus(spread) + 0.001).log()}
