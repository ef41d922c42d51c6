"""Train PPO of skrl on Pendulum-v1 for some seconds, with its scaler of observations, and save as skrl saves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.trainers.torch import SequentialTrainer, SequentialTrainerCfg
from skrl.utils import set_seed

CHECKPOINT = Path("runs/pendulum/checkpoints/agent_1024.pt")
STEPS = 1024


class Policy(GaussianMixin, Model):
    def __init__(self, observation_space: Any, action_space: Any, device: str = "cpu") -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device=device)
        GaussianMixin.__init__(self, clip_mean_actions=True)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(self.num_observations, 64),
            torch.nn.ELU(),
            torch.nn.Linear(64, 64),
            torch.nn.ELU(),
            torch.nn.Linear(64, self.num_actions),
        )
        self.log_std_parameter = torch.nn.Parameter(torch.zeros(self.num_actions))

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {"log_std": self.log_std_parameter}


class Value(DeterministicMixin, Model):
    def __init__(self, observation_space: Any, action_space: Any, device: str = "cpu") -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device=device)
        DeterministicMixin.__init__(self)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(self.num_observations, 64), torch.nn.ELU(), torch.nn.Linear(64, 1)
        )

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


def make_agent(env: Any) -> PPO:
    """The agent before training, or before `load`."""
    spaces = env.observation_space, env.action_space
    scaler = {"size": env.observation_space, "device": env.device}
    cfg = PPO_CFG(
        rollouts=128,
        learning_epochs=4,
        mini_batches=4,
        learning_rate=1e-3,
        observation_preprocessor=RunningStandardScaler,
        observation_preprocessor_kwargs=scaler,
        value_preprocessor=RunningStandardScaler,
        value_preprocessor_kwargs={"size": 1, "device": env.device},
    )
    cfg.experiment.directory, cfg.experiment.experiment_name = "runs", CHECKPOINT.parts[1]
    cfg.experiment.write_interval, cfg.experiment.checkpoint_interval = 0, STEPS
    return PPO(
        models={"policy": Policy(*spaces), "value": Value(*spaces)},
        memory=RandomMemory(memory_size=128, num_envs=env.num_envs, device=env.device),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
        cfg=cfg,
    )


def train() -> None:
    """Leave the checkpoint."""
    set_seed(0)
    env = wrap_env(gymnasium.make_vec("Pendulum-v1", num_envs=4, vectorization_mode="sync"))
    cfg = SequentialTrainerCfg(timesteps=STEPS, headless=True, disable_progressbar=True)
    SequentialTrainer(cfg=cfg, env=env, agents=make_agent(env)).train()


def episodes(count: int = 3) -> Iterator[tuple[Any, Any]]:
    """Each observation of some episodes with what skrl itself does there: the mean, as when it evaluates."""
    env = gymnasium.make("Pendulum-v1")
    agent = make_agent(wrap_env(env))
    agent.init()
    agent.load(str(CHECKPOINT))
    agent.enable_training_mode(False, apply_to_models=True)
    for seed in range(count):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            with torch.no_grad():
                _, outputs = agent.act(torch.from_numpy(observation)[None], None, timestep=0, timesteps=0)
            action = outputs["mean_actions"][0].numpy()
            yield observation, action
            observation, _, terminated, truncated, _ = env.step(np.array(action))
            over = terminated or truncated


if __name__ == "__main__":
    train()
    observations, actions = (np.stack(each) for each in zip(*episodes(), strict=True))
    np.savez("episodes.npz", observation=observations, action=actions)
