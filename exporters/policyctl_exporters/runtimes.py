"""Run an artifact the way a server will: from its file, by the session of its backend; and build TensorRT plans.

Every runner takes a batch by input name and gives all outputs by name. An
artifact of OpenVINO has two, because two backends may serve it: the
Python-based one compiles it for any number of rows, the native one for a few
fixed numbers and in the calling thread, and what one of them can compile the
other may not.

A TensorRT plan needs an NVIDIA GPU and the `tensorrt` package. It fits only the
GPU model and TensorRT version that built it, so it is built where it will be
served. It computes in float32 with TF32 off, because TF32 keeps 10 bits of a
float's mantissa and no plan would pass parity.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.contract import Contract
from policyctl.errors import UnsupportedError
from policyctl.sessions.ports import Arrays as Tensors
from policyctl_exporters.observations import in_batches
from policyctl_exporters.source import Arrays

Runner = Callable[[Arrays], dict[str, NDArray[Any]]]

_NATIVE_OPTIONS: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": "1",
    "EXCLUSIVE_ASYNC_REQUESTS": "YES",
}
_SMALL_BYTES: Final = 1 << 20
_LARGEST_PIECE: Final = 16
_MAX_BATCH: Final = 64
"""As `backend_openvino/src` has them: model.cpp its options, session.cpp what it compiles for how many rows."""

_PLAN_BATCHES: Final = (1, 8, 64)
"""Least, best and most rows of a TensorRT plan."""

_REMEDY: Final = (
    "On the machine with the NVIDIA GPU that will serve it, run:"
    " pip install 'policyctl[tensorrt]' && policyctl export SOURCE -o OUTPUT --format tensorrt"
)


class Session(Protocol):
    """Of `policyctl.sessions`."""

    def run(self, inputs: Tensors) -> Tensors:
        """Outputs in the contract's order for inputs in the contract's order."""
        ...


def open_runner(form: Format, folder: Path, contract: Contract) -> Runner:
    """The artifact of one format, ready to answer as its Python-based backend does."""
    files = [folder / name for name in FILES[form]]
    name = files[0].name
    match form:
        case Format.ONNX:
            from policyctl.sessions.onnxruntime import OnnxSession

            return by_name(OnnxSession(contract, files[0].read_bytes(), filename=name), contract)
        case Format.OPENVINO:
            from policyctl.sessions.openvino import OpenVinoSession

            graph, weights = (file.read_bytes() for file in files)
            return by_name(OpenVinoSession(contract, graph, weights, filename=name), contract)
        case Format.TORCHSCRIPT:
            from policyctl.sessions.torchscript import TorchSession

            return by_name(TorchSession(contract, files[0].read_bytes(), filename=name), contract)
        case Format.TENSORRT:
            return open_plan(files[0], contract)


def runners(form: Format, folder: Path, contract: Contract) -> dict[str, Runner]:
    """Every way in which a backend of ours runs the artifact of one format, by name."""
    found = {form.value: open_runner(form, folder, contract)}
    if form is Format.OPENVINO:
        found["openvino (native backend)"] = _Pieces(folder, contract)
    return found


class _Pieces:
    """A batch as the native backend computes it: in pieces of 16, 8, 4, 2 and 1 rows, or as one of any size."""

    def __init__(self, folder: Path, contract: Contract) -> None:
        self._graph, self._weights = ((folder / name).read_bytes() for name in FILES[Format.OPENVINO])
        self._contract = contract
        self._largest = _LARGEST_PIECE if len(self._weights) <= _SMALL_BYTES else 1
        while self._largest > (contract.max_batch or _MAX_BATCH):
            self._largest //= 2
        self._compiled: dict[tuple[int, int], Runner] = {}
        self({spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in contract.observations})

    def __call__(self, observations: Arrays) -> dict[str, NDArray[Any]]:
        rows = len(next(iter(observations.values())))
        if rows >= 2 * self._largest:
            return self._compile((1, _MAX_BATCH))(observations)
        parts, done = [], 0
        while done < rows:
            size = self._largest
            while size > rows - done:
                size //= 2
            parts.append(self._compile((size, size))({name: a[done : done + size] for name, a in observations.items()}))
            done += size
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _compile(self, rows: tuple[int, int]) -> Runner:
        if rows not in self._compiled:
            from policyctl.sessions.openvino import OpenVinoSession

            session = OpenVinoSession(
                self._contract, self._graph, self._weights, options=_NATIVE_OPTIONS, filename="model.xml", rows=rows
            )
            self._compiled[rows] = by_name(session, self._contract)
        return self._compiled[rows]


def by_name(session: Session, contract: Contract) -> Runner:
    """A session that takes and gives arrays by name."""

    def run(observations: Arrays) -> dict[str, NDArray[Any]]:
        inputs = [np.ascontiguousarray(observations[spec.name]) for spec in contract.observations]
        # Copies, because a session may write its next answer where this one is.
        return {spec.name: np.array(array) for spec, array in zip(contract.outputs, session.run(inputs), strict=True)}

    return run


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


def open_plan(path: Path, contract: Contract) -> Runner:
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
