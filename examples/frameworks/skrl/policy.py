"""What a skrl checkpoint does when it is evaluated: its scaler of observations, then the mean of its Gaussian."""

import torch
from gymnasium.spaces import Box
from skrl.resources.preprocessors.torch import RunningStandardScaler
from train import CHECKPOINT, Policy


class Deployed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        saved = torch.load(CHECKPOINT, map_location="cpu", weights_only=True)
        self.scaler, self.policy = RunningStandardScaler(3), Policy(Box(-1, 1, (3,)), Box(-2, 2, (1,)))
        self.scaler.load_state_dict(saved["observation_preprocessor"])
        self.policy.load_state_dict(saved["policy"])

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        mean, outputs = self.policy.compute({"observations": self.scaler(observation)}, role="policy")
        return {"mean": mean, "log_std": outputs["log_std"]}
