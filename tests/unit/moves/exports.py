"""Exports of any contract, with a few bytes for a model: for what is published and never asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from world import write_export

from policyctl.domain.artifacts import CONTRACT_FILE, GOLDEN_FILE
from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.manifest import canonical_json
from policyctl.domain.parity import Tolerance
from policyctl.domain.tensor import TensorSpec


def export_of(folder: Path, contract: Contract, seed: int = 1) -> Path:
    """What `policyctl export` would write of a policy with `contract`."""
    write_export(folder, seed)

    def zeros(specs: tuple[TensorSpec, ...]) -> dict[str, np.ndarray]:
        return {spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in specs}

    golden = Golden(zeros(contract.observations), zeros(contract.outputs), Tolerance())
    (folder / CONTRACT_FILE).write_bytes(canonical_json(contract.to_json()))
    (folder / GOLDEN_FILE).write_bytes(golden.to_bytes())
    return folder
