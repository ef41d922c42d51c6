"""An ONNX graph run by ONNX Runtime, with weights that can be moved by a digit, as `eager` runs a torch one."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl_exporters.moved import changes, largest_change
from policyctl_exporters.observations import Batch, in_batches
from policyctl_exporters.onnx_file import graphs, weights
from policyctl_exporters.runtimes import Runner, by_name
from policyctl_exporters.source import Arrays

_LAST_DIGIT: Final = np.finfo(np.float32).eps


class OnnxGraph:
    """The graph that is served.

    Args:
        content: The file.
        contract: Names its tensors.
    """

    def __init__(self, content: bytes, contract: Contract) -> None:
        self._content, self._contract = content, contract
        self._run = self._open(content)

    def __call__(self, observations: Arrays) -> Batch:
        """All outputs, by name; no more rows are asked at once than the contract allows."""
        return in_batches(self._run, dict(observations), self._contract.max_batch)

    def sensitivity(self, observations: Arrays, *, seed: int) -> float:
        """As `eager.EagerGraph.sensitivity`."""
        return largest_change(self.moves(observations, observations, seed=seed)[0])

    def moves(
        self, observations: Arrays, others: Arrays, *, seed: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """As `eager.EagerGraph.moves`."""
        moved = self._open(_moved(self._content, np.random.default_rng(seed)))
        return changes(self(observations), in_batches(moved, dict(others), self._contract.max_batch))

    def _open(self, content: bytes) -> Runner:
        from policyctl.sessions.onnxruntime import OnnxSession

        return by_name(OnnxSession(self._contract, content, filename="the graph"), self._contract)


def _moved(content: bytes, rng: np.random.Generator) -> bytes:
    """The file with every float32 weight a last digit away."""
    import onnx

    model = onnx.load_from_string(content)
    for graph in graphs(model.graph):
        for tensor in weights(graph):
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
                signs = rng.integers(0, 2, values.shape) * 2 - 1
                moved = np.asarray(values * (1 + _LAST_DIGIT * signs), dtype=values.dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    moved_content: bytes = model.SerializeToString()
    return moved_content
