"""`policyctl evaluate` plays what the environment is, and its stdout is one document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded import Embedded, embedded, needs_guard

pytestmark = [pytest.mark.server, pytest.mark.long, needs_guard]  # a policy of images is trained first

ENVIRONMENT = '''
import os
import sys
import gymnasium
import numpy as np

print("importing")

class Camera(gymnasium.Env):
    """Shows which of four quarters is bright, and pays for naming it; prints as it runs."""

    action_space = gymnasium.spaces.Discrete(4)

    def __init__(self, *, length, layout="last"):
        self.length, self.layout = length, layout
        shape = (36, 36, 3) if layout == "last" else (3, 36, 36)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        os.write(1, b"made\\n")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        print("reset")
        return self._look(), {}

    def step(self, action):
        reward = float(action == self.quarter)
        self.steps += 1
        os.write(1, b"step\\n")
        os.system("echo from a child")
        return self._look(), reward, self.steps == self.length, False, {}

    def _look(self):
        self.quarter = int(self.np_random.integers(4))
        image = np.zeros((36, 36, 3), np.uint8)
        top, left = divmod(self.quarter, 2)
        image[18 * top : 18 * top + 18, 18 * left : 18 * left + 18] = 255
        return image if self.layout == "last" else np.moveaxis(image, -1, 0)

gymnasium.register("Camera-v0", Camera, disable_env_checker=True)

def doubled(env):
    print("wrapping")
    return gymnasium.wrappers.TransformReward(env, lambda reward: 2.0 * reward)
'''
TRAIN = """
import sys
import torch
from stable_baselines3 import PPO
sys.path.insert(0, ".")
import gymnasium
import noisy_camera

model = PPO("CnnPolicy", gymnasium.make("Camera-v0", length=5), n_steps=8, batch_size=8, device="cpu", seed=0)
optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
env = model.get_env()
for _ in range(60):
    images = torch.stack([torch.from_numpy(env.reset()[0].copy()) for _ in range(32)])
    quarters = (images.float().mean(1).reshape(32, 2, 18, 2, 18).mean((2, 4)).reshape(32, 4)).argmax(1)
    loss = -model.policy.get_distribution(images).distribution.logits.log_softmax(-1)[range(32), quarters].mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
model.learn(8, callback=lambda *_: False)
model.save("camera.zip")
"""


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Embedded, Path]]:
    """A policy that sees where it is bright, exported with channels last and, as 2.0.0, with channels first."""
    folder = tmp_path_factory.mktemp("camera")
    (folder / "noisy_camera.py").write_text(ENVIRONMENT)
    (folder / "train.py").write_text(TRAIN)
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, capture_output=True, timeout=600)
    with embedded(folder) as server:
        for release, more in (("1.0.0", ()), ("2.0.0", ("--images", "channels-first"))):
            output = folder / release
            command = ("export", str(folder / "camera.zip"), "--trust-pickle", "--no-normalizer", "-f", "onnx")
            server.run(*command, "-o", str(output), *more)
            server.run("publish", str(output), "--model", "camera", "--release", release)
        server.start()
        server.run("promote", "camera", "1.0.0")
        yield server, folder


def _policyctl(camera: tuple[Embedded, Path], *arguments: str) -> tuple[Any, str]:
    """The document that a command of its own prints, from the folder of the environment, and what it says."""
    server, folder = camera
    done = subprocess.run(
        [sys.executable, "-m", "policyctl", *arguments, "--json"],
        cwd=folder,
        env={**os.environ, "POLICYCTL_REPOSITORY": str(server.root)},
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return json.loads(done.stdout), done.stderr


def test_images_with_channels_last_are_played_and_prints_stay_off_stdout(camera: tuple[Embedded, Path]) -> None:
    """Arguments and wrappers reach the environment; stdout is one document though everything prints."""
    played = ("--env", "noisy_camera:Camera-v0", "--env-arg", "length=5", "--episodes", "3")
    document, said = _policyctl(camera, "evaluate", "camera", *played, "--wrapper", "noisy_camera:doubled")
    assert document["served"]["returns"] == [10.0] * 3
    assert document["served"]["env_id"] == "noisy_camera:Camera-v0(length=5) + noisy_camera:doubled"
    for printed in ("importing", "made", "reset", "step", "from a child", "wrapping"):
        assert printed in said
    archive = ("--reference", "camera.zip", "--no-normalizer", "--trust-pickle")
    document, _ = _policyctl(camera, "evaluate", "camera", *played, *archive)
    assert document["reference"]["returns"] == document["served"]["returns"] == [5.0] * 3
    document, _ = _policyctl(camera, "evaluate", "camera", *played, "--env-arg", "layout=first", *archive)
    assert document["reference"]["returns"] == document["served"]["returns"] == [5.0] * 3


def test_a_release_that_takes_channels_first_is_played_too(camera: tuple[Embedded, Path]) -> None:
    """Releases of before stay as they are: images are turned on their way, as `predict()` does it."""
    server, _ = camera
    server.run("promote", "camera", "2.0.0", "--alias", "staging")
    document, _ = _policyctl(
        camera,
        "evaluate",
        "camera",
        "-a",
        "staging",
        "--env",
        "noisy_camera:Camera-v0",
        "--env-arg",
        "length=5",
        "-n",
        "2",
    )
    assert (document["served"]["returns"], document["releases"]) == ([5.0, 5.0], ["2.0.0"])


def test_the_gate_behaviour_plays_the_same_environment(camera: tuple[Embedded, Path]) -> None:
    """`validate --env` takes arguments and wrappers as evaluate does; its document is clean as well."""
    document, said = _policyctl(
        camera,
        *("validate", "camera", "2.0.0", "--gates", "none", "--env", "noisy_camera:Camera-v0"),
        *("--env-arg", "length=5", "--wrapper", "noisy_camera:doubled", "--episodes", "20", "--margin", "1"),
    )
    judged = {gate["gate"]: gate for gate in document["gates"]}["behaviour"]
    assert judged["verdict"] == "passed", judged
    assert judged["evidence"]["env"] == "noisy_camera:Camera-v0(length=5) + noisy_camera:doubled"
    assert "step" in said


def test_wrong_arguments_and_wrappers_are_refused_in_words(camera: tuple[Embedded, Path]) -> None:
    """A document with the problem; nothing is played."""
    env = ("evaluate", "camera", "--env", "noisy_camera:Camera-v0")
    for more, problem in (
        (("--env-arg", "length"), "is not NAME=VALUE"),
        (("--env-arg", "length=1", "--env-arg", "length=2"), "is given twice"),
        (("--env-arg", "width=1"), "unexpected keyword argument 'width'"),
        (("--env-arg", "length=5", "--wrapper", "noisy_camera:nothing"), "cannot be imported"),
    ):
        document, _ = _policyctl(camera, *env, *more)
        assert problem in document["error"]["problem"]
        assert document["error"]["exit_code"] == 2
