"""What is said of an artifact that does not agree with its policy: where, by how much, and what to do."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.parity import OutputDifference, Tolerance
from policyctl.errors import ParityError
from policyctl_exporters.observations import Batch

REMEDY: Final = "Leave this format out, or report the policy's layers: the exported graph is wrong."
_REMEDY_FLOAT64: Final = (
    "OpenVINO computes in float32, and these float64 observations do not fit into it:"
    " leave openvino out of the formats, onnx and torchscript compute them in full."
)


_SHOWN: Final = 12


def mismatch(
    name: str,
    size: int,
    contract: Contract,
    worst: OutputDifference,
    rows: Batch,
    expected: Batch,
    found: Batch,
    tolerance: Tolerance,
) -> ParityError:
    """The refusal of an artifact; shows the worst observation.

    Args:
        name: The artifact.
        size: Rows of the batch.
        contract: Names the tensors.
        worst: The output that is furthest off.
        rows: The observations.
        expected: What the policy answered.
        found: What the artifact answered.
        tolerance: What was allowed.
    """
    row = worst.worst_row
    seen = "; ".join(_describe(contract, spec_index, rows, row) for spec_index in range(len(contract.observations)))
    wide = name.startswith("openvino") and any(spec.dtype == "float64" for spec in contract.observations)
    return ParityError(
        f"{name}: output {worst.name} differs from the policy's by {worst.max_abs:.3g} at batch {size}"
        f" (allowed: {tolerance.atol:g} + {tolerance.rtol:g} * |expected|).\n"
        f"  expected {_values(expected[worst.name][row])}\n"
        f"  found    {_values(found[worst.name][row])}\n"
        f"  for {seen}",
        remedy=_REMEDY_FLOAT64 if wide else REMEDY,
    )


def _describe(contract: Contract, index: int, rows: Batch, row: int) -> str:
    spec = contract.observations[index]
    values = rows[spec.name][row].reshape(-1)
    if spec.features:
        shown = ", ".join(f"{n}={v:.6g}" for n, v in zip(spec.features[:_SHOWN], values, strict=False))
    else:
        shown = ", ".join(f"{v:.6g}" for v in values[:_SHOWN].astype(float))
    more = f", ... {values.size} values" if values.size > _SHOWN else ""
    return f"{spec.name} [{shown}{more}]"


def _values(values: NDArray[Any]) -> str:
    return np.array2string(values.reshape(-1), precision=7, threshold=_SHOWN, separator=", ")
