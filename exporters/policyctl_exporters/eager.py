"""A graph that is exported, run as it is, with weights that can be moved by a digit: NumPy in, NumPy out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from policyctl.domain.contract import ACTION, PARAMETERS, Contract
from policyctl_exporters.conduct import unvalidated
from policyctl_exporters.observations import Batch, in_batches
from policyctl_exporters.onnx_file import SHAPING, graphs, weights
from policyctl_exporters.runtimes import Runner, by_name
from policyctl_exporters.source import Arrays, Source

_MOVED: Final = (torch.float16, torch.bfloat16, torch.float32)
"""Weights that move by their last digit: runtimes round there. Of float64 nothing would change."""
_HALF: Final = (torch.float16, torch.bfloat16)


class Graph(ABC):
    """A graph under its contract, which says how many rows it is asked at once."""

    def __init__(self, answer: Runner, contract: Contract) -> None:
        self._answer, self._contract = answer, contract

    @abstractmethod
    def _moved(self, seed: int) -> AbstractContextManager[Runner]:
        """The same with every weight of at most 32 bits a last digit away."""

    def __call__(self, observations: Arrays) -> Batch:
        """All outputs for a batch, by name."""
        return in_batches(self._answer, dict(observations), self._contract.max_batch)

    def sensitivity(self, observations: Arrays, *, seed: int) -> float:
        """The largest finite change of a continuous output when every weight moves by its last digit."""
        moved, _ = self.moves(observations, observations, seed=seed)
        return float(moved[np.isfinite(moved)].max(initial=0.0))

    def moves(
        self, observations: Arrays, others: Arrays, *, seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """How far the action, and what it is made of, move when every weight moves by its last digit.

        Each runtime rounds every sum its own way, and the effect is of this
        size. The weights are the same again afterwards, bit by bit.

        Args:
            observations: Rows to measure on.
            others: What to give the moved weights instead: the same, or rows a digit away.
            seed: Of the digits' signs.

        Returns:
            The largest absolute change of a continuous output, and whether an integer changed; both of shape (n,).
        """
        before = self(observations)
        with self._moved(seed) as moved_graph:
            after = in_batches(moved_graph, dict(others), self._contract.max_batch)
        rows = len(next(iter(before.values())))
        moved, flipped = np.zeros(rows), np.zeros(rows, dtype=bool)
        with np.errstate(invalid="ignore"):
            for name in [name for name in (ACTION, *PARAMETERS) if name in before]:
                first, second = before[name].astype(np.float64), after[name].astype(np.float64)
                # A choice that is ruled out stays so: infinity did not move.
                change = np.where(first == second, 0.0, np.abs(second - first)).reshape(rows, -1).max(axis=1)
                if before[name].dtype.kind == "f":
                    moved = np.maximum(moved, change)
                else:
                    flipped |= change > 0
        return moved, flipped


def graph_of(policy: Source) -> Graph:
    """What is exported of a policy."""
    if policy.graph is not None:
        return EagerGraph(policy.graph, policy.contract)
    return OnnxGraph(policy.onnx or b"", policy.contract)


class EagerGraph(Graph):
    """A torch graph on the CPU; it takes the contract's observations in order."""

    def __init__(self, graph: nn.Module, contract: Contract) -> None:
        super().__init__(self._run, contract)
        self._graph = graph
        self._reads = _HalfReads(graph.parameters())

    def _run(self, observations: Arrays) -> Batch:
        # Copies: a policy may write to what it is given.
        tensors = [torch.tensor(observations[spec.name]) for spec in self._contract.observations]
        with torch.no_grad(), unvalidated(), self._reads if self._reads.known else nullcontext():
            found = self._graph(*tensors)
        found = [found] if isinstance(found, torch.Tensor) else found
        return {
            spec.name: np.asarray(tensor.numpy()) for spec, tensor in zip(self._contract.outputs, found, strict=True)
        }

    @contextmanager
    def _moved(self, seed: int) -> Iterator[Runner]:
        generator = torch.Generator().manual_seed(seed)
        kept = [(weight, weight.data, weight.detach().clone()) for weight in self._graph.parameters()]
        try:
            with torch.no_grad():
                for weight, given, value in kept:
                    if weight.dtype not in _MOVED:
                        continue
                    signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
                    if weight.dtype in _HALF and self._reads.are_only_cast(given):
                        weight.data = (value.double() * (1 + torch.finfo(torch.float32).eps * signs)).float()
                    else:
                        weight.copy_(value.double() * (1 + torch.finfo(weight.dtype).eps * signs))
            yield self._run
        finally:
            with torch.no_grad():
                for weight, given, value in kept:
                    if weight.dtype != given.dtype:
                        weight.data = given
                    weight.copy_(value)


