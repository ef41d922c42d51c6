"""Hold an artifact against its policy, observation by observation.

Agreement is asked at several batch sizes, because a graph that was traced at
one size can be wrong at another, and runtimes choose other kernels for one row
than for many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION, PARAMETERS, SCORES, ActionKind, Contract
from policyctl.domain.parity import Comparison, OutputDifference, Tolerance, compare
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ParityError, last_line
from policyctl_exporters.memory import episode
from policyctl_exporters.observations import Batch, in_batches, spread, take
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

_MARGIN: Final = 8.0
_STEP: Final = 1e-6

EPISODE: Final = "episode"
"""Consecutive steps of a policy with memory; they are also asked one after another, with what was remembered."""

USUAL: Final = ("usual", "edges", EPISODE)
"""Kinds of rows that stay within what environments give; see `Rows`."""

REMEDY: Final = "Leave this format out, or report the policy's layers: the exported graph is wrong."
_REMEDY_FLOAT64: Final = (
    "OpenVINO computes in float32, and these float64 observations do not fit into it:"
    " leave openvino out of the formats, onnx and torchscript compute them in full."
)
_SHOWN: Final = 12


def require_finite(contract: Contract, observations: Batch, answers: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a policy that itself answers what no server would send to an observation as usual.

    NaN agrees with NaN, so no comparison would find it. Scores may be minus
    infinity, which rules a choice out; what further outputs hold is nobody's
    action.
    """
    for spec in contract.outputs:
        values = np.asarray(answers[spec.name])
        if values.dtype.kind != "f" or spec in contract.further:
            continue
        bad = np.isnan(values) if spec.name in SCORES else ~np.isfinite(values)
        if not bad.any():
            continue
        row = int(np.flatnonzero(bad.reshape(len(values), -1).any(axis=1))[0])
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

    Further outputs have other scales, which `domain.parity` looks at.

    Args:
        sensitivity: See `eager.Graph.sensitivity`.
    """
    own = [v for name, v in expected.items() if name in (ACTION, *PARAMETERS) and v.dtype.kind == "f"]
    largest = max((float(np.max(np.abs(v), where=np.isfinite(v), initial=0.0)) for v in own), default=0.0)
    wanted = max(TOLERANCE.atol, _STEP * largest, _MARGIN * sensitivity)
    # Two runtimes may round a result to neighbouring numbers of its type, which in float16 are far apart.
    step = max((float(np.finfo(v.dtype).eps) for v in own), default=0.0)
    return replace(TOLERANCE, atol=min(wanted, float(most(np.asarray(largest)))), rtol=max(TOLERANCE.rtol, 2 * step))


def most(largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """The widest absolute tolerance for outputs whose largest is `largest`."""
    return np.asarray(1e-3 * np.maximum(1.0, largest))


@dataclass(frozen=True, slots=True)
class Rows:
    """Observations of one kind, and the policy's answers to them.

    Attributes:
        kind: ``usual`` (drawn and recorded), ``edges``, `EPISODE`, or ``below N`` for far ones of one magnitude.
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
        """Largest difference by output, on rows of the usual size: far ones have answers of any size."""
        largest: dict[str, float] = {}
        for (kind, _), comparison in self.comparisons.items():
            for output in comparison.outputs if kind.partition(",")[0] in USUAL else ():
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
    """Compare an artifact with the policy, on every kind of rows at every batch size."""
    comparisons = {}
    sizes = [size for size in BATCHES if size <= (contract.max_batch or size)]
    for group in groups:
        count = len(next(iter(group.observations.values())))
        for size in sizes:
            # The largest batch sees every row, the others a spread of them.
            chosen = spread(count, count if size == max(sizes) else 8 * size)
            part = replace(group, observations=take(group.observations, chosen), expected=take(group.expected, chosen))
            answers = _run(name, runner, contract, part.observations, size)
            try:
                comparison = compare(contract, part.expected, answers, group.tolerance)
            except ValueError as error:
                raise ParityError(f"{name}: {error}", remedy=REMEDY) from error
            if not comparison.agrees:
                raise _mismatch(name, size, contract, comparison.worst, part, answers)
            comparisons[group.kind, size] = comparison
        if group.kind == EPISODE:
            comparisons[f"{EPISODE}, step by step", 1] = _step_by_step(name, runner, contract, group)
    return Report(comparisons)


def _step_by_step(name: str, runner: Runner, contract: Contract, group: Rows) -> Comparison:
    """An artifact that goes on from what it remembered itself, as it is served."""
    steps = {spec.name: group.observations[spec.name] for spec in contract.environment}
    rows, answers = episode(lambda inputs: _run(name, runner, contract, inputs, 1), contract, steps)
    comparison = compare(contract, group.expected, answers, group.tolerance)
    if not comparison.agrees:
        raise _mismatch(name, 1, contract, comparison.worst, replace(group, observations=rows), answers)
    return comparison


