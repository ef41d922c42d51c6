"""Run an artifact the way a server will: from its file, by the session of its backend.

Every runner takes a batch by input name and gives all outputs by name. An
artifact of OpenVINO has two, because two backends may serve it: the
Python-based one compiles it for any number of rows, the native one for a few
fixed numbers and in the calling thread, and what one of them can compile the
other may not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.artifacts import FILES, Format
from policyctl.domain.contract import Contract
from policyctl.sessions.ports import Arrays as Tensors
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
            from policyctl_exporters.tensorrt_plan import open_plan

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
