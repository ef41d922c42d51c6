"""Train PPO of TorchRL on Pendulum-v1 for some seconds behind VecNorm, and save as TorchRL's own examples save."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict.nn import AddStateIndependentNormalScale, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import (
    ClipTransform,
    Compose,
    ExplorationType,
    GymEnv,
    ObservationNorm,
    StepCounter,
    Transform,
    TransformedEnv,
    VecNorm,
    set_exploration_type,
)
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

CHECKPOINT = Path("runs/pendulum/checkpoint.pt")
FRAMES, BATCH = 4096, 1024


def make_env(normalization: Transform) -> TransformedEnv:
    """The environment, with `seen` next to the observation: what the actor gets."""
    clip = ClipTransform(in_keys=["seen"], low=-10, high=10)
    return TransformedEnv(GymEnv("Pendulum-v1", device="cpu"), Compose(normalization, clip, StepCounter(200)))


def make_actor() -> ProbabilisticActor:
    """A Gaussian that tanh squashes to the bounds of the action."""
    network = nn.Sequential(
        MLP(in_features=3, out_features=1, num_cells=[64, 64], activation_class=nn.Tanh),
        AddStateIndependentNormalScale(1, scale_lb=1e-8),
    )
    return ProbabilisticActor(
        TensorDictModule(network, in_keys=["seen"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": torch.tensor([-2.0]), "high": torch.tensor([2.0]), "tanh_loc": False},
        return_log_prob=True,
    )


def train() -> None:
    """Leave the actor's weights, and the statistics of its observations."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    vecnorm = VecNorm(in_keys=["observation"], out_keys=["seen"], decay=0.99999, eps=1e-2)
    env, actor = make_env(vecnorm), make_actor()
    env.set_seed(0)
    value = ValueOperator(
        MLP(in_features=3, out_features=1, num_cells=[64, 64], activation_class=nn.Tanh), in_keys=["seen"]
    )
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=value)
    loss = ClipPPOLoss(actor, value)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    for batch in Collector(env, actor, frames_per_batch=BATCH, total_frames=FRAMES):
        for _ in range(10):
            with torch.no_grad():
                advantage(batch)
            for rows in torch.randperm(BATCH).split(256):
                losses = loss(batch.reshape(-1)[rows])
                optimizer.zero_grad()
                sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
                optimizer.step()
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    statistics = {"loc": vecnorm.loc["observation"], "scale": vecnorm.scale["observation"]}
    torch.save({"policy_state_dict": actor.state_dict(), "vecnorm": statistics}, CHECKPOINT)


def episodes(count: int = 3) -> Iterator[tuple[Any, Any]]:
    """Each observation of some episodes with what TorchRL itself does there, with exploration off."""
    saved = torch.load(CHECKPOINT, weights_only=True)
    actor = make_actor()
    actor.load_state_dict(saved["policy_state_dict"])
    env = make_env(
        ObservationNorm(**saved["vecnorm"], in_keys=["observation"], out_keys=["seen"], standard_normal=True)
    )
    for seed in range(count):
        env.set_seed(seed)
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            played = env.rollout(200, actor)
        yield from zip(played["observation"].numpy(), played["action"].numpy(), strict=True)


if __name__ == "__main__":
    train()
    observations, actions = (np.stack(each) for each in zip(*episodes(), strict=True))
    np.savez("episodes.npz", observation=observations, action=actions)
