"""Let a lookup at a negative place fail in ONNX where it fails in PyTorch.

``table[-1]`` is the last entry in PyTorch and in ONNX. An embedding, `index_select`,
`gather`, `scatter` and `scatter_add` raise an error there in PyTorch, and torch's exporter
writes them as the same operators of ONNX: what is served would answer with an entry that
the policy never looks up. So a negative place becomes one beyond the table, which
ONNX Runtime refuses, and `openvino_lookup` makes NaN of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def strict_lookups(opset: int) -> Iterator[None]:
    """Within it `torch.onnx.export` writes such lookups so."""
    import torch
    from torch.onnx import symbolic_helper, symbolic_opset9, symbolic_opset11, symbolic_opset16

    exporter: Any = torch.onnx

    def strict(g: Any, table: Any, dim: int, index: Any) -> Any:
        """The places, where a negative one is the table's size."""
        if index.node().kind() == "onnx::Constant":
            return index

        def constant(number: int) -> Any:
            return g.op("Constant", value_t=torch.tensor(number))

        index = g.op("Cast", index, to_i=torch._C._onnx.TensorProtoDataType.INT64)
        size = g.op("Gather", g.op("Shape", table), constant(dim))
        return g.op("Where", g.op("Less", index, constant(0)), size, index)

    def embedding(g: Any, table: Any, index: Any, *_: Any) -> Any:
        return g.op("Gather", table, strict(g, table, 0, index))

    def along(write: Callable[..., Any]) -> Callable[..., Any]:
        def written(g: Any, table: Any, dim: Any, index: Any, *more: Any) -> Any:
            axis = symbolic_helper._get_const(dim, "i", "dim")  # type: ignore[no-untyped-call]
            return write(g, table, dim, strict(g, table, axis, index), *more)

        return written

    writers = {
        "aten::embedding": embedding,
        "aten::index_select": along(symbolic_opset9.index_select),
        "aten::gather": along(symbolic_opset11.gather),
        "aten::scatter": along(symbolic_opset11.scatter),
        "aten::scatter_add": along(symbolic_opset16.scatter_add),
    }
    for name, write in writers.items():
        exporter.register_custom_op_symbolic(name, write, opset)
    try:
        yield
    finally:
        for name in writers:
            exporter.unregister_custom_op_symbolic(name, opset)
