"""What a policy answers: rows that every artifact is held against, the golden set of a release, and the law of draws.

A policy that gives a mean and a spread does not say whether its samples are
clipped, or squashed by tanh, and draws of the wrong law look like actions. So
the law is found in the answers: without spread, the client's own draw has to
give the deterministic action. Where no law does, nothing can be drawn.

Limits and emergency stops lie far from the usual observations, and so does the
end of float32. A far row counts only where the policy itself is sure of its
answer: nothing in it overflows, and a last digit of the observation or of a
weight changes little. Such rows are compared in bands of one magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from policyctl.client import sampling
from policyctl.domain.contract import ACTION, PARAMETERS, Contract, Distribution, DistributionKind, Transform
from policyctl.domain.golden import Golden
from policyctl.domain.parity import Tolerance, compare
from policyctl_exporters import memory, parity
from policyctl_exporters import observations as obs
from policyctl_exporters.conduct import unvalidated
from policyctl_exporters.eager import Graph, graph_of
from policyctl_exporters.source import Source

_OWN_ROWS: Final = 64
_TRANSFORMS: Final = (Transform.CLIP, Transform.TANH_RESCALE, Transform.RESCALE)
_SHARP: Final = 1e12
"""What scores are multiplied by, so that a draw takes the best one."""

_BANDS: Final = (1e1, 1e3, 1e5, 1e8, 1e16, 1e24, np.inf)
_SAFE: Final = 1e8
_NUDGES: Final = 4
_MARGIN: Final = 64.0
"""Runtimes round in other places than a nudge does, and were seen to be off by 15 times what it changes."""


def answered_rows(
    policy: Source, recorded: Any, tolerance: Tolerance | None, golden_rows: int, seed: int
) -> tuple[list[parity.Rows], Golden]:
    """Observations for parity with the policy's answers, and the golden set; arguments as for `export_policy`."""
    rng = np.random.default_rng(seed)
    specs = policy.contract.observations
    given = obs.read_recorded(recorded, policy.contract)
    if given is not None and len(given) < len(specs):
        given, _ = memory.episode(policy.reference, policy.contract, given)
    groups = []
    drawn = obs.draw(specs, policy.scales, rng, obs.rows_for(policy.contract))
    usual = obs.join(drawn, given, None if policy.own_rows is None else obs.take(policy.own_rows, slice(_OWN_ROWS)))
    graph = graph_of(policy)
    for kind, rows in (("usual", usual), ("edges", obs.edges(specs, policy.scales, policy.clip_obs))):
        expected = policy.reference(rows)
        if kind == "usual":
            parity.require_finite(policy.contract, rows, expected)
        moved = graph.sensitivity(rows, seed=seed) if tolerance is None else 0.0
        allowed = tolerance or parity.fitted(expected, sensitivity=moved)
        groups.append(parity.Rows(kind, rows, expected, allowed))
    if policy.contract.states:
        groups.append(_episode(policy, drawn, tolerance))
    groups += far_rows(policy, graph, seed=seed)
    # The graph itself first: a failure here is the graph's, not a format's.
    parity.check("graph", graph, policy.contract, groups)
    drawn = obs.draw(specs, policy.scales, rng, 4 * golden_rows)
    if policy.contract.states:
        given = obs.join(given, groups[2].observations)
    return groups, _golden(policy, drawn, given, groups[0].tolerance, golden_rows)


