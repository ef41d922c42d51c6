"""Run an artifact the way a server will: from its file, on its own runtime.

Every runner takes a batch by input name and gives all outputs by name, and
runs in full float32 precision: OpenVINO would otherwise compute in bfloat16 on
processors that have it, which differs by thousands of times the tolerance.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.contract import Contract
from policyctl_exporters.source import Arrays

Runner = Callable[[Arrays], dict[str, NDArray[Any]]]


def open_runner(form: Format, folder: Path, contract: Contract) -> Runner:
    """The artifact of one format, ready to answer.

    Args:
        form: Which format.
        folder: Where its files are.
        contract: Names inputs and outputs.

    Raises:
        UnsupportedError: The runtime, or the device it needs, is missing.
    """
    path = folder / FILES[form][0]
    match form:
        case Format.ONNX:
            return _onnxruntime(path, contract)
        case Format.OPENVINO:
            return _openvino(path, contract)
        case Format.TORCHSCRIPT:
            return _torchscript(path, contract)
        case Format.TENSORRT:
            from policyctl_exporters.tensorrt_plan import open_plan

            runner: Runner = open_plan(path, contract)
            return runner


def _onnxruntime(path: Path, contract: Contract) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in contract.outputs]

    def run(observations: Arrays) -> dict[str, NDArray[Any]]:
        feed = {spec.name: np.ascontiguousarray(observations[spec.name]) for spec in contract.observations}
        return dict(zip(names, session.run(names, feed), strict=True))

    return run


def _openvino(path: Path, contract: Contract) -> Runner:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()

    def run(observations: Arrays) -> dict[str, NDArray[Any]]:
        feed = {spec.name: np.ascontiguousarray(observations[spec.name]) for spec in contract.observations}
        found = request.infer(feed)
        return {spec.name: np.array(found[spec.name]) for spec in contract.outputs}

    return run


def _torchscript(path: Path, contract: Contract) -> Runner:
    import torch

    from policyctl_exporters.eager import EagerGraph

    with warnings.catch_warnings():
        # Deprecated by torch, and what NVIDIA's PyTorch backend serves.
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return EagerGraph(module.eval(), contract)
