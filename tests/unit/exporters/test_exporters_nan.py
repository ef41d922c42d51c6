"""NaN inside a policy comes out of every artifact, so that the action can be withheld."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from policyctl.domain.artifacts import Format
from policyctl_exporters import export_policy
from policyctl_exporters.layers import Clip
from policyctl_exporters.openvino_nan import keep_nan
from policyctl_exporters.runtimes import open_runner

WIDTH = 5
BOX = gym.spaces.Box(-1, 1, (WIDTH,), np.float32)
ANYTHING = gym.spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32)
PARTS: dict[str, Any] = {
    "relu": torch.relu,
    "relu6": functional.relu6,
    "floor": lambda x: x.clamp(min=-0.5),
    "ceiling": lambda x: x.clamp(max=0.5),
    "clip": Clip(np.full(WIDTH, -1, np.float32), np.full(WIDTH, 1, np.float32)),
    "hard sigmoid": functional.hardsigmoid,
    "hard swish": functional.hardswish,
    "prelu": lambda x: functional.prelu(x, torch.zeros(1)),
    "celu": functional.celu,
    "exp": lambda x: torch.exp(x.clamp(max=1.0)),
    "tanh": torch.tanh,
    "larger": lambda x: torch.maximum(x, x.flip(1)),
    "smaller": lambda x: torch.minimum(x.flip(1), 0.5 * x),
    "largest": lambda x: x - x.amax(dim=1, keepdim=True),
    "smallest": lambda x: x - x.amin(dim=1, keepdim=True),
    "turn": lambda x: x @ torch.full((WIDTH, WIDTH), 0.3),
    "shift": lambda x: 0.7 * x + 0.1,
}


class Chain(torch.nn.Module):
    """Some parts, one after the other, behind a root that is NaN for what is below -1000."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (n, WIDTH) to the same."""
        x = torch.sqrt(x + 1000.0) - 31.6
        for name in self.names:
            x = PARTS[name](x)
        return x


def openvino_of(policy: torch.nn.Module) -> Any:
    """As the exporter makes it: by ONNX."""
    buffer = io.BytesIO()
    axes = {"observation": {0: "batch"}, "action": {0: "batch"}}
    torch.onnx.export(
        policy,
        (torch.zeros(2, WIDTH),),
        buffer,
        dynamo=False,
        input_names=["observation"],
        output_names=["action"],
        dynamic_axes=axes,
    )
    model = openvino.Core().read_model(buffer.getvalue())
    keep_nan(model)
    return model


def kinds(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def rows(*broken: int) -> np.ndarray:
    """An ordinary row, then one with NaN behind the root of each `broken` element."""
    found = np.tile(np.linspace(-30, 30, WIDTH, dtype=np.float32), (1 + len(broken), 1))
    for row, element in enumerate(broken, start=1):
        found[row, element] = -2000
    return found


@settings(max_examples=25)
@given(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=5), st.integers(0, WIDTH - 1))
@pytest.mark.filterwarnings("ignore")
def test_whatever_a_policy_is_made_of_nan_comes_out_where_pytorch_has_it(names: list[str], element: int) -> None:
    """And what is a number is the same number with the guards."""
    policy = Chain(*names)
    given_rows = rows(element)
    with torch.no_grad():
        want = policy(torch.from_numpy(given_rows)).numpy()
    settings_of = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    got = openvino.Core().compile_model(openvino_of(policy), "CPU", settings_of)(given_rows)[0]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


class Rooted(torch.nn.Module):
    """Wrong for what is below -1000, and clipped to the action's bounds by the exporter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(WIDTH, 8), torch.nn.ReLU(), torch.nn.Linear(8, WIDTH))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Shape (n, WIDTH) to the same."""
        chosen: torch.Tensor = self.layers(torch.sqrt(observation + 1000.0))
        return chosen


def test_every_artifact_of_a_policy_that_breaks_down_says_so(tmp_path: Path) -> None:
    """Never the lowest allowed action, nor another valid one."""
    found = export_policy(
        Rooted(), tmp_path / "out", observation_space=ANYTHING, action_space=BOX, formats=["onnx", "openvino"]
    )
    for form in (Format.ONNX, Format.OPENVINO):
        answer = open_runner(form, found.output, found.contract)({"observation": rows(0, 3)})["action"]
        assert np.isfinite(answer[0]).all(), form
        assert np.isnan(answer[1:]).all(), form


@pytest.mark.filterwarnings("ignore")
def test_a_guard_stands_only_where_nan_can_come() -> None:
    """A finite observation that is scaled and clipped is a number; a chain has one guard, at its end."""

    class Usual(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.clamp((x - 0.1) / 0.3, -10, 10)
            return torch.clamp(torch.tanh(x @ torch.ones(WIDTH, WIDTH)), -1, 1)

    class Zeroed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu((x * 1e30) * 0.0)  # infinity times zero

    assert kinds(openvino_of(Usual())).count("IsNaN") == 1
    assert kinds(openvino_of(Zeroed())).count("IsNaN") == 1
    assert kinds(openvino_of(torch.nn.ReLU())).count("IsNaN") == 0


@pytest.mark.filterwarnings("ignore")
def test_two_exports_of_a_policy_are_the_same_to_the_byte(tmp_path: Path) -> None:
    """The guards bring no name that counts up."""
    for name in ("a", "b"):
        openvino.save_model(openvino_of(Chain("relu", "largest", "clip")), tmp_path / f"{name}.xml")
    first, second = ((tmp_path / f"{name}.xml").read_text() for name in ("a", "b"))
    assert first == second
