"""Serve TorchScript artifacts as Triton's ``pytorch`` backend does.

TorchScript names no tensors: inputs are passed, and outputs taken, in the
order of the configuration, which `check_contract` holds against the contract's.

Options, as parameters of ``config.pbtxt``: ``INTRA_OP_THREAD_COUNT`` and
``INTER_OP_THREAD_COUNT`` (1 unless set).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import torch

from policyctl.errors import UsageError
from policyctl.serving.backends.batching import Arrays
from policyctl.serving.backends.runtime import PolicyModel
from policyctl.serving.backends.spec import ModelSpec


class TorchSession:
    """A TorchScript module, called by position."""

    def __init__(self, spec: ModelSpec, files: Mapping[str, bytes]) -> None:
        torch.set_num_threads(spec.integer("INTRA_OP_THREAD_COUNT", 1))
        # Can be set once in a process only, and a process serves one instance.
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(spec.integer("INTER_OP_THREAD_COUNT", 1))
        load: Any = torch.jit.load  # torch leaves it without types
        self._module = load(io.BytesIO(files[spec.filename]), map_location="cpu").eval()
        self._check_arity(spec)

    def run(self, inputs: Arrays) -> Arrays:
        """Compute; outputs may share memory with what the module keeps."""
        with torch.inference_mode():
            outputs: Any = self._module(*[torch.from_numpy(array) for array in inputs])
        if isinstance(outputs, torch.Tensor):
            return [outputs.numpy()]
        return [output.numpy() for output in outputs]

    def _check_arity(self, spec: ModelSpec) -> None:
        arguments = len(list(self._module.forward.schema.arguments)) - 1
        if arguments != len(spec.inputs):
            raise UsageError(f"{spec.filename} takes {arguments} inputs, config.pbtxt has {len(spec.inputs)}")


class TritonPythonModel(PolicyModel):
    """What Triton starts."""

    default_filename = "model.pt"
    # The executor profiles the first runs and then compiles: all of them before the first client.
    warm_up_runs = 3

    def open_session(self, spec: ModelSpec, files: Mapping[str, bytes]) -> TorchSession:
        """Load the module that was verified."""
        return TorchSession(spec, files)
