"""Serve OpenVINO artifacts as Triton's ``openvino`` backend does, in full precision.

Options, as parameters of ``config.pbtxt``: those in `policyctl.sessions.openvino.OPTIONS`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import PurePosixPath

from policyctl.domain.contract import Contract
from policyctl.serving.backends.runtime import PolicyModel
from policyctl.serving.backends.spec import ModelSpec

# Importing openvino also imports its model converter, which serves nobody here and takes as
# long as all the rest of it. A None makes that import fail, which openvino expects and passes over.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

from policyctl.sessions.openvino import OPTIONS, OpenVinoSession  # noqa: E402 - the line above has to come first


class TritonPythonModel(PolicyModel):
    """What Triton starts."""

    default_filename = "model.xml"

    def files_of(self, spec: ModelSpec) -> tuple[str, ...]:
        """The graph, and the weights that belong to it."""
        return (spec.filename, _weights(spec))

    def open_session(self, spec: ModelSpec, contract: Contract, files: Mapping[str, bytes]) -> OpenVinoSession:
        """Compile the graph and weights that were verified."""
        options = {name: spec.parameters.get(name) or default for name, default in OPTIONS.items()}
        graph, weights = files[spec.filename], files[_weights(spec)]
        return OpenVinoSession(contract, graph, weights, options=options, filename=spec.filename)


def _weights(spec: ModelSpec) -> str:
    return str(PurePosixPath(spec.filename).with_suffix(".bin"))
