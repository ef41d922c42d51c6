"""Play episodes of an environment with many observations to a request.

Environments step in lockstep, and one call of `act` answers for all that are
still running, so a served policy is asked for batches. Every episode begins
from its own seed and the environments share nothing, so the same seeds and the
same policy give the same returns however many run side by side.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.errors import UnsupportedError, UsageError

OBSERVATION = "observation"
"""What the observation is called where the environment gives only one."""

Act = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """What came of the episodes, in the order of their seeds.

    Attributes:
        env_id: Which environment.
        seeds: One an episode.
        returns: Undiscounted sums of rewards, shape (n,).
        lengths: Steps, shape (n,).
        actions: Every action of each episode, if asked for; else empty.
    """

    env_id: str
    seeds: tuple[int, ...]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    actions: tuple[NDArray[Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object, without the actions."""
        return {
            "env_id": self.env_id,
            "seeds": list(self.seeds),
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
        }


def rollout(
    env_id: str,
    act: Act,
    seeds: Sequence[int],
    *,
    max_parallel: int = 64,
    env_kwargs: Mapping[str, Any] | None = None,
    log_actions: bool = False,
    max_steps: int | None = None,
) -> RolloutResult:
    """Play one episode for each seed.

    Args:
        env_id: A Gymnasium id.
        act: From observations by name, each of shape (n, *shape), to actions
            of shape (n, *action shape); a discrete action may be (n,) or
            (n, 1). An environment of one observation gives it as `OBSERVATION`;
            one with a dictionary gives its keys. A scalar observation has
            shape (n, 1), as in a contract.
        seeds: One an episode.
        max_parallel: Most environments at a time; the batch is kept full while
            there are seeds left.
        env_kwargs: For ``gymnasium.make``.
        log_actions: Keep every action.
        max_steps: End each episode there; None leaves it to the environment.

    Raises:
        UsageError: There is no such environment, or its spaces are not served.
        UnsupportedError: Gymnasium, or what the environment needs, is not installed.
    """
    if not seeds or max_parallel < 1:
        raise UsageError(f"{len(seeds)} seeds and max_parallel {max_parallel}, expected at least 1 of each")
    waiting = deque(enumerate(seeds))
    ended: dict[int, _Episode] = {}
    with contextlib.ExitStack() as stack:
        running = []
        for _ in range(min(max_parallel, len(seeds))):
            env = make(env_id, env_kwargs)
            stack.callback(env.close)
            running.append(_Episode.begin(env, *waiting.popleft()))
        while running:
            actions = act(_batch(running))
            if len(actions) != len(running):
                raise UsageError(f"act gave {len(actions)} actions for {len(running)} observations")
            for episode, action in zip(running, actions, strict=True):
                episode.step(action, log=log_actions)
                if episode.done or episode.steps == max_steps:
                    ended[episode.index] = episode
            following = [_following(e, waiting) if e.index in ended else e for e in running]
            running = [episode for episode in following if episode is not None]
    return _result(env_id, seeds, ended, log_actions=log_actions)


