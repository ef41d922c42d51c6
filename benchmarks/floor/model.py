"""The machine's floor under a Python-based backend: reads no input, writes zeros.

What a request still costs here is Triton, its queue, and two hops through
shared memory to a Python process. It has no contract and verifies nothing, and
serves nothing but `benchmarks/against_fastapi.py`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    """What Triton starts."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the outputs' names, types and shapes."""
        config = json.loads(args["model_config"])
        self._input = config["input"][0]["name"]
        self._outputs = [
            (o["name"], pb.triton_string_to_numpy(o["data_type"]), [int(d) for d in o["dims"]])
            for o in config["output"]
        ]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Zeros for each request, as many rows as it has."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        rows = pb.get_input_tensor_by_name(request, self._input).shape()[0]
        wanted = request.requested_output_names()
        return pb.InferenceResponse(
            [pb.Tensor(name, np.zeros((rows, *dims), kind)) for name, kind, dims in self._outputs if name in wanted]
        )
