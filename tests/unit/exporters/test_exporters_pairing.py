"""Several observations reach a policy by name: positions say nothing, because gymnasium sorts keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from policyctl.errors import UsageError
from policyctl_exporters import export_policy, load_reference
from policyctl_exporters.runtimes import open_runner

THREE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SPACE = spaces.Dict({"target": THREE, "pose": THREE})
ROWS = {"target": np.array([[1, 2, 3]], np.float32), "pose": np.zeros((1, 3), np.float32)}
RIGHT = [[1.0, 2.0, 3.0]]


class Servo(nn.Module):
    """Two inputs of one shape, in an order that is not the alphabet's."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, target: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
        return self.gain * (target - pose)


class KeywordServo(Servo):
    """The same, its second input optional and by keyword alone."""

    def forward(self, target: torch.Tensor, *, pose: torch.Tensor | None = None) -> torch.Tensor:
        return self.gain * target if pose is None else super().forward(target, pose)


def _export(source: Any, folder: Path, **settings: Any) -> Any:
    settings = {"observation_space": SPACE, "action_space": THREE} | settings
    return export_policy(source, folder, **settings)


def _answers(result: Any, rows: dict[str, Any] = ROWS) -> list[list[list[float]]]:
    runners = [open_runner(form, result.output, result.contract) for form in result.formats]
    return [runner(rows)["action"].tolist() for runner in runners]


@pytest.mark.case
def test_a_torchscript_file_gets_its_inputs_by_name(tmp_path: Path, case: Callable[[str], Path]) -> None:
    """`target - pose` stays that, though the space holds pose first."""
    result = _export(case("onnx_dict_swapped") / "servo.pt", tmp_path / "out")
    assert _answers(result) == [RIGHT] * 3


@pytest.mark.parametrize("module", [Servo(), KeywordServo()])
def test_a_module_gets_its_inputs_by_name(module: nn.Module, tmp_path: Path) -> None:
    """The names of forward's arguments count, those of optional arguments too."""
    assert _answers(_export(module, tmp_path / "out")) == [RIGHT] * 3


def test_an_exported_torchscript_file_says_what_its_inputs_are(tmp_path: Path) -> None:
    """What was exported can be exported again: the file names its inputs as the contract does."""
    first = _export(Servo(), tmp_path / "first", formats=["torchscript"])
    again = _export(first.output / "model.pt", tmp_path / "again")
    assert _answers(again) == [RIGHT] * 3


def test_inputs_without_a_partner_are_refused_with_both_lists(tmp_path: Path) -> None:
    """Nothing is guessed from positions or shapes."""
    space = spaces.Dict({"goal": THREE, "pose": THREE})
    with pytest.raises(UsageError, match=r"Servo takes target, pose; .* keys goal, pose") as refusal:
        _export(Servo(), tmp_path / "out", observation_space=space)
    assert "matched by name" in refusal.value.remedy


def test_a_key_that_is_no_word_matches_the_argument_of_its_tensor(tmp_path: Path) -> None:
    """Keys with blanks or signs match by the name that the contract gives them."""

    class Joints(nn.Module):
        def forward(self, target: torch.Tensor, joint_angles: torch.Tensor) -> torch.Tensor:
            return target - joint_angles

    space = spaces.Dict({"target": THREE, "joint angles": THREE})
    rows = {"target": ROWS["target"], "joint_angles": ROWS["pose"]}
    answer = load_reference(Joints(), observation_space=space, action_space=THREE)
    assert answer(rows)["action"].tolist() == RIGHT
