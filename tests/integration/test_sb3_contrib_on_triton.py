"""Agents with memory and with masks earn through Triton what they earn in eager PyTorch, also while aliases move."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from embedded import PATIENCE_S, Embedded, embedded
from sb3_contrib import MaskablePPO, RecurrentPPO

from policyctl.client import Action, Episode, PolicyClient
from policyctl.errors import UsageError
from policyctl_exporters import export_policy

pytestmark = pytest.mark.server

RELEASES = ("1.0.0", "1.1.0")
SEEDS = range(8)
STEPS = 24


class Cue(gymnasium.Env[Any, Any]):
    """Shows which of three it wants, for one step, now and then; pays at each step for naming the last one shown."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(shows=True), {}

    def step(self, action: Any) -> Any:
        reward = float(action == self.wanted)
        self.steps += 1
        return self._look(shows=self.np_random.random() < 0.2), reward, False, self.steps == STEPS, {}

    def _look(self, *, shows: bool) -> Any:
        seen = np.zeros(4, np.float32)
        seen[3] = self.np_random.uniform(-1.0, 1.0)
        if shows:
            self.wanted = int(self.np_random.integers(3))
            seen[self.wanted] = 1.0
        return seen


class Board(gymnasium.Env[Any, Any]):
    """Allows some of its moves at each step, and fails at any other."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (5,), np.float32)
    action_space = gymnasium.spaces.MultiDiscrete([3, 4])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        assert self.masks[action[0]] and self.masks[3 + action[1]], f"{action} is no move"
        self.steps += 1
        return self._look(), float(np.dot(action, (1, 10))), False, self.steps == STEPS, {}

    def action_masks(self) -> Any:
        return self.masks

    def _look(self) -> Any:
        self.masks = self.np_random.random(7) < 0.6
        self.masks[[self.np_random.integers(3), 3 + self.np_random.integers(4)]] = True
        return self.np_random.uniform(-1.0, 1.0, 5).astype(np.float32)


gymnasium.register("Cue-v0", Cue)
gymnasium.register("Board-v0", Board)


@dataclass
class Agent:
    """One release: what its agent earned in eager PyTorch, by seed."""

    archive: Path
    exported: Path
    earned: dict[int, float]


def eager_with_masks(agent: MaskablePPO, seed: int) -> float:
    """The return of one episode, played by `predict()` with the masks of the environment."""
    env = gymnasium.make("Board-v0")
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action, _ = agent.predict(observation, deterministic=True, action_masks=env.unwrapped.action_masks())
        observation, reward, _, over, _ = env.step(action)
        total += float(reward)
    return total


def eager(agent: RecurrentPPO, seed: int, *, remembers: bool = True) -> float:
    """The return of one episode, played by `predict()`."""
    state: Any = None

    def act(observation: Any) -> Any:
        nonlocal state
        action, state = agent.predict(observation, state if remembers else None, deterministic=True)
        return action

    return played(act, seed)


def through(episode: Episode[Action]) -> Callable[[Any], Any]:
    """The client, as something that acts."""
    return lambda observation: episode.act(observation, deadline_s=30.0).value


def played(act: Callable[[Any], Any], seed: int, *, at_half: Callable[[], object] = bool) -> float:
    """The return of one episode; `at_half` is called in its middle."""
    env = gymnasium.make("Cue-v0")
    observation, _ = env.reset(seed=seed)
    total = 0.0
    for step in range(STEPS):
        if step == STEPS // 2:
            at_half()
        observation, reward, _, _, _ = env.step(int(act(observation)))
        total += float(reward)
    return total


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Agent]:
    """One agent after some seconds of training, and after as many again."""
    torch.set_num_threads(1)
    agent = RecurrentPPO(
        "MlpLstmPolicy",
        gymnasium.make("Cue-v0"),
        seed=1,
        device="cpu",
        n_steps=480,
        batch_size=240,
        n_epochs=10,
        gamma=0.0,
        learning_rate=1e-2,
        policy_kwargs={"net_arch": [], "lstm_hidden_size": 16, "enable_critic_lstm": False, "shared_lstm": True},
    )
    folder, found = tmp_path_factory.mktemp("agents"), {}
    for release in RELEASES:
        agent.learn(960)
        exported = export_policy(agent, folder / release, golden_rows=16).output
        agent.save(folder / f"{release}.zip")
        found[release] = Agent(folder / f"{release}.zip", exported, {seed: eager(agent, seed) for seed in SEEDS})
    forgetful = [eager(agent, seed, remembers=False) for seed in SEEDS]
    assert sum(forgetful) < sum(found[RELEASES[1]].earned.values()), "the task needs memory"
    return found


@pytest.fixture(scope="module")
def server(agents: dict[str, Agent], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with embedded(tmp_path_factory.mktemp("recurrent")) as running:
        for release, agent in agents.items():
            running.run("publish", str(agent.exported), "--model", "walker", "--release", release)
        running.start()
        running.run("promote", "walker", "1.0.0")
        for release in RELEASES:
            running.run("pin", "walker", release)
        yield running


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_earns_what_it_earns_in_eager_pytorch(server: Embedded, agents: dict[str, Agent], protocol: str) -> None:
    """Seed by seed, each release of its own agent, through episodes of the client."""
    for release, agent in agents.items():
        with PolicyClient("walker", url=server.endpoint[protocol], protocol=protocol, alias=release) as client:
            episode = client.episode()
            for seed, earned in agent.earned.items():
                episode.reset()
                assert played(through(episode), seed) == earned


def test_it_earns_the_same_with_promotions_in_the_middle_of_its_episodes(
    server: Embedded, agents: dict[str, Agent]
) -> None:
    """Each episode earns what the agent of the release that it began with earns, whatever the alias does meanwhile."""
    halfway, moved, over = Barrier(5), Event(), Event()

    def wait_for_the_move() -> None:
        halfway.wait(PATIENCE_S)
        assert moved.wait(PATIENCE_S)

    def play(index: int) -> list[tuple[str, int, float]]:
        results = []
        with PolicyClient("walker", url=server.endpoint["grpc"]) as client:
            while not results or not over.is_set():
                seed, at_half = (index + len(results)) % len(SEEDS), bool if results else wait_for_the_move
                with client.episode(on_switch="finish") as episode:
                    total = played(through(episode), seed, at_half=at_half)
                    results.append((str(episode.release), seed, total))
        return results

    with ThreadPoolExecutor(4) as pool:
        playing = [pool.submit(play, index) for index in range(4)]
        try:
            halfway.wait(PATIENCE_S)
            server.run("promote", "walker", "1.1.0")
            moved.set()
            server.run("rollback", "walker")
            server.run("promote", "walker", "1.1.0")
        finally:
            moved.set()
            over.set()
        results = [each.result() for each in playing]
    server.run("rollback", "walker")
    assert all(result[0][0] == "1.0.0" for result in results)
    for release, seed, total in (each for result in results for each in result):
        assert total == agents[release].earned[seed]


def test_evaluate_plays_it_and_its_own_file(server: Embedded, agents: dict[str, Agent]) -> None:
    """Both earn the same on the same seeds, in a batch with one episode a row."""
    played = ("--env", "Cue-v0", "--episodes", str(len(SEEDS)))
    own = ("--reference", str(agents["1.0.0"].archive), "--trust-pickle")
    found = server.json("evaluate", "walker", *played, *own)
    earned = [agents["1.0.0"].earned[seed] for seed in SEEDS]
    assert found["served"]["returns"] == found["reference"]["returns"] == earned


def test_the_behaviour_gate_plays_both_releases(server: Embedded, agents: dict[str, Agent]) -> None:
    """Each from its own memory: what they earned is the evidence."""
    played = ("--env", "Cue-v0", "--episodes", str(len(SEEDS)), "--margin", str(STEPS))
    done = server.run("validate", "walker", "1.1.0", "--gates", "none", "--json", *played, check=False)
    (gate,) = [gate for gate in json.loads(done.stdout)["gates"] if gate["gate"] == "behaviour"]
    returns = gate["evidence"]["returns"]
    assert returns["incumbent"] == [agents["1.0.0"].earned[seed] for seed in SEEDS]
    assert returns["candidate"] == [agents["1.1.0"].earned[seed] for seed in SEEDS]


@pytest.mark.parametrize("form", ["openvino", "onnx"])
def test_masks_of_the_environment_rule_out_what_they_rule_out_in_eager_pytorch(
    server: Embedded, form: str, tmp_path: Path
) -> None:
    """`evaluate` takes them from `action_masks()`; a request without a mask is refused in one sentence."""
    agent = MaskablePPO(
        "MlpPolicy", gymnasium.make("Board-v0"), seed=3, device="cpu", policy_kwargs={"ortho_init": False}
    )
    exported = export_policy(agent, tmp_path / "board", golden_rows=16).output
    model = f"board_{form}"
    server.run("publish", str(exported), "--model", model, "--release", "1.0.0")
    server.run("promote", model, "1.0.0", "--format", form)
    found = server.json("evaluate", model, "--env", "Board-v0", "--episodes", str(len(SEEDS)))
    assert found["served"]["returns"] == [eager_with_masks(agent, seed) for seed in SEEDS]
    for protocol in ("grpc", "http"):
        with PolicyClient(model, url=server.endpoint[protocol], protocol=protocol) as client:
            with pytest.raises(UsageError, match=r"action_mask \(which choices are allowed\) is missing"):
                client.act({"observation": np.zeros(5, np.float32)})
            given = {"observation": np.zeros(5, np.float32), "action_mask": np.arange(7) % 3 == 2}
            assert client.act(given, deadline_s=30.0).value.tolist() == [2, 2]
            assert client.act(given, deterministic=False, seed=1, deadline_s=30.0).value.tolist() == [2, 2]
