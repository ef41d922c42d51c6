"""What the actions of a policy look like: how they spread, how often they are at a bound, how they change.

Plain arithmetic on arrays. `policyctl.measuring.shadow` compares two sets of
actions with it, a model card describes one.

Differences of continuous actions are relative to the range of each component:
its bounds, or where it has none the range that was seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import ActionKind, Contract, DistributionKind
from policyctl.domain.json_values import OMIT_DEFAULT
from policyctl.domain.limits import bounds

Arrays = Mapping[str, NDArray[Any]]

AT_BOUND: Final = 1e-3
"""Closer to a bound than this share of the range is *at* it."""

QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Where the spread of a continuous component is reported."""

MOST_CHOICES: Final = 64
"""The shares of the most frequent choices are reported, no more."""

MOST_COMPONENTS: Final = 64
"""How the first components spread is reported, no more."""

_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Component:
    """One element of the action.

    Attributes:
        name: What it is called.
        shares: Of a discrete one, how often each choice was taken, the most frequent ones.
        quantiles: Of a continuous one, its value at each of `QUANTILES`.
    """

    name: str
    shares: Mapping[str, float] | None = field(default=None, metadata=OMIT_DEFAULT)
    quantiles: tuple[float, ...] | None = field(default=None, metadata=OMIT_DEFAULT)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a set of actions looks like; numbers have six significant digits.

    Attributes:
        rows: Actions.
        saturation: Mean share of components at a bound; None where none has bounds.
        pairs: Actions whose next one is known.
        roughness: Mean change from one step to the next: a share of the range
            (continuous), or the share of steps that change the choice. None without pairs.
        entropy: Mean entropy of the action distribution, nats: of a Gaussian
            that of the sample before it is clipped or squashed. None for a
            deterministic policy, or where its parameters are not known.
        actions: How each element spreads, `MOST_COMPONENTS` at most.
    """

    rows: int
    saturation: float | None
    pairs: int
    roughness: float | None
    entropy: float | None
    actions: tuple[Component, ...]


def describe(
    contract: Contract, outputs: Arrays, *, steps: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
) -> Behaviour:
    """What a policy's answers look like.

    Args:
        contract: Of the policy.
        outputs: At least the action, each of shape (n, *spec.shape), n >= 1;
            entropy needs the distribution's parameters as well.
        steps: Row indices before and after, of consecutive steps.

    Raises:
        ValueError: There is no action.
    """
    actions = outputs[contract.action.name]
    if not len(actions):
        raise ValueError("there is no action to describe")
    scale = spans(contract, actions) if contract.action_kind is ActionKind.CONTINUOUS else None
    touching = at_bound(contract, actions) if scale is not None else None
    before, after = steps if steps is not None else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Behaviour(
        rows=len(actions),
        saturation=None if touching is None else _short(touching.mean()),
        pairs=len(before),
        roughness=_short(changes(actions, before, after, scale).mean()) if len(before) else None,
        entropy=_entropy(contract, outputs),
        actions=_components(contract, actions),
    )


def spans(contract: Contract, actions: NDArray[Any]) -> NDArray[np.float64]:
    """The range of each component of a continuous action; 1 where it never changes."""
    low, high = bounds(contract.action)
    seen = flat(actions)
    with np.errstate(invalid="ignore"):
        span = np.where(np.isfinite(high - low), high - low, seen.max(axis=0) - seen.min(axis=0))
    return np.where(span > 0, span, 1.0)


def at_bound(contract: Contract, actions: NDArray[Any]) -> NDArray[np.float64] | None:
    """Of each row the share of its bounded components that are at a bound; None where none is bounded."""
    low, high = bounds(contract.action)
    bounded = np.isfinite(low) & np.isfinite(high)
    if not bounded.any():
        return None
    slack = AT_BOUND * (high - low)[bounded]
    seen = flat(actions)[:, bounded]
    touching: NDArray[np.bool_] = (seen <= low[bounded] + slack) | (seen >= high[bounded] - slack)
    share: NDArray[np.float64] = touching.mean(axis=1, dtype=np.float64)
    return share


def changes(
    actions: NDArray[Any],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    scale: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Of each step how much the action changed: a share of `scale`, or without one 1 where any choice differs."""
    if scale is None:
        differs: NDArray[np.bool_] = (rows(actions)[after] != rows(actions)[before]).any(axis=1)
        return differs.astype(np.float64)
    moved: NDArray[np.float64] = (np.abs(flat(actions)[after] - flat(actions)[before]) / scale).mean(axis=1)
    return moved


def rows(array: NDArray[Any]) -> NDArray[Any]:
    """Shape (n, elements)."""
    return array.reshape(len(array), -1)


def flat(array: NDArray[Any]) -> NDArray[np.float64]:
    """Shape (n, elements), float64."""
    return rows(array).astype(np.float64)


def _components(contract: Contract, actions: NDArray[Any]) -> tuple[Component, ...]:
    names = [contract.action.feature(index) for index in range(min(contract.action.size, MOST_COMPONENTS))]
    if contract.action_kind is ActionKind.CONTINUOUS:
        spread = np.quantile(flat(actions)[:, : len(names)], QUANTILES, axis=0)
        return tuple(
            Component(name, quantiles=tuple(_short(v) for v in spread[:, index])) for index, name in enumerate(names)
        )
    found = []
    for index, name in enumerate(names):
        values, counts = np.unique(rows(actions)[:, index], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:MOST_CHOICES]
        shares = {str(int(values[i])): _short(counts[i] / len(actions)) for i in sorted(most)}
        found.append(Component(name, shares=shares))
    return tuple(found)


def _entropy(contract: Contract, outputs: Arrays) -> float | None:
    law = contract.distribution
    needed = {"mean", "log_std"} if law.kind is DistributionKind.GAUSSIAN else {"logits"}
    if law.kind is DistributionKind.NONE or not needed <= outputs.keys():
        return None
    match law.kind:
        case DistributionKind.GAUSSIAN:
            nats = (flat(outputs["log_std"]) + 0.5 * math.log(2 * math.pi * math.e)).sum(axis=1)
        case DistributionKind.BERNOULLI:
            logits = flat(outputs["logits"])
            nats = sum(_of_logits(np.stack([column, np.zeros_like(column)], axis=1)) for column in logits.T)
        case DistributionKind.MULTI_CATEGORICAL:
            blocks = np.split(flat(outputs["logits"]), np.cumsum(law.nvec)[:-1], axis=1)
            nats = sum(_of_logits(block) for block in blocks)
        case _:
            nats = _of_logits(flat(outputs["logits"]))
    mean = float(np.mean(nats))
    return _short(mean) if math.isfinite(mean) else None


def _of_logits(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of each row's softmax, nats; a choice of logit -inf has no part in it."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weight = np.exp(shifted)
    total = weight.sum(axis=1)
    with np.errstate(invalid="ignore"):
        inner = np.where(weight > 0, weight * shifted, 0.0).sum(axis=1)
    nats: NDArray[np.float64] = np.log(total) - inner / total
    return nats


def _short(value: Any) -> float:
    """Six significant digits: more are noise, and differ from machine to machine."""
    return float(f"{float(value):.{_DIGITS}g}")
