"""A policy that answers with the actions of several steps, from its file to the loop of a robot, on the real Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from embedded import Embedded, embedded
from onnx import helper, numpy_helper

from policyctl.client import PolicyClient

pytestmark = pytest.mark.server

ENVIRONMENT = '''
import gymnasium
import numpy as np

class Follow(gymnasium.Env):
    """A target drifts; the action pays for being where it is."""

    observation_space = gymnasium.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-100, 100, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.length = 0, 9 + int(self.np_random.integers(3))
        self.target = float(self.np_random.integers(5))
        return np.float32([self.target]), {}

    def step(self, action):
        reward = -abs(float(action[0]) - self.target)
        self.steps += 1
        self.target += 0.25
        return np.float32([self.target]), reward, self.steps == self.length, False, {}

gymnasium.register("Follow-v0", Follow, disable_env_checker=True)
'''
DESCRIPTION = "chunk: {horizon: 4, execute: 3, interval_s: 0.02}\njoints: [slide]\n"
STEPS = np.float32([0.0, 0.5, 1.0, 1.5])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Embedded, Path]]:
    """Serves a policy that plans four steps, and believes that the target drifts twice as fast as it does."""
    folder = tmp_path_factory.mktemp("chunks")
    (folder / "follow.py").write_text(ENVIRONMENT)
    (folder / "describe.yaml").write_text(DESCRIPTION)
    nodes = [
        helper.make_node("Add", ["obs", "steps"], ["planned"]),
        helper.make_node("Reshape", ["planned", "shape"], ["actions"]),
    ]
    constants = [numpy_helper.from_array(STEPS, "steps"), numpy_helper.from_array(np.array([-1, 4, 1]), "shape")]
    inputs = [helper.make_tensor_value_info("obs", onnx.TensorProto.FLOAT, ["n", 1])]
    outputs = [helper.make_tensor_value_info("actions", onnx.TensorProto.FLOAT, ["n", 4, 1])]
    graph = helper.make_graph(nodes, "plan", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "plan.onnx")
    with embedded(folder) as running:
        described = ("--describe", str(folder / "describe.yaml"))
        running.run("export", str(folder / "plan.onnx"), "-o", str(folder / "out"), *described)
        running.run("publish", str(folder / "out"), "--model", "follow", "--release", "1.0.0")
        running.start()
        running.run("promote", "follow", "1.0.0")
        yield running, folder


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("ahead", [0, 1])
def test_every_step_has_the_action_that_was_planned_for_it(
    server: tuple[Embedded, Path], protocol: str, ahead: int
) -> None:
    """However early the next chunk is requested, an action of its answer is for the step that it was planned for."""
    running, _ = server
    with PolicyClient("follow", url=running.endpoint[protocol], protocol=protocol, deadline_s=30.0) as client:
        contract = client.served().contract
        assert contract.chunk is not None
        assert contract.action.features == ("slide[0]", "slide[1]", "slide[2]", "slide[3]")
        episode = client.episode(ahead_steps=ahead)
        for step in range(40):
            action = episode.act(np.float32([10.0 * step]))
            planned_at = step - action.step
            assert action.value.tolist() == [10.0 * planned_at + STEPS[action.step]]
            assert action.release == "1.0.0"
            assert ahead or action.step < 3, "without it no more than the contract says is carried out"


def test_evaluate_plays_a_chunk_as_the_policy_itself_would(server: tuple[Embedded, Path]) -> None:
    """Three steps of each answer are carried out, by the served policy and by the reference."""
    running, folder = server
    done = subprocess.run(
        [
            *(sys.executable, "-m", "policyctl", "evaluate", "follow", "--env", "follow:Follow-v0"),
            *("--episodes", "5", "--reference", "plan.onnx", "--keep", "--json"),
        ],
        cwd=folder,
        env={**os.environ, "POLICYCTL_REPOSITORY": str(running.root)},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    document = json.loads(done.stdout)
    wanted = [-sum(0.25 * (step % 3) for step in range(length)) for length in document["served"]["lengths"]]
    assert document["served"]["returns"] == document["reference"]["returns"] == wanted, "an old plan costs"
    assert document["evidence"], "what was played is kept, though an environment meets one step at a time"
