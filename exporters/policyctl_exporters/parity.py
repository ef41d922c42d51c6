"""Hold an artifact against its policy, observation by observation.

Agreement is asked at several batch sizes, because a graph that was traced at
one size can be wrong at another, and runtimes choose other kernels for one row
than for many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import SCORES, ActionKind, Contract
from policyctl.domain.parity import Comparison, OutputDifference, Tolerance, compare
from policyctl.errors import ParityError
from policyctl_exporters.observations import Batch, take
from policyctl_exporters.runtimes import Runner

BATCHES: Final = (1, 7, 64)

TOLERANCE: Final = Tolerance(atol=2e-5, rtol=1e-4, tie=1e-4)
"""Smallest default tolerance; `fitted` widens it for large outputs.

Every runtime computes in float32, whose relative step is 1.2e-7, and adds up
products in its own order. Over networks of the usual size that gives
differences of 1e-7 to 5e-6 on outputs of the order of 1. What a wrong export
gives (reduced precision, a missing normaliser, another order of layers) starts
at 1e-3, so there is room on either side.
"""

_STEP: Final = 1e-6
_MARGIN: Final = 8.0
_MOST: Final = 1e-3


def require_finite(contract: Contract, observations: Batch, answers: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a policy that itself answers NaN or infinity to an observation as usual.

    NaN agrees with NaN, so no comparison would find it, and no server would ever send such an action.

    Args:
        contract: Names the outputs.
        observations: Each of shape (n, *shape).
        answers: What the policy answered, each of shape (n, *shape).

    Raises:
        ParityError: It does; shows the first observation.
    """
    for spec in contract.outputs:
        values = np.asarray(answers[spec.name])
        if values.dtype.kind != "f" or np.isfinite(values).all():
            continue
        row = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
        shown = {name: array[row].tolist() for name, array in observations.items()}
        raise ParityError(
            f"the policy itself answers {spec.name} {values[row].tolist()} to {str(shown)[:300]}",
            remedy="Such an action must not be taken. Check the weights, the normaliser and the bounds of the space.",
        )


def fitted(expected: Mapping[str, NDArray[Any]], *, sensitivity: float = 0.0) -> Tolerance:
    """The default tolerance for a policy's answers to some rows.

    Rounding errors of a sum follow its largest terms, not its result: next to
    a Q-value of -900 one of 0.01 cannot be right to 2e-5. So the absolute part
    grows with the largest output, to a millionth of it, eight float32 steps.
    Sums inside the network do not show in its outputs (TD3's tanh hides them),
    hence `sensitivity`: a runtime may be off by eight times what a last digit
    in the weights makes of it. Both together allow a thousandth of the largest
    output at most, of 1 where that is less.

    Args:
        expected: What the policy answered, by output name.
        sensitivity: See `eager.EagerGraph.sensitivity`.
    """
    sizes = [np.abs(v).max() for v in expected.values() if np.issubdtype(v.dtype, np.floating)]
    largest = max((float(size) for size in sizes if np.isfinite(size)), default=0.0)
    wanted = max(TOLERANCE.atol, _STEP * largest, _MARGIN * sensitivity)
    return replace(TOLERANCE, atol=min(wanted, _MOST * max(1.0, largest)))


_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class Rows:
    """Observations of one kind, and the policy's answers to them.

    Attributes:
        kind: ``usual`` (drawn and recorded) or ``edges``.
        observations: By input name, each of shape (n, *shape).
        expected: By output name, likewise.
        tolerance: How far an artifact may be off on these rows.
    """

    kind: str
    observations: Batch
    expected: Batch
    tolerance: Tolerance


@dataclass(frozen=True, slots=True)
class Report:
    """How one artifact compared.

    Attributes:
        comparisons: By kind of rows and batch size, each over the rows that ran at that size.
    """

    comparisons: Mapping[tuple[str, int], Comparison]

    @property
    def rows(self) -> int:
        """Rows compared, all batch sizes together."""
        return sum(comparison.rows for comparison in self.comparisons.values())

    @property
    def near_ties(self) -> int:
        """Rows whose discrete action differs at a near-tie."""
        return sum(comparison.near_ties for comparison in self.comparisons.values())

    @property
    def max_abs(self) -> dict[str, float]:
        """Largest difference by output."""
        largest: dict[str, float] = {}
        for comparison in self.comparisons.values():
            for output in comparison.outputs:
                largest[output.name] = max(largest.get(output.name, 0.0), output.max_abs)
        return largest

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "rows": self.rows,
            "near_ties": self.near_ties,
            "max_abs": self.max_abs,
            "comparisons": [
                {"kind": kind, "batch": batch, **comparison.to_json()}
                for (kind, batch), comparison in self.comparisons.items()
            ],
        }


