"""Hold a policy against what its own framework did, step by step.

Parity holds artifacts against the policy as it was given. A module that was
written after another framework may itself be wrong: statistics of observations
left out, an action that is not squashed. Only the framework's answers show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ACTION
from policyctl.domain.parity import Tolerance, compare
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ParityError, UsageError
from policyctl_exporters import memory, parity
from policyctl_exporters import observations as obs
from policyctl_exporters.source import Source

_REMEDY = (
    "Look at what stands around the network: statistics of observations, squashing, the bounds of the action,"
    " evaluation without draws (policyctl docs frameworks)."
)


def require_own_answers(policy: Source, answers: Any, tolerance: Tolerance | None) -> str:
    """Refuse a policy that does not answer as its framework did.

    Args:
        answers: Path of an NPZ file, or arrays by name: observations as for `read_recorded`, ``action``, and
            any further output of the contract, each of shape (n, *shape). Of a policy with memory, one episode.
        tolerance: None for `parity.fitted`.

    Returns:
        What was compared and the greatest difference, in words.

    Raises:
        UsageError: Not readable, without actions, or arrays that do not fit.
        ParityError: An answer differs.
    """
    contract = policy.contract
    name = Path(answers).name if isinstance(answers, str | Path) else "the framework's answers"
    arrays = obs.read_arrays(answers)
    if not isinstance(arrays, Mapping) or ACTION not in arrays:
        found = ", ".join(sorted(arrays)) if isinstance(arrays, Mapping) else "one array"
        raise UsageError(
            f"{name}: no array is called {ACTION!r}, found {found}",
            remedy="Save what the policy observed and did: numpy.savez(FILE, observation=..., action=...).",
        )
    rows = obs.read_recorded(arrays, contract) or {}
    if len(rows) < len(contract.observations):
        rows, given = memory.episode(policy.reference, contract, rows)
    else:
        given = dict(policy.reference(rows))
    total = len(np.asarray(arrays[contract.environment[0].name]))
    at = obs.chosen(total, contract, arrays)
    said = {s.name: _said(s, arrays[s.name], total, at, name) for s in contract.outputs if s.name in arrays}
    expected = given | said
    allowed = tolerance or parity.fitted(expected)
    comparison = compare(contract, expected, given, allowed)
    if not comparison.agrees:
        raise _otherwise(policy, comparison.worst.name, comparison.worst.worst_row, name, rows, expected, given)
    shown = ", ".join(f"{each.name} {each.max_abs:.2g}" for each in comparison.outputs if each.name in said)
    return f"{policy.algorithm} answers as {name} says on {comparison.rows} rows; largest difference: {shown}"


def _said(spec: TensorSpec, values: Any, total: int, at: NDArray[np.int64], name: str) -> NDArray[Any]:
    """An output as the framework gave it, on the rows `at` of `total`."""
    array = np.asarray(values)
    floating = np.dtype(spec.dtype).kind == "f"
    if array.ndim == 0 or array.size != total * spec.size or (array.dtype.kind == "f") != floating:
        raise UsageError(
            f"{name}: {spec.name} is {array.dtype}{list(array.shape)},"
            f" expected {spec.dtype}{[total, *spec.shape]}, one row for each observation"
        )
    return array.reshape(total, *spec.shape)[at].astype(spec.dtype)


def _otherwise(
    policy: Source, output: str, row: int, name: str, rows: obs.Batch, expected: Mapping[str, Any], given: obs.Batch
) -> ParityError:
    shown = "; ".join(parity.describe(spec, rows[spec.name][row]) for spec in policy.contract.observations)
    return ParityError(
        f"{policy.algorithm} does not answer as {name} says its framework did: {output} differs in row {row}.\n"
        f"  framework {parity.as_text(expected[output][row])}\n"
        f"  policy    {parity.as_text(given[output][row])}\n"
        f"  for {shown}",
        remedy=_REMEDY,
    )
