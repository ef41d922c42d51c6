"""Unitree's deploy.yaml: its orders, scales and histories come into the contract, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_graphs import node, save

from policyctl.domain.drive import Drive, DriveKind
from policyctl.domain.history import Beginning, History
from policyctl.errors import UsageError
from policyctl.services.releases.export import ExportRequest, export

DEPLOY: dict[str, Any] = {
    "joint_ids_map": [2, 0, 1],
    "step_dt": 0.02,
    "stiffness": [10.0, 20.0, 30.0],
    "damping": [1.0, 2.0, 3.0],
    "default_joint_pos": [0.3, 0.1, 0.2],
    "commands": {"base_velocity": {"ranges": {"lin_vel_x": [-0.5, 1.0]}}},
    "actions": {
        "JointPositionAction": {
            "clip": None,
            "joint_names": [".*"],
            "scale": [0.25, 0.25, 0.5],
            "offset": [0.3, 0.1, 0.2],
            "joint_ids": None,
        }
    },
    "observations": {
        "base_ang_vel": {"params": {}, "clip": None, "scale": [0.2, 0.2, 0.2], "history_length": 1},
        "phase": {"params": {}, "clip": None, "scale": [1.0], "history_length": 1},
    },
}

OPTIONS = {"formats": ["onnx"], "golden_rows": 4, "force": False, "normalizer": None, "recorded": None, "code": None}


def exported(folder: Path, deploy: dict[str, Any], *, features: int = 4) -> tuple[Any, list[str]]:
    """The contract of a policy of three joints with this file next to it, and what the export said."""
    source = save(
        folder,
        [node("MatMul", ["obs", "legs"], ["actions"])],
        {"obs": [1, features]},
        {"actions": [1, 3]},
        weights={"legs": np.ones((features, 3), np.float32)},
    )
    (folder / "deploy.yaml").write_text(json.dumps(deploy))
    said: list[str] = []
    request = ExportRequest(str(source), folder / "out", None, (), None, None, OPTIONS, folder / "deploy.yaml")
    return export(request, said.append).contract, said


def test_joints_are_in_the_order_of_the_action_with_the_gains_of_their_motors(tmp_path: Path) -> None:
    """The map says which motor each joint is; gains come in the order of the motors."""
    contract, said = exported(tmp_path, DEPLOY)
    assert contract.action.features == ("motor_2", "motor_0", "motor_1")
    assert contract.drive == Drive(
        DriveKind.POSITION, (0.25, 0.25, 0.5), (0.3, 0.1, 0.2), (30.0, 10.0, 20.0), (3.0, 1.0, 2.0), 50.0, False
    )
    np.testing.assert_allclose(contract.drive.command(np.ones(3)), [0.55, 0.35, 0.7])
    assert contract.observations[0].features == ("base_ang_vel_0", "base_ang_vel_1", "base_ang_vel_2", "phase")
    assert "scale and clip of the observations are for the caller to apply, as deploy.yaml has them" in said
    assert "the ranges of commands in deploy.yaml are not in the contract" in said


def test_a_history_has_the_layout_of_isaac_lab(tmp_path: Path) -> None:
    """The steps of each term lie together, the newest last; the first step stands for those before an episode."""
    terms = {name: {**term, "history_length": 5} for name, term in DEPLOY["observations"].items()}
    contract, _ = exported(tmp_path, {**DEPLOY, "observations": terms}, features=20)
    assert contract.histories == (History("obs", 5, (3, 1), beginning=Beginning.FIRST),)


def test_gains_of_motors_that_the_file_does_not_have_are_left_out_in_words(tmp_path: Path) -> None:
    """As in files that were cut down by hand for a smaller robot."""
    contract, said = exported(tmp_path, {**DEPLOY, "joint_ids_map": [26, 0, 1]})
    assert (contract.drive.stiffness, contract.drive.damping) == (None, None)
    assert "stiffness of deploy.yaml is left out: it has 3 values, and a motor 26" in said


ACTION = DEPLOY["actions"]["JointPositionAction"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions": {"JointPositionAction": {**ACTION, "clip": [[-0.5, 0.5]] * 3}}}, "limits the command"),
        (
            {"actions": {"JointPositionAction": ACTION, "JointVelocityAction": ACTION}},
            "commands by JointPositionAction, JointVelocityAction",
        ),
        ({"actions": {"JointPositionAction": {**ACTION, "scale": ["fast"] * 3}}}, "cannot be read as one"),
        ({"actions": {"JointEffortAction": {**ACTION, "clip": [[-150.0, 150.0]] * 3}}}, "limits the command"),
        ({"joint_ids_map": [2, 0, -1]}, "expected one motor each, from 0"),
        ({"joint_ids_map": [2, 0, 2]}, "expected one motor each, from 0"),
        ({"joint_ids_map": [0, 1]}, "names 2 joints, the action has 3 elements"),
    ],
)
def test_what_would_command_otherwise_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """A limit, a second action, or a value of another type is never left out in silence."""
    with pytest.raises(UsageError, match=words):
        exported(tmp_path, {**DEPLOY, **changes})


def test_another_programs_file_is_refused_with_what_to_write(tmp_path: Path) -> None:
    """Such as rl_sar's config.yaml: the remedy says which of its fields is which of a description's."""
    with pytest.raises(UsageError, match="no field of a description: it has go2/himloco") as refusal:
        exported(tmp_path, {"go2/himloco": {"action_scale": [0.25] * 3}})
    assert "action_scale is drive.scale" in refusal.value.remedy