def _episode(policy: Source, drawn: obs.Batch, tolerance: Tolerance | None) -> parity.Rows:
    """The policy's own answers to consecutive steps, each with what it remembered."""
    steps = memory.steps_of(drawn, policy.contract)
    rows, expected = memory.episode(policy.reference, policy.contract, steps)
    moved = memory.drift(policy.reference, policy.contract, steps, expected) if tolerance is None else 0.0
    return parity.Rows(parity.EPISODE, rows, expected, tolerance or parity.fitted(expected, sensitivity=moved))


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
    seen = seen[obs.spread(len(seen), rows // 2)]
    chosen = np.concatenate([fresh[: rows - len(seen)], seen])
    return Golden(obs.take(pool, chosen), obs.take(answers, chosen), tolerance)


def with_proved_law(policy: Source, groups: Sequence[parity.Rows]) -> Source:
    """The policy with the law that its answers follow, or with none; the names of its outputs promise one."""
    claimed = policy.contract.distribution
    if claimed.kind is DistributionKind.NONE:
        return policy
    laws = [claimed]
    if claimed.kind is DistributionKind.GAUSSIAN:
        laws = [claimed, *(replace(claimed, transform=t) for t in _TRANSFORMS if t is not claimed.transform)]
    found = {law: max(_excess(policy.contract, law, group) for group in groups) for law in laws}
    best = min(laws, key=lambda law: found[law])
    if found[best] <= 1.0:
        return replace(policy, contract=replace(policy.contract, distribution=best))
    names = " and ".join(sampling.parameters_of(policy.contract))
    note = f"no action can be drawn: the action that the policy gives is not the most likely one by its {names}"
    if claimed.kind is DistributionKind.GAUSSIAN:
        note += ", whether clipped, squashed by tanh or rescaled to the bounds of the action"
    contract = replace(policy.contract, distribution=Distribution())
    return replace(policy, contract=contract, notes=(*policy.notes, note))


def _excess(contract: Contract, law: Distribution, group: parity.Rows) -> float:
    """How far the law's most likely action is from the policy's, as a multiple of what is allowed."""
    rows = _decided(contract, group)
    if not len(rows[ACTION]):
        return 0.0
    drawn = {**rows, ACTION: _mode(replace(contract, distribution=law), rows)}
    action = replace(contract, outputs=tuple(s for s in contract.outputs if s.name in drawn), states=())
    return next(o.excess for o in compare(action, rows, drawn, group.tolerance).outputs if o.name == ACTION)


def _decided(contract: Contract, group: parity.Rows) -> obs.Batch:
    """Answers that can be judged: finite, and without a near-tie between two choices."""
    names = (ACTION, *sampling.parameters_of(contract))
    answers = {name: np.asarray(group.expected[name]) for name in names}
    clear = parity.decided(contract, answers, group.tolerance)
    for name, values in answers.items():
        flat = values.reshape(len(values), -1)
        # A spread may be infinite, and the score of a choice that is ruled out is.
        lost = np.isnan(flat) if name in ("logits", "log_std") else ~np.isfinite(flat)
        clear = clear & ~lost.any(axis=1)
    return obs.take(answers, clear)


def _mode(contract: Contract, answers: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """What the client draws where the law leaves no choice."""
    parameters = {name: answers[name].astype(np.float64) for name in sampling.parameters_of(contract)}
    for name, values in parameters.items():
        if name == "log_std":
            parameters[name] = np.full(values.shape, -np.inf)
        elif name == "logits":
            parameters[name] = values * _SHARP
    with np.errstate(invalid="ignore", over="ignore"):
        drawn: NDArray[Any] = sampling.draw(contract, parameters, np.random.default_rng(0))
    return drawn


def far_rows(policy: Source, graph: Graph, *, seed: int) -> list[parity.Rows]:
    """Groups of rows, one a band of magnitudes, each with the policy's answers and a tolerance.

    The tolerance is the widest that parity knows, whatever the caller allows on
    usual rows: a lost branch changes an action by its own size, rounding does not.
    Memory is that of an episode's beginning: no environment gives it, so only the policy makes it far.
    """
    rng = np.random.default_rng([seed, 1])
    rows, expected = obs.answered(
        policy.reference, memory.begun(obs.wide(policy.contract.environment, rng), policy.contract)
    )
    if not expected:
        return []
    largest = _largest({name: values for name, values in expected.items() if name in (ACTION, *PARAMETERS)})
    sure = np.isfinite(largest) & ~(_is_extreme(rows) if policy.graph is None else _overflows(policy, rows))
    for attempt in range(_NUDGES):
        moved, flipped = graph.moves(rows, obs.nudged(rows, rng), seed=seed + attempt)
        with np.errstate(invalid="ignore", over="ignore"):
            sure &= ~flipped & (moved <= parity.most(largest) / _MARGIN)
    heights = _largest(rows)
    groups = []
    for low, high in zip((0.0, *_BANDS), _BANDS, strict=False):
        chosen = np.flatnonzero(sure & (low <= heights) & (heights < high))
        if chosen.size:
            part = obs.take(expected, chosen)
            allowed = parity.fitted(part, sensitivity=np.inf)
            groups.append(parity.Rows(f"below {high:g}", obs.take(rows, chosen), part, allowed))
    return groups


def _is_extreme(rows: obs.Batch) -> NDArray[np.bool_]:
    """Rows with floats so large that something inside a graph that cannot be watched may overflow."""
    floats = {name: values for name, values in rows.items() if values.dtype.kind == "f"}
    extreme: NDArray[np.bool_] = _largest(floats) > _SAFE if floats else np.zeros(len(next(iter(rows.values()))), bool)
    return extreme


def _largest(batch: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    sizes = [
        np.abs(v.astype(np.float64)).reshape(len(v), -1).max(axis=1) for v in batch.values() if v.dtype.kind != "b"
    ]
    found: NDArray[np.float64] = np.max(sizes, axis=0)
    return found


def _overflows(policy: Source, rows: obs.Batch) -> NDArray[np.bool_]:
    """Rows on which more operators give NaN or infinity than on a usual one."""
    specs = policy.contract.observations

    def count(batch: obs.Batch) -> obs.Batch:
        watch = _NotFinite(len(next(iter(batch.values()))))
        with torch.no_grad(), unvalidated(), watch:
            policy.graph(*(torch.tensor(batch[spec.name]) for spec in specs))  # type: ignore[misc]
        return {"count": watch.counts}

    limit = policy.contract.max_batch
    usual = obs.in_batches(count, obs.few(specs, policy.scales), limit)["count"].max()
    exceeded: NDArray[np.bool_] = obs.in_batches(count, rows, limit)["count"] > usual
    return exceeded


class _NotFinite(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts for each row of a batch the results that hold NaN or infinity."""

    def __init__(self, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = np.zeros(rows, dtype=np.int64)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        rows = len(self.counts)
        for tensor in tree_leaves(answer):
            if (
                isinstance(tensor, Tensor)
                and tensor.is_floating_point()
                and tensor.ndim
                and tensor.shape[0] % rows == 0
            ):
                self.counts += (~torch.isfinite(tensor.reshape(rows, -1)).all(dim=1)).numpy()
        return answer
