"""Play episodes of an environment with many observations to a request.

Environments step in lockstep, and one call of `act` answers for all that are
still running, so a served policy is asked for batches. Every episode begins
from its own seed and the environments share nothing, so the same seeds and the
same policy give the same returns however many run side by side.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.json_values import OMIT
from policyctl.errors import UsageError
from policyctl.measuring.environments import Environment

OBSERVATION = "observation"
"""What the observation is called where the environment gives only one."""

PARALLEL: Final = 64
"""Most environments at a time, where nothing limits a request to fewer rows."""

Act = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """What came of the episodes, in the order of their seeds.

    Attributes:
        env_id: Which environment, with its arguments and wrappers.
        returns: Undiscounted sums of rewards, shape (n,).
        lengths: Steps, shape (n,).
        actions: Every action of each episode, if asked for; else empty.
    """

    env_id: str
    seeds: tuple[int, ...]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    actions: tuple[NDArray[Any], ...] = field(default=(), metadata=OMIT)


def rollout(
    environment: Environment | str,
    act: Act,
    seeds: Sequence[int],
    *,
    max_parallel: int = PARALLEL,
    log_actions: bool = False,
    max_steps: int | None = None,
    on_rows: Callable[[list[int]], None] | None = None,
    masks: Sequence[str] = (),
) -> RolloutResult:
    """Play one episode for each seed.

    Args:
        act: From observations by name, each of shape (n, *shape), to actions
            of shape (n, *action shape); a discrete action may be (n,) or
            (n, 1). An environment of one observation gives it as `OBSERVATION`;
            one with a dictionary gives its keys. A scalar observation has
            shape (n, 1), as in a contract.
        max_parallel: Most environments at a time; the batch is kept full while
            there are seeds left.
        max_steps: End each episode there; None leaves it to the environment.
        on_rows: Called before each `act` with the index of the episode that each row belongs to; for memory.
        masks: Names under which `act` gets what ``action_masks()`` of the environment gives, as bool of
            shape (n, choices), where the observation has no such entry.

    Raises:
        UsageError: There is no such environment, its spaces are not served, it has no ``action_masks()``, or its
            own code fails.
        UnsupportedError: Gymnasium, or what the environment needs, is not installed.
    """
    if not seeds or max_parallel < 1:
        raise UsageError(f"{len(seeds)} seeds and max_parallel {max_parallel}, expected at least 1 of each")
    chosen = Environment(environment) if isinstance(environment, str) else environment
    waiting = deque(enumerate(seeds))
    ended: dict[int, _Episode] = {}
    with contextlib.ExitStack() as stack:
        running = []
        for _ in range(min(max_parallel, len(seeds))):
            env = chosen.make()
            stack.callback(env.close)
            running.append(_Episode.begin(env, *waiting.popleft()))
        while running:
            if on_rows is not None:
                on_rows([episode.index for episode in running])
            actions = act(_batch(running, masks))
            if len(actions) != len(running):
                raise UsageError(f"act gave {len(actions)} actions for {len(running)} observations")
            for episode, action in zip(running, actions, strict=True):
                episode.step(action, log=log_actions)
                if episode.done or episode.steps == max_steps:
                    ended[episode.index] = episode
            following = [_following(e, waiting) if e.index in ended else e for e in running]
            running = [episode for episode in following if episode is not None]
    return _result(chosen.description, seeds, ended, log_actions=log_actions)


def counting(act: Act, note: Callable[[str], None]) -> Act:
    """The same answers, while `note` takes how many there were, in words."""
    given = 0

    def counted(observations: dict[str, NDArray[Any]]) -> NDArray[Any]:
        nonlocal given
        actions = act(observations)
        given += len(actions)
        note(f"{given} actions")
        return actions

    return counted


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
        with _own_errors("reset"):
            observation, _ = env.reset(seed=seed)
        return cls(env, index, observation)

    def step(self, action: NDArray[Any], *, log: bool) -> None:
        taken = _for_space(self.env.action_space, np.asarray(action))
        if log:
            self.actions.append(taken)
        with _own_errors("step"):
            self.observation, reward, terminated, truncated, _ = self.env.step(taken)
        self.total += float(reward)
        self.steps += 1
        self.done = bool(terminated or truncated)


@contextlib.contextmanager
def _own_errors(call: str) -> Iterator[None]:
    """Whatever the environment's own code raises, in words."""
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"the environment's {call}() raised {type(error).__name__}: {error}",
            remedy="Check its arguments and wrappers, and that it takes such actions.",
        ) from error


def _following(episode: _Episode, waiting: deque[tuple[int, int]]) -> _Episode | None:
    """The next episode for an environment whose last one has ended."""
    return _Episode.begin(episode.env, *waiting.popleft()) if waiting else None


def _batch(running: Sequence[_Episode], masks: Sequence[str]) -> dict[str, NDArray[Any]]:
    observations = _observed(running)
    return observations | {name: _masks(running, name) for name in masks if name not in observations}


def _masks(running: Sequence[_Episode], name: str) -> NDArray[np.bool_]:
    """Which choices each environment allows now, as sb3-contrib asks for them."""
    try:
        methods = [episode.env.get_wrapper_attr("action_masks") for episode in running]
    except AttributeError as error:
        raise UsageError(
            f"the environment has no action_masks(), and the policy takes {name}",
            remedy="Wrap it: --wrapper package.module:callable, which may return sb3_contrib's ActionMasker.",
        ) from error
    with _own_errors("action_masks"):
        return np.stack([np.asarray(method(), dtype=bool).reshape(-1) for method in methods])


def _observed(running: Sequence[_Episode]) -> dict[str, NDArray[Any]]:
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
