"""Which floats of an ONNX graph are whole numbers whatever it observes; `whole_numbers` asks that of modules.

A choice may come as a float, as ``Cast(ArgMax(...))``. It is an integer of the
contract only where operators made it of integers, and nothing in it can be infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

_ARRANGING: Final = frozenset(
    {"Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Tile", "Transpose", "Unsqueeze"}
)
"""Operators that give some of the numbers of what they take first."""

_CHOOSING: Final = frozenset({"Abs", "Ceil", "Clip", "Concat", "Floor", "Max", "Min", "Neg", "Relu", "Round"})
"""Operators that make no number larger than all that they take."""

_OPERATORS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {"Add": sum, "Sub": sum, "Mul": math.prod}


def whole_in_graph(model: Any, output: str) -> bool:
    """Whether a tensor of an `onnx.ModelProto` is made of whole numbers, whatever the graph observes."""
    return _Graph(model).largest(output) is not None


class _Graph:
    def __init__(self, model: Any) -> None:
        import onnx

        graph = onnx.shape_inference.infer_shapes(model).graph
        typed = (*graph.input, *graph.value_info, *graph.output)
        self._types = {value.name: value.type.tensor_type.elem_type for value in typed}
        self._constants = {value.name: value for value in graph.initializer}
        self._makers: dict[str, Any] = {}
        self._known: dict[str, float | None] = {}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t
            self._makers |= dict.fromkeys(node.output, node)
            # In the order of the graph, so that nothing is followed far.
            for name in node.output:
                self._known[name] = self._made(name, node)

    def largest(self, name: str) -> float | None:
        """How large its numbers can be; None where one may be no integer."""
        import onnx

        if name in self._constants:
            values = onnx.numpy_helper.to_array(self._constants[name])
            if values.dtype.kind not in "fiub" or not np.isfinite(values).all() or (values != np.round(values)).any():
                return None
            return float(np.abs(values.astype(np.float64)).max(initial=0.0))
        if self._known.get(name) is not None:
            return self._known[name]
        if not self._types.get(name):
            return None
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self._types[name]))
        return {"b": 1.0, "i": 2.0**63, "u": 2.0**64}.get(kind.kind)

    def _made(self, name: str, node: Any) -> float | None:
        """What is known of a result by its operator, in the type that it has."""
        import onnx

        found = self._of(node) if node.domain in ("", "ai.onnx") else None
        if found is None or not self._types.get(name):
            return None
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self._types[name]))
        if kind.kind == "f":
            return found if found <= np.finfo(kind).max else None
        # Integers begin again where floats become infinite.
        return found if kind.kind in "iu" and found <= np.iinfo(kind).max else None

    def _of(self, node: Any) -> float | None:
        given = [name for name in node.input if name]
        if node.op_type in _ARRANGING or node.op_type == "Cast":
            return self.largest(given[0])
        if node.op_type == "OneHot":
            return self.largest(given[2])
        if node.op_type == "Where":
            return self._most(given[1:])
        if node.op_type == "Clip" and node.attribute:
            return None  # up to opset 10 its limits stand there, and may have fractions
        if node.op_type in _CHOOSING:
            return self._most(given)
        sizes = [self.largest(each) for each in given]
        whole = [size for size in sizes if size is not None]
        return _OPERATORS[node.op_type](whole) if node.op_type in _OPERATORS and whole == sizes else None

    def _most(self, names: Sequence[str]) -> float | None:
        sizes = [self.largest(name) for name in names]
        whole = [size for size in sizes if size is not None]
        return max(whole) if whole and whole == sizes else None
