"""Serve OpenVINO artifacts as Triton's ``openvino`` backend does, in full precision.

Full precision is asked for, because OpenVINO computes in bf16 on every CPU
that has it unless it is told not to, and nothing in an answer shows that.

Options, as parameters of ``config.pbtxt``: those in `_OPTIONS`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np

from policyctl.serving.backends.batching import Arrays
from policyctl.serving.backends.runtime import PolicyModel
from policyctl.serving.backends.spec import ModelSpec, Port, check_artifact

# Importing openvino also imports its model converter, which serves nobody here and takes as
# long as all the rest of it. A None makes that import fail, which openvino expects and passes over.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402 - the line above has to come first

_OPTIONS: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": "1",
    "NUM_STREAMS": "1",
    "PERFORMANCE_HINT": "LATENCY",
    "EXECUTION_MODE_HINT": "",
    "ENABLE_HYPER_THREADING": "",
    "ENABLE_CPU_PINNING": "",
    "SCHEDULING_CORE_TYPE": "",
    "CPU_DENORMALS_OPTIMIZATION": "",
}
"""What is passed on to OpenVINO, with our default; nothing is set where that is empty."""


class OpenVinoSession:
    """A compiled model with one request, whose tensors are set by position."""

    def __init__(self, spec: ModelSpec, files: Mapping[str, bytes], weights: str) -> None:
        core = ov.Core()
        model = core.read_model(files[spec.filename], files[weights])
        options = {name: spec.parameters.get(name) or default for name, default in _OPTIONS.items()}
        compiled = core.compile_model(model, "CPU", {k: v for k, v in options.items() if v})
        self._request = compiled.create_infer_request()
        inputs, outputs = _positions(compiled.inputs), _positions(compiled.outputs)
        check_artifact("input", _types(compiled.inputs, spec.inputs), spec.inputs, filename=spec.filename)
        check_artifact("output", _types(compiled.outputs, spec.outputs), spec.outputs, filename=spec.filename)
        self._inputs = [inputs[port.name] for port in spec.inputs]
        self._outputs = [outputs[port.name] for port in spec.outputs]

    def run(self, inputs: Arrays) -> Arrays:
        """Compute; outputs are views that the next call overwrites.

        Setting tensors by position takes a third of the time of passing arrays
        to ``infer()``, which looks every one of them up anew.
        """
        request = self._request
        kept = []
        for position, array in zip(self._inputs, inputs, strict=True):
            tensor = ov.Tensor(np.ascontiguousarray(array), shared_memory=True)
            kept.append(tensor)
            request.set_input_tensor(position, tensor)
        request.infer()
        return [request.get_output_tensor(position).data for position in self._outputs]


class TritonPythonModel(PolicyModel):
    """What Triton starts."""

    default_filename = "model.xml"

    def files_of(self, spec: ModelSpec) -> tuple[str, ...]:
        """The graph, and the weights beside it."""
        return (spec.filename, _weights(spec))

    def open_session(self, spec: ModelSpec, files: Mapping[str, bytes]) -> OpenVinoSession:
        """Compile the graph and weights that were verified."""
        return OpenVinoSession(spec, files, _weights(spec))


def _weights(spec: ModelSpec) -> str:
    return str(PurePosixPath(spec.filename).with_suffix(".bin"))


def _positions(ports: list[Any]) -> dict[str, int]:
    return {name: index for index, port in enumerate(ports) for name in port.get_names()}


def _types(ports: list[Any], wanted: Sequence[Port]) -> dict[str, str | None]:
    """Type by name; of a port's several names (OpenVINO adds some when it fuses) the wanted one."""
    names = {port.name for port in wanted}
    return {next(iter(port.get_names() & names), port.get_any_name()): _dtype(port) for port in ports}


def _dtype(port: Any) -> str:
    return str(np.dtype(port.get_element_type().to_dtype()).name)
