"""ONNX graphs that OpenVINO reads otherwise than ONNX means them: its artifact gives what the file gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_graphs import model, node, save

from policyctl.domain.artifacts import Format
from policyctl_exporters import export_policy
from policyctl_exporters.runtimes import runners

ROWS = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
POSITIVE = [node("Sigmoid", ["obs"], ["part"]), node("Exp", ["part"], ["positive"])]


def agrees(source: Path, folder: Path) -> bool:
    """Whether the OpenVINO artifact gives for each of nine rows, in one batch, what ONNX Runtime gives for the file."""
    from onnxruntime import InferenceSession

    result = export_policy(source, folder / "out", formats=[Format.OPENVINO])
    right = InferenceSession(str(source)).run(["action"], {"obs": ROWS})[0]
    found = [run({"obs": ROWS})["action"] for run in runners(Format.OPENVINO, result.output, result.contract).values()]
    return all(np.allclose(answer, right, atol=2e-5) for answer in found)


@pytest.mark.parametrize("operator", ["ReduceL1", "ReduceLogSum", "ReduceLogSumExp"])
def test_a_reduction_over_one_axis_leaves_the_rows_of_a_batch_apart(tmp_path: Path, operator: str) -> None:
    """The log-probability of a row, as Stable-Baselines3's own ONNX files give it, depends on that row alone."""
    nodes = [
        *POSITIVE,
        node(operator, ["positive"], ["sum"], axes=[-1], keepdims=1),
        node("Sub", ["obs", "sum"], ["d"]),
    ]
    nodes.append(node("MatMul", ["d", "w"], ["action"]))
    assert agrees(save(tmp_path, nodes, {"obs": ["n", 4]}, {"action": ["n", 2]}), tmp_path)


def test_a_maximum_over_axes_that_are_computed_is_converted(tmp_path: Path) -> None:
    """Axes are whole numbers, which no NaN hides in; a dynamic quantisation computes them."""
    nodes: list[Any] = [node("Shape", ["obs"], ["shape"]), node("Size", ["shape"], ["rank"])]
    nodes += [node("Sub", ["rank", "one"], ["last"]), node("Unsqueeze", ["last", "zero"], ["axes"])]
    nodes += [*POSITIVE, node("Sqrt", ["positive"], ["root"]), node("ReduceMax", ["root", "axes"], ["most"])]
    nodes += [node("Sub", ["obs", "most"], ["d"]), node("MatMul", ["d", "w"], ["action"])]
    made = model(
        nodes,
        {"obs": ["n", 4]},
        {"action": ["n", 2]},
        weights={"one": np.array(1, np.int64), "zero": np.array([0], np.int64)},
    )
    made.opset_import[0].version = 18
    onnx.save(made, tmp_path / "policy.onnx")
    assert agrees(tmp_path / "policy.onnx", tmp_path)


def test_a_function_of_the_model_is_converted(tmp_path: Path) -> None:
    """What torch wrote as functions of its own library is served as the operators that they hold."""
    inside = [helper.make_node("Tanh", ["x"], ["y"])]
    squash = helper.make_function("torch_lib", "squash", ["x"], ["y"], inside, [helper.make_opsetid("", 17)])
    nodes = [node("squash", ["obs"], ["small"], domain="torch_lib"), node("MatMul", ["small", "w"], ["action"])]
    source = save(
        tmp_path,
        nodes,
        {"obs": ["n", 4]},
        {"action": ["n", 2]},
        domains={"torch_lib": 1},
        functions=[squash],
    )
    assert agrees(source, tmp_path)
