"""Run an OpenVINO artifact, in full precision.

Full precision is asked for, because OpenVINO computes in bf16 on every CPU
that has it unless an option forbids it, and nothing in an answer shows that.

OpenVINO's CPU plugin computes float64 in float32, and cannot compile every
graph that has float64 at an edge. So float64 tensors are converted here, and
the plugin sees float32: the session takes and gives what the contract says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.tensor import TensorSpec
from policyctl.sessions.ports import Arrays, check_artifact
from policyctl.sessions.quiet_openvino import ov

OPTIONS: Final = {
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

_LARGEST: Final = float(np.finfo(np.float32).max)


class OpenVinoSession:
    """A compiled model with one request, whose tensors are set by position.

    Args:
        contract: Names the tensors.
        graph: Content of the .xml file.
        weights: Content of the .bin file.
        options: Passed on to OpenVINO; of `OPTIONS`, each has its default.
        filename: For messages.
        rows: Compile for so many rows alone, at least and at most; None for any number.

    Raises:
        UsageError: The graph's tensors are not the contract's.
    """

    def __init__(
        self,
        contract: Contract,
        graph: bytes,
        weights: bytes,
        *,
        options: Mapping[str, str] = OPTIONS,
        filename: str,
        rows: tuple[int, int] | None = None,
    ) -> None:
        core = ov.Core()
        model = core.read_model(graph, weights)
        inputs = _positions("input", model.inputs, contract.observations, filename)
        outputs = _positions("output", model.outputs, contract.outputs, filename)
        if rows is not None:
            places = zip(inputs, contract.observations, strict=True)
            model.reshape({position: [ov.Dimension(*rows), *spec.shape] for position, spec in places})
        model = _without_float64(model)
        compiled = core.compile_model(model, "CPU", {k: v for k, v in options.items() if v})
        self._request = compiled.create_infer_request()
        self._inputs = [(at, spec.dtype == "float64") for at, spec in zip(inputs, contract.observations, strict=True)]
        self._outputs = [(at, spec.dtype == "float64") for at, spec in zip(outputs, contract.outputs, strict=True)]

    def run(self, inputs: Arrays) -> Arrays:
        """Compute; outputs are views that the next call overwrites.

        Setting tensors by position takes a third of the time of passing arrays
        to ``infer()``, which looks every one of them up again.
        """
        request = self._request
        tensors = []
        for (position, wide), given in zip(self._inputs, inputs, strict=True):
            array = _as_float32(given) if wide else given
            tensor = ov.Tensor(np.ascontiguousarray(array), shared_memory=True)
            tensors.append(tensor)
            request.set_input_tensor(position, tensor)
        request.infer()
        outputs = ((request.get_output_tensor(position).data, wide) for position, wide in self._outputs)
        return [array.astype(np.float64) if wide else array for array, wide in outputs]


def _without_float64(model: Any) -> Any:
    """The model with float32 at each edge that was float64."""
    edges = ov.preprocess.PrePostProcessor(model)
    for index, port in enumerate(model.inputs):
        if port.get_element_type() == ov.Type.f64:
            edges.input(index).tensor().set_element_type(ov.Type.f32)
    for index, port in enumerate(model.outputs):
        if port.get_element_type() == ov.Type.f64:
            edges.output(index).tensor().set_element_type(ov.Type.f32)
    return edges.build()


def _as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    """What float32 cannot hold becomes its largest number, as inside OpenVINO; NaN stays NaN."""
    return np.clip(array, -_LARGEST, _LARGEST).astype(np.float32)


def _positions(kind: str, ports: list[Any], specs: Sequence[TensorSpec], filename: str) -> list[int]:
    """Where each tensor of the contract stands; of a port's several names (fusing adds some) the contract's counts."""
    wanted = {spec.name for spec in specs}
    names = [next(iter(port.get_names() & wanted), port.get_any_name()) for port in ports]
    types = [str(np.dtype(port.get_element_type().to_dtype()).name) for port in ports]
    check_artifact(kind, dict(zip(names, types, strict=True)), specs, filename=filename)
    return [names.index(spec.name) for spec in specs]
