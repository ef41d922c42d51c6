"""Run an ONNX artifact with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnxruntime as ort

from policyctl.domain.contract import Contract
from policyctl.domain.tensor import DTYPES
from policyctl.sessions.ports import Arrays, check_artifact, integer_option

_DTYPES: Final = {f"tensor({name})": name for name in DTYPES} | {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}
_FATAL: Final = 4


def open_graph(model: bytes | str, options: Mapping[str, str] | None = None) -> ort.InferenceSession:
    """Compile a graph for the CPU.

    Args:
        model: The file's content, or its path where its weights lie next to it.
        options: ``intra_op_thread_count`` and ``inter_op_thread_count`` (1 unless set),
            ``execution_mode`` (0 sequential, 1 parallel).
    """
    given = options or {}
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = integer_option(given, "intra_op_thread_count", 1)
    settings.inter_op_num_threads = integer_option(given, "inter_op_thread_count", 1)
    if integer_option(given, "execution_mode", 0) == 1:
        settings.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    # Its warnings are about the graph of somebody else; its errors are raised as well.
    settings.log_severity_level = _FATAL
    # An idle thread that spins takes the core from the server's own threads.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def quietly() -> ort.RunOptions:
    """Options of a run that prints nothing: values of the observation are the client's to read, and not the log's."""
    settings = ort.RunOptions()
    settings.log_severity_level = _FATAL
    return settings


def dtype_of(node: ort.NodeArg) -> str:
    """The NumPy dtype name of an input or output; ONNX Runtime's own word where no contract has that type."""
    return _DTYPES.get(node.type, str(node.type))


class OnnxSession:
    """A session whose inputs and outputs are known by name.

    Args:
        contract: Names the tensors.
        model: The file's content.
        options: See `open_graph`.
        filename: For messages.

    Raises:
        UsageError: The graph's tensors are not the contract's.
    """

    def __init__(
        self, contract: Contract, model: bytes, *, options: Mapping[str, str] | None = None, filename: str
    ) -> None:
        self._session = open_graph(model, options)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        for kind, nodes, specs in (("input", inputs, contract.observations), ("output", outputs, contract.outputs)):
            check_artifact(kind, {node.name: dtype_of(node) for node in nodes}, specs, filename=filename)
        self._inputs = [spec.name for spec in contract.observations]
        self._outputs = [spec.name for spec in contract.outputs]
        self._quietly = quietly()

    def run(self, inputs: Arrays) -> Arrays:
        """Compute; outputs are the caller's own."""
        outputs: Arrays = self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True)), self._quietly)
        return outputs
