"""Whether a stochastic action may be drawn: the law's most likely action has to be the one that the policy gives.

A policy that gives a mean and a spread does not say whether its samples are
clipped, or squashed by tanh, and draws of the wrong law look like actions. So
the law is found in the answers: without spread, the client's own draw has to
give the deterministic action. Where no law does, nothing can be drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.client import sampling
from policyctl.domain.contract import ACTION, Contract, Distribution, DistributionKind, Transform
from policyctl.domain.parity import compare
from policyctl_exporters import parity
from policyctl_exporters.observations import Batch, take
from policyctl_exporters.source import Source

_TRANSFORMS: Final = (Transform.CLIP, Transform.TANH_RESCALE, Transform.RESCALE)
_SHARP: Final = 1e12
"""What scores are multiplied by, so that a draw takes the best one."""


def with_proved_law(policy: Source, groups: Sequence[parity.Rows]) -> Source:
    """The policy with the law that its answers follow, or with none.

    Args:
        policy: Its contract says which law the names of its outputs promise.
        groups: Rows with its answers.
    """
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
    action = replace(contract, outputs=tuple(s for s in contract.outputs if s.name in drawn))
    return next(o.excess for o in compare(action, rows, drawn, group.tolerance).outputs if o.name == ACTION)


def _decided(contract: Contract, group: parity.Rows) -> Batch:
    """Answers that can be judged: finite, and without a near-tie between two choices."""
    names = (ACTION, *sampling.parameters_of(contract))
    answers = {name: np.asarray(group.expected[name]) for name in names}
    clear = parity.decided(contract, answers, group.tolerance)
    for name, values in answers.items():
        flat = values.reshape(len(values), -1)
        # A spread may be infinite, and the score of a choice that is ruled out is.
        lost = np.isnan(flat) if name in ("logits", "log_std") else ~np.isfinite(flat)
        clear = clear & ~lost.any(axis=1)
    return take(answers, clear)


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
