"""Draw stochastic actions from what a policy answers, on the client.

A served policy is a pure function; its randomness is the caller's, so that a
seed reproduces an action whatever backend computed the parameters. Draws use
``numpy.random.PCG64``, one generator a call, rows in order.

Backends differ in the last bits of a logit, so two of them give the same
discrete draw unless it falls within that error of a boundary (about one in a
million draws at a difference of 1e-6), and the same continuous draw within
that error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.domain.contract import Contract, DistributionKind, Transform
from policyctl.domain.limits import bounds
from policyctl.domain.tensor import TensorSpec
from policyctl.errors import ServerError, UsageError

LOGITS, MEAN, LOG_STD = "logits", "mean", "log_std"


def parameters_of(contract: Contract) -> tuple[str, ...]:
    """Names of the outputs that the contract's distribution is drawn from.

    Raises:
        UsageError: The policy is deterministic: there is nothing to draw.
    """
    match contract.distribution.kind:
        case DistributionKind.NONE:
            raise UsageError(
                "this policy has no action distribution (it is deterministic), so no action can be drawn",
                remedy="Ask with deterministic=True; exploration noise of TD3, DDPG or DQN belongs to training.",
            )
        case DistributionKind.GAUSSIAN:
            return (MEAN, LOG_STD)
        case _:
            return (LOGITS,)


def check_seed(seed: int | None) -> None:
    """Refuse what seeds no draw, before anything is sent.

    Raises:
        UsageError: It is neither None nor a whole number from 0 on.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
        raise UsageError(f"seed is {seed!r}, expected None or a whole number from 0 on")


def draw(contract: Contract, outputs: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> NDArray[Any]:
    """One action a row.

    Args:
        contract: Names the distribution, the transform and the action's bounds.
        outputs: `parameters_of(contract)`, each of shape (n, *spec.shape).
        rng: Source of the draws.

    Returns:
        Shape (n, *action.shape), the action's dtype.

    Raises:
        UsageError: The policy is deterministic.
        ServerError: A parameter is NaN, or leaves no choice possible.
    """
    parameters = {name: np.asarray(outputs[name], dtype=np.float64) for name in parameters_of(contract)}
    for name, array in parameters.items():
        if np.isnan(array).any():
            raise ServerError(
                f"the policy answered {name} with NaN, from which no action can be drawn",
                remedy="Look at the observation; roll back if the release is at fault.",
            )
    rows = next(iter(parameters.values())).shape[0]
    action = contract.action
    match contract.distribution.kind:
        case DistributionKind.CATEGORICAL:
            drawn = _categorical(parameters[LOGITS].reshape(rows, -1), rng)[:, None] + _start(action)
        case DistributionKind.MULTI_CATEGORICAL:
            blocks = np.split(parameters[LOGITS].reshape(rows, -1), np.cumsum(contract.distribution.nvec)[:-1], axis=1)
            drawn = np.stack([_categorical(block, rng) for block in blocks], axis=1) + _start(action)
        case DistributionKind.BERNOULLI:
            drawn = _bernoulli(parameters[LOGITS].reshape(rows, -1), rng)
        case _:
            sample = parameters[MEAN] + np.exp(parameters[LOG_STD]) * rng.standard_normal(parameters[MEAN].shape)
            return _transformed(sample, contract)
    return drawn.astype(action.dtype).reshape(rows, *action.shape)


def _categorical(logits: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Inverse of the cumulative softmax; shape (n,). A choice of logit -inf is never drawn."""
    top = logits.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        raise ServerError("the policy answered logits that leave no choice possible")
    cumulative = np.cumsum(np.exp(logits - top), axis=1)
    threshold = rng.random(logits.shape[0])[:, None] * cumulative[:, -1:]
    # `<=` skips a choice of probability 0 even at a threshold of exactly 0. The
    # total is at least 1, so the largest number below 1 times it rounds below it,
    # and a choice of probability 0 at the end is not reached either.
    return np.asarray((cumulative <= threshold).sum(axis=1), dtype=np.int64)


def _bernoulli(logits: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    with np.errstate(over="ignore"):
        probability = 1.0 / (1.0 + np.exp(-logits))
    return (rng.random(logits.shape) < probability).astype(np.int64)


def _transformed(sample: NDArray[np.float64], contract: Contract) -> NDArray[Any]:
    action, transform = contract.action, contract.distribution.transform
    if transform is Transform.NONE:
        return sample.astype(action.dtype)
    low, high = (bound.reshape(action.shape) for bound in bounds(contract.action))
    match transform:
        case Transform.TANH_RESCALE:
            sample = low + 0.5 * (np.tanh(sample) + 1.0) * (high - low)
        case Transform.RESCALE:
            sample = low + 0.5 * (np.clip(sample, -1.0, 1.0) + 1.0) * (high - low)
        case _:
            pass
    # Also after a rescale, which may round past a bound; in the action's own
    # dtype, or the cast would round past it again.
    kind = np.dtype(action.dtype)
    return np.clip(sample.astype(kind), low.astype(kind), high.astype(kind))


def _start(action: TensorSpec) -> NDArray[np.int64]:
    """First choice of each component: 0 unless the space starts elsewhere."""
    low = 0.0 if action.low is None else action.low
    return np.broadcast_to(np.asarray(low, dtype=np.int64), (action.size,))
