"""An action with where it came from and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policyctl.client import sampling
from policyctl.domain.contract import ActionKind, Contract
from policyctl.domain.limits import all_finite
from policyctl.errors import ServerError


class TimingSource(StrEnum):
    """Where a server timing was read."""

    RESPONSE = "response"
    """In the answer itself: exact."""
    STATISTICS = "statistics"
    """Two readings of the model's counters: a mean over what ran in between."""


@dataclass(frozen=True, slots=True)
class ServerTiming:
    """Where a request spent its time inside the server.

    Attributes:
        queue_us: Waiting for an instance; None where the answer did not say.
        compute_us: Input, inference and output together. Triton's statistics
            stop this clock after the answer was sent, so it may pass the round
            trip by a little.
        requests: Over how many requests the two are means. More than 1 says
            that other clients were served between the readings of the
            statistics. 1 is this request alone, unless the server was so busy
            that it counted an earlier one late (it counts after it answers);
            only an answer that brings its times is exact for certain.
        source: Where they were read.
    """

    queue_us: float | None
    compute_us: float
    requests: int
    source: TimingSource


@dataclass(slots=True)  # not frozen: that takes several times as long to make, once for each action
class Action:
    """What the environment takes, and who decided it.

    Attributes:
        value: A discrete action is an ``int``; all others are arrays of the
            contract's shape. Of a batch, one row an observation (a discrete
            one: shape (n,)).
        release: The release that answered.
        slot: Triton's version number of it.
        request_id: What the server's log and traces call the request.
        round_trip_us: From sending to having the answer, by this process.
        outputs: What was fetched, by name; the batch dimension as in `value`.
        server: Time inside the server, if asked for and found.
        releases: Of a batch whose episodes began with different releases, that of each row; else empty.
        step: Its place in the answer that it came with: 0 for the first, and where an answer has one action;
            of a batch, that of the first row.
        fallback: The `Fallback` that stands in, where no answer came in time; else empty.
            Then `release` is the one that answered last. Of a batch, that of the first row that has one.
        fallbacks: Of a batch in which rows have one, that of each row, empty for one that was answered; else empty.
        generation: Of the alias, on a node of a fleet; 0 where the server follows no store.
        blended_from: The release whose last action it is mixed with; empty where it is not mixed.
    """

    value: int | NDArray[Any]
    release: str
    slot: int
    request_id: str
    round_trip_us: float
    outputs: Mapping[str, NDArray[Any]]
    server: ServerTiming | None = None
    releases: tuple[str, ...] = ()
    step: int = 0
    fallback: str = ""
    fallbacks: tuple[str, ...] = ()
    blended_from: str = ""
    generation: int = 0


def needed_outputs(contract: Contract, *, deterministic: bool) -> tuple[str, ...]:
    """Names of the outputs from which the action is made."""
    return (contract.action.name,) if deterministic else sampling.parameters_of(contract)


def value_of(
    contract: Contract,
    outputs: Mapping[str, NDArray[Any]],
    *,
    deterministic: bool,
    seed: int | None,
    batched: bool,
) -> int | NDArray[Any]:
    """The action in the environment's form.

    Args:
        contract: Of the release that answered.
        outputs: Each of shape (n, *spec.shape).
        deterministic: Take the output `action`, else draw.
        seed: Of the draw; None takes fresh entropy.
        batched: Keep the batch dimension.

    Raises:
        ServerError: A continuous action, or what it is drawn from, is not finite.
    """
    if deterministic:
        action = outputs[contract.action.name]
    else:
        action = sampling.draw(contract, outputs, np.random.Generator(np.random.PCG64(seed)))
    if action.dtype.kind == "f" and not all_finite(action):
        raise ServerError(
            f"the policy answered an action that is not finite: {action.tolist()}",
            remedy="Do not act on it. Look at the observation; roll back if the release is at fault.",
        )
    if contract.action_kind is ActionKind.DISCRETE:
        flat = action.reshape(-1)
        return flat if batched else int(flat[0])
    return action if batched else action[0]
