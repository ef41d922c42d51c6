"""Policies with memory on the real server: episodes go on from what their own release remembered."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import onnx
import pytest
from embedded import PATIENCE_S, Embedded, embedded, wait_for
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from serving_fixtures import needs_native

from policyctl.client import AsyncPolicyClient, EpisodeInterruptedError, PolicyClient
from policyctl.demo.background_server import COMMAND
from policyctl.errors import ServerError
from policyctl_exporters import export_policy

pytestmark = pytest.mark.server

OBSERVED, REMEMBERED = 3, 4


@dataclass
class Recurrent:
    """A policy whose memory mixes what it saw with what it remembers; computed here as in its file."""

    seed: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.seen = rng.standard_normal((OBSERVED, REMEMBERED)).astype(np.float32)
        self.kept = (0.4 * rng.standard_normal((REMEMBERED, REMEMBERED))).astype(np.float32)

    def step(self, memory: NDArray[Any], observation: NDArray[Any]) -> NDArray[Any]:
        """The memory after one step; the action is its first two numbers."""
        return np.asarray(np.tanh(observation @ self.seen + memory @ self.kept))

    def export(self, folder: Path) -> Path:
        """Write the file, with layers before the batch as torch has them, and export it."""
        nodes = [
            helper.make_node("Squeeze", ["h_in", "zero"], ["h"]),
            helper.make_node("MatMul", ["obs", "seen"], ["a"]),
            helper.make_node("MatMul", ["h", "kept"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["c"]),
            helper.make_node("Tanh", ["c"], ["d"]),
            helper.make_node("Unsqueeze", ["d", "zero"], ["h_out"]),
            helper.make_node("Gather", ["d", "two"], ["action"], axis=1),
        ]

        def port(name: str, shape: list[Any]) -> Any:
            return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

        weights = {"seen": self.seen, "kept": self.kept, "zero": np.array([0]), "two": np.array([0, 1])}
        graph = helper.make_graph(
            nodes,
            "recurrent",
            [port("obs", ["n", OBSERVED]), port("h_in", [1, "n", REMEMBERED])],
            [port("action", ["n", 2]), port("h_out", [1, "n", REMEMBERED])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        path = folder / f"recurrent{self.seed}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return export_policy(path, folder / f"exported{self.seed}", golden_rows=16).output


POLICIES = {"1.0.0": Recurrent(1), "1.1.0": Recurrent(2)}


@dataclass
class Watched:
    """An episode next to what its release should remember."""

    episode: Any
    rng: np.random.Generator
    release: str | None = None

    def look(self) -> NDArray[Any]:
        """The next observation."""
        self.observation = self.rng.standard_normal(OBSERVED).astype(np.float32)
        return self.observation

    def check(self, value: Any, release: str) -> None:
        """Hold an answer against what `release` computes from its own memory."""
        if release != self.release:
            self.release, self.memory = release, np.zeros(REMEMBERED, np.float32)
        self.memory = POLICIES[release].step(self.memory, self.observation)
        np.testing.assert_allclose(value, self.memory[:2], rtol=0, atol=2e-5)

    def play(self, steps: int) -> None:
        for _ in range(steps):
            action = self.episode.act(self.look(), deadline_s=PATIENCE_S)
            self.check(action.value, action.release)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    folder = tmp_path_factory.mktemp("memory")
    with embedded(folder) as running:
        for release, policy in POLICIES.items():
            running.run("publish", str(policy.export(folder)), "--model", "walker", "--release", release)
        running.start()
        running.run("promote", "walker", "1.0.0", "--format", "openvino")
        yield running


def client_of(server: Embedded, protocol: str = "grpc", **options: Any) -> PolicyClient:
    return PolicyClient("walker", url=server.endpoint[protocol], protocol=protocol, **options)


@pytest.mark.parametrize(
    ("protocol", "options"), [("grpc", {}), ("http", {}), ("grpc", {"shared_memory": True})], ids=str
)
def test_two_callers_in_turn_do_not_mix_their_memories(server: Embedded, protocol: str, options: Any) -> None:
    """Each answer is that of a policy that saw this caller alone; rows of a batch are reset apart."""
    with client_of(server, protocol, **options) as client:
        callers = [Watched(client.episode(), np.random.default_rng(seed)) for seed in range(2)]
        for _ in range(10):
            for caller in callers:
                caller.play(1)
        rows = [Watched(client.episode(), np.random.default_rng(seed)) for seed in range(5)]
        for step in range(12):
            looked = np.stack([row.look() for row in rows])
            if step % 4 == 3:
                rows[step % 5].episode.reset()
                rows[step % 5].release = None
            action = client.act_batch(looked, episodes=[row.episode for row in rows], deadline_s=PATIENCE_S)
            for row, value in zip(rows, action.value, strict=True):
                row.check(value, action.release)


def test_the_asyncio_client_carries_memory_too(server: Embedded) -> None:
    """Over both protocols."""

    async def play(protocol: str) -> None:
        async with AsyncPolicyClient("walker", url=server.endpoint[protocol], protocol=protocol) as client:
            watched = Watched(client.episode(), np.random.default_rng(3))
            for _ in range(5):
                action = await watched.episode.act(watched.look(), deadline_s=PATIENCE_S)
                watched.check(action.value, action.release)

    for protocol in ("grpc", "http"):
        asyncio.run(play(protocol))


@pytest.mark.parametrize("turns", [1, pytest.param(15, marks=pytest.mark.long)])
def test_episodes_finish_with_their_own_release_or_begin_again_under_promotions(server: Embedded, turns: int) -> None:
    """Eight at once while the alias moves: no answer comes from the memory of another release, no episode is lost.

    The release before stays reachable for them, and is served no more when the move has ended.
    """
    over = False

    def play(index: int) -> tuple[int, int]:
        finishes, answers, switches = index % 2 == 0, 0, 0
        with client_of(server, "http" if index % 4 < 2 else "grpc") as client:
            watched = Watched(client.episode(on_switch="finish" if finishes else "reset"), np.random.default_rng(index))
            while not over:
                before = watched.release
                watched.play(1)
                answers += 1
                if before not in (None, watched.release):
                    assert not finishes
                    switches += 1
                if finishes and answers % 50 == 0:
                    watched.episode.reset()
                    watched.release = None
        return answers, switches

    with ThreadPoolExecutor(8) as pool:
        playing = [pool.submit(play, index) for index in range(8)]
        try:
            for move in (["promote", "walker", "1.1.0"], ["rollback", "walker"]) * turns:
                drain = server.json(*move, "--drain", "30m")["drain"]
                assert drain["over"], drain
        finally:
            over = True
        results = [each.result() for each in playing]
    assert all(answers > 0 for answers, _ in results)
    assert sum(switches for _, switches in results) > 0
    assert {alias["alias"] for alias in server.json("status")["aliases"]} == {"production"}


def test_a_promotion_that_is_killed_while_it_drains_leaves_nothing_behind(server: Embedded) -> None:
    """The episode goes on with its release, and the server ends the drain when the episode is over."""

    def aliases() -> dict[str, str]:
        return {alias["alias"]: alias["release"] for alias in server.json("status")["aliases"]}

    with client_of(server) as client:
        watched = Watched(client.episode(), np.random.default_rng(0))
        watched.play(1)
        environment = {**os.environ, "POLICYCTL_REPOSITORY": str(server.root)}
        command = subprocess.Popen([*COMMAND, "promote", "walker", "1.1.0", "--drain", "10m"], env=environment)
        try:
            # It asks meanwhile: a drain ends where nobody asks for some seconds.
            wait_for(lambda: watched.play(1) or aliases() == {"production": "1.1.0", "1.0.0": "1.0.0"}, every_s=0.3)
        finally:
            command.kill()
            command.wait()
        watched.play(20)
        assert watched.release == "1.0.0"
    wait_for(lambda: server.control.repository.journal.state().alias("walker", "1.0.0") is None, every_s=0.3)
    server.run("rollback", "walker")


def test_an_episode_whose_release_is_gone_is_interrupted(server: Embedded) -> None:
    """By an error that is a `ServerError`, so that a loop takes its safe action; a reset begins with what is served."""
    with client_of(server) as client:
        watched = Watched(client.episode(), np.random.default_rng(0))
        watched.play(2)
        server.run("promote", "walker", "1.1.0", "--drain", "0")
        try:
            with pytest.raises(EpisodeInterruptedError, match=r"began with release 1\.0\.0") as caught:
                watched.episode.act(watched.look(), deadline_s=PATIENCE_S)
            assert isinstance(caught.value, ServerError)
            watched.episode.reset()
            watched.play(2)
            assert watched.release == "1.1.0"
        finally:
            server.run("rollback", "walker")


def test_an_episode_goes_back_to_the_alias_after_a_rollback(server: Embedded) -> None:
    """It finishes under the number of its release, and by the alias once that is taken out of service."""
    with client_of(server) as client:
        watched = Watched(client.episode(), np.random.default_rng(0))
        watched.play(2)
        server.run("pin", "walker", "1.0.0")
        server.run("promote", "walker", "1.1.0")
        watched.play(2)
        assert watched.episode.own_model == "walker.1.0.0"
        server.run("rollback", "walker")
        server.run("unpin", "walker", "1.0.0")
        watched.play(2)
        assert (watched.release, watched.episode.own_model) == ("1.0.0", "")


DEPLOYED = Path(__file__).resolve().parents[3] / "shared" / "policies-real"


@pytest.mark.shared
@pytest.mark.parametrize("form", [pytest.param("openvino", marks=needs_native, id="native"), "torchscript"])
def test_a_deployed_file_with_buffers_answers_as_in_its_own_runtime(
    server: Embedded, form: str, tmp_path: Path
) -> None:
    """Two robots in turn play the 50 steps of Unitree's G1; after a reset they begin as the file does."""
    if not DEPLOYED.is_dir():
        pytest.skip("the policies that people deploy are not here")
    with np.load(DEPLOYED / "unitree_g1.pt.npz") as steps:
        looked, right = steps["in.observation"][:, 0], steps["out.0"][:, 0]
    box, model = gymnasium.spaces.Box, f"g1-{form}"
    result = export_policy(
        DEPLOYED / "unitree_g1.pt",
        tmp_path / "g1",
        formats=[form],
        observation_space=box(-np.inf, np.inf, looked.shape[1:], np.float32),
        action_space=box(-np.inf, np.inf, right.shape[1:], np.float32),
    )
    server.run("publish", str(result.output), "--model", model, "--release", "1.0.0")
    server.run("promote", model, "1.0.0", "--format", form, "--alias", "lab")
    with PolicyClient(model, alias="lab", url=server.endpoint["grpc"]) as client:
        robots = [client.episode() for _ in range(2)]
        for length in (20, 50):
            for robot in robots:
                robot.reset()
            for observation, wanted in zip(looked[:length], right[:length], strict=True):
                for robot in robots:
                    found = robot.act(observation, deadline_s=30.0).value
                    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * max(1.0, np.abs(right).max()))


def test_a_killed_server_loses_no_episode(server: Embedded) -> None:
    """The memory is the caller's: the next server goes on from it."""
    with client_of(server, "http") as client:
        watched = Watched(client.episode(), np.random.default_rng(0))
        watched.play(5)
        pid = server.endpoint["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: server.triton not in {None, pid}, every_s=0.3)
        wait_for(lambda: server.answered_by() == "1.0.0", every_s=0.3)
        watched.play(5)
