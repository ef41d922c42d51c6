"""Let a lookup at a negative place fail in ONNX where it fails in PyTorch.

``table[-1]`` is the last entry in PyTorch and in ONNX. An embedding, `index_select`, `index_add`,
`index_copy`, `gather` and what scatters raise an error there in PyTorch, and torch's exporter
writes them as the same operators of ONNX: what is served would answer with an entry that
the policy never looks up. So a negative place becomes one beyond the table, which
ONNX Runtime refuses, and `openvino_lookup` makes NaN of.

The `OneHot` of ONNX gives zeros beyond its classes, and `embedding_bag` becomes a loop, into which
`openvino_lookup` does not look. So their places are looked up first, among all that there are.
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

        size = g.op("Gather", g.op("Shape", table), constant(g, dim))
        return not_negative(g, size, index)

    def not_negative(g: Any, size: Any, index: Any) -> Any:
        index = g.op("Cast", index, to_i=torch._C._onnx.TensorProtoDataType.INT64)
        return g.op("Where", g.op("Less", index, constant(g, 0)), size, index)

    def constant(g: Any, number: int) -> Any:
        return g.op("Constant", value_t=torch.tensor(number))

    def looked_up(g: Any, size: Any, index: Any) -> Any:
        """The places, each looked up among all that there are, which fails for any other."""
        places = g.op("Range", constant(g, 0), size, constant(g, 1))
        return g.op("Gather", places, not_negative(g, size, index))

    def one_hot(g: Any, index: Any, classes: Any) -> Any:
        return symbolic_opset9.one_hot(g, looked_up(g, classes, index), classes)

    def embedding_bag(g: Any, table: Any, index: Any, *more: Any) -> Any:
        size = g.op("Gather", g.op("Shape", table), constant(g, 0))
        return symbolic_opset11.embedding_bag(g, table, looked_up(g, size, index), *more)

    def embedding(g: Any, table: Any, index: Any, *_: Any) -> Any:
        return g.op("Gather", table, strict(g, table, 0, index))

    def along(write: Callable[..., Any]) -> Callable[..., Any]:
        def written(g: Any, table: Any, dim: Any, index: Any, *more: Any) -> Any:
            axis = symbolic_helper._get_const(dim, "i", "dim")  # type: ignore[no-untyped-call]
            return write(g, table, dim, strict(g, table, axis, index), *more)

        return written

    writers = {
        "aten::embedding": embedding,
        "aten::embedding_bag": embedding_bag,
        "aten::one_hot": one_hot,
        "aten::index_select": along(symbolic_opset9.index_select),
        "aten::index_add": along(symbolic_opset9.index_add),
        "aten::index_copy": along(symbolic_opset11.index_copy),
        "aten::gather": along(symbolic_opset11.gather),
        "aten::scatter": along(symbolic_opset11.scatter),
        "aten::scatter_add": along(symbolic_opset16.scatter_add),
        "aten::scatter_reduce": along(symbolic_opset16.scatter_reduce),
    }
    for name, write in writers.items():
        exporter.register_custom_op_symbolic(name, write, opset)
    try:
        yield
    finally:
        for name in writers:
            exporter.unregister_custom_op_symbolic(name, opset)
