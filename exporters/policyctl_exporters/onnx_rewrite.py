"""An ONNX graph under its contract: names, a batch first, and the steps from what it gives to the action.

Nothing else of the graph is touched. It is written for any number of rows, or
for one row where it gives other answers in a batch than alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, Contract
from policyctl.domain.tensor import TensorSpec
from policyctl_exporters.onnx_file import fresh, graphs, prune, rename
from policyctl_exporters.onnx_rows import Feed

_FLOAT32_MAX: Final = np.finfo(np.float32).max
_OPSET: Final = 17


@dataclass(frozen=True, slots=True)
class Output:
    """An output of the contract, and what it is made of.

    Attributes:
        given: Its shape for one observation, as the file gives it.
        low: What the action is clipped to, of its shape; None where it is not.
        high: Likewise.
        scores: The contract's output that the action is chosen by; empty where the output is taken as it is.
        choices: Of each element of such an action, what its first choice is, and how many scores it has.
        axis: Where its batch is, in the file.
    """

    spec: TensorSpec
    source: str
    given: tuple[int, ...]
    dtype: str
    is_constant: bool = False
    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None
    scores: str = ""
    choices: tuple[tuple[int, int], ...] = ()
    axis: int = 0

    def of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """What the contract promises for rows that the file itself gave, each of the file's own shape."""
        if self.scores:
            blocks = np.split(rows.reshape(len(rows), -1), np.cumsum([size for _, size in self.choices])[:-1], axis=1)
            best = [block.argmax(axis=1) + first for block, (first, _) in zip(blocks, self.choices, strict=True)]
            return np.asarray(np.stack(best, axis=1), self.spec.dtype)
        found = rows.reshape(-1, *self.spec.shape).astype(self.spec.dtype)
        return found if self.low is None else np.clip(found, self.low, self.high)


def rewrite(model: Any, feeds: Sequence[Feed], outputs: Sequence[Output], contract: Contract) -> bytes:
    """The file's content under the contract.

    Args:
        model: The `onnx.ModelProto` as it came; it is left alone.
        contract: Whose `max_batch` says whether it takes any number of rows.
    """
    import onnx

    model = copy.deepcopy(model)
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("", _OPSET))
    prune(model, {output.source for output in outputs})
    rows = "batch" if contract.max_batch is None else 1
    builder = _Builder(model.graph)
    names = {feed.port.name: feed.spec.name for feed in feeds if not _reshaped(feed, rows)}
    moved = rename(model, names, reserved=[spec.name for spec in (*contract.observations, *contract.outputs)])
    _set_inputs(model, feeds, rows, moved, builder)
    # The action last, for it may be chosen by another output.
    for output in reversed(outputs):
        builder.finish(output, moved.get(output.source, output.source), rows, contract.observations[0])
    del model.graph.output[:]
    for graph in graphs(model.graph):
        del graph.value_info[:]
    model.graph.output.extend(_value(spec, rows) for spec in contract.outputs)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _reshaped(feed: Feed, rows: str | int) -> bool:
    """Whether an observation with its batch has another rank than the input that it goes to."""
    shape = (*([1] if feed.batched else []), *feed.row)
    wanted = feed.row == feed.spec.shape and (feed.batched or rows == "batch")
    if feed.axis:
        return True
    return not wanted and (rows == "batch" or shape != (1, *feed.spec.shape))


def _set_inputs(model: Any, feeds: Sequence[Feed], rows: str | int, moved: dict[str, str], builder: _Builder) -> None:
    weights = {value.name: value for value in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name in weights]
    del model.graph.input[:]
    model.graph.input.extend(_value(feed.spec, rows) for feed in feeds)
    model.graph.input.extend(kept)
    for feed in feeds:
        if feed.axis:
            order = [*range(1, feed.axis + 1), 0, *range(feed.axis + 1, len(feed.port.dims))]
            builder.first("Transpose", [feed.spec.name], moved.get(feed.port.name, feed.port.name), perm=order)
        elif _reshaped(feed, rows):
            first = [] if not feed.batched and rows == 1 else [-1 if rows == "batch" else 1]
            inner = moved.get(feed.port.name, feed.port.name)
            shape = builder.constant(np.array([*first, *feed.row], np.int64))
            builder.first("Reshape", [feed.spec.name, shape], inner)


