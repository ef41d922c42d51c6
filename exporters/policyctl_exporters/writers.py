"""Write the artifacts of a graph, each from the one before it where that is how it is made.

ONNX and TorchScript come from the torch graph; OpenVINO and TensorRT come from
ONNX. No file names a folder of the machine that it was written on.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np

from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.contract import Contract
from policyctl.errors import UnsupportedError
from policyctl_exporters.openvino_nan import keep_nan

OPSET: Final = 17


def write_onnx(graph: Any, contract: Contract, path: Path) -> None:
    """Export a torch graph to ONNX with a dynamic batch.

    Args:
        graph: Takes the contract's observations in order, gives its outputs in order.
        contract: Names the graph's inputs and outputs.
        path: File to write.

    Raises:
        UnsupportedError: The graph has an operation that ONNX lacks.
    """
    import onnx
    import torch

    if any(isinstance(module, torch.jit.ScriptModule) for module in graph.modules()):
        # The ONNX exporter refuses to trace into TorchScript, but takes TorchScript whole.
        graph = _trace(graph, contract)
    inputs = [spec.name for spec in contract.observations]
    outputs = [spec.name for spec in contract.outputs]
    with warnings.catch_warnings():
        # What the tracer takes for a constant by mistake shows as a parity failure at
        # another batch size; its warnings are about that, and about its own deprecation.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph,
                examples(contract),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise UnsupportedError(
                f"the policy cannot be written as ONNX: {str(error).splitlines()[0]}",
                remedy="Leave onnx and openvino out, or replace the operation.",
            ) from error
    model = onnx.load_from_string(path.read_bytes())
    for spec, value in zip(contract.outputs, model.graph.output, strict=True):
        # The tracer leaves inner dimensions of some outputs unnamed; the contract knows them.
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        shape.dim.add().dim_param = "batch"
        for size in spec.shape:
            shape.dim.add().dim_value = size
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_openvino(onnx_path: Path, folder: Path, contract: Contract) -> None:
    """Convert ONNX to OpenVINO IR, weights in float32, that keeps NaN (see `openvino_nan`).

    Args:
        onnx_path: The ONNX file.
        folder: Where ``model.xml`` and ``model.bin`` go.
        contract: Names the inputs and outputs.

    Raises:
        UnsupportedError: OpenVINO cannot convert it.
    """
    import openvino

    wanted = {spec.name for spec in (*contract.observations, *contract.outputs)}
    try:
        model = openvino.Core().read_model(str(onnx_path))
        keep_nan(model)
        # Conversion leaves the names of fused operations on inputs and outputs as well.
        for port in (*model.inputs, *model.outputs):
            names = port.get_names() & wanted
            if names:
                port.get_tensor().set_names(names)
        openvino.save_model(model, str(folder / FILES[Format.OPENVINO][0]), compress_to_fp16=False)
    except RuntimeError as error:
        raise UnsupportedError(
            f"OpenVINO cannot convert the policy: {str(error).splitlines()[-1]}",
            remedy="Leave openvino out of the formats.",
        ) from error


def write_torchscript(graph: Any, contract: Contract, path: Path) -> None:
    """Trace a torch graph. Its `forward` always gives a tuple, in the contract's order.

    The module is not frozen: frozen constants do not move to another device.

    Args:
        graph: Takes the contract's observations in order.
        contract: Its observations give the example to trace with.
        path: File to write.

    Raises:
        UnsupportedError: The graph cannot be traced.
    """
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(_trace(graph, contract), buffer)
    path.write_bytes(_without_source_locations(buffer.getvalue()))


def _trace(graph: Any, contract: Contract) -> Any:
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.jit.trace(  # type: ignore[no-untyped-call]
                graph, examples(contract), check_trace=False, strict=False
            )
        except RuntimeError as error:
            raise UnsupportedError(
                f"the policy cannot be traced: {str(error).splitlines()[0]}",
                remedy="Leave torchscript out of the formats.",
            ) from error


def _without_source_locations(archive: bytes) -> bytes:
    """The same archive less its debug records, which name the exporting machine's folders."""
    import torch

    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    own = {"version", "byteorder", ".data/serialization_id", ".format_version", ".storage_alignment"}
    for name in reader.get_all_records():
        if name not in own and not name.endswith(".debug_pkl"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


def examples(contract: Contract) -> tuple[Any, ...]:
    """Two zero observations, as tensors: what a graph is traced with."""
    import torch

    return tuple(torch.from_numpy(np.zeros((2, *spec.shape), dtype=spec.dtype)) for spec in contract.observations)
