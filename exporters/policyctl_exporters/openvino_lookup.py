"""Let a lookup beyond its table fail in OpenVINO, as it fails in PyTorch and ONNX Runtime.

OpenVINO's CPU kernels give zeros for an index that the table does not have. A
tracker whose time step runs past its motion would get a frame of zeros, and an
action with it, where its own runtime raises an error. So what such a lookup gives
is NaN, and the backends withhold the action; other rows of the batch are answered.

Whole numbers cannot be NaN. `GatherElements` raises an error beyond its table, so
the place of a whole number is looked up by it first. Lookups by constants are left
as they are, and so are those of whole numbers by several places at once (`GatherND`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

_LOOKUPS: Final = frozenset({"Gather", "GatherND"})
_BY_SHAPE: Final = frozenset({"Constant", "ShapeOf"})


def guard_lookups(model: Any) -> None:
    """Guard, in place, every lookup of an `openvino.Model` by an index that is computed from an observation."""
    computed: dict[str, bool] = {}
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        # What is not known is a guard that was put in.
        of = [computed.get(value.get_node().get_friendly_name(), True) for value in node.input_values()]
        computed[node.get_friendly_name()] = kind not in _BY_SHAPE and (kind == "Parameter" or any(of))
        if kind in _LOOKUPS and of[1]:
            _guard(node, kind)


def _guard(node: Any, kind: str) -> None:
    index, batches = node.input_value(1), node.get_attributes()["batch_dims"]
    shape, given = node.get_input_partial_shape(0), node.get_input_partial_shape(1)
    if shape.rank.is_dynamic or given.rank.is_dynamic:
        return
    rank, whole_rank = given.rank.get_length(), node.get_output_partial_shape(0).rank.get_length()
    if kind == "GatherND":
        first = batches
        count = given[rank - 1].get_length() if given[rank - 1].is_static else 0
        # What is looked up begins with the index's own dimensions, but for the last.
        axes = [*range(rank - 1, whole_rank)]
    else:
        axis = node.input_value(2).get_node()
        if axis.get_type_name() != "Constant":
            return
        first, count = int(axis.data.item()) % shape.rank.get_length(), 1
        # What is looked up has the index's own dimensions in place of the axis.
        axes = [*range(batches, first), *range(first + rank - batches, whole_rank)]
    dimensions = [shape[at] for at in range(first, first + count)]
    if not dimensions or any(size.is_dynamic for size in dimensions):
        return
    sizes = [size.get_length() for size in dimensions]
    if not node.get_output_element_type(0).is_real():
        if kind == "Gather":
            node.input(1).replace_source_output(_place_of(node, index, sizes[0]))
        return
    users, given = node.output(0).get_target_inputs(), node.output(0)
    kept = _only_within(node, index, sizes if kind == "GatherND" else sizes[0], axes)
    kept.get_tensor().set_names(given.get_tensor().get_names())
    given.get_tensor().set_names(set())
    for user in users:
        user.replace_source_output(kept)


def _place_of(node: Any, index: Any, size: int) -> Any:
    """The index, looked up in a table of places, which fails where there is no such place."""
    from policyctl.sessions.quiet_openvino import opset10

    places = opset10.constant(np.arange(size, dtype=index.get_element_type().to_dtype()))
    flat = opset10.reshape(index, opset10.constant([-1]), special_zero=False)
    found = opset10.gather_elements(places, flat, 0)
    shaped = opset10.reshape(found, opset10.shape_of(index), special_zero=False)
    for number, operation in enumerate((places, flat, found, shaped)):
        operation.set_friendly_name(f"{node.get_friendly_name()}/place{number}")
    return shaped.output(0)


def _only_within(node: Any, index: Any, sizes: int | list[int], axes: list[int]) -> Any:
    """What a lookup gives, but NaN where the table has no such index; -1 is its last entry.

    Args:
        sizes: How many entries; of an index of several numbers, how many by each.
        axes: Dimensions of what is looked up that the index does not have.
    """
    from policyctl.sessions.quiet_openvino import opset10

    made: list[Any] = []

    def named(operation: Any) -> Any:
        # Fixed names: OpenVINO's would count up, and no two exports would be alike.
        made.append(operation)
        operation.set_friendly_name(f"{node.get_friendly_name()}/lookup{len(made)}")
        return operation

    most = np.array(sizes, index.get_element_type().to_dtype())
    not_after = named(opset10.less(index, named(opset10.constant(most))))
    not_before = named(opset10.greater_equal(index, named(opset10.constant(-most))))
    within = named(opset10.logical_and(not_after, not_before))
    if node.get_type_name() == "GatherND":
        within = named(opset10.reduce_logical_and(within, named(opset10.constant([-1])), keep_dims=False))
    if axes:
        within = named(opset10.unsqueeze(within, named(opset10.constant(axes))))
    nan = named(opset10.constant(float("nan"), dtype=node.get_output_element_type(0).to_dtype()))
    return named(opset10.select(within, node.output(0), nan)).output(0)