def _value(spec: TensorSpec, rows: str | int) -> Any:
    import onnx

    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return onnx.helper.make_tensor_value_info(spec.name, element, [rows, *spec.shape])


@dataclass(slots=True)
class _Builder:
    """Adds nodes to a graph."""

    graph: Any
    used: set[str] = field(default_factory=set)

    def first(self, operator: str, inputs: Sequence[str], result: str, **attributes: Any) -> None:
        """A node before all others."""
        import onnx

        self.graph.node.insert(0, onnx.helper.make_node(operator, inputs, [result], **attributes))

    def finish(self, output: Output, given: str, rows: str | int, observation: TensorSpec) -> None:
        """The steps from what the file gives to an output of the contract."""
        import onnx

        last = given
        shape = output.spec.shape
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(output.spec.dtype))
        if output.is_constant:
            last = self._expand(self._add("Reshape", last, np.array([1, *shape], np.int64)), shape, observation)
        elif output.scores:
            last = self._add("Add", self._best(output), np.array([first for first, _ in output.choices], np.int64))
        elif output.axis:
            rest = [at for at in range(len(output.given)) if at != output.axis]
            last = self._add("Transpose", last, perm=[output.axis, *rest])
        elif output.given != (1, *shape):
            last = self._add("Reshape", last, np.array([-1 if rows == "batch" else 1, *shape], np.int64))
        if output.dtype != output.spec.dtype and not output.scores:
            last = self._add("Cast", last, to=element)
        for operator, bound in (("Max", output.low), ("Min", output.high)):
            if bound is not None and np.isfinite(bound).any():
                last = self._add(operator, last, np.clip(bound, -_FLOAT32_MAX, _FLOAT32_MAX).astype(output.spec.dtype))
        self.graph.node.append(onnx.helper.make_node("Identity", [last], [output.spec.name]))

    def _best(self, output: Output) -> str:
        """The likeliest choice of each element, counted from 0."""
        import onnx

        blocks, begin = [output.scores], 0
        if len(output.choices) > 1:
            blocks = []
            for _, size in output.choices:
                blocks.append(self._add("Gather", output.scores, np.arange(begin, begin + size), axis=1))
                begin += size
        best = [self._add("ArgMax", block, axis=1, keepdims=1) for block in blocks]
        if len(best) == 1:
            return best[0]
        joined = self._fresh(f"{ACTION}__concat")
        self.graph.node.append(onnx.helper.make_node("Concat", best, [joined], axis=1))
        return joined

    def _expand(self, last: str, shape: tuple[int, ...], observation: TensorSpec) -> str:
        """One row for each row of the observation."""
        rows = self._add("Gather", self._add("Shape", observation.name), np.array([0], np.int64), axis=0)
        return self._add("Expand", last, self._add("Concat", rows, np.array(shape, np.int64), axis=0))

    def _add(self, operator: str, first: str, second: NDArray[Any] | str | None = None, **attributes: Any) -> str:
        import onnx

        inputs = [first]
        if second is not None:
            inputs.append(second if isinstance(second, str) else self.constant(second))
        result = self._fresh(f"{ACTION}__{operator.lower()}")
        self.graph.node.append(onnx.helper.make_node(operator, inputs, [result], **attributes))
        return result

    def constant(self, value: NDArray[Any]) -> str:
        """The name of a constant of the graph."""
        import onnx

        name = self._fresh(f"{ACTION}__constant")
        self.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return name

    def _fresh(self, name: str) -> str:
        if not self.used:
            for node in self.graph.node:
                self.used.update(node.input, node.output)
            self.used.update(value.name for value in (*self.graph.initializer, *self.graph.input))
        found = fresh(name, self.used)
        self.used.add(found)
        return found
