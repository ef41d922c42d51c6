"""What a TorchRL actor does with exploration off: VecNorm's statistics, the clip behind it, the mean, tanh, bounds."""

import torch
from train import CHECKPOINT, make_actor


class Deployed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        saved, actor = torch.load(CHECKPOINT, map_location="cpu", weights_only=True), make_actor()
        actor.load_state_dict(saved["policy_state_dict"])
        self.network = actor.module[0].module
        self.register_buffer("loc", saved["vecnorm"]["loc"])
        self.register_buffer("scale", saved["vecnorm"]["scale"])

    def forward(self, observation: torch.Tensor) -> dict[str, torch.Tensor]:
        mean, std = self.network(((observation - self.loc) / self.scale).clip(-10, 10))
        return {"action": 2 * mean.tanh(), "mean": mean, "log_std": std.log()}
