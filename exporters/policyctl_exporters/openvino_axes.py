"""Let OpenVINO read over which axes an ONNX graph reduces.

OpenVINO 2026.4 looks for the axes of three reductions among their inputs from
operator set 13 on, where ONNX has them in an attribute up to set 17. It finds
none, and reduces over all axes: the log-probability of a row depends on the
rows next to it. So the attribute becomes an input, as OpenVINO expects it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_REDUCTIONS: Final = frozenset({"ReduceL1", "ReduceLogSum", "ReduceLogSumExp"})
_SETS: Final = range(13, 18)


def with_axes(path: Path) -> bytes:
    """The content of an ONNX file as OpenVINO reads it rightly; no other runtime need be able to read it."""
    import onnx

    from policyctl_exporters.onnx_file import graphs

    content = path.read_bytes()
    model = onnx.load_from_string(content)
    if not any(opset.domain in ("", "ai.onnx") and opset.version in _SETS for opset in model.opset_import):
        return content
    for graph in graphs(model.graph):
        for number, node in enumerate(list(graph.node)):
            axes = [attribute for attribute in node.attribute if attribute.name == "axes"]
            if node.op_type not in _REDUCTIONS or not axes:
                continue
            name = f"{node.output[0]}__axes{number}"
            graph.initializer.append(
                onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(axes[0].ints)], axes[0].ints)
            )
            node.input.append(name)
            node.attribute.remove(axes[0])
    return bytes(model.SerializeToString(deterministic=True))
