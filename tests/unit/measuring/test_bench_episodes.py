"""Episodes in lockstep, by seed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policyctl.errors import UnsupportedError, UsageError
from policyctl.measuring.environments import Environment
from policyctl.measuring.episodes import OBSERVATION, rollout

gymnasium = pytest.importorskip("gymnasium")


def upright(observations: dict[str, np.ndarray]) -> np.ndarray:
    """A poor policy for CartPole, so that episodes differ in length; row by row."""
    x = observations[OBSERVATION]
    return (x @ np.array([0.0, 0.0, 1.0, 0.0], dtype=np.float32) > 0).astype(np.int64)


def alone(env_id: str, seed: int) -> tuple[float, int, list[int]]:
    """The same episode, played the plain way."""
    env = gymnasium.make(env_id)
    observation, _ = env.reset(seed=seed)
    total, actions, done = 0.0, [], False
    while not done:
        actions.append(int(upright({OBSERVATION: observation[None]})[0]))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        total += float(reward)
        done = terminated or truncated
    env.close()
    return total, len(actions), actions


def test_each_episode_is_the_one_that_its_seed_gives_alone() -> None:
    """Returns, lengths and actions equal those of a plain loop, in the order of the seeds."""
    seeds = [5, 3, 11, 4, 8, 2, 9]
    result = rollout("CartPole-v1", upright, seeds, max_parallel=3, log_actions=True)
    for index, seed in enumerate(seeds):
        total, length, actions = alone("CartPole-v1", seed)
        assert (result.returns[index], result.lengths[index]) == (total, length)
        assert result.actions[index].tolist() == actions
    assert result.seeds == tuple(seeds)
    assert len(set(result.lengths)) > 2


@pytest.mark.parametrize("max_parallel", [1, 3, 64])
def test_how_many_run_side_by_side_changes_nothing(max_parallel: int) -> None:
    """The same seeds give the same returns, and no batch is larger than allowed."""
    sizes: list[int] = []

    def act(observations: dict[str, np.ndarray]) -> np.ndarray:
        sizes.append(len(observations[OBSERVATION]))
        return upright(observations)

    seeds = list(range(7))
    result = rollout("CartPole-v1", act, seeds, max_parallel=max_parallel, max_steps=60)
    reference = rollout("CartPole-v1", upright, seeds, max_parallel=2, max_steps=60)
    np.testing.assert_array_equal(result.returns, reference.returns)
    assert max(sizes) == min(max_parallel, 7)


def test_ended_episodes_leave_the_batch() -> None:
    """With no seed left the batch shrinks as episodes end, and nothing is asked for what has ended."""
    sizes: list[int] = []

    def act(observations: dict[str, np.ndarray]) -> np.ndarray:
        sizes.append(len(observations[OBSERVATION]))
        return np.zeros(sizes[-1], dtype=np.int64)

    result = rollout("CartPole-v1", act, range(6))
    assert sum(sizes) == result.lengths.sum()
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 6 > sizes[-1]


def test_continuous_actions_and_environment_arguments_reach_the_environment() -> None:
    """Pendulum takes float32 of shape (1,); its gravity is passed on and matters."""

    def still(observations: dict[str, np.ndarray]) -> np.ndarray:
        return np.zeros((len(observations[OBSERVATION]), 1), dtype=np.float64)

    heavy = rollout("Pendulum-v1", still, [0, 1], max_steps=20)
    light = rollout(Environment("Pendulum-v1", {"g": 1.0}), still, [0, 1], max_steps=20)
    assert heavy.lengths.tolist() == [20, 20]
    assert (heavy.returns != light.returns).all()


class Odd(gymnasium.Env):  # type: ignore[name-defined,misc]
    """Dictionary observations (one of them a number) and a multi-discrete action."""

    observation_space = gymnasium.spaces.Dict(
        {"left": gymnasium.spaces.Box(-1, 1, (2,)), "cell": gymnasium.spaces.Discrete(9)}
    )
    action_space = gymnasium.spaces.MultiDiscrete([3, 4])
    seen: list[Any] = []  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return {"left": np.zeros(2, np.float32), "cell": 3}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.seen.append(action)
        return {"left": np.zeros(2, np.float32), "cell": 4}, 1.0, True, False, {}


def test_named_observations_come_by_name_with_a_batch_dimension() -> None:
    """A number becomes shape (n, 1), as in a contract, and the action has its space's dtype and shape."""
    gymnasium.register("PolicyctlOdd-v0", entry_point=Odd, disable_env_checker=True)
    shapes: list[dict[str, tuple[int, ...]]] = []

    def act(observations: dict[str, np.ndarray]) -> np.ndarray:
        shapes.append({name: array.shape for name, array in observations.items()})
        return np.ones((len(observations["cell"]), 2), dtype=np.int32)

    try:
        result = rollout("PolicyctlOdd-v0", act, [0, 1, 2])
    finally:
        gymnasium.registry.pop("PolicyctlOdd-v0")
    assert shapes == [{"left": (3, 2), "cell": (3, 1)}]
    assert all(action.shape == (2,) and action.dtype == np.int64 for action in Odd.seen)
    assert result.returns.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