class _HalfReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which weights of half precision are stored so alone: every operator that reads them computes in float32.

    Runtimes round such a computation at float32's last digit, not at the
    weights' own.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {_place(weight) for weight in parameters if weight.dtype in _HALF}
        self._cast: set[int] = set()
        self._read: set[int] = set()

    def are_only_cast(self, weight: torch.Tensor) -> bool:
        """Whether each operator that read a weight until now made it float32."""
        return _place(weight) in self._cast - self._read

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and note which weights it read."""
        found = func(*args, **(kwargs or {}))
        if read := self.known & _places((args, kwargs)):
            if func is torch.ops.aten._to_copy.default and found.dtype == torch.float32:
                self._cast |= read
            elif not _places(found) <= read:
                self._read |= read
        return found


def _place(tensor: torch.Tensor) -> int:
    """Where its numbers lie: a view of a tensor has the same place."""
    return tensor.untyped_storage().data_ptr()


def _places(values: Any) -> set[int]:
    return {_place(value) for value in tree_leaves(values) if isinstance(value, torch.Tensor)}


class OnnxGraph(Graph):
    """The content of an ONNX file, run by ONNX Runtime."""

    def __init__(self, content: bytes, contract: Contract) -> None:
        super().__init__(_session(content, contract), contract)
        self._content = content

    @contextmanager
    def _moved(self, seed: int) -> Iterator[Runner]:
        import onnx

        rng = np.random.default_rng(seed)
        model = onnx.load_from_string(self._content)
        _widen(model)
        for graph in graphs(model.graph):
            for tensor in weights(graph):
                if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
                    values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
                    signs = rng.integers(0, 2, values.shape) * 2 - 1
                    digit = float(np.finfo(values.dtype).eps)
                    moved = (values.astype(np.float64) * (1 + digit * signs)).astype(values.dtype)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
        yield _session(model.SerializeToString(), self._contract)


def _widen(model: Any) -> None:
    """Give half-precision weights of an `onnx.ModelProto` as float32 where every operator that reads them does so.

    Runtimes round such a computation at float32's last digit, not at the weights' own.
    """
    import onnx

    readers: dict[str, list[Any]] = {}
    # Their types are declared, or read outside.
    fixed: set[str] = set()
    for graph in graphs(model.graph):
        fixed.update(value.name for value in (*graph.input, *graph.output))
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)

    def is_only_cast(name: str) -> bool:
        return name not in fixed and name in readers and all(map(casts, readers[name]))

    def casts(node: Any) -> bool:
        if node.op_type == "Cast":
            return any(entry.name == "to" and entry.i == onnx.TensorProto.FLOAT for entry in node.attribute)
        return node.op_type in {*SHAPING, "Transpose"} and is_only_cast(node.output[0])

    for graph in graphs(model.graph):
        named = [(tensor, tensor.name) for tensor in graph.initializer]
        constants = [node for node in graph.node if node.op_type == "Constant"]
        named += [(entry.t, node.output[0]) for node in constants for entry in node.attribute if entry.HasField("t")]
        for tensor, name in named:
            if tensor.data_type == onnx.TensorProto.FLOAT16 and is_only_cast(name):
                values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _session(content: bytes, contract: Contract) -> Runner:
    from policyctl.sessions.onnxruntime import OnnxSession

    return by_name(OnnxSession(contract, content, filename="the graph"), contract)
