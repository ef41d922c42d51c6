"""Gate `golden`: the server itself answers the golden set as the policy did.

This is what *certify* means. Every answer must come from the expected slot,
and it is asked both as a batch and alone, because a backend can be right in
one and wrong in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract
from policyctl.domain.golden import Golden
from policyctl.domain.json_values import to_json
from policyctl.domain.parity import Comparison, compare
from policyctl.domain.verdict import GateResult, Verdict
from policyctl.errors import ServerError

NAME: Final = "golden"

Arrays = Mapping[str, NDArray[Any]]
Infer = Callable[[Arrays, tuple[str, ...]], tuple[int, Arrays]]
"""Takes observations and output names; gives the slot that answered, and the outputs."""

_SINGLE_ROWS = 4


def run(contract: Contract, golden: Golden, infer: Infer, *, slot: int, max_batch_size: int) -> GateResult:
    """Ask for the whole golden set in batches, and for its first rows one by one."""
    names = tuple(spec.name for spec in contract.outputs)
    spans = [(i, min(i + max_batch_size, golden.rows)) for i in range(0, golden.rows, max_batch_size)]
    spans += [(i, i + 1) for i in range(min(_SINGLE_ROWS, golden.rows))]
    comparisons: list[tuple[int, Comparison]] = []
    for start, stop in spans:
        try:
            answered_by, outputs = infer(_rows(golden.observations, start, stop), names)
            found = compare(contract, _rows(golden.outputs, start, stop), outputs, golden.tolerance)
        except ServerError as error:
            return GateResult(NAME, Verdict.ERROR, f"rows {start} to {stop - 1}: {error.problem}")
        except ValueError as error:
            return GateResult(NAME, Verdict.FAILED, f"rows {start} to {stop - 1}: {error}")
        if answered_by != slot:
            return GateResult(
                NAME,
                Verdict.FAILED,
                f"rows {start} to {stop - 1} were answered by slot {answered_by}, expected {slot}",
            )
        comparisons.append((start, found))
    return _judge(golden, comparisons, slot)


def _judge(golden: Golden, comparisons: list[tuple[int, Comparison]], slot: int) -> GateResult:
    start, worst = max(comparisons, key=lambda c: c[1].worst.excess)
    evidence = {
        "slot": slot,
        "rows": golden.rows,
        "inferences": len(comparisons),
        "near_ties": sum(c.near_ties for _, c in comparisons),
        "worst": worst.to_json(),
        "tolerance": to_json(golden.tolerance),
    }
    if worst.agrees:
        return GateResult(
            NAME,
            Verdict.PASSED,
            f"{golden.rows} golden rows answered by slot {slot}, largest difference"
            f" {max(_largest(c) for _, c in comparisons):.2g}",
            evidence,
        )
    output = worst.worst
    row = start + output.worst_row
    seen = {name: np.asarray(a[row]).tolist() for name, a in golden.observations.items()}
    return GateResult(
        NAME,
        Verdict.FAILED,
        f"golden row {row}: output {output.name} differs by {output.max_abs:.3g},"
        f" {output.excess:.3g} times what is allowed",
        {**evidence, "worst_observation": seen},
    )


def _largest(comparison: Comparison) -> float:
    return max(output.max_abs for output in comparison.outputs)


def _rows(arrays: Arrays, start: int, stop: int) -> dict[str, NDArray[Any]]:
    return {name: array[start:stop] for name, array in arrays.items()}
