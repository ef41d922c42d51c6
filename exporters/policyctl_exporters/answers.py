"""What a policy answers: rows that every artifact is held against, and the golden set that a release carries."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from policyctl.domain.golden import Golden
from policyctl.domain.parity import Tolerance
from policyctl_exporters import observations as obs
from policyctl_exporters import parity
from policyctl_exporters.eager import EagerGraph
from policyctl_exporters.far import far_rows
from policyctl_exporters.onnx_eager import OnnxGraph
from policyctl_exporters.source import Source

_OWN_ROWS: Final = 64


def answered_rows(
    policy: Source, recorded: Any, tolerance: Tolerance | None, golden_rows: int, seed: int
) -> tuple[list[parity.Rows], Golden]:
    """Observations for parity with the policy's answers, and the golden set.

    Args:
        policy: Whose answers are right.
        recorded: As for `export_policy`.
        tolerance: What counts as agreement; None to fit it.
        golden_rows: Rows of the golden set.
        seed: Of the draws.

    Raises:
        UsageError: Recorded observations that do not fit, or ones that the policy fails on.
        ParityError: The policy's own answers are not finite, or its graph does not give them.
    """
    rng = np.random.default_rng(seed)
    specs = policy.contract.observations
    given = obs.read_recorded(recorded, policy.contract)
    groups = []
    drawn = obs.draw(specs, policy.scales, rng, obs.rows_for(policy.contract))
    usual = obs.join(drawn, given, None if policy.own_rows is None else obs.take(policy.own_rows, slice(_OWN_ROWS)))
    eager = _runnable(policy)
    for kind, rows in (("usual", usual), ("edges", obs.edges(specs, policy.scales, policy.clip_obs))):
        expected = policy.reference(rows)
        if kind == "usual":
            parity.require_finite(policy.contract, rows, expected)
        moved = eager.sensitivity(rows, seed=seed) if tolerance is None else 0.0
        allowed = tolerance or parity.fitted(expected, sensitivity=moved)
        groups.append(parity.Rows(kind, rows, expected, allowed))
    groups += far_rows(policy, eager, seed=seed)
    # The graph itself first: a failure here is the graph's, not a format's.
    parity.check("graph", eager, policy.contract, groups)
    drawn = obs.draw(specs, policy.scales, rng, 4 * golden_rows)
    return groups, _golden(policy, drawn, given, groups[0].tolerance, golden_rows)


def _runnable(policy: Source) -> EagerGraph | OnnxGraph:
    """What is exported, run as it is."""
    if policy.graph is not None:
        return EagerGraph(policy.graph, policy.contract)
    return OnnxGraph(policy.onnx or b"", policy.contract)


def _golden(policy: Source, drawn: obs.Batch, given: obs.Batch | None, tolerance: Tolerance, rows: int) -> Golden:
    """Clear rows out of those drawn, and up to half of them out of those recorded."""
    pool = obs.join(drawn, given)
    answers = policy.reference(pool)
    parity.require_finite(policy.contract, pool, answers)
    clear = np.flatnonzero(parity.decided(policy.contract, answers, tolerance))
    border = 4 * rows
    if clear.size == 0:
        # A policy without any preference has no clear rows; ties are then all there is.
        clear = np.arange(border)
    fresh, seen = clear[clear < border], clear[clear >= border]
    seen = seen[np.unique(np.linspace(0, max(len(seen) - 1, 0), min(len(seen), rows // 2)).astype(int))]
    chosen = np.concatenate([fresh[: rows - len(seen)], seen])
    return Golden(obs.take(pool, chosen), obs.take(answers, chosen), tolerance)
