"""Run a TorchScript artifact.

TorchScript names no tensors: inputs are passed, and outputs taken, in the
contract's order.
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch

from policyctl.domain.contract import Contract
from policyctl.errors import UsageError
from policyctl.sessions.ports import Arrays


class TorchSession:
    """A TorchScript module, called by position.

    Args:
        contract: Its observations and outputs are taken in order.
        model: The file's content.
        filename: For messages.

    Raises:
        UsageError: It takes another number of inputs.
    """

    def __init__(self, contract: Contract, model: bytes, *, filename: str) -> None:
        load: Any = torch.jit.load  # torch leaves it without types
        with warnings.catch_warnings():
            # Deprecated by torch, and what NVIDIA's PyTorch backend serves.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._module = load(io.BytesIO(model), map_location="cpu").eval()
        arguments = len(list(self._module.forward.schema.arguments)) - 1
        if arguments != len(contract.observations):
            raise UsageError(f"{filename} takes {arguments} inputs, the contract has {len(contract.observations)}")

    def run(self, inputs: Arrays) -> Arrays:
        """Compute; outputs may share memory with what the module keeps."""
        with torch.inference_mode():
            # Copies: a program may write to what it is given, and a client's shared memory is not its own.
            outputs: Any = self._module(*[torch.tensor(array) for array in inputs])
        if isinstance(outputs, torch.Tensor):
            return [outputs.numpy()]
        return [output.numpy() for output in outputs]
