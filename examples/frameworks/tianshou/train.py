"""Train PPO of Tianshou on Pendulum-v1 for some seconds behind VectorEnvNormObs, and save as its MuJoCo scripts do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, VectorEnvNormObs
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import ActorCritic, Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from torch.distributions import Independent, Normal

CHECKPOINT = Path("runs/pendulum/policy.pth")


def make_actor() -> ContinuousActorProbabilistic:
    """A Gaussian in units in which the bounds of the action are -1 and 1."""
    hidden = Net(state_shape=(3,), hidden_sizes=(64, 64), activation=torch.nn.Tanh)
    return ContinuousActorProbabilistic(preprocess_net=hidden, action_shape=(1,), unbounded=True)


def make_policy() -> ProbabilisticActorPolicy:
    """The policy before training, or before `load_state_dict`."""
    return ProbabilisticActorPolicy(
        actor=make_actor(),
        dist_fn=lambda parameters: Independent(Normal(*parameters), 1),
        deterministic_eval=True,
        action_space=gymnasium.make("Pendulum-v1").action_space,
        action_scaling=True,
        action_bound_method="clip",
    )


def train() -> None:
    """Leave the policy's weights, and the statistics of its observations."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    envs = VectorEnvNormObs(DummyVectorEnv([lambda: gymnasium.make("Pendulum-v1")] * 4))
    policy = make_policy()
    critic = ContinuousCritic(preprocess_net=Net(state_shape=(3,), hidden_sizes=(64, 64), activation=torch.nn.Tanh))
    for module in ActorCritic(policy.actor, critic).modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.orthogonal_(module.weight)
            torch.nn.init.zeros_(module.bias)
    algorithm = PPO(policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=1e-3), gamma=0.95)
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=Collector(algorithm, envs, VectorReplayBuffer(4096, 4)),
            max_epochs=1,
            epoch_num_steps=4096,
            collection_step_num_env_steps=1024,
            update_step_num_repetitions=5,
            batch_size=256,
            test_step_num_episodes=0,
            show_progress=False,
            verbose=False,
        )
    )
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": policy.state_dict(), "obs_rms": envs.get_obs_rms()}, CHECKPOINT)


def episodes(count: int = 3) -> Iterator[tuple[Any, Any]]:
    """Each observation of some episodes with what Tianshou itself does there when it evaluates."""
    # The statistics are a pickled object of Tianshou's.
    saved = torch.load(CHECKPOINT, weights_only=False)
    policy, env = make_policy(), gymnasium.make("Pendulum-v1")
    policy.load_state_dict(saved["model"])
    policy.eval()
    for seed in range(count):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            with torch.no_grad():
                answer = policy(Batch(obs=saved["obs_rms"].norm(observation[None]), info={}))
            action = policy.map_action(answer.act)[0]
            yield observation, action
            observation, _, terminated, truncated, _ = env.step(np.array(action))
            over = terminated or truncated


if __name__ == "__main__":
    train()
    observations, actions = (np.stack(each) for each in zip(*episodes(), strict=True))
    np.savez("episodes.npz", observation=observations, action=actions)
