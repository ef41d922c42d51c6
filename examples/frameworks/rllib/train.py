"""Train PPO of RLlib on Pendulum-v1 for some seconds behind MeanStdFilter, and save as RLlib saves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import EnvToModulePipeline, MeanStdFilter
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

CHECKPOINT = Path("runs/pendulum").absolute()
MODULE = CHECKPOINT / "learner_group" / "learner" / "rl_module" / "default_policy"
ENV_TO_MODULE = CHECKPOINT / "env_runner" / "env_to_module_connector"
MODULE_TO_ENV = CHECKPOINT / "env_runner" / "module_to_env_connector"


def train() -> None:
    """Leave a checkpoint."""
    config = (
        PPOConfig()
        .environment("Pendulum-v1")
        .env_runners(num_env_runners=0, env_to_module_connector=lambda env, spaces, device: MeanStdFilter())
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        .training(train_batch_size_per_learner=1024, minibatch_size=256, num_epochs=5, lr=1e-3, gamma=0.95)
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    for _ in range(3):
        algorithm.train()
    algorithm.save_to_path(str(CHECKPOINT))
    algorithm.stop()


def episodes(count: int = 3) -> Iterator[tuple[Any, Any]]:
    """Each observation of some episodes with what RLlib itself does there, between its own connectors."""
    before, after = (
        EnvToModulePipeline.from_checkpoint(str(ENV_TO_MODULE)),
        ModuleToEnvPipeline.from_checkpoint(str(MODULE_TO_ENV)),
    )
    module = RLModule.from_checkpoint(str(MODULE))
    for connector in before:
        if isinstance(connector, MeanStdFilter):
            connector._update_stats = False
    env = gymnasium.make("Pendulum-v1")
    for seed in range(count):
        observation, _ = env.reset(seed=seed)
        episode = SingleAgentEpisode(
            observations=[observation], observation_space=env.observation_space, action_space=env.action_space
        )
        while not episode.is_done:
            shared: dict[str, Any] = {}
            batch = before(episodes=[episode], batch={}, rl_module=module, explore=False, shared_data=shared)
            with torch.no_grad():
                answer = module.forward_inference(batch)
            answer = after(batch=answer, episodes=[episode], rl_module=module, explore=False, shared_data=shared)
            action = answer.get(Columns.ACTIONS_FOR_ENV, answer[Columns.ACTIONS])[0]
            yield observation, action
            observation, reward, terminated, truncated, _ = env.step(action)
            episode.add_env_step(
                observation, answer[Columns.ACTIONS][0], reward, terminated=terminated, truncated=truncated
            )


if __name__ == "__main__":
    train()
    observations, actions = (np.stack(each) for each in zip(*episodes(), strict=True))
    np.savez("episodes.npz", observation=observations, action=actions)
