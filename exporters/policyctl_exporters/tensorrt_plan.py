"""Build TensorRT plans, and run them.

A plan needs an NVIDIA GPU and the `tensorrt` package. It fits only the GPU
model and TensorRT version that built it, so it is built where it will be
served. It computes in float32 with TF32 off, because TF32 keeps 10 bits of a
float's mantissa and no plan would pass parity.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.errors import UnsupportedError
from policyctl_exporters.observations import in_batches
from policyctl_exporters.source import Arrays

_PLAN_BATCHES: Final = (1, 8, 64)
"""Least, best and most rows of a TensorRT plan."""

_REMEDY: Final = (
    "On the machine with the NVIDIA GPU that will serve it, run:"
    " pip install 'policyctl[tensorrt]' && policyctl export SOURCE -o OUTPUT --format tensorrt"
)


def require_tensorrt() -> Any:
    """The `tensorrt` module, on a machine that can use it."""
    try:
        import tensorrt
    except ImportError as error:
        raise UnsupportedError("tensorrt is not installed here", remedy=_REMEDY) from error
    import torch

    if not torch.cuda.is_available():
        raise UnsupportedError("tensorrt needs an NVIDIA GPU, and torch finds none here", remedy=_REMEDY)
    return tensorrt


def write_plan(onnx_path: Path, contract: Contract, path: Path) -> None:
    """Build a plan from ONNX for batches of 1 to 64, or as many as the contract allows."""
    trt = require_tensorrt()
    wide = [spec.name for spec in contract.observations if spec.dtype == "float64"]
    if wide:
        raise UnsupportedError(
            f"TensorRT has no float64, and {', '.join(wide)} is",
            remedy="Leave tensorrt out of the formats; onnx serves float64 observations.",
        )
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    # Networks always have an explicit batch since TensorRT 10, where the flag is gone.
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        problems = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise UnsupportedError(
            f"TensorRT cannot read the policy: {problems}", remedy="Leave tensorrt out of the formats."
        )
    profile = builder.create_optimization_profile()
    for spec in contract.observations:
        batches = (min(batch, contract.max_batch or batch) for batch in _PLAN_BATCHES)
        shapes = [(batch, *spec.shape) for batch in batches]
        profile.set_shape(spec.name, *shapes)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnsupportedError("TensorRT could not build a plan", remedy="See its messages above.")
    path.write_bytes(bytes(plan))


def open_plan(path: Path, contract: Contract) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """A plan, ready to answer; batches larger than it was built for go in parts."""
    trt = require_tensorrt()
    import torch

    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise UnsupportedError(f"{path.name} was built by another TensorRT or for another GPU", remedy=_REMEDY)
    context = engine.create_execution_context()

    def run_part(observations: Arrays) -> dict[str, NDArray[Any]]:
        stream = torch.cuda.current_stream()
        # Kept in a list: TensorRT sees addresses only, torch must not free them meanwhile.
        buffers = []
        for spec in contract.observations:
            tensor = torch.from_numpy(np.ascontiguousarray(observations[spec.name])).cuda()
            buffers.append(tensor)
            context.set_input_shape(spec.name, tuple(tensor.shape))
            context.set_tensor_address(spec.name, tensor.data_ptr())
        rows = buffers[0].shape[0]
        found = {}
        for spec in contract.outputs:
            dtype = getattr(torch, spec.dtype)
            found[spec.name] = torch.empty((rows, *spec.shape), dtype=dtype, device="cuda")
            context.set_tensor_address(spec.name, found[spec.name].data_ptr())
        if not context.execute_async_v3(stream.cuda_stream):
            raise UnsupportedError(f"TensorRT could not run {path.name}", remedy="See its messages above.")
        stream.synchronize()
        return {name: np.asarray(tensor.cpu().numpy()) for name, tensor in found.items()}

    return lambda observations: in_batches(run_part, dict(observations), _PLAN_BATCHES[-1])