def worst(reports: Iterable[Report]) -> Report:
    """One report of several on the same rows: of each comparison the one that is furthest off."""
    first, *others = reports
    comparisons = dict(first.comparisons)
    for report in others:
        for key, comparison in report.comparisons.items():
            comparisons[key] = max(comparisons[key], comparison, key=lambda each: each.worst.excess)
    return Report(comparisons)


def decided(contract: Contract, outputs: Mapping[str, NDArray[Any]], tolerance: Tolerance) -> NDArray[np.bool_]:
    """Rows whose discrete action is ten times clearer than a near-tie; all rows of continuous ones; shape (n,).

    A golden set of such rows is answered alike by every correct runtime.
    """
    rows = len(outputs[contract.action.name])
    name = next((spec.name for spec in contract.outputs if spec.name in SCORES), None)
    if contract.action_kind is ActionKind.CONTINUOUS or name is None:
        return np.ones(rows, dtype=bool)
    scores = np.asarray(outputs[name], dtype=np.float64).reshape(rows, -1)
    # A choice that is ruled out has a score of minus infinity, which says nothing of how clear the best one is.
    sizes_of_scores = np.where(np.isfinite(scores), np.abs(scores), 0.0)
    margin = 10 * tolerance.tie * np.maximum(1.0, sizes_of_scores.max(axis=1))
    if contract.action_kind is ActionKind.MULTI_BINARY and not contract.distribution.nvec:
        clear: NDArray[np.bool_] = (np.abs(scores) > margin[:, None]).all(axis=1)
        return clear
    sizes = contract.distribution.nvec or _sizes(contract, scores.shape[1])
    clear = np.ones(rows, dtype=bool)
    for part in np.split(scores, np.cumsum(sizes)[:-1], axis=1):
        if part.shape[1] > 1:
            best = np.sort(part, axis=1)
            clear &= np.isfinite(best[:, -1]) & (best[:, -2] < best[:, -1] - margin)
    return clear


def _sizes(contract: Contract, count: int) -> tuple[int, ...]:
    """Choices of each component where the contract has no distribution: from the action's bounds."""
    action = contract.action
    if action.size == 1 or action.low is None or action.high is None:
        return (count,)
    span = np.broadcast_to(np.asarray(action.high) - np.asarray(action.low) + 1, (action.size,))
    return tuple(int(n) for n in span)


def _run(name: str, runner: Runner, contract: Contract, rows: Batch, size: int) -> Batch:
    def run(batch: Batch) -> Batch:
        try:
            return runner(batch)
        # A runtime's own exceptions share no class, and each means the same here.
        except Exception as error:
            raise ParityError(
                f"{name}: fails on a batch of {len(next(iter(batch.values())))}:"
                f" {type(error).__name__}: {last_line(error)}",
                remedy=f"Compute all rows at once, without a Python loop over them. {REMEDY}",
            ) from error

    answers = in_batches(run, rows, size)
    return {spec.name: answers[spec.name] for spec in contract.outputs}


def _mismatch(
    name: str, size: int, contract: Contract, worst: OutputDifference, rows: Rows, answers: Batch
) -> ParityError:
    """The refusal of an artifact; shows the worst observation."""
    row, tolerance = worst.worst_row, rows.tolerance
    shown = "; ".join(describe(spec, rows.observations[spec.name][row]) for spec in contract.observations)
    wide = name.startswith("openvino") and any(spec.dtype == "float64" for spec in contract.observations)
    return ParityError(
        f"{name}: output {worst.name} differs from the policy's by {worst.max_abs:.3g} at batch {size}"
        f" (allowed: {tolerance.atol:g} + {tolerance.rtol:g} * |expected|).\n"
        f"  expected {as_text(rows.expected[worst.name][row])}\n"
        f"  found    {as_text(answers[worst.name][row])}\n"
        f"  for {shown}",
        remedy=_REMEDY_FLOAT64 if wide else REMEDY,
    )


def describe(spec: TensorSpec, observation: NDArray[Any]) -> str:
    """One observation for a message, with the names of its elements where they are known."""
    flat = observation.reshape(-1)
    if spec.features:
        shown = ", ".join(f"{n}={v:.6g}" for n, v in zip(spec.features[:_SHOWN], flat, strict=False))
    else:
        shown = ", ".join(f"{v:.6g}" for v in flat[:_SHOWN].astype(float))
    more = f", ... {flat.size} values" if flat.size > _SHOWN else ""
    return f"{spec.name} [{shown}{more}]"


def as_text(answer: NDArray[Any]) -> str:
    """One answer for a message."""
    return np.array2string(answer.reshape(-1), precision=7, threshold=_SHOWN, separator=", ")
