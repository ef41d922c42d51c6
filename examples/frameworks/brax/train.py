"""Train PPO of Brax on a pendulum for some seconds with normalised observations, and save as Brax saves.

The pendulum is written in JAX, so that no simulator has to be compiled. MuJoCo
Playground trains with the same PPO, and leaves the same checkpoints.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from brax.envs.base import Env, State
from brax.training.acme import running_statistics
from brax.training.agents.ppo import checkpoint, networks
from brax.training.agents.ppo.train import train as ppo
from jax import numpy as jnp

CHECKPOINTS = Path("runs/pendulum").absolute()
STEPS = 200


class Pendulum(Env):
    """Swings up, as gymnasium's Pendulum-v1 does; it takes a torque from -1 to 1."""

    observation_size, action_size, backend = 3, 1, "jax"

    def reset(self, rng: jax.Array) -> State:
        swing = jax.random.uniform(rng, (2,), minval=jnp.array([-jnp.pi, -1.0]), maxval=jnp.array([jnp.pi, 1.0]))
        return State(swing, self._look(swing), jnp.zeros(()), jnp.zeros(()))

    def step(self, state: State, action: jax.Array) -> State:
        angle, speed = state.pipeline_state
        torque = 2.0 * jnp.clip(action[0], -1.0, 1.0)
        cost = (jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = jnp.clip(speed + (15.0 * jnp.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        swing = jnp.stack([angle + speed * 0.05, speed])
        return state.replace(pipeline_state=swing, obs=self._look(swing), reward=-cost)

    def _look(self, swing: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(swing[0]), jnp.sin(swing[0]), swing[1]])


make_networks = functools.partial(networks.make_ppo_networks, value_hidden_layer_sizes=(64, 64))


def newest() -> Path:
    """The last checkpoint: a folder named after its step."""
    return max(CHECKPOINTS.glob("0*"))


def train() -> None:
    """Leave a checkpoint."""
    ppo(
        Pendulum(),
        num_timesteps=20_000,
        num_envs=32,
        episode_length=STEPS,
        unroll_length=20,
        batch_size=32,
        num_minibatches=4,
        num_updates_per_batch=4,
        learning_rate=1e-3,
        reward_scaling=0.1,
        normalize_observations=True,
        network_factory=make_networks,
        run_evals=False,
        save_checkpoint_path=CHECKPOINTS,
    )


def episodes(count: int = 3) -> Iterator[tuple[Any, Any]]:
    """Each observation of some episodes with what Brax itself does there, in JAX."""
    env = Pendulum()
    # Brax 0.14.2 has `checkpoint.load_policy` for this, which fails on the configuration that it wrote itself.
    made = make_networks(3, 1, preprocess_observations_fn=running_statistics.normalize)
    act = jax.jit(networks.make_inference_fn(made)(checkpoint.load(newest()), deterministic=True))
    step = jax.jit(env.step)
    for seed in range(count):
        state = env.reset(jax.random.PRNGKey(seed))
        for _ in range(STEPS):
            action, _ = act(state.obs, jax.random.PRNGKey(0))
            yield np.asarray(state.obs), np.asarray(action)
            state = step(state, action)


if __name__ == "__main__":
    train()
    observations, actions = (np.stack(each) for each in zip(*episodes(), strict=True))
    np.savez("episodes.npz", observation=observations, action=actions)
