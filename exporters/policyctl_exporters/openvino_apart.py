"""Keep OpenVINO from a transformation that ends the process.

OpenVINO 2026.4 joins two layers and the elementwise operations after them into
one kernel, where it compiles for one row and one thread, as the native backend
does. Where such an operation also takes what elementwise operations alone made
of an input (an action that is smoothed: ``0.7 * previous + 0.3 * net(x)``), the
process dies of a segmentation fault. A sum over one element between the two
changes no value, and ends what is joined; of truth values, whether one is true.
"""

from __future__ import annotations

from typing import Any, Final

_JOINED: Final = frozenset(
    {"Add", "Divide", "FloorMod", "Maximum", "Minimum", "Mod", "Multiply", "Power", "PRelu", "SquaredDifference"}
    | {"Select", "Subtract"}
)
_INPUTS: Final = frozenset({"input", "operations"})


def keep_apart(model: Any) -> None:
    """Put a sum over one element, in place, before each operation of an `openvino.Model` that would be joined so."""
    made: dict[str, str] = {}
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        of = [made[value.get_node().get_friendly_name()] for value in node.input_values()]
        # What a value is made by: layers, else operations on an input, else an input itself, else constants.
        made[name] = "layers" if kind == "MatMul" or "layers" in of else "operations" if {*of} & _INPUTS else ""
        made[name] = "input" if kind == "Parameter" else made[name]
        if kind in _JOINED and "operations" in of:
            for number, (port, each) in enumerate(zip(node.inputs(), of, strict=True)):
                if each == "layers":
                    port.replace_source_output(_summed(port.get_source_output(), f"{name}/apart{number}"))


def _summed(value: Any, name: str) -> Any:
    from policyctl.sessions.quiet_openvino import opset10

    zero = opset10.constant([0])
    more = opset10.unsqueeze(value, zero)
    is_truth = value.get_element_type().get_type_name() == "boolean"
    alone = (opset10.reduce_logical_or if is_truth else opset10.reduce_sum)(more, zero, keep_dims=False)
    for suffix, node in (("axis", zero), ("more", more), ("sum", alone)):
        node.set_friendly_name(f"{name}/{suffix}")
    return alone.output(0)
