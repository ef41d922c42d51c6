"""Short real trainings of every algorithm, with and without a VecNormalize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer

STEPS = 130
ON_POLICY = ("PPO", "A2C", "TRPO")
SEARCH = ("ARS",)
OFF_POLICY = ("SAC", "TD3", "DDPG", "TQC", "CrossQ", "DQN", "QRDQN", "HER")
ALL = (*ON_POLICY, *SEARCH, *OFF_POLICY)
MODES = ("none", "observations", "rewards")


class Reach(gymnasium.Env[Any, Any]):
    """A point that is to be moved to a goal: what hindsight experience replay is for."""

    def __init__(self) -> None:
        part = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"observation": part, "achieved_goal": part, "desired_goal": part})
        self.action_space = spaces.Box(-1.0, 1.0, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = self.np_random.normal(3.0, 2.0, 2).astype(np.float32)
        self.goal = self.np_random.normal(-5.0, 2.0, 2).astype(np.float32)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.at = self.at + np.asarray(action, np.float32)
        self.steps += 1
        reward = float(self.compute_reward(self.at, self.goal, {}))
        return self._observation(), reward, False, self.steps >= 20, {}

    def compute_reward(self, achieved: Any, desired: Any, _info: Any) -> Any:
        return -np.linalg.norm(np.asarray(achieved) - desired, axis=-1)

    def _observation(self) -> dict[str, Any]:
        return {"observation": self.at, "achieved_goal": self.at, "desired_goal": self.goal}


@dataclass(frozen=True)
class Trained:
    """A training that is over.

    Attributes:
        model: The live algorithm.
        env: What it was trained in.
        archive: What it saved.
        normalizer: What its VecNormalize saved; None without one.
    """

    model: Any
    env: Any
    archive: Path
    normalizer: Path | None


def train(name: str, mode: str, folder: Path, *, seed: int = 0) -> Trained:
    """Train one algorithm for a moment and save it.

    Args:
        name: One of `ALL`.
        mode: One of `MODES`: what a VecNormalize normalises.
        folder: Where the files go.
        seed: Of the training.
    """
    maker, policy, algorithm, settings = _recipe(name)
    env: Any = DummyVecEnv([maker])
    if mode != "none":
        env = VecNormalize(env, norm_obs=mode == "observations")
    model = algorithm(policy, env, seed=seed, device="cpu", **settings).learn(STEPS)
    archive, pickled = folder / f"{name}-{mode}-{seed}.zip", folder / f"{name}-{mode}-{seed}.pkl"
    model.save(archive)
    if mode != "none":
        env.save(str(pickled))
    return Trained(model, env, archive, pickled if mode != "none" else None)


def _recipe(name: str) -> tuple[Callable[[], Any], str, Any, dict[str, Any]]:
    small = {"policy_kwargs": {"net_arch": [8]}}
    # What these tests look at does not depend on how much a policy has learnt: few gradient steps are enough.
    replay = {**small, "buffer_size": 200, "learning_starts": 40, "batch_size": 16, "train_freq": 16}
    rollout = {**small, "n_steps": 32, "batch_size": 32}

    def pendulum() -> Any:
        return gymnasium.make("Pendulum-v1", max_episode_steps=50)

    match name:
        case "PPO":
            return pendulum, "MlpPolicy", PPO, {**rollout, "n_epochs": 2}
        case "TRPO":
            return pendulum, "MlpPolicy", TRPO, {**rollout, "n_critic_updates": 2}
        case "A2C":
            return pendulum, "MlpPolicy", A2C, {**small, "n_steps": 26}
        case "ARS":
            return pendulum, "LinearPolicy", ARS, {"n_delta": 1}
        case "HER":
            return Reach, "MultiInputPolicy", SAC, {**replay, "replay_buffer_class": HerReplayBuffer}
        case "DQN" | "QRDQN":
            return lambda: gymnasium.make("CartPole-v1"), "MlpPolicy", {"DQN": DQN, "QRDQN": QRDQN}[name], replay
    algorithm = {"SAC": SAC, "TD3": TD3, "DDPG": DDPG, "TQC": TQC, "CrossQ": CrossQ}[name]
    return pendulum, "MlpPolicy", algorithm, replay