def test_an_old_version_names_the_one_that_there_is() -> None:
    """LunarLander-v2 was retired: the message says which version exists, and that returns may differ."""
    with pytest.raises(UsageError, match="LunarLander-v2") as caught:
        rollout("LunarLander-v2", upright, [0])
    assert "LunarLander-v3" in caught.value.remedy
    assert "\x1b" not in caught.value.problem


@pytest.mark.parametrize(
    ("env_id", "remedy"),
    [
        ("NoSuchThing-v0", "find the package that registers it, and name the module with it, MODULE:NoSuchThing-v0"),
        ("ALE/Pong-v5", "pip install 'ale-py', and name the module with it, ale_py:ALE/Pong-v5"),
        ("MiniGrid-Empty-5x5-v0", "pip install 'minigrid', and name the module with it, minigrid:MiniGrid-Empty"),
        ("json:NoSuchThing-v0", "json registers no NoSuchThing-v0"),
    ],
)
def test_an_unknown_environment_is_wrong_usage(env_id: str, remedy: str) -> None:
    """With the package that registers it and how to name that, where it is one of a well-known plug-in."""
    with pytest.raises(UsageError) as caught:
        rollout(env_id, upright, [0])
    assert env_id in caught.value.problem
    assert remedy in caught.value.remedy


class Needy(gymnasium.Env[Any, Any]):
    """An environment whose package needs others."""

    def __init__(self, error: Exception) -> None:
        raise error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (gymnasium.error.DependencyNotInstalled('no MuJoCo, run `pip install "g[mujoco]"`'), 'pip install "g[mujoco]"'),
        (gymnasium.error.DependencyNotInstalled("something is missing"), "policyctl[evaluate]"),
        (ModuleNotFoundError("No module named 'jax'", name="jax"), "pip install 'gymnasium[jax]'"),
        (ModuleNotFoundError("No module named 'other'", name="other"), "pip install 'other'"),
    ],
)
def test_what_an_environment_needs_is_named_with_how_to_install_it(error: Exception, remedy: str) -> None:
    """In gymnasium's own words where it has some; a plug-in that is not there is no traceback."""
    gymnasium.register("PolicyctlNeedy-v0", Needy, kwargs={"error": error})
    try:
        with pytest.raises(UnsupportedError, match="PolicyctlNeedy-v0 needs") as caught:
            rollout("PolicyctlNeedy-v0", upright, [0])
    finally:
        gymnasium.registry.pop("PolicyctlNeedy-v0")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("error", [ImportError("cannot import name 'x' from 'y'"), ImportError("no shared object")])
def test_an_import_that_fails_without_a_name_invents_no_package(error: Exception) -> None:
    """What the import said is shown; nobody is asked to install 'a module'."""
    gymnasium.register("PolicyctlNeedy-v0", Needy, kwargs={"error": error})
    try:
        with pytest.raises(UnsupportedError, match=str(error)) as caught:
            rollout("PolicyctlNeedy-v0", upright, [0])
    finally:
        gymnasium.registry.pop("PolicyctlNeedy-v0")
    assert "pip install" not in caught.value.remedy


class Failing(Odd):
    """An environment that fails where a test wants it to."""

    def __init__(self, *, where: str) -> None:
        self.where = where

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if self.where == "reset":
            raise KeyError("no map")
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise ZeroDivisionError("time step")


class Counter(gymnasium.Env[Any, Any]):
    """Allows one of three choices, another at each step, and pays for taking it."""

    observation_space = gymnasium.spaces.Box(0.0, 3.0, (1,))
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(3))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, self.at = float(action == self.at), (self.at + 1) % 3
        return np.zeros(1, np.float32), reward, False, False, {}

    def action_masks(self) -> Any:
        return np.arange(3) == self.at


