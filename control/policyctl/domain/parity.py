"""Compare what an artifact answers with what the policy answers.

One comparison serves exporters (an artifact against eager PyTorch), gates and
certification (a server's answers against the golden set). Continuous outputs
agree within a tolerance; integer outputs agree exactly, but for *near-ties*:
a discrete action that differs where the policy itself scores both choices
alike (within `Tolerance.tie`) is counted apart, because no two arithmetic
units can be asked to break such a tie the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import SCORES, ActionKind, Contract
from policyctl.domain.json_values import fields_to_json, to_json
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import UsageError

Arrays = Mapping[str, NDArray[Any]]

_STEP: Final = 1e-6
"""Eight steps of float32."""

_MEMORY: Final = 1e-3
"""Of its largest value, or of 1 where that is less: a larger difference comes from no rounding, and stays."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two answers may differ.

    Attributes:
        atol: Absolute part, in the output's own unit.
        rtol: Part relative to the expected value.
        tie: Two choices whose scores differ by no more than this, relative to
            max(1, the larger of the two), are a near-tie.

    Raises:
        UsageError: One is negative, infinite or NaN, which would forgive everything.
    """

    atol: float = 1e-4
    rtol: float = 1e-4
    tie: float = 1e-4

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol), ("tie", self.tie)):
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"tolerance: {name} is {value}", remedy="Give a finite number, 0 or more.")


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How one output compared.

    Attributes:
        name: The output.
        max_abs: Largest absolute difference (continuous), or number of
            components that differ beyond near-ties (integers).
        worst_row: Row of the batch where it stands.
        excess: Largest difference as a multiple of what is allowed; above 1
            is a mismatch.
        near_ties: Rows whose integer answer differs at a near-tie.
    """

    name: str
    max_abs: float
    worst_row: int
    excess: float
    near_ties: int = 0

    @property
    def agrees(self) -> bool:
        """Whether the output is within tolerance."""
        return self.excess <= 1.0

    def to_json(self) -> dict[str, Any]:
        """A JSON object; an infinite difference becomes 1e308, for JSON has no infinity."""
        return {**fields_to_json(self), "max_abs": min(self.max_abs, 1e308), "excess": min(self.excess, 1e308)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every output's difference over one set of observations."""

    rows: int
    outputs: tuple[OutputDifference, ...]

    @property
    def agrees(self) -> bool:
        """Whether every output is within tolerance."""
        return all(output.agrees for output in self.outputs)

    @property
    def worst(self) -> OutputDifference:
        """The output that is furthest off."""
        return max(self.outputs, key=lambda output: output.excess)

    @property
    def near_ties(self) -> int:
        """Rows whose action differs at a near-tie."""
        return max(output.near_ties for output in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with the verdict."""
        return {
            "rows": self.rows,
            "agrees": self.agrees,
            "outputs": to_json(self.outputs),
        }


def compare(contract: Contract, expected: Arrays, actual: Arrays, tolerance: Tolerance) -> Comparison:
    """Compare every output of `contract`, row by row.

    The tolerance fits the action and what belongs to it. The absolute part of
    a further output is a millionth of its largest value, where that is more:
    rounding follows the largest terms of a sum, and their scale is another.
    That of memory is a thousandth at most, however large actions are.

    Args:
        contract: Names the outputs; each array has shape (n, *spec.shape).
        expected: What the policy answered.
        actual: What the artifact or server answered to the same observations.
        tolerance: How far they may differ.

    Raises:
        ValueError: An output is missing, two shapes differ, or one side has
            integers where the other has not.
    """
    rows = int(expected[contract.action.name].shape[0])
    differences = []
    remembered = {state.output for state in contract.states}
    for spec in contract.outputs:
        if spec.name not in actual:
            raise ValueError(f"output {spec.name} is missing")
        want, got = np.asarray(expected[spec.name]), np.asarray(actual[spec.name])
        if want.shape != got.shape:
            raise ValueError(f"output {spec.name} has shape {got.shape}, expected {want.shape}")
        want, got = want.reshape(rows, -1), got.reshape(rows, -1)
        continuous = np.issubdtype(want.dtype, np.floating)
        if continuous != np.issubdtype(got.dtype, np.floating):
            raise ValueError(f"output {spec.name} is {got.dtype}, expected {want.dtype}")
        if continuous:
            atol = max(tolerance.atol, _STEP * _largest(want)) if spec in contract.further else tolerance.atol
            atol = min(atol, _MEMORY * max(1.0, _largest(want))) if spec.name in remembered else atol
            differences.append(_continuous(spec, want, got, replace(tolerance, atol=atol)))
        else:
            differences.append(_integers(contract, spec, want, got, expected, tolerance))
    return Comparison(rows=rows, outputs=tuple(differences))


def _largest(values: NDArray[Any]) -> float:
    """The largest finite size; 0 where nothing is finite."""
    return float(np.max(np.abs(values, dtype=np.float64), where=np.isfinite(values), initial=0.0))


def _continuous(spec: TensorSpec, want: NDArray[Any], got: NDArray[Any], tolerance: Tolerance) -> OutputDifference:
    want64, got64 = want.astype(np.float64), got.astype(np.float64)
    same = (want64 == got64) | (np.isnan(want64) & np.isnan(got64))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        difference = np.where(same, 0.0, np.abs(want64 - got64))
        allowed = tolerance.atol + tolerance.rtol * np.abs(want64)
        ratio = np.where(same, 0.0, difference / np.where(np.isfinite(allowed), allowed, 1.0))
    # NaN against a number, or an infinity against another: never within tolerance.
    ratio = np.where(np.isfinite(ratio), ratio, np.inf)
    row = int(np.argmax(ratio.max(axis=1)))
    return OutputDifference(
        name=spec.name,
        max_abs=float(np.nanmax(np.where(np.isfinite(difference), difference, np.inf))),
        worst_row=row,
        excess=float(ratio.max()),
    )


def _integers(
    contract: Contract,
    spec: TensorSpec,
    want: NDArray[Any],
    got: NDArray[Any],
    expected: Arrays,
    tolerance: Tolerance,
) -> OutputDifference:
    differs = want != got
    ties = np.zeros_like(differs)
    if differs.any() and spec.name == contract.action.name:
        ties = differs & near_ties(contract, want, got, expected, tolerance)
    real = differs & ~ties
    per_row = real.sum(axis=1)
    return OutputDifference(
        name=spec.name,
        max_abs=float(real.sum()),
        worst_row=int(np.argmax(per_row)),
        excess=float("inf") if real.any() else 0.0,
        near_ties=int(ties.any(axis=1).sum()),
    )


def near_ties(
    contract: Contract,
    want: NDArray[Any],
    got: NDArray[Any],
    expected: Arrays,
    tolerance: Tolerance,
) -> NDArray[np.bool_]:
    """Where a policy scores the expected and the actual choice alike.

    Args:
        contract: Names the scores, if there are any.
        want: What it chose, shape (n, components).
        got: What is compared with it, shape (n, components).
        expected: Its outputs, of which only the scores are read.
        tolerance: Of which `tie` counts.

    Returns:
        Shape (n, components); nowhere, if the contract has no scores.
    """
    name = next((s.name for s in contract.outputs if s.name in SCORES), None)
    if name is None:
        return np.zeros(want.shape, dtype=bool)
    scores = np.asarray(expected[name], dtype=np.float64).reshape(want.shape[0], -1)
    if contract.action_kind is ActionKind.MULTI_BINARY and not contract.distribution.nvec:
        return _alike(scores, np.zeros_like(scores), tolerance)
    start = 0 if contract.action.low is None else contract.action.low
    starts = np.broadcast_to(np.asarray(start, dtype=np.int64), (want.shape[1],))
    sizes = contract.distribution.nvec or (scores.shape[1],)
    offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    ties = np.zeros(want.shape, dtype=bool)
    for column, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        rows = np.arange(want.shape[0])
        chosen = want[:, column].astype(np.int64) - starts[column]
        other = got[:, column].astype(np.int64) - starts[column]
        valid = (other >= 0) & (other < size)
        first, second = (scores[rows, offset + np.clip(index, 0, size - 1)] for index in (chosen, other))
        ties[:, column] = valid & _alike(first, second, tolerance)
    return ties


def _alike(first: NDArray[np.float64], second: NDArray[np.float64], tolerance: Tolerance) -> NDArray[np.bool_]:
    """Whether two scores are a near-tie. Only the two count: a masked choice's -1e8 makes no others equal."""
    with np.errstate(invalid="ignore"):
        gap = np.abs(first - second)
    scale = np.maximum(1.0, np.maximum(np.abs(first), np.abs(second)))
    alike: NDArray[np.bool_] = np.isfinite(gap) & (gap <= tolerance.tie * scale)
    return alike