def check(name: str, runner: Runner, contract: Contract, groups: Sequence[Rows]) -> Report:
    """Compare an artifact with the policy, on every kind of rows at every batch size.

    Args:
        name: The format, for messages.
        runner: The artifact.
        contract: What both take and give.
        groups: Observations, with the policy's answers and the tolerance.

    Raises:
        ParityError: They differ; names the output and the worst observation.
    """
    comparisons = {}
    for group in groups:
        count = len(next(iter(group.observations.values())))
        for size in BATCHES:
            # The largest batch sees every row, the others a spread of them.
            limit = count if size == max(BATCHES) else min(count, 8 * size)
            chosen = np.unique(np.linspace(0, count - 1, limit).astype(int))
            part, want = take(group.observations, chosen), take(group.expected, chosen)
            found = _run(name, runner, contract, part, size)
            try:
                comparison = compare(contract, want, found, group.tolerance)
            except ValueError as error:
                raise ParityError(f"{name}: {error}", remedy=_REMEDY) from error
            if not comparison.agrees:
                raise _mismatch(name, size, contract, comparison.worst, part, want, found, group.tolerance)
            comparisons[group.kind, size] = comparison
    return Report(comparisons)


def decided(contract: Contract, outputs: Mapping[str, NDArray[Any]], tolerance: Tolerance) -> NDArray[np.bool_]:
    """Rows whose discrete action is ten times clearer than a near-tie; all rows of continuous ones.

    A golden set of such rows is answered alike by every correct runtime.

    Returns:
        Shape (n,).
    """
    rows = len(outputs[contract.action.name])
    name = next((spec.name for spec in contract.outputs if spec.name in SCORES), None)
    if contract.action_kind is ActionKind.CONTINUOUS or name is None:
        return np.ones(rows, dtype=bool)
    scores = np.asarray(outputs[name], dtype=np.float64).reshape(rows, -1)
    margin = 10 * tolerance.tie * np.maximum(1.0, np.abs(scores).max(axis=1))
    if contract.action_kind is ActionKind.MULTI_BINARY:
        clear: NDArray[np.bool_] = (np.abs(scores) > margin[:, None]).all(axis=1)
        return clear
    sizes = contract.distribution.nvec or _sizes(contract, scores.shape[1])
    clear = np.ones(rows, dtype=bool)
    for part in np.split(scores, np.cumsum(sizes)[:-1], axis=1):
        if part.shape[1] > 1:
            best = np.sort(part, axis=1)
            clear &= best[:, -1] - best[:, -2] > margin
    return clear


def _sizes(contract: Contract, count: int) -> tuple[int, ...]:
    """Choices of each component where no distribution tells: from the action's bounds."""
    action = contract.action
    if action.size == 1 or action.low is None or action.high is None:
        return (count,)
    span = np.broadcast_to(np.asarray(action.high) - np.asarray(action.low) + 1, (action.size,))
    return tuple(int(n) for n in span)


_REMEDY: Final = (
    "Nothing was written. Leave this format out, or report the policy's layers: the exported graph is wrong."
)
_REMEDY_FLOAT64: Final = (
    "Nothing was written. OpenVINO computes in float32, and these float64 observations do not fit into it:"
    " leave openvino out of the formats, onnx and torchscript compute them in full."
)


def _run(name: str, runner: Runner, contract: Contract, rows: Batch, size: int) -> Batch:
    count = len(next(iter(rows.values())))
    parts = []
    for at in range(0, count, size):
        try:
            parts.append(runner(take(rows, slice(at, at + size))))
        # A runtime's own exceptions share no class, and each means the same here.
        except Exception as error:
            raise ParityError(
                f"{name}: fails on a batch of {min(size, count - at)}: {type(error).__name__}: {error}",
                remedy=_REMEDY,
            ) from error
    return {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in contract.outputs}


def _mismatch(
    name: str,
    size: int,
    contract: Contract,
    worst: OutputDifference,
    rows: Batch,
    expected: Batch,
    found: Batch,
    tolerance: Tolerance,
) -> ParityError:
    row = worst.worst_row
    seen = "; ".join(_describe(contract, spec_index, rows, row) for spec_index in range(len(contract.observations)))
    wide = name == "openvino" and any(spec.dtype == "float64" for spec in contract.observations)
    return ParityError(
        f"{name}: output {worst.name} differs from the policy's by {worst.max_abs:.3g} at batch {size}"
        f" (allowed: {tolerance.atol:g} + {tolerance.rtol:g} * |expected|).\n"
        f"  expected {_values(expected[worst.name][row])}\n"
        f"  found    {_values(found[worst.name][row])}\n"
        f"  for {seen}",
        remedy=_REMEDY_FLOAT64 if wide else _REMEDY,
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
