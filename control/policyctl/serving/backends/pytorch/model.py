"""Serve TorchScript artifacts as Triton's ``pytorch`` backend does.

TorchScript names no tensors: inputs are passed, and outputs taken, in the
order of the configuration, which `check_contract` holds against the contract's.

Options, as parameters of ``config.pbtxt``: ``INTRA_OP_THREAD_COUNT`` and
``INTER_OP_THREAD_COUNT`` (1 unless set).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch

from policyctl.domain.contract import Contract
from policyctl.serving.backends.runtime import PolicyModel
from policyctl.serving.backends.spec import ModelSpec
from policyctl.sessions.torchscript import TorchSession


class TritonPythonModel(PolicyModel):
    """What Triton starts."""

    default_filename = "model.pt"
    # The executor profiles the first runs and then compiles: all of them before the first client.
    warm_up_runs = 3

    def open_session(self, spec: ModelSpec, contract: Contract, files: Mapping[str, bytes]) -> TorchSession:
        """Load the module that was verified."""
        torch.set_num_threads(spec.integer("INTRA_OP_THREAD_COUNT", 1))
        # Can be set once in a process only, and a process serves one instance.
        with contextlib.suppress(RuntimeError):
            torch.set_num_interop_threads(spec.integer("INTER_OP_THREAD_COUNT", 1))
        return TorchSession(contract, files[spec.filename], filename=spec.filename)
