"""Let NaN through an OpenVINO graph, as PyTorch and ONNX Runtime do.

OpenVINO's CPU kernels compute a minimum or maximum with the processor's own
instructions, which give the other operand where one is NaN. So a ReLU makes 0
of it, and a clip to the bounds of the action the lowest allowed action: a
policy that broke down would answer with a valid action, and nothing after it
could tell. Each such operation is followed here by a choice of NaN where its
operand is NaN; the backends withhold what comes out.

The choice is left out where no NaN can come: at what a policy does with a
finite observation before its first layer. A chain (a clip is a maximum, then a
minimum) gets one choice, at its end, so OpenVINO still fuses it.

Left as they are: pooling and sorting (MaxPool, TopK). A discrete action itself
cannot be NaN; its scores can.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

_ELEMENTWISE: Final = frozenset({"Clamp", "Exp", "HardSigmoid", "Maximum", "Minimum", "PRelu", "Relu"})
_REDUCING: Final = frozenset({"ReduceMax", "ReduceMin"})
_AFFINE: Final = frozenset({"Add", "Divide", "Multiply", "Subtract"})
_SAME: Final = frozenset({"Clamp", "Convert", "Maximum", "Minimum", "Reshape", "Squeeze", "Unsqueeze"})


def keep_nan(model: Any) -> None:
    """Guard, in place, every operation of an `openvino.Model` that would lose a NaN.

    Args:
        model: Its inputs are taken to be finite, as the backends require them to be.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in _ELEMENTWISE | _REDUCING or not node.get_output_element_type(0).is_real():
            continue
        given, users = node.output(0), node.output(0).get_target_inputs()
        if _links(node) and len(users) == 1 and _links(next(iter(users)).get_node()):
            continue
        kept = given
        for value in _sources(node):
            if not _is_number(value):
                kept = _unless_nan(value, kept, node if kind in _REDUCING else None)
        if kept is given:
            continue
        kept.get_tensor().set_names(given.get_tensor().get_names())
        given.get_tensor().set_names(set())
        for user in users:
            user.replace_source_output(kept)


def _operands(node: Any) -> list[Any]:
    """What an operation computes with, less its constants, and less axes, which may be computed as well."""
    values = [value for value in node.input_values() if value.get_node().get_type_name() != "Constant"]
    return [value for value in values if value.get_element_type().is_real()]


def _links(node: Any) -> bool:
    """Whether a choice after this operation serves for the one before it."""
    return node.get_type_name() in _ELEMENTWISE and len(_operands(node)) == 1


def _sources(node: Any) -> list[Any]:
    """What comes into the chain of operations that ends with `node`."""
    found = []
    for value in _operands(node):
        before = value.get_node()
        chained = _links(node) and _links(before) and len(value.get_target_inputs()) == 1
        found += _sources(before) if chained else [value]
    return found


def _is_number(value: Any) -> bool:
    """Whether a value cannot be NaN: an input, shifted and scaled and clipped by constants. It may be infinite."""
    node = value.get_node()
    kind, operands = node.get_type_name(), _operands(node)
    if kind == "Parameter":
        return True
    constants = [given.get_node() for given in node.input_values() if given.get_node().get_type_name() == "Constant"]
    if len(operands) != 1 or not all(np.isfinite(constant.data).all() for constant in constants):
        return False
    if kind in {"Divide", "Multiply"}:  # infinity times 0, and 0 divided by itself
        plain = all((constant.data != 0).all() for constant in constants) and operands[0] == node.input_value(0)
    else:
        plain = kind in _AFFINE | _SAME
    return plain and _is_number(operands[0])


def _unless_nan(value: Any, otherwise: Any, reduction: Any) -> Any:
    """`otherwise`, but NaN where `value` is, or where `reduction` met one."""
    from policyctl.sessions.quiet_openvino import opset10

    # Fixed names: OpenVINO's would count up, and no two exports would be alike.
    name = f"{otherwise.get_node().get_friendly_name()}/nan"
    lost = opset10.is_nan(value)
    lost.set_friendly_name(f"{name}/is")
    if reduction is not None:
        lost = opset10.reduce_logical_or(lost, reduction.input_value(1), reduction.get_attributes()["keep_dims"])
        lost.set_friendly_name(f"{name}/any")
    nan = opset10.constant(float("nan"), dtype=otherwise.get_element_type().to_dtype())
    nan.set_friendly_name(f"{name}/value")
    kept = opset10.select(lost, nan, otherwise)
    kept.set_friendly_name(name)
    return kept.output(0)