def test_an_environments_action_masks_go_with_each_observation() -> None:
    """Those of the moment, through wrappers; where an environment has none, it is refused by name."""

    def act(observations: dict[str, np.ndarray]) -> np.ndarray:
        assert observations["mask"].dtype == bool and len(observations[OBSERVATION]) == len(observations["mask"])
        return observations["mask"].argmax(axis=1)

    gymnasium.register("PolicyctlCounter-v0", Counter)
    try:
        assert rollout("PolicyctlCounter-v0", act, [0, 1, 2], max_steps=7, masks=["mask"]).returns.tolist() == [7.0] * 3
    finally:
        gymnasium.registry.pop("PolicyctlCounter-v0")
    with pytest.raises(UsageError, match=r"has no action_masks\(\), and the policy takes mask"):
        rollout("CartPole-v1", act, [0], masks=["mask"])


@pytest.fixture
def failing() -> Any:
    """Known to gymnasium as PolicyctlFailing-v0."""
    gymnasium.register("PolicyctlFailing-v0", Failing, disable_env_checker=True)
    yield "PolicyctlFailing-v0"
    gymnasium.registry.pop("PolicyctlFailing-v0")


def test_what_an_environment_raises_is_a_refusal(failing: str) -> None:
    """In `make`, `reset` and `step`: the error and where it came from, no traceback."""

    def act(observations: dict[str, np.ndarray]) -> np.ndarray:
        return np.zeros((len(observations["cell"]), 2), np.int64)

    with pytest.raises(UsageError, match=r"cannot be made: TypeError.*where"):
        rollout(failing, act, [0])
    with pytest.raises(UsageError, match=r"cannot be made: TypeError.*other"):
        rollout(Environment(failing, {"where": "step", "other": 1}), act, [0])
    for where, error in (("reset", "KeyError: 'no map'"), ("step", "ZeroDivisionError: time step")):
        with pytest.raises(UsageError, match=rf"the environment's {where}\(\) raised {error}"):
            rollout(Environment(failing, {"where": where}), act, [0])


def test_wrappers_go_around_the_environment_from_the_inside_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a callable of the current folder that takes the environment and gives the wrapped one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_wrappers.py").write_text(
        "import gymnasium\n"
        "def doubled(env): return gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward)\n"
        "def plus_one(env): return gymnasium.wrappers.TransformReward(env, lambda reward: reward + 1)\n"
        "def nothing(env): return None\n"
        "def broken(env): raise RuntimeError('no wrapper today')\n"
        "number = 3\n"
    )
    try:
        wrappers = ("my_wrappers:doubled", "my_wrappers:plus_one")
        played = rollout(Environment("CartPole-v1", {}, wrappers), upright, [0], max_steps=5)
        assert played.returns.tolist() == [15.0]
        assert played.env_id == "CartPole-v1 + my_wrappers:doubled + my_wrappers:plus_one"
        for name, problem in (
            ("my_wrappers:nothing", "gives NoneType, expected an environment"),
            ("my_wrappers:broken", "raised RuntimeError: no wrapper today"),
            ("my_wrappers:missing", "cannot be imported"),
            ("my_wrappers:number", "which cannot be called"),
            ("no_such_module_here:x", "cannot be imported"),
        ):
            with pytest.raises(UsageError, match=problem):
                Environment("CartPole-v1", {}, (name,)).make()
    finally:
        sys.modules.pop("my_wrappers", None)


def test_the_name_of_what_was_played_tells_its_arguments() -> None:
    """Returns with other arguments are returns of another environment."""
    assert Environment("Pendulum-v1", {"g": 1.0, "b": "x"}).description == "Pendulum-v1(b='x', g=1.0)"


def test_a_module_that_is_not_there_is_named() -> None:
    """Where the id names it, as plug-ins have it."""
    with pytest.raises(UnsupportedError, match="needs no_such_module, which is not installed"):
        rollout("no_such_module:Pong-v5", upright, [0])


def test_without_gymnasium_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serving needs no gymnasium; evaluating does."""
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UnsupportedError) as caught:
        rollout("CartPole-v1", upright, [0])
    assert "policyctl[evaluate]" in caught.value.remedy


@pytest.mark.parametrize(("seeds", "max_parallel"), [([], 1), ([1], 0)])
def test_nothing_to_play_is_refused(seeds: list[int], max_parallel: int) -> None:
    """Without seeds nothing can be evaluated."""
    with pytest.raises(UsageError):
        rollout("CartPole-v1", upright, seeds, max_parallel=max_parallel)


def test_a_policy_that_answers_for_too_few_is_found_out() -> None:
    """Not paired with the wrong environment."""
    with pytest.raises(UsageError, match="1 actions for 2"):
        rollout("CartPole-v1", lambda _: np.zeros(1, dtype=np.int64), [0, 1])
