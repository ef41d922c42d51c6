"""Small ONNX graphs, written node by node as other people's exporters write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

node = helper.make_node
Dims = Sequence[int | str]

WEIGHTS = np.linspace(-1.0, 1.0, 8).astype(np.float32).reshape(4, 2)
LINEAR = node("MatMul", ["obs", "w"], ["action"])
"""From `obs`, four numbers, to an action of two."""


def port(name: str, dims: Dims, dtype: str = "float32") -> Any:
    """An input or output."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(dims))


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Dims] | Sequence[Any],
    outputs: Mapping[str, Dims] | Sequence[Any],
    *,
    weights: Mapping[str, Any] | None = None,
    domains: Mapping[str, int] | None = None,
    functions: Sequence[Any] = (),
) -> Any:
    """A model; `w` (four by two) is among its weights."""

    def ports(given: Mapping[str, Dims] | Sequence[Any]) -> list[Any]:
        return [port(n, d) for n, d in given.items()] if isinstance(given, Mapping) else list(given)

    arrays = {"w": WEIGHTS, **(weights or {})}
    tensors = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "policy", ports(inputs), ports(outputs), tensors)
    opsets = [helper.make_opsetid(name, version) for name, version in {"": 17, **(domains or {})}.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def save(folder: Path, *arguments: Any, **options: Any) -> Path:
    """The same as a file."""
    path = folder / "policy.onnx"
    onnx.save(model(*arguments, **options), path)
    return path


def masked(folder: Path, dtype: str) -> Path:
    """A policy of two choices, of which `action_mask`, of this type, rules some out."""
    nodes = [
        node("MatMul", ["obs", "w"], ["scores"]),
        node("Cast", ["action_mask"], ["allowed"], to=onnx.TensorProto.BOOL),
        node("Where", ["allowed", "scores", "never"], ["logits"]),
    ]
    inputs = [port("obs", ["n", 4]), port("action_mask", ["n", 2], dtype)]
    return save(folder, nodes, inputs, {"logits": ["n", 2]}, weights={"never": np.float32(-1e9)})
