"""What stands next to the weights comes into the contract: from a file, or from the metadata of an ONNX file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from policyctl.domain.chunk import Chunk
from policyctl.domain.compatibility import compare, needed
from policyctl.domain.contract import Contract
from policyctl.domain.drive import Description, Drive, DriveKind
from policyctl.domain.tensor import Role
from policyctl.domain.versions import Bump
from policyctl.errors import UsageError
from policyctl_exporters import export_policy

JOINTS = ("hip", "knee", "ankle")


def _policy(folder: Path, **metadata: str) -> Path:
    """A linear policy of two features and three joints."""
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["obs", "weights"], ["actions"])],
        "linear",
        [helper.make_tensor_value_info("obs", onnx.TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("actions", onnx.TensorProto.FLOAT, ["n", 3])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, folder / "policy.onnx")
    return folder / "policy.onnx"


def _export(tmp_path: Path, description: Description | None = None, **metadata: str):
    source = _policy(tmp_path, **metadata)
    return export_policy(source, tmp_path / "out", formats=["onnx"], golden_rows=4, description=description)


def test_a_description_names_elements_and_says_what_an_action_commands(tmp_path) -> None:
    """Contract and card hold it; the actions are as before."""
    drive = Drive(DriveKind.POSITION, scale=0.25, offset=(0.1, 0.8, -1.5), rate_hz=50.0, in_graph=False)
    found = _export(tmp_path, Description({"obs": ("velocity", "heading")}, JOINTS, drive=drive))
    assert found.contract.observations[0].features == ("velocity", "heading")
    assert found.contract.action.features == JOINTS
    assert found.contract.drive == drive
    card = (tmp_path / "out" / "model_card.yaml").read_text()
    assert "position = action * 0.25 + offset; 50 Hz; applied by the caller" in card


def test_a_description_says_units_of_what_comes_and_goes(tmp_path) -> None:
    """Contract and card hold them; a release in other units is a breaking one, one that states them first is not."""
    plain = _export(tmp_path).contract
    said = Description.from_data({"units": {"obs": ["m/s", "rad"], "action": "rad"}}, what="deploy.yaml")
    (tmp_path / "said").mkdir()
    found = _export(tmp_path / "said", said).contract
    assert found.observations[0].units == ("m/s", "rad")
    assert found.action.units == "rad"
    card = (tmp_path / "said" / "out" / "model_card.yaml").read_text()
    assert "obs: float32[2] in m/s, rad" in card
    assert "action: float32[3] in rad" in card
    assert Contract.from_json(found.to_json()) == found
    assert needed(compare(plain, found)) is Bump.MINOR
    other = replace(found, outputs=(replace(found.action, units="deg"),))
    assert needed(compare(found, other)) is Bump.MAJOR


def test_units_of_an_action_with_several_steps_are_those_of_one(tmp_path) -> None:
    """As names of joints are."""
    said = {"chunk": {"horizon": 3, "execute": 1}, "units": {"action": ["rad"]}}
    assert _chunked(tmp_path, Description.from_data(said, what="deploy.yaml")).contract.action.units == "rad"
    said["units"] = {"action": ["rad", "N"]}
    found = _chunked(tmp_path / "out", Description.from_data(said, what="deploy.yaml"), joints=2)
    assert found.contract.action.units == ("rad", "N") * 3
    assert found.contract.of_one_step().action.units == ("rad", "N")


def test_the_metadata_of_an_onnx_file_is_read(tmp_path) -> None:
    """As lists in JSON or between commas; what a person says goes before it."""
    metadata = {
        "joint_names": "hip, knee, ankle",
        "action_scale": "0.5",
        "default_joint_pos": "[0.1, 0.2, 0.3]",
        "kp": "20.0,20.0,40.0",
        "run_path": "somebody/somewhere",
    }
    found = _export(tmp_path, **metadata)
    assert found.contract.action.features == JOINTS
    assert found.contract.drive == Drive(scale=0.5, offset=(0.1, 0.2, 0.3), stiffness=(20.0, 20.0, 40.0))
    assert found.notes == (
        "Not read of the file's metadata: run_path. What of it changes a command, say with --describe.",
        "The contract says what the file's metadata says: joint_names, action_scale, default_joint_pos, kp.",
    )
    own = export_policy(
        tmp_path / "policy.onnx",
        tmp_path / "own",
        formats=["onnx"],
        golden_rows=4,
        description=Description(joints=("a", "b", "c"), drive=Drive(scale=1.0)),
    )
    assert own.contract.action.features == ("a", "b", "c")
    assert found.contract.drive is not None
    assert own.contract.drive == replace(found.contract.drive, scale=1.0)
    torque = Drive(DriveKind.TORQUE, scale=1.0, in_graph=False)
    other = export_policy(
        tmp_path / "policy.onnx",
        tmp_path / "torque",
        formats=["onnx"],
        golden_rows=4,
        description=Description(drive=torque),
    )
    assert other.contract.drive == torque, "a pose is no torque"


def test_a_description_says_how_an_answer_holds_several_steps(tmp_path) -> None:
    """Joints, scale and offset are those of one step; inputs have what they are for."""
    said = {
        "joints": ["arm"],
        "drive": {"scale": [0.5], "offset": [1.0], "in_graph": False},
        "roles": {"obs": "goal"},
        "chunk": {"horizon": 3, "execute": 2, "interval_s": 0.02},
    }
    found = _chunked(tmp_path, Description.from_data(said, what="deploy.yaml"))
    assert found.contract.chunk == Chunk(3, 2, 0.02)
    assert found.contract.step_shape == (1,)
    assert found.contract.action.features == ("arm[0]", "arm[1]", "arm[2]")
    assert found.contract.observations[0].role is Role.GOAL
    assert found.contract.drive is not None
    assert found.contract.drive.command(np.zeros((3, 1))).tolist() == [[1.0]] * 3
    card = (tmp_path / "out" / "model_card.yaml").read_text()
    assert "3 actions an answer, 2 carried out; 0.02 s from one to the next" in card
    assert Contract.from_json(found.contract.to_json()) == found.contract


def _chunked(folder: Path, description: Description, *, joints: int = 1):
    """The linear policy, whose three numbers are one joint in three steps, or so many alike."""
    graph = onnx.load(_policy(folder)).graph
    graph.node[0].output[0] = "flat"
    graph.node.append(helper.make_node("Concat", ["flat"] * joints, ["all"], axis=1))
    graph.node.append(helper.make_node("Reshape", ["all", "shape"], ["actions"]))
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 3, joints]), "shape"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("actions", onnx.TensorProto.FLOAT, ["n", 3, joints]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "policy.onnx")
    return export_policy(
        folder / "policy.onnx", folder / "out", formats=["onnx"], golden_rows=4, description=description
    )


@pytest.mark.parametrize(
    "value", ["[1, 2]", "[1, 2, NaN]", "[1, 2, 1e999]", '{"hip": 1}', "9" * 400, "fast", "[" * 100_000, ""]
)
def test_metadata_that_does_not_fit_is_left_out_with_a_note(tmp_path, value) -> None:
    """It is not the policy: it refuses nothing, and it is not silent."""
    found = _export(tmp_path, action_scale=value)
    assert found.contract.drive is None
    assert found.notes == ("The metadata 'action_scale' does not fit an action of 3 elements and is left out.",)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"joints": ["hip"]}, "names 1 joints, the action has 3 elements"),
        ({"observations": {"lidar": ["a"]}}, "names the observation 'lidar'"),
        ({"observations": {"obs": ["a"]}}, "1 feature names"),
        ({"drive": {"scale": [1, 2]}}, "scale has 2 values, the action has 3 elements"),
        ({"drive": {"rate_hz": 0}}, "rate_hz is 0, expected more than 0"),
        ({"drive": {"kind": "speed"}}, "deploy.yaml.drive.kind"),
        ({"drive": {"gain": 1}}, "deploy.yaml.drive: gain unknown"),
        ({"joint": []}, "deploy.yaml: joint unknown"),
        ({"chunk": {"horizon": 2, "execute": 1}}, "horizon is 2, the action has shape (3,)"),
        ({"chunk": {"horizon": 3, "execute": 4}}, "execute is 4, expected 1 to 3"),
        ({"chunk": {"horizon": 3, "execute": 1, "interval_s": 0}}, "interval_s is 0, expected more than 0"),
        (
            {"roles": {"obs": "time_step"}},
            "obs (how many steps of the episode are over) has 2 elements of float32, expected 1 of",
        ),
        ({"roles": {"obs": "previous"}}, "deploy.yaml.roles"),
        ({"units": {"lidar": "m"}}, "units of 'lidar'"),
        ({"units": {"obs": ["rad"]}}, "1 units, its shape (2,) needs 2"),
        ({"units": {"action": " rad"}}, "the unit ' rad' is not a word"),
        ({"units": {"obs": 1}}, "deploy.yaml.units"),
        ({"roles": {"lidar": "goal"}}, "names the observation 'lidar'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, data, words) -> None:
    """Each by the place, the value and the expectation; nothing is written."""
    with pytest.raises(UsageError) as caught:
        _export(tmp_path, Description.from_data(data, what="deploy.yaml"))
    assert words in f"{caught.value.problem} {caught.value.remedy}"
    assert not (tmp_path / "out").exists()


def test_a_description_survives_its_file(tmp_path) -> None:
    """What a contract says of the drive is read back as it was."""
    drive = Drive(DriveKind.TORQUE, 2.0, 0.0, rate_hz=500.0, in_graph=True)
    _export(tmp_path, Description(drive=drive))
    written = json.loads((tmp_path / "out" / "contract.json").read_text())
    assert written["drive"] == {"kind": "torque", "scale": 2.0, "offset": 0.0, "rate_hz": 500.0, "in_graph": True}
