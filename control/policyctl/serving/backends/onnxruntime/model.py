"""Serve ONNX artifacts as Triton's ``onnxruntime`` backend does.

Options, as parameters of ``config.pbtxt``: ``intra_op_thread_count`` and
``inter_op_thread_count`` (1 unless set), ``execution_mode`` (0 sequential, 1
parallel).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnxruntime as ort

from policyctl.serving.backends.batching import Arrays
from policyctl.serving.backends.runtime import PolicyModel
from policyctl.serving.backends.spec import ModelSpec, check_artifact

_DTYPES: Final = {
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}

_FATAL = 4


class OnnxSession:
    """A session whose inputs and outputs are known by name."""

    def __init__(self, spec: ModelSpec, files: Mapping[str, bytes]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = spec.integer("intra_op_thread_count", 1)
        options.inter_op_num_threads = spec.integer("inter_op_thread_count", 1)
        if spec.integer("execution_mode", 0) == 1:
            options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        # An idle thread that spins takes the core from the server's own threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(files[spec.filename], options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_artifact("input", _types(inputs), spec.inputs, filename=spec.filename)
        check_artifact("output", _types(outputs), spec.outputs, filename=spec.filename)
        self._inputs = [port.name for port in spec.inputs]
        self._outputs = [port.name for port in spec.outputs]
        # It would print why a run failed, with values of the observation; the exception says it to the client.
        self._quietly = ort.RunOptions()
        self._quietly.log_severity_level = _FATAL

    def run(self, inputs: Arrays) -> Arrays:
        """Compute; outputs are the caller's own."""
        outputs: Arrays = self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True)), self._quietly)
        return outputs


class TritonPythonModel(PolicyModel):
    """What Triton starts."""

    default_filename = "model.onnx"

    def open_session(self, spec: ModelSpec, files: Mapping[str, bytes]) -> OnnxSession:
        """Compile the graph that was verified."""
        return OnnxSession(spec, files)


def _types(nodes: list[ort.NodeArg]) -> dict[str, str | None]:
    # A type that is not in the table is shown as it is, and fits no configuration.
    return {node.name: _DTYPES.get(node.type, node.type) for node in nodes}
