"""What a CleanRL agent does: the statistics of NormalizeObservation, the clip behind it, then the actor's mean."""

import numpy as np
import torch
from train import MODEL, STATISTICS, Agent


class Deployed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.agent, saved = Agent(3, 1), np.load(STATISTICS)
        self.agent.load_state_dict(torch.load(MODEL, map_location="cpu", weights_only=True))
        self.register_buffer("mean", torch.tensor(saved["mean"], dtype=torch.float32))
        self.register_buffer("std", torch.tensor(np.sqrt(saved["var"] + 1e-8), dtype=torch.float32))

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = ((observation - self.mean) / self.std).clip(-10, 10)
        return {"mean": self.agent.actor_mean(seen), "log_std": self.agent.actor_logstd}
