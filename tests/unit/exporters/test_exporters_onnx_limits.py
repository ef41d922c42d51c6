"""An ONNX file that takes a single number, such as a frame of a motion, is asked which numbers it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx_graphs import LINEAR, node, port, save

from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import runners

FRAMES = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
ROWS = np.random.default_rng(1).standard_normal((9, 4)).astype(np.float32)
LOOKED_UP = [node("Cast", ["step"], ["whole"], to=TensorProto.INT64), node("Squeeze", ["whole", "last"], ["frame"])]


def tracker(folder: Path, dtype: str, *, clamped: bool) -> Path:
    """A policy that gives the pose of one of twenty frames with its action, by the frame's number."""
    nodes = [LINEAR, node("Min" if clamped else "Identity", ["time_step", "end"][: 1 + clamped], ["step"]), *LOOKED_UP]
    nodes.append(node("Gather", ["frames", "frame"], ["joint_pos"], axis=0))
    weights: dict[str, Any] = {"frames": FRAMES, "last": np.array([-1]), "end": np.array(19, dtype)}
    inputs = [port("obs", [1, 4]), port("time_step", [1, 1], dtype)]
    return save(folder, nodes, inputs, [port("action", [1, 2]), port("joint_pos", [1, 3])], weights=weights)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize(("clamped", "high"), [(True, None), (False, 19.0)])
def test_the_number_of_a_frame_has_the_bounds_of_the_motion(
    tmp_path: Path, dtype: str, clamped: bool, high: float | None
) -> None:
    """A motion shorter than what is drawn is served; what the file fails on, the contract rules out, with a word."""
    result = export_policy(tracker(tmp_path, dtype, clamped=clamped), tmp_path / "out")
    spec = next(spec for spec in result.contract.observations if spec.name == "time_step")
    assert (spec.low, spec.high) == (0.0, 2.0**24 if clamped and dtype == "int64" else high)
    ends = "0 or more" if clamped else "0 or more and 19 or less"
    assert f"time_step is {ends}: policy.onnx fails on other numbers" in result.notes
    steps = np.arange(9, dtype=dtype)[:, None] * 2
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            np.testing.assert_array_equal(run({"obs": ROWS, "time_step": steps})["joint_pos"], FRAMES[::2][:9])


def test_a_step_of_64_bits_lies_within_what_float32_holds(tmp_path: Path) -> None:
    """OpenVINO computes others less exactly, and an episode has no such step: every format is served."""
    nodes = [LINEAR, node("Mod", ["step_idx", "period"], ["slot"]), node("Identity", ["slot"], ["position"])]
    inputs = [port("obs", [1, 4]), port("step_idx", [1], "int64")]
    outputs = [port("action", [1, 2]), port("position", [1], "int64")]
    source = save(tmp_path, nodes, inputs, outputs, weights={"period": np.array(7)})
    result = export_policy(source, tmp_path / "out")
    assert result.failed == {}
    assert "step_idx is at most 16777216: OpenVINO computes larger whole numbers less exactly" in result.notes
    steps = np.array([[0], [8], [-1]])
    for form in result.formats:
        for run in runners(form, result.output, result.contract).values():
            found = [run({"obs": ROWS[:1], "step_idx": steps[at : at + 1]})["position"] for at in range(3)]
            np.testing.assert_array_equal(np.concatenate(found), steps % 7)


def test_a_single_number_that_a_file_never_fails_on_has_no_bounds(tmp_path: Path) -> None:
    """A speed is no index."""
    nodes = [node("MatMul", ["obs", "w"], ["walk"]), node("Mul", ["walk", "speed"], ["action"])]
    source = save(tmp_path, nodes, {"obs": ["n", 4], "speed": ["n", 1]}, {"action": ["n", 2]})
    result = export_policy(source, tmp_path / "out", formats=["onnx"])
    assert [(spec.low, spec.high) for spec in result.contract.observations] == [(None, None)] * 2
