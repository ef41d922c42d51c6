"""Serve ONNX artifacts as Triton's ``onnxruntime`` backend does.

Options, as parameters of ``config.pbtxt``: those of `policyctl.sessions.onnxruntime.open_graph`.
"""

from __future__ import annotations

from collections.abc import Mapping

from policyctl.domain.contract import Contract
from policyctl.serving.backends.runtime import PolicyModel
from policyctl.serving.backends.spec import ModelSpec
from policyctl.sessions.onnxruntime import OnnxSession


class TritonPythonModel(PolicyModel):
    """What Triton starts."""

    default_filename = "model.onnx"

    def open_session(self, spec: ModelSpec, contract: Contract, files: Mapping[str, bytes]) -> OnnxSession:
        """Compile the graph that was verified."""
        return OnnxSession(contract, files[spec.filename], options=spec.parameters, filename=spec.filename)
