"""Train PPO on Pendulum-v1 for some seconds, in the form of CleanRL's ppo_continuous_action.py, and save as it saves.

`Agent` has the layers of that script, so its files load here. The script
trains behind NormalizeObservation and saves the agent without the wrapper's
statistics. Here the last lines of `train` save those as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.distributions.normal import Normal

MODEL = Path("runs/Pendulum-v1__ppo_continuous_action__1/ppo_continuous_action.cleanrl_model")
STATISTICS = MODEL.with_name("obs_rms.npz")
ENVS, STEPS, ITERATIONS, GAMMA, LAMBDA = 4, 256, 4, 0.99, 0.95


class Raw(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Keeps the observation as the environment gave it."""

    def observation(self, observation: Any) -> Any:
        self.last = observation
        return observation


def make_env() -> Any:
    """The environment as the script wraps it."""
    env = gymnasium.wrappers.ClipAction(Raw(gymnasium.make("Pendulum-v1")))
    normalized = gymnasium.wrappers.NormalizeObservation(env)
    return gymnasium.wrappers.TransformObservation(
        normalized, lambda seen: np.clip(seen, -10, 10), normalized.observation_space
    )


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of 64."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


class Agent(nn.Module):
    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.critic = network(observations, 1)
        self.actor_mean = network(observations, actions)
        self.actor_logstd = nn.Parameter(torch.zeros(1, actions))

    def law(self, seen: torch.Tensor) -> Normal:
        mean = self.actor_mean(seen)
        return Normal(mean, self.actor_logstd.expand_as(mean).exp())


def collect(envs: list[Any], seen: torch.Tensor, agent: Agent) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Some steps of every environment with advantages and returns, and the observations after them."""
    steps: list[tuple[torch.Tensor, ...]] = []
    for _ in range(STEPS):
        with torch.no_grad():
            law, value = agent.law(seen), agent.critic(seen)[:, 0]
            action = law.sample()
        following, rewards, overs = [], [], []
        for env, chosen in zip(envs, action.numpy(), strict=True):
            after, reward, terminated, truncated, _ = env.step(chosen)
            rewards.append(float(reward) / 10)
            overs.append(float(terminated or truncated))
            following.append(env.reset()[0] if terminated or truncated else after)
        steps.append((seen, action, law.log_prob(action).sum(1), value, torch.tensor(rewards), torch.tensor(overs)))
        seen = torch.tensor(np.stack(following), dtype=torch.float32)
    observations, actions, likelihoods, values, earned, ended = (torch.stack(each) for each in zip(*steps, strict=True))
    with torch.no_grad():
        following_value, running = agent.critic(seen)[:, 0], torch.zeros(len(envs))
    advantages = torch.zeros_like(earned)
    for at in reversed(range(STEPS)):
        goes_on = 1 - ended[at]
        running = earned[at] + GAMMA * following_value * goes_on - values[at] + GAMMA * LAMBDA * goes_on * running
        advantages[at], following_value = running, values[at]
    batch = {"seen": observations, "action": actions, "likelihood": likelihoods, "advantage": advantages}
    batch["return"] = advantages + values
    return {name: value.flatten(0, 1) for name, value in batch.items()}, seen


def train() -> None:
    """Leave the agent's weights, and the statistics of its observations."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    envs, agent = [make_env() for _ in range(ENVS)], Agent(3, 1)
    for env in envs[1:]:
        env.env.obs_rms = envs[0].env.obs_rms
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3, eps=1e-5)
    seen = torch.tensor(np.stack([env.reset(seed=at)[0] for at, env in enumerate(envs)]), dtype=torch.float32)
    for _ in range(ITERATIONS):
        batch, seen = collect(envs, seen, agent)
        for rows in (torch.randperm(ENVS * STEPS).chunk(4) for _ in range(10)):
            for some in rows:
                ratio = (
                    (agent.law(batch["seen"][some]).log_prob(batch["action"][some]).sum(1))
                    .sub(batch["likelihood"][some])
                    .exp()
                )
                gain = batch["advantage"][some]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                loss = -torch.min(gain * ratio, gain * ratio.clamp(0.8, 1.2)).mean()
                loss = loss + 0.5 * (agent.critic(batch["seen"][some])[:, 0] - batch["return"][some]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    torch.save(agent.state_dict(), MODEL)
    # What the script leaves out: without it, nobody knows what the agent's numbers mean.
    statistics = envs[0].get_wrapper_attr("obs_rms")
    np.savez(STATISTICS, mean=statistics.mean, var=statistics.var)


def episodes(count: int = 3) -> Iterator[tuple[Any, Any]]:
    """Each observation of some episodes with what the agent does there, behind the wrappers that it trained with.

    CleanRL draws every action, also when it evaluates. What it draws around is the action without chance.
    """
    agent, env = Agent(3, 1), make_env()
    agent.load_state_dict(torch.load(MODEL, weights_only=True))
    wrapper, saved = env.env, np.load(STATISTICS)
    wrapper.obs_rms.mean, wrapper.obs_rms.var, wrapper.update_running_mean = saved["mean"], saved["var"], False
    for seed in range(count):
        seen, _ = env.reset(seed=seed)
        over = False
        while not over:
            with torch.no_grad():
                action = agent.actor_mean(torch.tensor(seen[None], dtype=torch.float32))[0].numpy()
            yield env.get_wrapper_attr("last"), np.clip(action, -2, 2)
            seen, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated


if __name__ == "__main__":
    train()
    observations, actions = (np.stack(each) for each in zip(*episodes(), strict=True))
    np.savez("episodes.npz", observation=observations, action=actions)
