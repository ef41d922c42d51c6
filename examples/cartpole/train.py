"""Train PPO on CartPole-v1 on the CPU with a fixed seed, and measure what came out.

    python train.py --steps 10000 --output ppo-1.0.0.zip
    python train.py --evaluate ppo-1.0.0.zip

The archive is what Stable-Baselines3 saves, less what no policy needs: the
optimizer's moments and the description of the machine.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

ENVIRONMENT = "CartPole-v1"
LEFT_OUT = "system_info.txt"


def train(steps: int, seed: int, output: Path) -> None:
    """Train for `steps` environment steps and save to `output`."""
    # One thread: sums are then added up in the same order on every machine with this torch.
    torch.set_num_threads(1)
    env = make_vec_env(ENVIRONMENT, n_envs=8, seed=seed)
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=1e-3,
        clip_range=0.2,
        seed=seed,
        device="cpu",
    )
    model.learn(total_timesteps=steps)
    full = output.with_suffix(".full.zip")
    model.policy.optimizer.state.clear()
    model.save(full)
    with zipfile.ZipFile(full) as given, zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as kept:
        for name in given.namelist():
            if name != LEFT_OUT:
                kept.writestr(zipfile.ZipInfo(name), given.read(name), zipfile.ZIP_DEFLATED)
    full.unlink()


def evaluate(archive: Path, episodes: int) -> None:
    """Print the mean return over episodes that are seeded 0, 1, 2, ..."""
    from policyctl_exporters import load_reference

    policy = load_reference(archive, trust_pickle=True)
    env = gymnasium.make(ENVIRONMENT)
    returns = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            action = policy({"observation": observation[None]})["action"][0, 0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    print(f"{archive.name}: {np.mean(returns):.1f} +- {np.std(returns):.1f} over {episodes} episodes")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps to train for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("ppo.zip"))
    parser.add_argument("--evaluate", type=Path, metavar="ARCHIVE", help="measure an archive instead of training")
    parser.add_argument("--episodes", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.evaluate is not None:
        evaluate(arguments.evaluate, arguments.episodes)
    else:
        train(arguments.steps, arguments.seed, arguments.output)


if __name__ == "__main__":
    main()
