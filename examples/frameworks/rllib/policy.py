"""What an RLlib module does without exploration: MeanStdFilter, the module's mean, and the action's bounds."""

import math

import torch
from ray.rllib.connectors.env_to_module import EnvToModulePipeline, MeanStdFilter
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.filter import SMALL_NUMBER, RunningStat
from train import ENV_TO_MODULE, MODULE


class Deployed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = RLModule.from_checkpoint(str(MODULE))
        connectors = EnvToModulePipeline.from_checkpoint(str(ENV_TO_MODULE))
        (scale,) = (each.get_state()[None] for each in connectors if isinstance(each, MeanStdFilter))
        statistics = RunningStat.from_state(scale["running_stats"][0])
        self.register_buffer("mean", torch.tensor(statistics.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(statistics.std + SMALL_NUMBER, dtype=torch.float32))

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = ((observation - self.mean) / self.std).clip(-10, 10)
        mean, log_std = self.module.forward_inference({"obs": seen})["action_dist_inputs"].chunk(2, dim=1)
        # The bounds are -2 and 2: one of the module's units is two of the environment's.
        return {"mean": 2 * mean, "log_std": log_std + math.log(2)}