def make(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> Any:
    """The environment `env_id`.

    Raises:
        UsageError: There is no such environment; names the version that there is.
        UnsupportedError: Gymnasium, or what the environment needs, is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise UnsupportedError("gymnasium is not installed, which plays the episodes", remedy=_INSTALL) from error
    try:
        return gymnasium.make(env_id, **(env_kwargs or {}))
    except gymnasium.error.DependencyNotInstalled as error:
        # gymnasium names the command itself; where it names several, the last is its own package.
        named = re.findall(r"pip install [^`']+", str(error))
        remedy = f"Install it: {named[-1]}" if named else _INSTALL
        raise UnsupportedError(f"environment {env_id} needs more: {_plain(error)}", remedy=remedy) from error
    except ImportError as error:
        missing = str(error.name or getattr(error.__cause__, "name", None) or "a module")
        raise UnsupportedError(
            f"environment {env_id} needs {missing}, which is not installed",
            remedy=f"Install it: pip install '{_PACKAGES.get(missing, missing)}'",
        ) from error
    except gymnasium.error.Error as error:
        raise UsageError(
            f"environment {env_id!r} cannot be made: {_plain(error)}", remedy=_suggestion(env_id)
        ) from error


_INSTALL = "Install it: pip install 'policyctl[evaluate]'"

_PLUG_INS = {"ALE": "ale_py", "MiniGrid": "minigrid", "BabyAI": "minigrid", "dm_control": "shimmy", "PyFlyt": "PyFlyt"}
"""The module that registers environments whose ids begin so; gymnasium imports it where the id names it."""

_PACKAGES = {"ale_py": "ale-py", "shimmy": "shimmy[dm-control]", "PyFlyt": "pyflyt", "jax": "gymnasium[jax]"}
"""What to install for a module, where that is called otherwise."""


def _suggestion(env_id: str) -> str:
    """Which environment of this name there is, newest first."""
    from gymnasium.envs.registration import registry

    named, _, own = env_id.rpartition(":")
    name = re.sub(r"-v\d+$", "", own)
    versions = [spec.version for spec in registry.values() if spec.name == name.rpartition("/")[2]]
    numbers = sorted(version for version in versions if version is not None)
    if not numbers:
        if named:
            return f"Check the name: {named} registers no {own}."
        module = _PLUG_INS.get(re.split(r"[/-]", own)[0])
        package = f"pip install '{_PACKAGES.get(module, module)}'" if module else "find the package that registers it"
        return (
            f"Check the name. Where it belongs to another package: {package},"
            f" and name the module with it, {module or 'MODULE'}:{env_id}"
        )
    return (
        f"This gymnasium has {name}-v{numbers[-1]}. Where the two versions differ in dynamics,"
        " returns do not compare with those of the training."
    )


def _plain(error: Exception) -> str:
    return re.sub(r"\x1b\[\d+m", "", str(error))


@dataclass(slots=True)
class _Episode:
    """One environment on its way through one episode."""

    env: Any
    index: int
    observation: Any
    total: float = 0.0
    steps: int = 0
    done: bool = False
    actions: list[Any] = field(default_factory=list)

    @classmethod
    def begin(cls, env: Any, index: int, seed: int) -> _Episode:
        observation, _ = env.reset(seed=seed)
        return cls(env, index, observation)

    def step(self, action: NDArray[Any], *, log: bool) -> None:
        taken = _for_space(self.env.action_space, np.asarray(action))
        if log:
            self.actions.append(taken)
        self.observation, reward, terminated, truncated, _ = self.env.step(taken)
        self.total += float(reward)
        self.steps += 1
        self.done = bool(terminated or truncated)


def _following(episode: _Episode, waiting: deque[tuple[int, int]]) -> _Episode | None:
    """The next episode for an environment whose last one has ended."""
    return _Episode.begin(episode.env, *waiting.popleft()) if waiting else None


def _batch(running: Sequence[_Episode]) -> dict[str, NDArray[Any]]:
    observations = [episode.observation for episode in running]
    first = observations[0]
    if isinstance(first, tuple):
        raise UsageError(
            "an environment whose observation is a tuple is not served",
            remedy="Wrap it, so that it gives a dictionary or one array.",
        )
    if isinstance(first, Mapping):
        return {str(name): _stack([each[name] for each in observations]) for name in first}
    return {OBSERVATION: _stack(observations)}


def _stack(items: Sequence[Any]) -> NDArray[Any]:
    stacked: NDArray[Any] = np.stack([np.asarray(item) for item in items])
    return stacked.reshape(-1, 1) if stacked.ndim == 1 else stacked


def _for_space(space: Any, action: NDArray[Any]) -> Any:
    """An action in the form that `space` takes: a Python int, or an array of its dtype."""
    if space.shape == ():
        return int(action.reshape(()).item()) if action.size == 1 else action
    return action.astype(space.dtype).reshape(space.shape)


def _result(env_id: str, seeds: Sequence[int], ended: Mapping[int, _Episode], *, log_actions: bool) -> RolloutResult:
    episodes = [ended[index] for index in range(len(seeds))]
    return RolloutResult(
        env_id=env_id,
        seeds=tuple(seeds),
        returns=np.array([episode.total for episode in episodes], dtype=np.float64),
        lengths=np.array([episode.steps for episode in episodes], dtype=np.int64),
        actions=tuple(np.array(episode.actions) for episode in episodes) if log_actions else (),
    )
